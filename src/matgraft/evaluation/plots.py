"""Figures of a result, each beside its baselines.

Every function takes arrays and a path, writes the file in one go and returns the path. The ending chooses the
format: ``.png`` (150 dpi), ``.svg`` or ``.pdf``.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from matgraft.errors import InputError
from matgraft.evaluation.tables import number

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

_SMALL = 9
_FORMATS = (".png", ".svg", ".pdf")
_CROWD = 1500
_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}


def parity(
    path: str | Path,
    target: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    unit: str,
    title: str = "",
) -> Path:
    """Predicted against reference values, one panel per method on common axes.

    The frame follows the reference values. A prediction far outside is drawn hollow on the edge of the frame
    and counted in the panel; it still counts in the mean absolute error. Crowded panels darken with the
    number of structures.

    Parameters
    ----------
    path : str or Path
    target : ndarray, shape (n,)
    predictions : mapping of str to ndarray, shape (n,)
        One to four methods.
    unit : str
        Unit of all values, may be empty.
    title : str

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        For no or more than four methods, arrays of different lengths, or no finite reference value.
    """
    if not 1 <= len(predictions) <= 4:
        raise ValueError(f"A parity figure holds 1 to 4 methods, not {len(predictions)}. Choose among them.")
    target = np.asarray(target, dtype=float).ravel()
    values = {name: np.asarray(v, dtype=float).ravel() for name, v in predictions.items()}
    for name, v in values.items():
        if len(v) != len(target):
            raise ValueError(f"{name}: {len(v)} predictions for {len(target)} reference values.")
    if not np.isfinite(target).any():
        raise ValueError("No finite reference value to draw.")

    n = len(values)
    columns = 2 if n == 4 else n
    rows = 2 if n == 4 else 1
    panel = {1: 4.4, 2: 3.9, 3: 2.95, 4: 3.4}[n]
    with _figure(path, columns * panel + 0.45, rows * panel + 0.75 + 0.3 * bool(title)) as fig:
        axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        low, high = _frame(target, values)
        axes[0].set(xlim=(low, high), ylim=(low, high))
        for axis in (axes[0].xaxis, axes[0].yaxis):
            axis.set_major_locator(_even_ticks(4 if n >= 3 else 5))
        many = "1 structure" if len(target) == 1 else f"{number(len(target))} structures"
        fig.supxlabel(f"{with_unit('reference', unit, brackets=True)}, {many}", fontsize=10)
        fig.supylabel(with_unit("predicted", unit, brackets=True), fontsize=10)
        _title(fig, title)
        for ax, name in zip(axes, values, strict=True):
            ax.set_title(textwrap.fill(name, int(8.5 * panel)))
            ax.set_aspect("equal")
        _trim(fig, axes[0], rows, columns)
        for i, (ax, v) in enumerate(zip(axes, values.values(), strict=True)):
            ax.plot([low, high], [low, high], color=INK, linewidth=0.9, zorder=1.5)
            _cloud(ax, target, v, low, high, COLOURS[i])
            error = np.abs(v - target)
            error = error[np.isfinite(error)]
            mae = with_unit(number(error.mean()), unit) if len(error) else "none finite"
            ax.text(0.04, 0.96, f"MAE {mae}", transform=ax.transAxes, va="top", bbox=_HALO, zorder=4)
    return Path(path)


def error_distribution(
    path: str | Path,
    errors: Mapping[str, np.ndarray],
    unit: str,
    threshold: float | None,
    threshold_name: str = "chemical accuracy",
) -> Path:
    """Histogram of signed errors beside the share of structures within a given absolute error.

    The histogram ends where at most 2 % of any method's errors are lost, or at five times that width for the
    narrowest method, so that one wild baseline does not flatten the rest; what lies beyond is said in per
    cent.

    Parameters
    ----------
    path : str or Path
    errors : mapping of str to ndarray, shape (n,)
        Predicted minus reference, one entry per method; lengths may differ.
    unit : str
        Unit of errors and threshold.
    threshold : float or None
        Absolute error that counts as good enough.
    threshold_name : str

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there is no method, one has no finite error, or the threshold is not positive.
    """
    if not errors:
        raise ValueError("No method whose errors could be drawn.")
    if threshold is not None and not threshold > 0:
        raise ValueError(f"The threshold must be positive, not {threshold}.")
    finite, lost = {}, {}
    for name, values in errors.items():
        values = np.asarray(values, dtype=float).ravel()
        finite[name] = values[np.isfinite(values)]
        lost[name] = len(values) - len(finite[name])
        if not len(finite[name]):
            raise ValueError(f"{name}: no finite error to draw.")

    with _figure(path, 8.2, 3.7) as fig:
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.08))
        _histogram(left, finite, unit)
        _cumulative(fig, right, finite, unit, threshold, threshold_name)
        names = [name + (f" ({lost[name]} not finite)" if lost[name] else "") for name in finite]
        _legend(fig, names)
    return Path(path)


def learning_curves(
    path: str | Path,
    table: Mapping[str, Mapping[int, np.ndarray]],
    unit: str,
    title: str = "",
) -> Path:
    """Error against the number of labels: mean over repeats, in a band of one standard deviation.

    Where the deviation is as wide as the mean, the band reaches down to the best repeat.

    Parameters
    ----------
    path : str or Path
    table : mapping of str to mapping of int to ndarray
        Method, then number of training labels, then one mean absolute error per repeat. Repeats that are not
        finite are left out and counted.
    unit : str
    title : str

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there is nothing to draw, or an error or a number of labels has no logarithm.
    """
    curves, lost = {}, 0
    for name, column in table.items():
        points = []
        for n, values in sorted(column.items()):
            values = np.asarray(values, dtype=float).ravel()
            lost += int((~np.isfinite(values)).sum())
            values = values[np.isfinite(values)]
            if n <= 0 or (values <= 0).any():
                raise ValueError(
                    f"{name}, {n} labels: sizes and errors must be positive on a logarithmic axis."
                )
            if len(values):
                deviation = values.std(ddof=1) if len(values) > 1 else 0.0
                mean = values.mean()
                # A deviation as wide as the mean has no lower end on a logarithmic axis; the best repeat has.
                lower = mean - deviation if deviation < 0.9 * mean else values.min()
                points.append((n, mean, lower, mean + deviation))
        if points:
            curves[name] = np.array(points, dtype=float).T
    if not curves:
        raise ValueError("No finite error to draw.")

    with _figure(path, 6.8, 4.1) as fig:
        ax = fig.subplots()
        for i, (n, mean, lower, upper) in enumerate(curves.values()):
            if len(n) > 1:
                ax.fill_between(n, lower, upper, color=_colour(i), alpha=0.14, linewidth=0)
            ax.vlines(n, lower, upper, color=_colour(i), linewidth=1.1, alpha=0.8)
            ax.plot(n, mean, color=_colour(i), zorder=3, **_marks(i))
        ax.set(xscale="log", yscale="log")
        sizes = np.unique(np.concatenate([c[0] for c in curves.values()]))
        ax.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.12)
        _size_ticks(ax, sizes)
        low, high = min(c[2].min() for c in curves.values()), max(c[3].max() for c in curves.values())
        _log_axis(ax.yaxis, *_padded(low, high, 0.06))
        ax.set_xlabel("training labels")
        ax.set_ylabel(with_unit("mean absolute error", unit, brackets=True))
        ends = [(name, c[0, -1], c[1, -1], _colour(i)) for i, (name, c) in enumerate(curves.items())]
        repeats = {np.isfinite(np.asarray(v, dtype=float)).sum() for c in table.values() for v in c.values()}
        if max(repeats) > 1:
            note = "mean ± standard deviation over repeats" + (f", {lost} not finite" if lost else "")
            ax.set_title(note, fontsize=_SMALL, color=FAINT, fontweight="normal")
        _title(fig, title)
        _end_labels(fig, ax, ends)
    return Path(path)


def training_curve(path: str | Path, history: Sequence[Mapping], unit: str = "") -> Path:
    """Training loss and validation error by epoch, over the learning rate.

    Parameters
    ----------
    path : str or Path
    history : sequence of mappings
        One row per epoch with ``epoch``, ``train_loss`` and, if known, ``validation_mae`` and ``rate``. Text,
        as read back from a CSV file, is converted; empty cells are gaps.
    unit : str
        Unit of the validation error.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there is no epoch.
    """
    if not history:
        raise ValueError("The history is empty: there is no epoch to draw.")
    epoch = _column(history, "epoch")
    loss, mae, rate = (_column(history, key) for key in ("train_loss", "validation_mae", "rate"))
    has_rate = bool(np.isfinite(rate).any())

    with _figure(path, 6.8, 4.3 if has_rate else 3.5) as fig:
        if has_rate:
            ax, below = fig.subplots(2, 1, sharex=True, height_ratios=(4, 1))
            _rate_panel(below, epoch, rate)
        else:
            ax = below = fig.subplots()
        ends, parts = [], []
        for i, (name, values) in enumerate((("validation MAE", mae), ("training loss", loss))):
            drawable = np.isfinite(values) & (values > 0)
            if drawable.any():
                marker = MARKERS[i] if drawable.sum() < 25 else ""
                ax.plot(
                    epoch[drawable], values[drawable], color=COLOURS[i], linestyle=DASHES[i], marker=marker,
                    linewidth=1.6, zorder=3 - i,
                )  # fmt: skip
                last = np.flatnonzero(drawable)[-1]
                ends.append((name, epoch[last], values[last], COLOURS[i]))
                parts.append(values[drawable])
        ax.set_yscale("log")
        if parts:
            shown = np.concatenate(parts)
            _log_axis(ax.yaxis, *_padded(shown.min(), shown.max(), 0.08))
        if np.isfinite(mae).any():
            best = int(np.nanargmin(np.where(np.isfinite(mae), mae, np.nan)))
            ax.plot(epoch[best], mae[best], "o", color=COLOURS[0], markersize=6, zorder=4)
            lowest = with_unit(number(mae[best]), unit)
            said = f"lowest validation MAE {lowest}, epoch {int(epoch[best])}"
            ax.set_title(said, fontsize=_SMALL, color=_dark(COLOURS[0]), fontweight="normal", loc="right")
        broken = int((~np.isfinite(loss)).sum())
        if broken:
            epochs = "epoch" if broken == 1 else "epochs"
            ax.set_title(
                f"loss not finite in {broken} {epochs}", fontsize=_SMALL, color=FAINT, fontweight="normal"
            )
        ax.set_ylabel(with_unit("loss; MAE", unit, brackets=True) if np.isfinite(mae).any() else "loss")
        below.set_xlabel("epoch")
        fig.align_ylabels()
        first, last = float(epoch.min()), float(epoch.max())
        below.xaxis.set_major_locator(
            FixedLocator([first]) if first == last else _even_ticks(8, integer=True)
        )
        ax.set_xlim(
            (first - 0.5, last + 0.5)
            if first == last
            else (first - 0.015 * (last - first), last + 0.015 * (last - first))
        )
        _end_labels(fig, ax, ends)
    return Path(path)


def with_unit(text: str, unit: str, brackets: bool = False) -> str:
    """``0.046 eV``, or ``error (eV)`` with brackets; the text alone where there is no unit."""
    if not unit:
        return text
    return f"{text} ({unit})" if brackets else f"{text} {unit}"


# ------------------------------------------------------------------ the panels


def _trim(fig: Figure, ax: Axes, rows: int, columns: int) -> None:
    """Take from the figure the room that square panels leave unused."""
    # Labels that stood in the free room need some of it back, so one pass does not settle it.
    for _ in range(3):
        fig.draw_without_rendering()
        given, used = ax.get_position(original=True), ax.get_position()
        width, height = fig.get_size_inches()
        width -= columns * width * (given.width - used.width)
        height -= rows * height * (given.height - used.height)
        fig.set_size_inches(width, height)


def _frame(target: np.ndarray, values: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Common limits: all that lies within half a span of the reference values, extremes aside."""
    everything = np.concatenate([target, *values.values()])
    everything = everything[np.isfinite(everything)]
    low, high = np.quantile(target[np.isfinite(target)], [0.002, 0.998])
    reach = 0.5 * (high - low)
    if reach == 0:
        reach = float(np.quantile(np.abs(everything - low), 0.9)) or abs(low) * 0.05 or 1.0
    low, high = max(everything.min(), low - reach), min(everything.max(), high + reach)
    pad = 0.04 * (high - low) or reach
    return float(low - pad), float(high + pad)


def _cloud(ax: Axes, x: np.ndarray, y: np.ndarray, low: float, high: float, colour: str) -> None:
    finite = np.isfinite(x) & np.isfinite(y)
    inside = finite & (x >= low) & (x <= high) & (y >= low) & (y <= high)
    outside = finite & ~inside
    n = int(inside.sum())
    if n > _CROWD:
        counts, rows, columns = np.histogram2d(x[inside], y[inside], bins=90, range=[[low, high]] * 2)
        row = np.clip(np.searchsorted(rows, x[inside], side="right") - 1, 0, 89)
        column = np.clip(np.searchsorted(columns, y[inside], side="right") - 1, 0, 89)
        crowd = counts[row, column]
        # Dense regions last, or the fringe would cover them.
        order = np.argsort(crowd, kind="stable")
        shades = [_mixed(colour, "white", 0.55), to_rgb(colour), _dark(colour, 0.65)]
        density = LinearSegmentedColormap.from_list("density", shades)
        ax.scatter(
            x[inside][order], y[inside][order], c=np.log(crowd[order]), cmap=density, s=5, linewidth=0,
            rasterized=True, zorder=2,
        )  # fmt: skip
    else:
        size, alpha = (26, 0.75) if n <= 150 else (13, 0.55)
        ax.scatter(x[inside], y[inside], color=colour, s=size, alpha=alpha, linewidth=0, zorder=2)
    if outside.any():
        edge = 0.012 * (high - low)
        held_x, held_y = (np.clip(v[outside], low + edge, high - edge) for v in (x, y))
        size, width = (22, 1.0) if outside.sum() <= 30 else (8, 0.6)
        ax.scatter(held_x, held_y, s=size, facecolor="white", edgecolor=colour, linewidth=width, zorder=3)
    remarks = [f"{number(int(outside.sum()))} beyond the frame"] if outside.any() else []
    remarks += [f"{number(int((~finite).sum()))} not finite"] if not finite.all() else []
    if remarks:
        ax.text(
            0.97, 0.04, "\n".join(remarks), transform=ax.transAxes, ha="right", va="bottom", fontsize=_SMALL,
            bbox=_HALO, zorder=4,
        )  # fmt: skip


def _histogram(ax: Axes, errors: Mapping[str, np.ndarray], unit: str) -> None:
    widths = [np.quantile(np.abs(e), 0.98) for e in errors.values()]
    positive = [w for w in widths if w > 0]
    reach = min(max(positive), 5 * min(positive)) if positive else 1.0
    # Fine enough for the narrowest method, coarse enough for the number of structures.
    finest = 3 * reach / min(positive) if positive else 1.0
    half = int(max(finest, np.clip(0.6 * math.sqrt(max(map(len, errors.values()))), 4, 25)))
    edges = np.linspace(-reach, reach, 2 * half + 2)
    beyond, peak = [], 0.0
    for i, e in enumerate(errors.values()):
        counts, _ = np.histogram(e, edges)
        share = 100 * counts / len(e)
        ax.stairs(share, edges, color=_colour(i), fill=True, alpha=0.10)
        ax.stairs(share, edges, color=_colour(i), linewidth=1.5)
        peak = max(peak, share.max())
        beyond.append(100 * float((np.abs(e) > reach).mean()))
    ax.axvline(0, color=INK, linewidth=0.9, zorder=1)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(0, 1.08 * peak or 1.0)
    ax.xaxis.set_major_locator(_even_ticks(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    ax.set_xlabel(with_unit("predicted \N{MINUS SIGN} reference", unit, brackets=True))
    ax.set_ylabel("structures per bin")
    if max(beyond) > 0:
        said = [_percent(b) for b in beyond]
        colours = [FAINT, *(_dark(_colour(i)) for i in range(len(said)))]
        for i, (text, colour) in enumerate(zip(["beyond the frame", *said], colours, strict=True)):
            ax.annotate(
                text, (0.985, 0.98), (0, -12.5 * i), xycoords="axes fraction", textcoords="offset points",
                ha="right", va="top", fontsize=_SMALL, color=colour,
            )  # fmt: skip


def _cumulative(
    fig: Figure,
    ax: Axes,
    errors: Mapping[str, np.ndarray],
    unit: str,
    threshold: float | None,
    threshold_name: str,
) -> None:
    sizes = [np.sort(np.abs(e)) for e in errors.values()]
    high = max(np.quantile(s, 0.998) for s in sizes) or 1.0
    low = min((np.quantile(s[s > 0], 0.01) for s in sizes if (s > 0).any()), default=high / 10)
    if threshold is not None:
        low, high = min(low, threshold / 2), max(high, threshold * 2)
    low, high = _padded(max(low, high * 1e-6), high, 0.02)
    ends = []
    for i, s in enumerate(sizes):
        share = 100 * np.arange(1, len(s) + 1) / len(s)
        x = np.concatenate([[low], np.maximum(s, low), [max(high, s[-1])]])
        y = np.concatenate([[100 * (s <= low).mean()], share, [100]])
        style: dict[str, Any] = {"color": _colour(i), "drawstyle": "steps-post", "markevery": (0.04 * i, 0.2)}
        ax.plot(x, y, zorder=3, **style, **_marks(i))
        if threshold is not None:
            within = 100 * float((s <= threshold).mean())
            ax.plot(threshold, within, "o", color=INK, markersize=4, zorder=5)
            ax.plot(
                [threshold, high], [within, within], color=_colour(i), linewidth=0.8, alpha=0.55, zorder=2
            )
            ends.append((_percent(within), high, within, _colour(i)))
    ax.set_xscale("log")
    _log_axis(ax.xaxis, low, high)
    ax.set_ylim(0, 102)
    ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    ax.set_xlabel(with_unit("absolute error", unit, brackets=True))
    ax.set_ylabel("structures within")
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.0, linestyle=(0, (3, 2)), zorder=1.8)
        position = math.log(threshold / low) / math.log(high / low)
        ax.text(
            min(max(position, 0.3), 0.7), 1.015, f"{threshold_name}, {with_unit(number(threshold), unit)}",
            transform=ax.transAxes, ha="center", va="bottom", fontsize=_SMALL,
        )  # fmt: skip
        _end_labels(fig, ax, ends)


def _rate_panel(ax: Axes, epoch: np.ndarray, rate: np.ndarray) -> None:
    ax.plot(epoch, rate, color=FAINT, linewidth=1.4, marker="o" if len(epoch) == 1 else "")
    ax.set_ylabel("learning\nrate")
    shown = rate[np.isfinite(rate)]
    if shown.min() == shown.max():
        ax.yaxis.set_major_locator(FixedLocator([float(shown[0])]))
        ax.yaxis.set_major_formatter(FuncFormatter(_plain))
    elif shown.min() > 0:
        ax.set_yscale("log")
        _log_axis(ax.yaxis, *_padded(shown.min(), shown.max(), 0.15), at_most=3)
    else:
        ax.yaxis.set_major_locator(_even_ticks(3))


def _column(history: Sequence[Mapping], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) in (None, "") else float(row[key]) for row in history])


# ------------------------------------------------------------------- the style


@contextmanager
def _figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
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
        temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp{path.suffix}")
        try:
            fig.savefig(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _marks(i: int) -> dict:
    """What tells line ``i`` from the others without its colour."""
    return {
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i // len(MARKERS) % len(DASHES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
        "markersize": 6.5,
    }


def _percent(value: float) -> str:
    return "<1 %" if 0 < value < 1 else ">99 %" if 99 < value < 100 else f"{value:.0f} %"


def _mixed(colour: str, other: str, share: float) -> tuple[float, float, float]:
    a, b = to_rgb(colour), to_rgb(other)
    red, green, blue = ((1 - share) * p + share * q for p, q in zip(a, b, strict=True))
    return red, green, blue


def _dark(colour: str, keep: float = 0.78) -> tuple[float, float, float]:
    """The shade for text, which needs more contrast than a line."""
    return _mixed(colour, "black", 1 - keep)


def _title(fig: Figure, title: str) -> None:
    if title:
        lines = textwrap.fill(title, int(8 * fig.get_figwidth()))
        fig.suptitle(lines, fontsize=12, fontweight="bold", x=0.01, ha="left")


def _legend(fig: Figure, names: Sequence[str]) -> None:
    handles = [Line2D([], [], color=_colour(i), **_marks(i)) for i in range(len(names))]
    columns, longest = len(names), max(map(len, names))
    while columns > 1 and columns * (longest + 6) > 105:
        columns -= 1
    fig.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.6, borderaxespad=0.2)


def _end_labels(fig: Figure, ax: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Names beside the right edge, level with the ends of their curves but never touching."""
    if not ends:
        return
    names = [textwrap.fill(name, 24) for name, *_ in ends]
    labels = [
        ax.annotate(
            name, (1, 0.5), (7, 0), xycoords="axes fraction", textcoords="offset points", va="center",
            color=_dark(colour), annotation_clip=False,
        )
        for name, (_, _, _, colour) in zip(names, ends, strict=True)
    ]  # fmt: skip
    # The layout settles once the labels have taken their width; only then are heights in pixels known.
    fig.canvas.draw()
    box = ax.get_window_extent()
    wanted = np.array([(ax.transData.transform((x, y))[1] - box.y0) / box.height for _, x, y, _ in ends])
    lines = max(name.count("\n") + 1 for name in names)
    gap = (1.5 * lines - 0.2) * STYLE["font.size"] / 72 * fig.dpi / box.height
    placed = _apart(wanted, gap)
    for label, (_, x, y, _), height in zip(labels, ends, placed, strict=True):
        label.xy = (1, height)
        start = ax.transAxes.inverted().transform(ax.transData.transform((x, y)))
        ax.plot(
            [start[0], 1, 1 + 5 / 72 * fig.dpi / box.width], [start[1], start[1], height],
            transform=ax.transAxes, color=label.get_color(), linewidth=0.7, alpha=0.6, clip_on=False,
            zorder=1.9,
        )  # fmt: skip


def _apart(wanted: np.ndarray, gap: float) -> np.ndarray:
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


# ------------------------------------------------------------------- the axes


def _even_ticks(at_most: int, integer: bool = False) -> MaxNLocator:
    return MaxNLocator(at_most, integer=integer, steps=[1, 2, 2.5, 5, 10])


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Limits a share of the logarithmic range further out, at least five per cent."""
    factor = max((high / low) ** share, 1.05)
    return low / factor, high * factor


def _plain(value: float, _=None) -> str:
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


def _log_axis(axis: Axis, low: float, high: float, at_most: int = 7) -> None:
    """Limits and three to seven ticks at round numbers, however short or long the range."""
    limits = axis.axes.set_xlim if axis is axis.axes.xaxis else axis.axes.set_ylim
    limits(low, high)
    axis.set_major_locator(FixedLocator(_log_ticks(low, high, at_most).tolist()))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _log_ticks(low: float, high: float, at_most: int = 7) -> np.ndarray:
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


def _size_ticks(ax: Axes, sizes: np.ndarray) -> None:
    """The sizes measured are the ticks, as long as their labels have room."""
    low, high = ax.get_xlim()
    axis = ax.xaxis
    _log_axis(axis, low, high)
    gaps = np.diff(np.log(sizes)) / math.log(high / low)
    if len(sizes) <= 9 and (not len(gaps) or gaps.min() > 0.07):
        axis.set_major_locator(FixedLocator(sizes.tolist()))
