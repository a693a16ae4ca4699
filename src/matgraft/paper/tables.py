"""The study's tables, each cell with the published value beside ours, and what becomes of its claims."""

from __future__ import annotations

import math

import numpy as np

from matgraft.evaluation.metrics import CHEMICAL_ACCURACY
from matgraft.evaluation.significance import labels_to_reach
from matgraft.evaluation.tables import Table, number, spread
from matgraft.jobs.benchmark import tabulate
from matgraft.paper import published
from matgraft.paper.experiments import OURS, PUBLISHED
from matgraft.paper.results import UNTRAINED, Finding, Results

RECIPES = {PUBLISHED: "the published recipe", OURS: "our recipe"}
SCHEMES = {
    "direct": "no TL", "tl1": "TL1", "tl2": "TL2", "tl3": "TL3", "process": "process", "auto": "auto",
}  # fmt: skip
ERROR, ERROR_PER_ATOM = "mae_ev", "mae_ev_per_atom"
PER_CELL, PER_ATOM = "within_chemical_accuracy", "within_chemical_accuracy_per_atom"
MEASURES = (ERROR, ERROR_PER_ATOM, PER_CELL, PER_ATOM)
SIGNIFICANT = 0.05
WITNESSES = ("matgraft", "SchNetPack")
_GRAFTS = ("tl1", "tl3", "process", "auto")
_NEVER = "at no N"
_COLUMNS = {"arch1": "arch1", "arch1 + L2": "oxides", "arch2": "arch2", "arch2 + L2": "arch2-l2"}
_WIDE = "wide-l2"
BESIDE = "in brackets what was published, for other labels"


def table1(results: Results) -> Table:
    """Direct training with 400 labels, by architecture and regularisation."""
    rows: list[list] = []
    for recipe, name in RECIPES.items():
        found = {column: results.get(f"{recipe}/{folder}") for column, folder in _COLUMNS.items()}
        cells = [
            _beside(one, "direct", 400, published.TABLE1[column]) if one else None
            for column, one in found.items()
        ]
        wide = results.get(f"{recipe}/{_WIDE}")
        if not any([*found.values(), wide]):
            continue
        rows.append([name, *cells, spread(wide.over_seeds("direct", 400)) if wide else None])
        for measure, unit in ((PER_CELL, "per cell"), (PER_ATOM, "per atom")):
            counts = [_count(one, measure) if one else None for one in [*found.values(), wide]]
            if measure == PER_CELL and counts[1]:
                counts[1] += f" [{published.WITHIN[0]}]"
            rows.append(
                [f"of {published.WITHIN[1]} within {1e3 * CHEMICAL_ACCURACY:.1f} meV {unit}", *counts]
            )
    caption = f"mean absolute error of the cell in eV over seeds; {BESIDE}"
    return Table(["", *_COLUMNS, "wide + L2"], rows, "Table 1: direct training with 400 labels", caption)


def _count(finding: Finding, measure: str) -> str:
    return f"{finding.settings['val_size'] * finding.mean('direct', 400, measure):.1f}"


def errors_by_size(finding: Finding, values: dict[str, dict[int, float]], title: str) -> Table:
    """Tables 2 and 3: rows are numbers of labels, columns schemes."""
    rows = [
        [
            str(size),
            *(
                _beside(finding, scheme, size, _known(values, scheme, size))
                if finding.has(scheme, size)
                else None
                for scheme in finding.schemes
            ),
        ]
        for size in finding.sizes
    ]
    columns = ["N", *(SCHEMES[scheme] for scheme in finding.schemes)]
    return Table(columns, rows, title, f"mean absolute error of the cell in eV over seeds; {BESIDE}")


def gains_by_size(finding: Finding, values: dict[str, dict[int, float]]) -> Table:
    """How much lower than direct training each scheme is, and whether that is chance."""
    return _gains(finding, list(finding.schemes)[1:], finding, values, "Against direct training")


def gains_of_both(results: Results, data: str) -> Table:
    """Recipe and transfer together: our recipe against direct training by the published one, same splits."""
    title = "Our recipe against direct training by the published recipe"
    ours, baseline = (results.get(f"{recipe}/{data}") for recipe in (OURS, PUBLISHED))
    if ours is None or baseline is None:
        return Table([], [], title)
    return _gains(ours, list(ours.schemes), baseline, {}, title)


def _gains(
    finding: Finding,
    schemes: list[str],
    baseline: Finding,
    values: dict[str, dict[int, float]],
    title: str,
) -> Table:
    rows: list[list] = []
    for size in finding.sizes:
        direct = {m: baseline.mean("direct", size, m) for m in MEASURES}
        for scheme in schemes:
            if not finding.has(scheme, size):
                continue
            ours = {m: finding.mean(scheme, size, m) for m in MEASURES}
            lower = [f"{1 - ours[m] / direct[m]:+.0%}" for m in (ERROR, ERROR_PER_ATOM)]
            was = _known(values, scheme, size)
            if was is not None:
                lower[0] += f" [{1 - was / values['direct'][size]:+.0%}]"
            points = [f"{100 * (ours[m] - direct[m]):+.1f}" for m in (PER_CELL, PER_ATOM)]
            p = finding.against(scheme, "direct", size, baseline)
            rows.append(
                [str(size), SCHEMES[scheme], lower[0], _p(p), lower[1], *points, f"{direct[PER_ATOM]:.0%}"]
            )
    columns = [
        "N", "scheme", "error lower by", "p", "per atom", "points, per cell", "points, per atom", "direct",
    ]  # fmt: skip
    caption = (
        "p of the corrected paired t-test over seeds (Nadeau and Bengio 2003), of the error of the cell; per "
        "atom: how much lower the error per atom is; points: more structures "
        f"within {1e3 * CHEMICAL_ACCURACY:.1f} meV, in per cent of all; last, the share per atom of direct "
        "training" + (f"; {BESIDE}" if values else "")
    )
    return Table(columns, rows, title, caption)


def witness(results: Results) -> Table:
    """Direct training by another program on the same splits, by the published recipe."""
    rows = []
    for size in sorted({fit["size"] for fit in results.witness}):
        errors = {
            who: {
                fit["seed"]: fit[ERROR] for fit in results.witness if (fit["who"], fit["size"]) == (who, size)
            }
            for who in WITNESSES
        }
        ours, theirs = errors.values()
        both = sorted(set(ours) & set(theirs))
        if both:
            first, second = ([values[seed] for seed in both] for values in (ours, theirs))
            ratio = f"{np.mean(first) / np.mean(second) - 1:+.1%}"
            rows.append([str(size), str(len(both)), spread(first), spread(second), ratio])
    caption = "mean absolute error of the cell in eV over seeds, the first part of each size only"
    columns = ["N", "seeds", *WITNESSES, "difference"]
    return Table(columns, rows, "Direct training by the published recipe, here and in SchNetPack", caption)


def table4(results: Results) -> Table:
    """Training times, and what they are in units of the labels' calculations."""
    rows: list[list] = []
    for recipe, name in RECIPES.items():
        finding = results.get(f"{recipe}/extended")
        if finding is None:
            continue
        for size in finding.sizes:
            direct = float(finding.seconds("direct", size).mean())
            graft = float(finding.seconds("tl1", size).mean())
            total = graft + finding.source_seconds
            labels = size * published.DFT_SECONDS["mean"]
            rows.append(
                [
                    name, str(size),
                    f"{direct:,.0f} [{published.TABLE4['direct'][size]:,.0f}]",
                    f"{graft:,.1f}",
                    f"{total:,.0f} [{published.TABLE4['tl1'][size]:,.0f}]",
                    f"{direct / labels:.1e}", f"{total / labels:.1e}",
                ]
            )  # fmt: skip
    caption = (
        "processor seconds on one core, of the source by the clock (published: a Titan RTX); last "
        f"columns: in units of N calculations of {published.DFT_SECONDS['mean'] / 60:.0f} min, the published "
        "mean on 16 cores"
    )
    columns = ["", "N", "no TL", "TL1 alone", "TL1 with its source", "no TL / labels", "TL1 / labels"]
    return Table(columns, rows, "Table 4: training times", caption)


def methods(finding: Finding) -> Table:
    """All methods and baselines of one experiment; zero labels is the source as it is."""
    settings = finding.settings
    table = tabulate(finding.report["summary"], finding.unit)
    split = "no formula on both sides" if settings["group"] == "formula" else "random split"
    said = f"{table.title}; {split}; {settings['seeds']} seeds, {settings['val_size']} held out"
    source = f"; source {settings['source']}" if settings["source"] else ""
    return Table(table.columns, table.rows, finding.experiment.title, said + source)


def worth(results: Results) -> Table:
    """How many labels the graft needs for the error of direct training at the most labels."""
    rows = []
    for finding in results.findings.values():
        if not finding.has("tl1"):
            continue
        most = finding.sizes[-1]
        level = finding.mean("direct", most)
        row: list = [finding.experiment.title, RECIPES[finding.experiment.recipe], str(most), number(level)]
        for scheme in _GRAFTS:
            row.append(_needed(finding, scheme, level) if finding.has(scheme) else None)
        rows.append(row)
    columns = [
        "data",
        "recipe",
        "N of direct training",
        "its error",
        *(f"N of {SCHEMES[one]}" for one in _GRAFTS),
    ]
    caption = "errors in the label's unit; between measured N along a power law"
    return Table(columns, rows, "What a label is worth: N at which the graft equals direct training", caption)


def _needed(finding: Finding, scheme: str, level: float) -> str:
    sizes = finding.sizes_of(scheme)
    n = labels_to_reach({size: finding.mean(scheme, size) for size in sizes}, level)
    if n == 0:
        return f"< {sizes[0]}"
    return f"> {sizes[-1]}" if math.isinf(n) else f"{n:.0f}"


def pays(finding: Finding) -> str:
    """A sentence: from how many labels on each scheme beats direct training and every untrained baseline."""
    said = []
    for scheme in list(finding.schemes)[1:]:
        over_direct = _from(finding, scheme, ["direct"])
        over_all = _from(finding, scheme, ["direct", *filter(finding.has, UNTRAINED)])
        scheme_says = f"{SCHEMES[scheme]} beats direct training {over_direct}"
        if over_direct == over_all:
            said.append(f"{scheme_says}{', and every untrained baseline too' if over_all != _NEVER else ''}.")
        else:
            said.append(f"{scheme_says}, and every untrained baseline too {over_all}.")
    return " ".join(said)


def _from(finding: Finding, scheme: str, others: list[str]) -> str:
    sizes = finding.sizes_of(scheme)
    better = [
        all(finding.mean(scheme, size) < finding.mean(other, size) for other in others) for size in sizes
    ]
    if not any(better):
        return _NEVER
    first = better.index(True)
    if all(better) and sizes == finding.sizes:
        return "at every N"
    if all(better[first:]) and len(better) > first + 1:
        return f"from N = {sizes[first]} on"
    return "at N = " + ", ".join(str(size) for size, good in zip(sizes, better, strict=True) if good)


def claims(results: Results) -> Table:
    """What the study claims, and what of it holds for our labels."""
    rows = []
    for recipe, name in RECIPES.items():
        found = [one for data in ("oxides", "extended") if (one := results.get(f"{recipe}/{data}"))]
        if found:
            for claim, judge in (
                ("transfer lowers the error, by up to 30 %", _lower_error),
                ("over 20 points more within chemical accuracy", _more_within),
                ("TL3 is worse than direct training", _tl3_worse),
            ):
                verdict, why = judge(found)
                rows.append([claim, name, verdict, why])
    return Table(["claim", "recipe", "verdict", "numbers"], rows, "The claims")


def _lower_error(found: list[Finding]) -> tuple[str, str]:
    cells = [
        (
            1 - one.mean(scheme, size) / one.mean("direct", size),
            one.against(scheme, "direct", size),
            one,
            size,
        )
        for one in found
        for size in one.sizes
        for scheme in ("tl1", "tl2")
    ]
    best, p, where, size = max(cells, key=lambda cell: cell[0])
    lower = sum(gain > 0 and p < SIGNIFICANT for gain, p, *_ in cells)
    verdict = "reproduced" if best >= 0.3 and p < SIGNIFICANT else "partly" if lower else "not reproduced"
    return verdict, (
        f"at most {best:.0%} lower ({where.experiment.title}, N = {size}, p {_p(p)}); "
        f"lower with p < {SIGNIFICANT} in {lower} of {len(cells)} cells (TL1, TL2)"
    )


def _more_within(found: list[Finding]) -> tuple[str, str]:
    points = {
        measure: [
            100 * (one.mean("tl1", size, measure) - one.mean("direct", size, measure))
            for one in found
            for size in one.sizes
        ]
        for measure in (PER_CELL, PER_ATOM)
    }
    cell = points[PER_CELL]
    verdict = "reproduced" if min(cell) > 20 else "partly" if max(cell) > 20 else "not reproduced"
    atom = points[PER_ATOM]
    return verdict, (
        f"per cell {min(cell):+.1f} to {max(cell):+.1f} points; per atom {min(atom):+.1f} to {max(atom):+.1f}"
    )


def _tl3_worse(found: list[Finding]) -> tuple[str, str]:
    cells = [
        (one.mean("tl3", size) / one.mean("direct", size) - 1, size)
        for one in found
        if one.has("tl3")
        for size in one.sizes
    ]
    worse = sum(change > 0 for change, _ in cells)
    verdict = "reproduced" if worse == len(cells) else "partly" if worse else "not reproduced"
    return verdict, "; ".join(f"{change:+.0%} at N = {size}" for change, size in cells)


def _beside(finding: Finding, scheme: str, size: int, was: float | None) -> str:
    return spread(finding.over_seeds(scheme, size)) + ("" if was is None else f" [{was:.3f}]")


def _known(values: dict[str, dict[int, float]], scheme: str, size: int) -> float | None:
    return values.get(scheme, {}).get(size)


def _p(p: float) -> str:
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
