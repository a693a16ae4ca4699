"""Does the contest choose well, and do its intervals hold? Against every single recipe, in hindsight.

    python benchmarks/contest.py run [--out results/contest] [--seeds 10] [--sizes 50 100]
    python benchmarks/contest.py again [--out results/contest]
    python benchmarks/contest.py report [--out results/contest]

Five sets, 50 to 400 labels, each seed with a test set and training labels of its own. Every candidate of the
portfolio is fitted to all labels and judged on the test set, which the contest never sees: the best of them
is what one could have chosen only in hindsight. With new formulas in the test set the intervals alone are of
interest, and single recipes are left out. Development used seeds from 100 on; these are 0 to 9. Every case
that is finished is a line of cases.jsonl, and is not done again by `run`. After a change of the contest, or
of its intervals, `again` repeats all but the single recipes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from matgraft.data import Dataset
from matgraft.data.splits import grouped_split, groups, keep_where, random_split
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import versions, write_text
from matgraft.jobs.methods import AUTO, sources_of, starts
from matgraft.jobs.pool import finished, pool
from matgraft.jobs.verdict import interval_scores
from matgraft.models.intervals import COVERAGE, conformal_quantile
from matgraft.progress import Progress
from matgraft.training.contest import Contest, contest, outcome
from matgraft.training.graft import Task
from matgraft.training.portfolio import Bench

CASES = "cases.jsonl"
SIZES = (50, 100, 200, 400)
REFERENCES, DIRECT = "references", "direct"
WORST = 0.05


@dataclass(frozen=True)
class Set:
    """A data set, and how it is cut."""

    data: str
    target: str
    test: int
    sizes: tuple[int, ...] = SIZES
    keep: tuple[str, ...] = ()
    grouped: bool = True


SETS = {
    "oxides": Set("tmo-oxides-fetiv", "energy", 117),
    "oxides-clean": Set("tmo-oxides-clean", "energy", 91, (50, 100, 160), grouped=False),
    "tio2-qe-pbe": Set("tio2-qe-pbe", "energy", 400, grouped=False),
    "oxides-optb88": Set("jarvis-oxides", "e_form_per_atom", 400),
    "bulk-modulus": Set(
        "mp-properties", "log10_K_VRH_GPa", 400, keep=("log10_K_VRH_GPa>0", "log10_K_VRH_GPa<3")
    ),
}


@dataclass(frozen=True)
class Case:
    """One split of one set."""

    name: str
    grouped: bool
    size: int
    seed: int


def cases(seeds: int, sizes: Sequence[int]) -> Iterator[Case]:
    """Every case, so ordered that what is finished early is a fair sample."""
    for seed in range(seeds):
        for grouped in (False, True):
            for name, one in SETS.items():
                if one.grouped or not grouped:
                    yield from (Case(name, grouped, size, seed) for size in one.sizes if size in sizes)


@cache
def structures(name: str) -> Dataset:
    data = Dataset.read(SETS[name].data, target=SETS[name].target, missing="drop")
    return data[keep_where(data, SETS[name].keep)]


def split(case: Case) -> tuple[Dataset, np.ndarray | None]:
    """Training structures, then those of the test set; and the group of each."""
    data, test = structures(case.name), SETS[case.name].test
    grouping = groups(data, "formula") if case.grouped else None
    if grouping is None:
        rest, held = random_split(len(data), test, case.seed)
    else:
        rest, held = grouped_split(grouping, test, case.seed)
    chosen = np.random.default_rng([case.seed, 7]).permutation(rest)[: case.size]
    both = np.concatenate([chosen, held])
    return data[both], None if grouping is None else grouping[both]


def judge(case: Case, single: dict[str, float] | None = None) -> dict:
    """Everything about one case; errors of the single recipes, if they are at hand, are taken over."""
    data, grouping = split(case)
    sources = sources_of(AUTO, AUTO)
    task = Task.of(data, SETS[case.name].target, sources[0].cutoff)
    bench = Bench(task, tuple(starts(sources, "default")))
    rows, test = np.arange(case.size), np.arange(case.size, len(data))
    _ = bench.zero_shot, bench.features
    start, cpu = time.monotonic(), time.process_time()
    held = contest(bench, rows, case.seed, groups=grouping)
    models = {one: bench.fit(one, rows, case.seed) for one in held.weights}
    graft = outcome(bench, held, case.seed, models)
    seconds = {"wall_seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}
    natoms = task.natoms[test]

    def said(per_atom: np.ndarray) -> float:
        return float(np.abs(per_atom - task.per_atom[test]).mean())

    predicted = task.predicted_by(graft)[test]
    error = np.abs(predicted - task.per_atom[test])
    in_label = task.label.from_per_atom(error, natoms)
    features = graft.features(task.graphs)[test]
    half_width, strange = graft.intervals.assessed(task.composition[test], features, COVERAGE)
    if single is None:
        single = {}
        for one in () if case.grouped else bench.candidates():
            model = models.get(one) or bench.fit(one, rows, case.seed)
            single[bench.called(one)] = said(bench.predicted(one, model, test))
    flagged = strange > 1
    return {
        "auto": said(predicted),
        "single": single,
        "weights": {bench.called(one): weight for one, weight in held.weights.items()},
        "cross_validation": held.blended_error,
        "intervals": interval_scores(in_label, half_width, COVERAGE),
        "unscaled": interval_scores(in_label, np.full(len(test), unscaled_half_width(task, held)), COVERAGE),
        "flagged": float(flagged.mean()),
        "worst_flagged": float(flagged[error >= np.quantile(error, 1 - WORST)].mean()),
        "worst_in_label_flagged": float(flagged[in_label >= np.quantile(in_label, 1 - WORST)].mean()),
        **seconds,
    }


def unscaled_half_width(task: Task, held: Contest) -> float:
    """The conformal quantile of the folds' errors, the same for all structures."""
    errors = task.label.from_per_atom(np.abs(held.blended - held.truth), task.natoms[held.rows])
    return conformal_quantile(np.sort(errors), COVERAGE)


def finished_cases(path: Path) -> dict[Case, dict]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return {Case(**row.pop("case")): row for row in map(json.loads, lines)}


def run(out: Path, every: Sequence[Case], workers: int) -> None:
    """Do what is missing of ``every`` case."""
    out.mkdir(parents=True, exist_ok=True)
    done = finished_cases(out / CASES)
    waiting: dict[Case, None] = {case: None for case in every if case not in done}
    _judged(out / CASES, waiting, workers)


def again(out: Path, workers: int) -> None:
    """Repeat the contest of every case that is done; interrupted, the next call goes on."""
    path, partial = out / CASES, out / f"{CASES}.part"
    before, renewed = finished_cases(path), finished_cases(partial)
    _judged(partial, {case: row["single"] for case, row in before.items() if case not in renewed}, workers)
    partial.replace(path)


def _judged(path: Path, waiting: Mapping[Case, dict[str, float] | None], workers: int) -> None:
    """Append the cases to a file, each when it is finished."""
    with (
        Progress(len(waiting), "contest", unit="cases") as progress,
        pool(workers) as submit,
        open(path, "a") as lines,
    ):
        pending = {submit(judge, case, single): case for case, single in waiting.items()}
        for case, result in finished(pending):
            print(json.dumps({"case": vars(case), **result, "versions": versions()}), file=lines, flush=True)
            progress.step()


Judgements = dict[tuple[str, bool, int], list[dict]]
"""What :func:`judge` said of every seed, by set, whether formulas are new, and number of labels."""


def judgements(out: Path) -> Judgements:
    """All that is done, in the order of the tables."""
    found: Judgements = defaultdict(list)
    done = finished_cases(out / CASES)
    for case in sorted(done, key=lambda one: (list(SETS).index(one.name), one.grouped, one.size, one.seed)):
        found[case.name, case.grouped, case.size].append(done[case])
    return found


def tables(judged: Judgements) -> tuple[list[Table], dict[str, list[float]]]:
    """Means over seeds; and the same as lists, one number for each set, split and number of labels."""
    choice, width = [], []
    overall: dict[str, list[float]] = defaultdict(list)
    for (name, grouped, size), results in judged.items():
        auto = np.mean([one["auto"] for one in results])
        if not grouped:
            singles = {key: np.mean([one["single"][key] for one in results]) for key in results[0]["single"]}
            best = min(singles, key=singles.get)
            floor = min(singles[REFERENCES], singles[DIRECT])
            overall["error against the best single recipe"].append(auto / singles[best] - 1)
            overall["error against the floor"].append(auto / floor - 1)
            choice.append(
                (
                    name, str(size), len(results), f"{auto:.4f}", f"{singles[best]:.4f}", best,
                    f"{auto / singles[best] - 1:+.1%}", f"{auto / floor - 1:+.1%}",
                    f"{np.median([one['cpu_seconds'] for one in results]):.0f}",
                )
            )  # fmt: skip
        held = [one["intervals"]["held"] for one in results]
        ratio, usual = (
            np.mean(
                [
                    one["intervals"][f"{kind}_half_width"] / one["unscaled"][f"{kind}_half_width"]
                    for one in results
                ]
            )
            for kind in ("mean", "median")
        )
        overall[f"held, {'new formulas' if grouped else 'random split'}"].append(np.mean(held))
        overall["width"].append(ratio)
        width.append(
            (
                name, "formula" if grouped else "random", str(size), len(results), f"{np.mean(held):.1%}",
                f"{np.mean([one['unscaled']['held'] for one in results]):.1%}",
                f"{ratio:.2f}", f"{usual:.2f}",
                f"{np.mean([one['flagged'] for one in results]):.0%}",
                f"{np.mean([one['worst_flagged'] for one in results]):.0%}",
                f"{np.mean([one['worst_in_label_flagged'] for one in results]):.0%}",
            )
        )  # fmt: skip
    shown = [
        Table(
            ("set", "N", "seeds", "auto", "best single", "which", "against it", "against the floor", "CPU s"),
            choice,
            "The contest against the best single recipe in hindsight",
            "mean absolute error per atom over seeds, in the label's unit; floor: the better of references "
            "alone and direct training",
        ),
        Table(
            (
                "set", "split", "N", "seeds", "held", "held, unscaled", "width", "median", "flagged",
                "of the worst 5 %", "per label",
            ),
            width,
            "Intervals of 90 %",
            "share of test labels inside, inside unscaled conformal intervals; mean and median width in "
            "units of the unscaled ones; structures whose strangeness exceeds 1, among all, among the worst "
            "5 % of errors per atom, and among the worst in the label's unit",
        ),
        Table(
            ("", "least", "mean", "greatest"),
            [
                (what, *(f"{said(values):.1%}" for said in (min, np.mean, max)))
                for what, values in overall.items()
            ],
            "Both tables in short",
            "of the means over seeds",
        ),
    ]  # fmt: skip
    return shown, overall


def report(out: Path) -> None:
    """Write the tables."""
    shown, _ = tables(judgements(out))
    write_text(out / "contest.md", "\n\n".join(table.markdown() for table in shown) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "again", "report"))
    parser.add_argument("--out", type=Path, default=Path("results/contest"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=sorted({n for one in SETS.values() for n in one.sizes})
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "run":
        run(options.out, list(cases(options.seeds, options.sizes)), options.workers)
    if options.what == "again":
        again(options.out, options.workers)
    report(options.out)


if __name__ == "__main__":
    main()
