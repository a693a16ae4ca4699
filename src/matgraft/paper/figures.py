"""The study's figures from our results; those without data stand in :mod:`matgraft.paper.drawings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from matgraft.data import catalogue
from matgraft.evaluation.metrics import CHEMICAL_ACCURACY
from matgraft.evaluation.plots import cumulative, histogram
from matgraft.evaluation.style import (
    SMALL,
    end_labels,
    figure,
    legend,
    log_axis,
    marks,
    nth_colour,
    padded,
    size_ticks,
)  # fmt: skip
from matgraft.paper import drawings, published
from matgraft.paper.results import Finding, Results
from matgraft.paper.tables import PER_ATOM, PER_CELL, RECIPES, SCHEMES

WIDTH = 7.2
"""Inches."""
_HOUR = 3600.0
_TIMES = (
    "Processor times of the calculations behind the labels of tmo-qe-pbe, on one core (bars), and the "
    f"published summary of {published.DFT_SECONDS['n']:,} larger oxides on 16 cores (line)."
)
_LOOP = (
    "The self-consistent loop of a calculation; what matgraft label runs for every structure. In practice, "
    "mixing draws on the densities of several iterations."
)
_BY_SIZE = (
    "Error of the cell (left; hollow and dashed: published, for other labels) and share of structures within "
    "43.4 meV per atom (right; hollow and dotted: per cell). Bars: one standard deviation over seeds."
)
_ERRORS = (
    "Errors with the fewest labels of the first set (left) and the most of the extended set (right); our "
    "recipe, all seeds and parts."
)
_DISTRIBUTIONS = (
    "Share of structures whose error per atom is at most so large: first set above, extended set below; our "
    "recipe, all seeds and parts."
)
_SCREENING = (
    f"Projected computing time with calculations alone, {published.DFT_SECONDS['mean'] / 60:.0f} min each "
    "(published mean, 16 cores), and with networks; training, that of the source included, measured on "
    "one core."
)


@dataclass(frozen=True)
class Drawn:
    """A figure on disk."""

    heading: str
    path: Path
    caption: str


def draw(results: Results, folder: Path) -> list[Drawn]:
    """Every figure whose experiments have been run, in the study's order."""
    made: list[Drawn] = []

    def add(
        number: str, name: str, figure: Callable, caption: str, *needs: Finding | None, **options
    ) -> None:
        if None not in needs:
            path = folder / f"{name}.png"
            figure(path, *needs, **options)
            made.append(Drawn(f"Figure {number}", path, caption))

    add("1", "fig1", drawings.self_consistency, _LOOP)
    add("3", "fig3", calculation_times, _TIMES)
    add("4", "fig4", drawings.approach, "From a crystal to a property.")
    add("5", "fig5", drawings.network, "SchNet, drawn from the layers of the code.")
    add("6", "fig6", drawings.descent, "Gradient descent (22) without and with momentum (23, 24).")
    add("7", "fig7", drawings.schemes, "What each scheme moves.")
    for number, data, values in (("8", "oxides", published.TABLE2), ("9", "extended", published.TABLE3)):
        for recipe, name in RECIPES.items():
            one = results.get(f"{recipe}/{data}")
            title = one.experiment.title if one else ""
            caption = f"{title}. {_BY_SIZE}"
            add(f"{number}, {name}", f"fig{number}-{recipe}", by_size, caption, one, values=values)
    oxides, extended = results.get("ours/oxides"), results.get("ours/extended")
    add("10", "fig10", histograms, _ERRORS, oxides, extended)
    add("11", "fig11", distributions, _DISTRIBUTIONS, oxides, extended)
    add("12", "fig12", screening_time, _SCREENING, extended)
    return made


def calculation_times(path: str | Path) -> Path:
    """Fig. 3: how long a label takes, over the data set that this package calculated itself."""
    seconds = catalogue.load("tmo-qe-pbe").columns["cpu_seconds"].astype(float)
    least, mean, most = (published.DFT_SECONDS[key] for key in ("least", "mean", "most"))
    with figure(path, WIDTH, 2.8) as fig:
        ax = fig.subplots()
        edges = np.geomspace(seconds.min() * 0.999, seconds.max() * 1.001, 19)
        counts, _ = np.histogram(seconds, edges)
        ax.bar(
            edges[:-1], counts, np.diff(edges), align="edge", color=nth_colour(0), edgecolor="white",
            linewidth=0.6,
        )  # fmt: skip
        height = 1.12 * counts.max()
        ax.plot([least, most], [height, height], color=nth_colour(1), linewidth=2, solid_capstyle="butt")
        for value, name, marker in (
            (least, "least", "|"),
            (mean, "mean, published", "o"),
            (most, "greatest", "|"),
        ):
            ax.plot(value, height, marker, color=nth_colour(1), markersize=12 if marker == "|" else 8)
            ax.annotate(
                name, (value, height), (0, 9), textcoords="offset points", ha="center", fontsize=SMALL
            )  # fmt: skip
        ax.set(xscale="log", ylim=(0, 1.3 * counts.max()), xlabel="time of one calculation (s)")
        ax.set_ylabel("calculations")
        log_axis(ax.xaxis, min(least, seconds.min()) / 2, most * 2)
    return Path(path)


def by_size(path: str | Path, finding: Finding, values: dict[str, dict[int, float]]) -> Path:
    """Figs. 8 and 9: error, and share within chemical accuracy, by number of labels and scheme."""
    schemes = list(finding.schemes)
    with figure(path, WIDTH, 3.6) as fig:
        left, right = fig.subplots(1, 2)
        shown = []
        for i, scheme in enumerate(schemes):
            sizes = finding.sizes_of(scheme)
            points = np.array([_point(finding, scheme, size, finding.measure) for size in sizes])
            _line(left, i, sizes, points)
            shown += [*(points[:, 0] - points[:, 1]).clip(points[:, 0] / 2), *points.sum(axis=1)]
            if scheme in values:
                published_sizes = [size for size in sizes if size in values[scheme]]
                was = [values[scheme][size] for size in published_sizes]
                left.plot(
                    published_sizes, was, color=nth_colour(i), linewidth=0.9, linestyle=(0, (4, 2)),
                    **{**_hollow(i), "markeredgecolor": nth_colour(i)},
                )  # fmt: skip
                shown += was
            share = 100 * np.array([_point(finding, scheme, size, PER_ATOM) for size in sizes])
            _line(right, i, sizes, share)
            per_cell = [100 * finding.mean(scheme, size, PER_CELL) for size in sizes]
            right.plot(sizes, per_cell, color=nth_colour(i), linewidth=0.9, linestyle=":", **_hollow(i))
        for ax in (left, right):
            ax.set(xscale="log", xlabel="training labels")
            ax.set_xlim(finding.sizes[0] / 1.2, finding.sizes[-1] * 1.2)
            size_ticks(ax, np.array(finding.sizes))
        left.set_title("filled: our labels, hollow: as published", fontsize=SMALL)
        right.set_title("filled: per atom, hollow: per cell", fontsize=SMALL)
        left.set(yscale="log", ylabel="mean absolute error (eV per cell)")
        log_axis(left.yaxis, *padded(min(shown), max(shown), 0.06))
        right.set(ylim=(0, None), ylabel=f"structures within {1e3 * CHEMICAL_ACCURACY:.1f} meV")
        right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g} %"))
        legend(fig, [SCHEMES[scheme] for scheme in schemes])
    return Path(path)


def _point(finding: Finding, scheme: str, size: int, measure: str) -> tuple[float, float]:
    over_seeds = finding.over_seeds(scheme, size, measure)
    return over_seeds.mean(), over_seeds.std(ddof=1) if len(over_seeds) > 1 else 0.0


def _line(ax: Axes, i: int, sizes: list[int], points: np.ndarray) -> None:
    # A little apart, so that the bars of equal schemes do not hide one another.
    x = np.array(sizes) * 1.025 ** (i - 1.5)
    ax.errorbar(x, points[:, 0], points[:, 1], color=nth_colour(i), elinewidth=1.0, capsize=2, **marks(i))


def _hollow(i: int) -> dict:
    return {"marker": marks(i)["marker"], "markerfacecolor": "white", "markersize": 4.5}


def histograms(path: str | Path, first: Finding, extended: Finding) -> Path:
    """Fig. 10: errors of direct training and TL1."""
    cases = ((first, first.sizes[0]), (extended, extended.sizes[-1]))
    with figure(path, WIDTH, 3.5) as fig:
        for ax, (finding, size) in zip(fig.subplots(1, 2), cases, strict=True):
            histogram(ax, {SCHEMES[s]: finding.errors(s, size) for s in ("direct", "tl1")}, "eV per cell")
            ax.set_title(f"N = {size}")
        legend(fig, [SCHEMES["direct"], SCHEMES["tl1"]])
    return Path(path)


def distributions(path: str | Path, first: Finding, extended: Finding) -> Path:
    """Fig. 11: cumulative distributions of the error per atom; TL1 in the first set, TL2 in the other."""
    with figure(path, WIDTH, 6.4) as fig:
        rows = zip(fig.subplots(2, 2), (first, extended), ("tl1", "tl2"), strict=True)
        for row, finding, scheme in rows:
            for ax, size in zip(row, (finding.sizes[0], finding.sizes[-1]), strict=True):
                errors = {SCHEMES[s]: _per_atom(finding, s, size) for s in ("direct", scheme)}
                cumulative(fig, ax, errors, "eV/atom", CHEMICAL_ACCURACY, ticks=4)
                ax.set_title(f"N = {size}", pad=18)
        legend(fig, [SCHEMES["direct"], "TL1 (above), TL2 (below)"])
    return Path(path)


def _per_atom(finding: Finding, scheme: str, size: int) -> np.ndarray:
    name = finding.schemes[scheme]
    return np.concatenate(
        [
            np.array(row["errors"][name]) / np.array(finding.report["validation"][str(row["seed"])]["natoms"])
            for row in finding.report["results"]
            if row["size"] == size and name in row["errors"]
        ]
    )


def screening_time(path: str | Path, finding: Finding) -> Path:
    """Fig. 12: hours to screen so many materials with calculations alone, or with a network."""
    per_label, size = published.DFT_SECONDS["mean"] / _HOUR, finding.sizes[-1]
    materials = np.geomspace(10, 1e5, 200)
    direct = float(finding.seconds("direct", size).mean()) / _HOUR
    graft = (float(finding.seconds("tl1", size).mean()) + finding.source_seconds) / _HOUR
    # A prediction takes milliseconds: nothing beside either.
    lines = {
        "DFT only": materials * per_label,
        f"{size} labels and direct training": np.full_like(materials, size * per_label + direct),
        f"{size} labels and transfer": np.full_like(materials, size * per_label + graft),
        "direct, labels at hand": np.full_like(materials, direct),
        "transfer, labels at hand": np.full_like(materials, graft),
    }
    with figure(path, WIDTH, 3.6) as fig:
        ax = fig.subplots()
        ends = []
        for i, (name, hours) in enumerate(lines.items()):
            # The time of the labels hides all training: of two lines in one place both must show.
            width = 4.5 if i == 1 else 1.8
            style = {**marks(i), "markevery": (10 * i, 50), "linewidth": width}
            ax.plot(materials, hours, color=nth_colour(i), **style)
            ends.append((name, materials[-1], hours[-1], nth_colour(i)))
        ax.set(xscale="log", yscale="log", xlabel="materials screened", ylabel="computing time (h)")
        log_axis(ax.xaxis, materials[0], materials[-1])
        log_axis(ax.yaxis, *padded(min(direct, graft) / 2, materials[-1] * per_label, 0.02))
        end_labels(fig, ax, ends)
    return Path(path)
