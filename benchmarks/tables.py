"""Tables of the README and of pages in docs from the raw results: ``python benchmarks/tables.py [--write]``.

Without ``--write`` it only checks that they say what the results say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import fill

import contest
import forces
import matbench
import numpy as np
import source_study
import speed_report
from dft import defects, squeezed_crystals
from pages import filled

from matgraft.evaluation.tables import Table
from matgraft.models.files import load_model, shipped_models
from matgraft.paper.results import Results
from matgraft.paper.tables import methods

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
HEADINGS = {
    "ours/oxides": "517 oxides of Fe, Ti and V, random split, 117 held out",
    "beyond/oxides-by-formula": "The same oxides, no formula on both sides of the split",
    "beyond/oxides-clean": "The 251 oxides with the geometry of their label, random split, 91 held out",
    "beyond/tio2-quantum-espresso": "TiO2 and suboxides from another code, many squeezed cells, 200 held out",
    "beyond/bulk-modulus": "Bulk moduli, 200 held out",
}
FEW_LABELS = 100
SCHNET = "SchNet (kgcnn)"


def benchmark_tables() -> str:
    """Some experiments of the study."""
    results = Results.read(RESULTS / "paper")
    parts = []
    for name, heading in HEADINGS.items():
        finding = results.get(name)
        if finding is not None:
            table = methods(finding)
            parts.append(Table(table.columns, table.rows, heading, table.caption).markdown())
    return "\n".join(parts)


def model_table() -> str:
    """Validation errors of the shipped source models, from their cards."""
    rows = []
    for name in shipped_models():
        card = load_model(name).card
        metrics = card["metrics"]
        rows.append(
            [
                name,
                f"{card['n_train']:,}",
                *(
                    f"{metrics[part]['mae_ev_per_atom']:.4f} ({metrics[part]['n']:,})"
                    for part in ("validation", "validation_pbe_geometry", "validation_later_geometry")
                ),
                card["target"],
                "same formulas" + "".join(f", {symbol}" for symbol in card["exclude_elements"]),
            ]
        )
    columns = ["source model", "crystals", "MAE, all", "PBE geometry", "later geometry", "label", "left out"]
    caption = "validation error in eV/atom (structures); of several labels, that of the first"
    return Table(columns, rows, caption=caption).markdown()


def contest_in_words() -> str:
    """Does the contest choose well, and do its intervals hold?"""
    judged = contest.judgements(RESULTS / "contest")
    seeds = {len(results) for results in judged.values()}
    assert len(seeds) == 1, seeds
    _, short = contest.tables(judged)

    def between(what: str) -> tuple[str, str]:
        least, greatest = (f"{100 * pick(short[what]):.0f}" for pick in (min, max))
        return least, greatest

    best, worst = between("error against the best single recipe")
    far, near = between("error against the floor")
    held, new = (" to ".join(between(f"held, {split}")) for split in ("random split", "new formulas"))
    narrow, wide, usual = (f"{pick(short['width']):.2f}" for pick in (min, max, np.mean))
    assert float(best) < 0 < float(worst), "The sentence below would be wrong."
    assert float(near) < 0, "The sentence below would be wrong."
    return (
        fill(
            f"Does the contest choose well? On {len(contest.SETS)} sets with {min(contest.SIZES)} to "
            f"{max(contest.SIZES)} labels, {seeds.pop()} seeds each, its error lies between {best[1:]} % "
            f"below and {worst} % above that of the single recipe that was best in hindsight, and "
            f"{near[1:]} to {far[1:]} % below the better of reference energies alone and direct training. "
            f"Its 90 % intervals hold {held} % of the labels, of new formulas {new} %, and are {narrow} to "
            f"{wide} times as wide as intervals that do not ask how hard a structure is, {usual} on average: "
            "[results/contest/contest.md](results/contest/contest.md) (`benchmarks/contest.py`).",
            width=127,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )


def matbench_in_words() -> str:
    """How far off the contest is on Matbench's small tasks, and who is better."""
    said = []
    for task, folds in matbench.by_task(matbench.OUT).items():
        assert len(folds) == matbench.FOLDS, task
        mine = float(np.mean([one["mae"]["auto"] for one in folds]))
        published = {name: mean for name, (mean, _) in matbench.PUBLISHED[task].items()}
        best = min(published, key=published.__getitem__)
        better = sum(mean < mine for mean in published.values())
        words, unit = matbench.WORDS[task]
        said.append(
            f"{mine:.1f} {unit} for the {words} (best published {published[best]:.1f}, {best}; SchNet, the "
            f"same kind of network, {published[SCHNET]:.1f}; {better} of {len(published)} are better)"
        )
    return (
        fill(
            "How does it do beside other programs? On the folds of Matbench's two smallest tasks with "
            f"structures `finetune`, as it is, has mean absolute errors of {' and of '.join(said)}; "
            "published means on Matbench's leaderboard in January 2024: "
            "[benchmarks/results/matbench.md](benchmarks/results/matbench.md) (`benchmarks/matbench.py`).",
            width=127,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )


def element_table() -> str:
    """Reference energies from few labels, with and without likeness of elements."""
    rows = []
    found = json.loads((ROOT / "benchmarks" / "results" / "element_references.json").read_text())
    for case in found["cases"]:
        if case["n"] == FEW_LABELS and "GPa" not in case["target"]:
            fitted = "labels" if case["source"] is None else f"what {case['source']} leaves over"
            cells = []
            for fit in ("no prior", "prior"):
                every, rare, _ = zip(*case["errors"][fit], strict=True)
                known = [value for value in rare if value is not None]
                said = f" ({1e3 * np.mean(known):.0f})" if known else ""
                cells.append(f"{1e3 * np.mean(every):.0f}{said}")
            rows.append([case["data"], case["target"], fitted, *cells])
    columns = ["data", "label", "what is fitted", "each element by itself", "like its neighbours"]
    caption = (
        f"mean absolute error in meV/atom, no network trained; {len(found['seeds'])} seeds, {FEW_LABELS} "
        "labels, up to 2000 test structures; in brackets those that hold an element with fewer than "
        "three labels"
    )
    return Table(columns, rows, caption=caption).markdown()


def squeezed() -> dict:
    return json.loads((RESULTS / "dft" / "squeezed_crystals.json").read_text())


def convergence_table() -> str:
    """Protocols against the most precise one."""
    crystals = json.loads((RESULTS / "dft" / "convergence.json").read_text())["crystals"]

    def off(crystal: dict, name: str) -> float:
        return 1e3 * (
            crystal[name]["free_energy_ev_per_atom"] - crystal["precise"]["free_energy_ev_per_atom"]
        )

    rows = [
        [name, *(f"{off(crystal, name):+.1f}" for crystal in crystals.values())]
        for name in ("fast", "moderate")
    ]
    caption = "free energies against precise, in meV/atom"
    return Table(["protocol", *crystals], rows, caption=caption).markdown()


def lattice_table() -> str:
    """Volumes and bulk moduli against all-electron programs."""
    crystals = json.loads((RESULTS / "dft" / "equation_of_state.json").read_text())["crystals"]
    rows = [
        [
            one["crystal"],
            f"{one['volume']:.2f}",
            f"{one['published_volume']:.2f}",
            f"{one['difference_percent']:+.2f} %",
            f"{one['bulk_modulus_gpa']:.0f}",
            f"{one['published_bulk_modulus_gpa']:.0f}",
        ]
        for one in crystals
    ]
    columns = [
        "crystal", "volume (Å³)", "all-electron", "difference", "bulk modulus (GPa)", "all-electron"
    ]  # fmt: skip
    return Table(columns, rows).markdown()


def defects_table() -> str:
    """Energies of defects against DFT."""
    return defects.errors(json.loads((RESULTS / "dft" / "defects.json").read_text())).markdown()


def study_table() -> str:
    """Variants of the source model."""
    path = ROOT / "benchmarks" / "results" / "source_study.json"
    return source_study.table(json.loads(path.read_text()))


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "tables": benchmark_tables,
        "contest": contest_in_words,
        "matbench": matbench_in_words,
        "models": model_table,
    },
    "docs/training.md": {
        "references": element_table,
        "squeezed": lambda: squeezed_crystals.errors(squeezed()).markdown(),
        "strangeness": lambda: squeezed_crystals.strangeness(squeezed()).markdown(),
    },
    "docs/dft.md": {
        "convergence": convergence_table,
        "lattice": lattice_table,
        "defects": defects_table,
    },
    "docs/source.md": {"study": study_table},
    "docs/speed.md": {"speed": lambda: speed_report.tables(ROOT / "benchmarks" / "results" / "speed")},
    "docs/guide.md": {"forces": lambda: forces.table(json.loads(forces.OUT.read_text())).markdown()},
}


def main() -> int:
    differ = []
    for name, parts in PAGES.items():
        text = renewed = (ROOT / name).read_text()
        for mark, content in parts.items():
            renewed = filled(renewed, mark, content())
        if renewed == text:
            continue
        differ.append(name)
        if "--write" in sys.argv:
            (ROOT / name).write_text(renewed)
    said = ", ".join(differ)
    if "--write" in sys.argv:
        print(f"written anew: {said}" if differ else "nothing to write: all agree with the results")
        return 0
    print(f"out of date, run with --write: {said}" if differ else "README and docs agree with the results")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
