"""Figures of a result, each beside its baselines.

Every function takes arrays and a path, writes the file in one go and returns the path. The ending chooses the
format: ``.png`` (150 dpi), ``.svg`` or ``.pdf``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from matgraft.data import Label
from matgraft.evaluation.style import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    MARKERS,
    SMALL,
    dark,
    end_labels,
    even_ticks,
    figure,
    heading,
    legend,
    log_axis,
    marks,
    mixed,
    nth_colour,
    padded,
    percent,
    plain,
    size_ticks,
    with_unit,
)
from matgraft.evaluation.tables import number, per_atom_scale
from matgraft.models.intervals import conformal_quantile

_CROWD = 1500
_FEW = 4
HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}


def parity(
    path: str | Path,
    target: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    unit: str,
    title: str = "",
    counted: str = "structures",
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
    counted : str
        What the values are of, in the plural.

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
    with figure(path, columns * panel + 0.45, rows * panel + 0.75 + 0.3 * bool(title)) as fig:
        axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        low, high = _frame(target, values)
        axes[0].set(xlim=(low, high), ylim=(low, high))
        for axis in (axes[0].xaxis, axes[0].yaxis):
            axis.set_major_locator(even_ticks(_room_for_ticks(low, high, panel)))
        many = f"{number(len(target))} {counted if len(target) > 1 else counted.removesuffix('s')}"
        fig.supxlabel(f"{with_unit('reference', unit, brackets=True)}, {many}", fontsize=10)
        fig.supylabel(with_unit("predicted", unit, brackets=True), fontsize=10)
        heading(fig, title)
        for ax, name in zip(axes, values, strict=True):
            ax.set_title(textwrap.fill(name, int(7.2 * panel), break_on_hyphens=False))
            ax.set_aspect("equal")
        _trim(fig, axes[0], rows, columns)
        for i, (ax, v) in enumerate(zip(axes, values.values(), strict=True)):
            ax.plot([low, high], [low, high], color=INK, linewidth=0.9, zorder=1.5)
            _cloud(ax, target, v, low, high, COLOURS[i])
            error = np.abs(v - target)
            error = error[np.isfinite(error)]
            mae = with_unit(number(error.mean()), unit) if len(error) else "none finite"
            ax.text(0.04, 0.96, f"MAE {mae}", transform=ax.transAxes, va="top", bbox=HALO, zorder=4)
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

    with figure(path, 8.2, 3.7) as fig:
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.08))
        histogram(left, finite, unit)
        cumulative(fig, right, finite, unit, threshold, threshold_name)
        names = [name + (f" ({lost[name]} not finite)" if lost[name] else "") for name in finite]
        legend(fig, names)
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

    with figure(path, 6.8, 4.1) as fig:
        ax = fig.subplots()
        for i, (n, mean, lower, upper) in enumerate(curves.values()):
            # Of many curves they would hide one another; the bars say the same.
            if len(n) > 1 and len(curves) <= _FEW:
                ax.fill_between(n, lower, upper, color=nth_colour(i), alpha=0.14, linewidth=0)
            ax.vlines(n, lower, upper, color=nth_colour(i), linewidth=1.1, alpha=0.8)
            ax.plot(n, mean, color=nth_colour(i), zorder=3, **marks(i))
        ax.set(xscale="log", yscale="log")
        sizes = np.unique(np.concatenate([c[0] for c in curves.values()]))
        ax.set_xlim(sizes[0] / 1.12, sizes[-1] * 1.12)
        size_ticks(ax, sizes)
        low, high = min(c[2].min() for c in curves.values()), max(c[3].max() for c in curves.values())
        log_axis(ax.yaxis, *padded(low, high, 0.06))
        ax.set_xlabel("training labels")
        ax.set_ylabel(with_unit("mean absolute error", unit, brackets=True))
        ends = [(name, c[0, -1], c[1, -1], nth_colour(i)) for i, (name, c) in enumerate(curves.items())]
        repeats = {np.isfinite(np.asarray(v, dtype=float)).sum() for c in table.values() for v in c.values()}
        if max(repeats) > 1:
            note = "mean ± standard deviation over repeats" + (f", {lost} not finite" if lost else "")
            ax.set_title(note, fontsize=SMALL, color=FAINT, fontweight="normal")
        heading(fig, title)
        end_labels(fig, ax, ends)
    return Path(path)


def contest_chart(path: str | Path, story: Mapping, label: Label) -> Path:
    """Cross-validated errors of all candidates, those in the outcome in colour.

    Parameters
    ----------
    path : path
    story : mapping
        ``error_per_atom`` of the outcome; ``candidates``, each with ``words``, ``source``,
        ``error_per_atom``, ``weight`` and ``folds``.
    label : Label
    """
    factor, shown = per_atom_scale(label)
    candidates = sorted(story["candidates"], key=lambda one: one["error_per_atom"])
    everywhere = max(one["folds"] for one in candidates)
    errors = [factor * one["error_per_atom"] for one in candidates]
    outcome = factor * story["error_per_atom"]
    # One that has diverged would leave no room for the others.
    most = min(errors[-1], 10 * outcome or np.inf)
    place = np.arange(len(candidates))[::-1]
    with figure(path, 9.0, 1.4 + 0.24 * len(candidates)) as fig:
        ax = fig.subplots()
        colours = [COLOURS[0] if one["weight"] else FAINT for one in candidates]
        ax.barh(place, errors, color=colours, height=0.7)
        for y, one, error in zip(place, candidates, errors, strict=True):
            note = f" ({one['weight']:.0%})" if one["weight"] else ""
            note += ", dropped early" if one["folds"] < everywhere else ""
            ax.text(min(error, most), y, f" {number(error)}{note}", va="center", fontsize=SMALL, color=INK)
        ax.axvline(outcome, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        names = [one["words"] + (f" ({one['source']})" if one["source"] else "") for one in candidates]
        ax.set_yticks(place, names, fontsize=SMALL)
        ax.set_xlim(0, 1.3 * most or 1.0)
        ax.set_xlabel(with_unit("error", shown, brackets=True))
        ax.grid(visible=False, axis="y")
        title = f"Errors in cross-validation; of the outcome (blue, with shares): {number(outcome)} {shown}"
        heading(fig, title.strip())
    return Path(path)


def interval_chart(
    path: str | Path, errors: np.ndarray, half_width: np.ndarray, scores: np.ndarray, unit: str
) -> Path:
    """Whether intervals hold what they promise: coverage against the nominal one, and errors by width.

    Parameters
    ----------
    path : path
    errors, half_width : ndarray, shape (m,)
        Of structures held out, in label units; of 90 % intervals.
    scores : ndarray, shape (n,)
        Errors over difficulty of the labels that the intervals rest on, ascending.
    unit : str
    """
    nominal = np.linspace(0.05, 0.95, 19)
    usual, *quantiles = (conformal_quantile(scores, one) for one in (0.9, *nominal))
    half_width = np.maximum(half_width, 1e-12)
    relative = errors / half_width * usual
    reached = (relative[:, None] <= quantiles).mean(axis=0)
    held = errors <= half_width
    with figure(path, 8.5, 3.8) as fig:
        left, right = fig.subplots(1, 2)
        left.plot([0, 100], [0, 100], color=FAINT, linewidth=1.0)
        left.plot(100 * nominal, 100 * reached, color=COLOURS[0], marker="o", markersize=4)
        left.set(xlim=(0, 100), ylim=(0, 100), xlabel="promised (%)", ylabel="labels in the interval (%)")
        least = max(float(np.quantile(errors, 0.02)), 1e-12)
        for chosen, colour, name in ((held, COLOURS[0], "inside"), (~held, COLOURS[1], "outside")):
            right.plot(
                half_width[chosen], np.maximum(errors[chosen], least), "o", color=colour, markersize=3.5,
                alpha=0.7, label=f"{name}: {chosen.mean():.0%}",
            )  # fmt: skip
        ends = float(half_width.min()) / 1.1, float(half_width.max()) * 1.1
        right.plot(ends, ends, color=INK, linewidth=0.8)
        right.set(xscale="log", yscale="log", ylabel=with_unit("error", unit, brackets=True))
        log_axis(right.xaxis, *ends)
        log_axis(right.yaxis, least / 1.3, 1.3 * max(float(errors.max()), ends[1]))
        right.set_xlabel(with_unit("half width of the 90 % interval", unit, brackets=True))
        right.legend(loc="lower right", fontsize=SMALL)
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

    with figure(path, 6.8, 4.3 if has_rate else 3.5) as fig:
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
            log_axis(ax.yaxis, *padded(shown.min(), shown.max(), 0.08))
        if np.isfinite(mae).any():
            best = int(np.nanargmin(np.where(np.isfinite(mae), mae, np.nan)))
            ax.plot(epoch[best], mae[best], "o", color=COLOURS[0], markersize=6, zorder=4)
            lowest = with_unit(number(mae[best]), unit)
            said = f"lowest validation MAE {lowest}, epoch {int(epoch[best])}"
            ax.set_title(said, fontsize=SMALL, color=dark(COLOURS[0]), fontweight="normal", loc="right")
        broken = int((~np.isfinite(loss)).sum())
        if broken:
            epochs = "epoch" if broken == 1 else "epochs"
            ax.set_title(
                f"loss not finite in {broken} {epochs}", fontsize=SMALL, color=FAINT, fontweight="normal"
            )
        error = f"; {with_unit('MAE', unit, brackets=True)}" if np.isfinite(mae).any() else ""
        ax.set_ylabel(f"loss (network's units){error}")
        below.set_xlabel("epoch")
        fig.align_ylabels()
        first, last = float(epoch.min()), float(epoch.max())
        below.xaxis.set_major_locator(FixedLocator([first]) if first == last else even_ticks(8, integer=True))
        ax.set_xlim(
            (first - 0.5, last + 0.5)
            if first == last
            else (first - 0.015 * (last - first), last + 0.015 * (last - first))
        )
        end_labels(fig, ax, ends)
    return Path(path)


def convergence(path: str | Path, traces: Mapping[str, Sequence[tuple[float, float]]]) -> Path:
    """How self-consistent loops converge: what the program estimates, and what the energy still moves.

    Parameters
    ----------
    path : str or Path
    traces : mapping of str to sequence of (energy, accuracy)
        By structure, one pair per iteration: total energy of the cell and its estimated error, eV.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If no structure has an iteration.
    """
    loops = {name: np.asarray(trace, dtype=float) for name, trace in traces.items() if len(trace)}
    if not loops:
        raise ValueError("No iteration to draw.")
    longest = max(map(len, loops.values()))
    names = [textwrap.fill(name, 48) for name in loops]
    columns = 2 if len(names) > 1 and max(map(len, names)) <= 20 else 1
    lines = sum(name.count("\n") + 1 for name in names)
    with figure(path, 4.6, 4.6 + 0.22 * lines / columns) as fig:
        above, below = fig.subplots(2, 1, sharex=True)
        for ax, label in ((above, "estimated error (eV)"), (below, "distance to last energy (eV)")):
            shown = []
            for i, loop in enumerate(loops.values()):
                values = loop[:, 1] if ax is above else np.abs(loop[:, 0] - loop[-1, 0])
                drawn = np.isfinite(values) & (values > 0)
                ax.plot(1 + np.flatnonzero(drawn), values[drawn], color=nth_colour(i), **marks(i))
                shown += values[drawn].tolist()
            ax.set(yscale="log", ylabel=label)
            if shown:
                log_axis(ax.yaxis, *padded(min(shown), max(shown), 0.06))
        below.set_xlabel("iteration")
        below.set_xlim(0.5, longest + 0.5)
        below.xaxis.set_major_locator(even_ticks(8, integer=True))
        fig.legend(above.get_lines(), names, loc="outside upper left", ncols=columns, handlelength=2.6)
    return Path(path)


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


def _room_for_ticks(low: float, high: float, inches: float) -> int:
    """How many labels stand side by side along an axis: few where they are long."""
    decimals = max(0, -math.floor(math.log10((high - low) / 4)))
    longest = max(len(f"{end:,.{decimals}f}") for end in (low, high))
    return min(max(int(11 * inches / (longest + 2)), 2), 5)


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
        shades = [mixed(colour, "white", 0.55), to_rgb(colour), dark(colour, 0.65)]
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
            0.97, 0.04, "\n".join(remarks), transform=ax.transAxes, ha="right", va="bottom", fontsize=SMALL,
            bbox=HALO, zorder=4,
        )  # fmt: skip


def histogram(ax: Axes, errors: Mapping[str, np.ndarray], unit: str) -> None:
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
        ax.stairs(share, edges, color=nth_colour(i), fill=True, alpha=0.10)
        ax.stairs(share, edges, color=nth_colour(i), linewidth=1.5)
        peak = max(peak, share.max())
        beyond.append(100 * float((np.abs(e) > reach).mean()))
    ax.axvline(0, color=INK, linewidth=0.9, zorder=1)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(0, 1.08 * peak or 1.0)
    ax.xaxis.set_major_locator(even_ticks(5))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
    ax.set_xlabel(with_unit("predicted \N{MINUS SIGN} reference", unit, brackets=True))
    ax.set_ylabel("structures per bin")
    if max(beyond) > 0:
        said = [percent(b) for b in beyond]
        colours = [FAINT, *(dark(nth_colour(i)) for i in range(len(said)))]
        for i, (text, colour) in enumerate(zip(["beyond the frame", *said], colours, strict=True)):
            ax.annotate(
                text, (0.985, 0.98), (0, -12.5 * i), xycoords="axes fraction", textcoords="offset points",
                ha="right", va="top", fontsize=SMALL, color=colour,
            )  # fmt: skip


def cumulative(
    fig: Figure,
    ax: Axes,
    errors: Mapping[str, np.ndarray],
    unit: str,
    threshold: float | None,
    threshold_name: str = "chemical accuracy",
    ticks: int = 7,
) -> None:
    sizes = [np.sort(np.abs(e)) for e in errors.values()]
    high = max(np.quantile(s, 0.998) for s in sizes) or 1.0
    low = min((np.quantile(s[s > 0], 0.01) for s in sizes if (s > 0).any()), default=high / 10)
    if threshold is not None:
        low, high = min(low, threshold / 2), max(high, threshold * 2)
    low, high = padded(max(low, high * 1e-6), high, 0.02)
    ends = []
    for i, s in enumerate(sizes):
        share = 100 * np.arange(1, len(s) + 1) / len(s)
        x = np.concatenate([[low], np.maximum(s, low), [max(high, s[-1])]])
        y = np.concatenate([[100 * (s <= low).mean()], share, [100]])
        style: dict[str, Any] = {
            "color": nth_colour(i),
            "drawstyle": "steps-post",
            "markevery": (0.04 * i, 0.2),
        }
        ax.plot(x, y, zorder=3, **style, **marks(i))
        if threshold is not None:
            within = 100 * float((s <= threshold).mean())
            ax.plot(threshold, within, "o", color=INK, markersize=4, zorder=5)
            ax.plot(
                [threshold, high], [within, within], color=nth_colour(i), linewidth=0.8, alpha=0.55, zorder=2
            )
            ends.append((percent(within), high, within, nth_colour(i)))
    ax.set_xscale("log")
    log_axis(ax.xaxis, low, high, ticks)
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
            transform=ax.transAxes, ha="center", va="bottom", fontsize=SMALL,
        )  # fmt: skip
        end_labels(fig, ax, ends)


def _rate_panel(ax: Axes, epoch: np.ndarray, rate: np.ndarray) -> None:
    ax.plot(epoch, rate, color=FAINT, linewidth=1.4, marker="o" if len(epoch) == 1 else "")
    ax.set_ylabel("learning\nrate")
    shown = rate[np.isfinite(rate)]
    if shown.min() == shown.max():
        ax.yaxis.set_major_locator(FixedLocator([float(shown[0])]))
        ax.yaxis.set_major_formatter(FuncFormatter(plain))
    elif shown.min() > 0:
        ax.set_yscale("log")
        log_axis(ax.yaxis, *padded(shown.min(), shown.max(), 0.15), at_most=3)
    else:
        ax.yaxis.set_major_locator(even_ticks(3))


def _column(history: Sequence[Mapping], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) in (None, "") else float(row[key]) for row in history])
