"""Pictures of quantities on a plane through a crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from matgraft.evaluation.style import INK, MARKERS, SMALL, figure, heading, with_unit
from matgraft.evaluation.tables import number

SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"
"""Told apart by readers of any colour vision; the latter for values on both sides of zero."""

CLIPPED = 0.05
"""Share of the points at either end that colours may give up to show the others."""
_COLUMNS = 3
_WIDTH = 7.2


@dataclass(frozen=True)
class Map:
    """One quantity.

    Attributes
    ----------
    name, unit : str
    values : ndarray, shape (rows, columns)
        From the lower left.
    """

    name: str
    unit: str
    values: np.ndarray


@dataclass(frozen=True)
class Site:
    """An atom: its symbol, its place in the picture (Angstrom), and whether it lies in the plane."""

    symbol: str
    x: float
    y: float
    inside: bool = True


def maps(
    path: str | Path,
    panels: Sequence[Map],
    extent: tuple[float, float, float, float],
    sites: Sequence[Site],
    title: str = "",
) -> Path:
    """Quantities on one plane, a panel and a colour bar each, with the atoms; a note says what is clipped.

    Parameters
    ----------
    path : str or Path
    panels : sequence of Map
        The last place of three columns is left to the legend.
    extent : tuple of float
        Left, right, bottom and top of the plane, Angstrom.
    sites : sequence of Site
    title : str

    Raises
    ------
    ValueError
        A value is not finite.
    """
    for panel in panels:
        if not np.isfinite(panel.values).all():
            raise ValueError(f"{panel.name}: not all values are finite.")
    markers = {
        symbol: MARKERS[k % len(MARKERS)] for k, symbol in enumerate(dict.fromkeys(s.symbol for s in sites))
    }
    rows = -(-(len(panels) + 1) // _COLUMNS)
    left, right, bottom, top = extent
    panel_height = (_WIDTH / _COLUMNS - 0.5) * (top - bottom) / (right - left)
    with figure(path, _WIDTH, rows * (panel_height + 1.25) + 0.4 * bool(title)) as fig:
        axes = fig.subplots(rows, _COLUMNS, squeeze=False)
        notes = []
        for ax, panel in zip(axes.flat, panels, strict=False):
            notes += _panel(fig, ax, panel, extent)
            _atoms(ax, sites, markers)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for row in axes:
            row[0].set_ylabel("y (Å)")
        _legend(axes.flat[-1], sites, markers, notes)
        heading(fig, title)
    return Path(path)


def limits(values: np.ndarray) -> tuple[float, float]:
    """Least and greatest value that colours tell apart.

    The extremes themselves, unless cores reach so far out that most of the colours would be spent on the
    twentieth of the points nearest to them.
    """
    least, most = float(values.min()), float(values.max())
    low, high = (float(one) for one in np.quantile(values, [CLIPPED, 1 - CLIPPED]))
    spread = high - low
    return low if low - least > spread / 2 else least, high if most - high > spread / 2 else most


def _panel(fig: Figure, ax: Axes, panel: Map, extent: tuple[float, float, float, float]) -> list[str]:
    """Draw a panel; what its colours leave out, in words."""
    low, high = limits(panel.values)
    least, most = panel.values.min(), panel.values.max()
    both = min(-low, high) > 0.25 * max(-low, high)
    norm = Normalize(-max(-low, high), max(-low, high)) if both else Normalize(low, high)
    image = ax.imshow(
        panel.values, origin="lower", extent=extent, norm=norm, cmap=DIVERGING if both else SEQUENTIAL,
        interpolation="bilinear",
    )  # fmt: skip
    steps = MaxNLocator(9).tick_values(*image.get_clim())
    ax.contour(panel.values, steps, extent=extent, colors=INK, linewidths=0.35, alpha=0.5, linestyles="solid")
    ax.grid(False)
    ax.set_title(_subscript(panel.name, "bf"), parse_math=True)
    ax.set_xlabel("x (Å)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ends = ((least, least < low, "min"), (most, most > high, "max"))
    cut = {name: value for value, clipped, name in ends if clipped}
    beyond = "both" if len(cut) == 2 else [*cut, "neither"][0]
    bar = fig.colorbar(image, ax=ax, location="bottom", aspect=16, pad=0.02, extend=beyond)
    bar.set_label(panel.unit, fontsize=SMALL)
    bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    said = " and ".join(number(value).replace("-", "\N{MINUS SIGN}") for value in cut.values())
    return [f"{_subscript(panel.name)}: {with_unit(said, panel.unit)}"] if cut else []


def _subscript(name: str, font: str = "rm") -> str:
    """``V_ext`` as mathematics is set."""
    head, _, tail = name.partition("_")
    return rf"$\math{font}{{{head}}}_\math{font}{{{tail}}}$" if tail else name


def _atoms(ax: Axes, sites: Sequence[Site], markers: dict[str, str]) -> None:
    for site in sites:
        ax.plot(site.x, site.y, clip_on=False, zorder=3, **_mark(markers[site.symbol], site.inside))


def _mark(marker: str, inside: bool) -> dict:
    return {
        "marker": marker,
        "linestyle": "",
        "markersize": 6.5 if inside else 4,
        "markeredgecolor": INK,
        "markeredgewidth": 0.9 if inside else 0.6,
        "markerfacecolor": (1, 1, 1, 1 if inside else 0.4),
    }


def _legend(ax: Axes, sites: Sequence[Site], markers: dict[str, str], notes: Sequence[str]) -> None:
    kinds = sorted({(site.symbol, site.inside) for site in sites}, key=lambda kind: (not kind[1], kind[0]))
    handles = [Line2D([], [], **_mark(markers[symbol], inside)) for symbol, inside in kinds]
    names = [symbol if inside else f"{symbol}, beside the plane" for symbol, inside in kinds]
    box = ax.legend(handles, names, loc="upper left", borderaxespad=0, fontsize=SMALL)
    if not notes:
        return
    said = ax.annotate(
        "\n".join(["Colours stop short of", "the cores, which reach", *notes]), (0, 0), (4, -8), xycoords=box,
        textcoords="offset points", va="top", fontsize=SMALL, parse_math=True,
    )  # fmt: skip
    # As wide as a panel and its ticks, wider than the panel alone.
    said.set_in_layout(False)
