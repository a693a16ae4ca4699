"""How figures look: palette, marks, axes and labels that every figure shares."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from matgraft.errors import InputError
from matgraft.evaluation.tables import number
from matgraft.whole import whole

INK = "#222222"
FAINT = "#8a8a8a"
# Okabe and Ito (2008), in an order that keeps the first four apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple = ("-", (0, (6, 1.6)), (0, (2.2, 1.2)), (0, (7, 1.6, 1.6, 1.6)))
STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    # Names of methods and units are data: "TL$1" is no formula.
    "text.parse_math": False,
}

SMALL = 9
_FORMATS = (".png", ".svg", ".pdf")


def with_unit(text: str, unit: str, brackets: bool = False) -> str:
    """``0.046 eV``, or ``error (eV)`` with brackets; the text alone where there is no unit."""
    if not unit:
        return text
    return f"{text} ({unit})" if brackets else f"{text} {unit}"


@contextmanager
def figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, written under its name once it is complete."""
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(
            f"{path}: cannot draw {path.suffix or 'a file without ending'}. Use {', '.join(_FORMATS)}."
        )
    with matplotlib.rc_context():
        # A user's own matplotlibrc would change sizes that the layout counts on.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        fig = Figure(figsize=(width, height))
        FigureCanvasAgg(fig)
        yield fig
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            fig.savefig(partial)


def nth_colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def marks(i: int) -> dict:
    """What tells line ``i`` from the others without its colour."""
    return {
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i // len(MARKERS) % len(DASHES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "markersize": 6.5,
    }


def percent(value: float) -> str:
    return "<1 %" if 0 < value < 1 else ">99 %" if 99 < value < 100 else f"{value:.0f} %"


def mixed(colour: str, other: str, share: float) -> tuple[float, float, float]:
    a, b = to_rgb(colour), to_rgb(other)
    red, green, blue = ((1 - share) * p + share * q for p, q in zip(a, b, strict=True))
    return red, green, blue


def dark(colour: str, keep: float = 0.78) -> tuple[float, float, float]:
    """The shade for text, which needs more contrast than a line."""
    return mixed(colour, "black", 1 - keep)


def heading(fig: Figure, title: str) -> None:
    if title:
        lines = textwrap.fill(title, int(8 * fig.get_figwidth()))
        fig.suptitle(lines, fontsize=12, fontweight="bold", x=0.01, ha="left")


def legend(fig: Figure, names: Sequence[str]) -> None:
    handles = [Line2D([], [], color=nth_colour(i), **marks(i)) for i in range(len(names))]
    columns, longest = len(names), max(map(len, names))
    while columns > 1 and columns * (longest + 6) > 105:
        columns -= 1
    fig.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.6, borderaxespad=0.2)


def end_labels(fig: Figure, ax: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Names beside the right edge, level with the ends of their curves but never touching."""
    if not ends:
        return
    names = [textwrap.fill(name, 24) for name, *_ in ends]
    labels = [
        ax.annotate(
            name, (1, 0.5), (7, 0), xycoords="axes fraction", textcoords="offset points", va="center",
            color=dark(colour), annotation_clip=False,
        )
        for name, (_, _, _, colour) in zip(names, ends, strict=True)
    ]  # fmt: skip
    # The layout settles once the labels have taken their width; only then are heights in pixels known.
    fig.canvas.draw()
    box = ax.get_window_extent()
    wanted = np.array([(ax.transData.transform((x, y))[1] - box.y0) / box.height for _, x, y, _ in ends])
    lines = max(name.count("\n") + 1 for name in names)
    gap = (1.5 * lines - 0.2) * STYLE["font.size"] / 72 * fig.dpi / box.height
    placed = apart(wanted, gap)
    for label, (_, x, y, _), height in zip(labels, ends, placed, strict=True):
        label.xy = (1, height)
        start = ax.transAxes.inverted().transform(ax.transData.transform((x, y)))
        ax.plot(
            [start[0], 1, 1 + 5 / 72 * fig.dpi / box.width], [start[1], start[1], height],
            transform=ax.transAxes, color=label.get_color(), linewidth=0.7, alpha=0.6, clip_on=False,
            zorder=1.9,
        )  # fmt: skip


def apart(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Heights in 0 to 1 nearest to the wanted ones (least squares), in their order and a gap apart."""
    order = np.argsort(wanted, kind="stable")
    # With the gaps subtracted this is isotonic regression; neighbours in conflict share their mean.
    blocks: list[list[float]] = []
    for rank, value in enumerate(wanted[order]):
        blocks.append([value - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = np.concatenate([[np.mean(block)] * len(block) for block in blocks])
    level = np.clip(level, 0, max(1 - gap * (len(wanted) - 1), 0))
    placed = np.empty(len(wanted))
    placed[order] = level + gap * np.arange(len(wanted))
    return placed


def even_ticks(at_most: int, integer: bool = False) -> MaxNLocator:
    return MaxNLocator(at_most, integer=integer, steps=[1, 2, 2.5, 5, 10])


def padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits a share of the logarithmic range further out, at least five per cent."""
    factor = max((high / low) ** share, 1.05)
    return low / factor, high * factor


def plain(value: float, _=None) -> str:
    """Tick label: plain decimals, powers of ten where these would be long."""
    if value <= 0:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    if -3 <= exponent <= 5:
        if exponent >= 3:
            return number(round(value))
        return f"{value:.{3 - exponent}f}".rstrip("0").rstrip(".")
    power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    lead = value / 10**exponent
    return power if abs(lead - 1) < 1e-6 else f"{lead:.3g}\N{MULTIPLICATION SIGN}{power}"


def log_axis(axis: Axis, low: float, high: float, at_most: int = 7) -> None:
    """Limits and three to seven ticks at round numbers, however short or long the range, or about none."""
    low = max(low, 1e-12)
    high = high if high > low else 10 * low
    limits = axis.axes.set_xlim if axis is axis.axes.xaxis else axis.axes.set_ylim
    limits(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high, at_most).tolist()))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float, at_most: int = 7) -> np.ndarray:
    decades = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = np.sort(np.outer(10.0**decades, leads).ravel())
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) <= at_most:
            break
    if len(ticks) > at_most:
        return ticks[:: math.ceil(len(ticks) / at_most)]
    if len(ticks) < 3 and high / low < 10:
        ticks = np.asarray(MaxNLocator(min(4, at_most)).tick_values(low, high))
        ticks = ticks[(ticks >= low) & (ticks <= high)]
    return ticks


def size_ticks(ax: Axes, sizes: np.ndarray) -> None:
    """The sizes measured are the ticks, as long as their labels have room."""
    low, high = ax.get_xlim()
    axis = ax.xaxis
    log_axis(axis, low, high)
    gaps = np.diff(np.log(sizes)) / math.log(high / low)
    if len(sizes) <= 9 and (not len(gaps) or gaps.min() > 0.07):
        axis.set_major_locator(FixedLocator(sizes.tolist()))
