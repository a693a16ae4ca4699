"""Learning curves: every scheme and every baseline at several numbers of labels."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np

from matgraft.data import Dataset, Label
from matgraft.data.checks import check_values
from matgraft.data.splits import groups
from matgraft.errors import InputError
from matgraft.evaluation.metrics import errors
from matgraft.evaluation.plots import learning_curves
from matgraft.evaluation.protocol import Subset, learning_curve_subsets
from matgraft.evaluation.style import with_unit
from matgraft.evaluation.tables import Table, per_atom_scale, spread
from matgraft.jobs.folder import alone, claim, versions, write_json, write_text
from matgraft.jobs.methods import AUTO, named_method, recipes, sources_of, starts
from matgraft.jobs.pool import finished, pool
from matgraft.jobs.verdict import half_widths, interval_scores, title
from matgraft.models.schnet import ARCHITECTURES
from matgraft.progress import Progress
from matgraft.training.baselines import ZERO_SHOT, baselines, source_baselines
from matgraft.training.contest import contest, outcome, require_enough
from matgraft.training.graft import REFERENCE_MODES, Task, check_request
from matgraft.training.loop import Diverged
from matgraft.training.portfolio import PORTFOLIO, Bench, Candidate
from matgraft.training.schemes import SCHEMES

REPORT = "benchmark.json"


@dataclass(frozen=True)
class _Job:
    """What one worker needs to know of a benchmark."""

    bench: Bench
    groups: np.ndarray | None
    methods: Mapping[str, Candidate]


@dataclass(frozen=True)
class Plan:
    """A benchmark whose input has been read and checked.

    Attributes
    ----------
    out : Path
    settings : dict
        Everything that decides the results.
    methods : tuple of str
    costly : tuple of str
        Those of the methods that are run at the greatest number of labels alone.
    subsets : list of Subset
    validation : dict of str to dict
        Per seed ``ids``, ``natoms`` and ``target`` of the structures that are judged on.
    """

    out: Path
    settings: dict
    methods: tuple[str, ...]
    costly: tuple[str, ...]
    subsets: list[Subset]
    validation: dict[str, dict]
    _job: _Job

    @property
    def fits(self) -> dict[tuple[str, str], Path]:
        """Where the result of each subset and method is kept until all are there."""
        return {
            (subset.name, method): self.out / "fits" / f"{subset.name}-{method.replace('/', '+')}.json"
            for subset, method in self.work
        }

    @property
    def work(self) -> list[tuple[Subset, str]]:
        """Every subset with every method that it is for."""
        most = max(subset.size for subset in self.subsets)
        return [
            (subset, method)
            for subset in self.subsets
            for method in ("baselines", *self.methods)
            if method not in self.costly or subset.size == most
        ]


def plan(
    data: str | Path | Dataset,
    target: str,
    out: str | Path,
    *,
    sizes: Sequence[int] = (100, 200, 400),
    val_size: int = 117,
    schemes: Sequence[str] = ("direct", "tl1", "tl2", "tl3"),
    seeds: int = 5,
    group: str | None = None,
    source: str | Path | None = "mp-schnet",
    preset: str = "default",
    changes: Mapping[str, object] | None = None,
    arch: str = "arch1",
    portfolio: tuple[Candidate, ...] = PORTFOLIO,
    costly: Sequence[str] = (),
) -> Plan:
    """Read and check what :func:`run` is to do.

    Parameters
    ----------
    data : path, name or Dataset
    target : str
    out : path
    sizes : sequence of int
        Numbers of labels. The largest training set is cut into disjoint parts of the smaller sizes.
    val_size : int
    schemes : sequence of str
        ``direct``, ``tl1``, ``tl2``, ``tl3``, ``staged``; ``tl1/labels`` fixes the reference mode. Or
        ``auto``, or a candidate of :data:`matgraft.training.portfolio.PORTFOLIO`.
    seeds : int
        Repeats with another split and other start weights.
    group : {"formula", "chemical_system"}, optional
    source : str, path or None
        Several with commas: schemes start from the first, ``auto`` compares all.
    preset : {"default", "paper"}
    changes : mapping, optional
        Settings of the preset's recipes to change, such as ``{"l2": 0.0}``.
    arch : {"arch1", "arch2", "wide"}
        For direct training.
    portfolio : tuple of Candidate
        Of ``auto``.
    costly : sequence of str
        Schemes to run at the greatest number of labels alone.

    Raises
    ------
    InputError
        What cannot be trained or does not exist.
    """
    for_direct, for_graft = (recipe.changed(**(changes or {})) for recipe in recipes(preset))
    methods = {}
    for name in schemes:
        recipe, _, mode = name.partition("/")
        chosen = named_method(recipe, preset)
        if mode and (recipe not in SCHEMES or mode not in REFERENCE_MODES):
            raise InputError(
                f"{name!r}: no reference mode of a scheme. Write one of {', '.join(SCHEMES)}, and after a "
                f"slash {', '.join(REFERENCE_MODES)}."
            )
        if chosen.needs_source and source is None:
            raise InputError(f"{recipe} needs a source model; give --source, or other --schemes.")
        check_request(min(sizes), SCHEMES[chosen.scheme or "direct"], mode or "auto", source is not None)
        if recipe == AUTO:
            require_enough(min(sizes))
        if recipe in SCHEMES:
            assert chosen.recipe is not None
            chosen = replace(
                chosen,
                reference=mode or "auto",  # type: ignore[arg-type]
                recipe=chosen.recipe.changed(**(changes or {})),
            )
        methods[name] = chosen
    if arch not in ARCHITECTURES:
        raise InputError(f"no architecture named {arch!r}; there are {', '.join(ARCHITECTURES)}.")
    sources = sources_of(source, AUTO)
    parent = sources[0] if sources else None
    dataset = data if isinstance(data, Dataset) else Dataset.read(data, target=target)
    check_values(dataset, target)
    subsets = learning_curve_subsets(dataset, list(sizes), val_size, seeds, group)
    task = Task.of(dataset, target, parent.cutoff if parent else ARCHITECTURES[arch].cutoff)
    settings = {
        "command": "benchmark",
        "data": dataset.source,
        "data_hash": task.data_hash,
        "target": target,
        "label": vars(task.label),
        "source": None if parent is None else parent.card.get("name", str(source)),
        "source_hash": None if parent is None else parent.content_hash(),
        "sizes": sorted(sizes),
        "val_size": val_size,
        "seeds": seeds,
        "group": group,
        "arch": arch,
        "preset": preset,
        "recipes": {"direct": for_direct.model_dump(), "source": for_graft.model_dump()},
    }
    if further := [one.content_hash() for one in sources[1:]]:
        settings["further_source_hashes"] = further
    if portfolio != PORTFOLIO:
        settings["portfolio"] = [one.name for one in portfolio]
    validation = {
        str(subset.seed): {
            "ids": dataset.ids[subset.validation].tolist(),
            "natoms": dataset.natoms[subset.validation].tolist(),
            "target": [_short(value, 9) for value in dataset.values(target)[subset.validation]],
        }
        for subset in subsets
    }
    bench = Bench(task, tuple(starts(sources, preset)), ARCHITECTURES[arch], portfolio)
    by_name = [one for one in bench.candidates() if AUTO in schemes or one.name in schemes]
    bench.prepare(by_name)
    grouping = None if group is None else groups(dataset, group)
    methods = {name: one if one.name in SCHEMES else bench.adapted(one) for name, one in methods.items()}
    job = _Job(bench, grouping, methods)
    return Plan(Path(out), settings, tuple(methods), tuple(costly), subsets, validation, job)


def benchmark(
    data: str | Path | Dataset, target: str, out: str | Path, *, workers: int | None = None, **options
) -> dict:
    """Run the study's learning-curve protocol and write table, JSON and curves.

    Parameters
    ----------
    data, target, out, **options
        See :func:`plan`.
    workers : int, optional
        Processes of one thread each; default one per core.

    Returns
    -------
    dict
        The content of ``benchmark.json``.
    """
    return run([plan(data, target, out, **options)], workers)[0]


def run(plans: Sequence[Plan], workers: int | None = None) -> list[dict]:
    """Run benchmarks side by side in one pool of processes.

    Every finished fit is kept at once, and a finished benchmark is not run again: repeated, an interrupted
    run goes on with what is missing, and one that got another scheme runs that alone.

    Parameters
    ----------
    plans : sequence of Plan
    workers : int, optional
        Processes of one thread each; default one per core.

    Returns
    -------
    list of dict
        What stands in each ``benchmark.json``: ``settings``, ``validation``, ``results`` (per subset and
        method) and ``summary`` (see :func:`summarise`).
    """
    with ExitStack() as stack:
        for one in plans:
            stack.enter_context(alone(one.out))
            claim(one.out, one.settings)
            (one.out / "fits").mkdir(exist_ok=True)
        return _run(plans, workers)


def _run(plans: Sequence[Plan], workers: int | None) -> list[dict]:
    known = [_known(one) for one in plans]
    # Long fits first: the last ones to finish are then short, and no core waits for long.
    waiting = [
        (k, subset, method)
        for k, one in enumerate(plans)
        for subset, method in one.work
        if (subset.name, method) not in known[k]
    ]
    waiting.sort(key=lambda work: (work[2] == "baselines", -work[1].size))
    left = [sum(k == position for k, *_ in waiting) for position in range(len(plans))]
    reports = {k: _report(plans[k], known[k]) for k, number in enumerate(left) if not number}
    total = sum(len(one.fits) for one in plans)
    with (
        Progress(total, "benchmark", unit="fits", done=total - len(waiting)) as progress,
        pool(workers or os.cpu_count() or 1, [one._job for one in plans]) as submit,
    ):
        pending = {submit(_fit, *work): work for work in waiting}
        for (k, subset, method), result in finished(pending):
            known[k][subset.name, method] = result
            write_json(plans[k].fits[subset.name, method], result)
            progress.step()
            left[k] -= 1
            if not left[k]:
                reports[k] = _report(plans[k], known[k])
    return [reports[k] for k in range(len(plans))]


def _known(one: Plan) -> dict[tuple[str, str], dict]:
    """Results that earlier runs left."""
    finished = one.out / REPORT
    done = json.loads(finished.read_text())["results"] if finished.is_file() else []
    found = {(_name(result), result["method"]): result for result in done}
    for key, path in one.fits.items():
        if key not in found and path.is_file():
            found[key] = json.loads(path.read_text())
    return found


def _name(result: dict) -> str:
    return f"seed{result['seed']}-n{result['size']}-part{result['part']}"


def _report(one: Plan, known: dict[tuple[str, str], dict]) -> dict:
    """Write what a finished benchmark has found; its single fits are in there."""
    results = [known[key] for key in one.fits]
    results += [result for key, result in known.items() if key not in one.fits]
    summary = summarise(results)
    before = json.loads((one.out / REPORT).read_text()) if (one.out / REPORT).is_file() else {"results": []}
    nothing_new = {*one.fits} <= {(_name(result), result["method"]) for result in before["results"]}
    report = {
        "settings": one.settings,
        "versions": before["versions"] if nothing_new else versions(),
        "validation": one.validation,
        "summary": summary,
        "results": results,
    }
    label = Label(**one.settings["label"])
    write_json(one.out / REPORT, report)
    caption = f"{one.settings['data']}, {one.settings['seeds']} seeds"
    write_text(one.out / "benchmark.md", tabulate(summary, label.unit, caption).markdown() + "\n")
    curves = _curves(summary)
    if any(np.isfinite(values).any() for sizes in curves.values() for values in sizes.values()):
        learning_curves(one.out / "benchmark.png", curves, per_atom_scale(label)[1])
    shutil.rmtree(one.out / "fits")
    return report


def _fit(jobs: list[_Job], k: int, subset: Subset, method: str) -> dict:
    """Train one method on one subset, or evaluate the baselines; returns scores and errors by method.

    They are NaN where training diverges.
    """
    job, start, cpu = jobs[k], time.monotonic(), time.process_time()
    try:
        predictions, extra = _predicted(job, subset, method)
    except Diverged:
        predictions, extra = {method: np.full(len(job.bench.task.per_atom), np.nan)}, {}
    seconds = {"seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu}
    label, rows = job.bench.task.label, subset.validation
    natoms = job.bench.task.natoms[rows]
    truth = label.from_per_atom(job.bench.task.per_atom[rows], natoms)
    said = {name: label.from_per_atom(values[rows], natoms) for name, values in predictions.items()}
    return {
        "method": method,
        "seed": subset.seed,
        "size": subset.size,
        "part": subset.part,
        **seconds,
        **extra,
        "scores": {name: errors(label, truth, values, natoms) for name, values in said.items()},
        "errors": {name: [_short(error) for error in values - truth] for name, values in said.items()},
    }


def _predicted(job: _Job, subset: Subset, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Predictions per atom of all structures by method, and what else there is to tell."""
    bench, seed, rows = job.bench, subset.seed, subset.validation
    task = bench.task
    if name == "baselines":
        predictions = baselines(task, subset.train, seed)
        if bench.sources:
            predictions |= source_baselines(task, subset.train, bench.sources[0], bench.zero_shot[0])
        return predictions, {}
    if name == AUTO:
        held = contest(bench, subset.train, seed, groups=job.groups)
        graft = outcome(bench, held, seed)
        said = task.predicted_by(graft)
        per_atom = np.abs(said - task.per_atom)[rows]
        error = task.label.from_per_atom(per_atom, task.natoms[rows])
        return {name: said}, {
            "weights": {bench.called(candidate): weight for candidate, weight in held.weights.items()},
            "cross_validation": held.blended_error,
            "intervals": interval_scores(error, half_widths(task, graft, rows)),
        }
    chosen = job.methods[name]
    model = bench.fit(chosen, subset.train, seed)
    told = {key: model.card[key] for key in ("reference", "epochs") if key in model.card}
    return {name: bench.predicted(chosen, model, np.arange(len(task.per_atom)))}, told


def _short(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def summarise(results: list[dict]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Per method and size, each measure averaged over the disjoint parts; one value per seed."""
    gathered: dict = {}
    for result in results:
        for method, scores in result["scores"].items():
            for measure, value in scores.items():
                cell = (
                    gathered.setdefault(method, {})
                    .setdefault(str(result["size"]), {})
                    .setdefault(measure, {})
                )
                cell.setdefault(result["seed"], []).append(value)
    return {
        method: {
            size: {
                measure: [mean(parts) for _, parts in sorted(by_seed.items())]
                for measure, by_seed in measures.items()
            }
            for size, measures in sizes.items()
        }
        for method, sizes in gathered.items()
    }


def _curves(summary: dict) -> dict[str, dict[int, np.ndarray]]:
    def values(measures: dict) -> np.ndarray:
        errors = 1e3 * np.asarray(measures["mae_ev_per_atom"]) if "mae_ev" in measures else measures["mae"]
        # None at all has no place on a logarithmic axis.
        return np.where(np.asarray(errors) > 0, errors, np.nan)

    return {
        title(method): {int(size): values(measures) for size, measures in sizes.items()}
        for method, sizes in summary.items()
        if method != ZERO_SHOT
    }


def tabulate(summary: dict, unit: str, caption: str = "") -> Table:
    """Rows are methods, columns numbers of labels; mean and standard deviation over seeds.

    The source as it is has seen no label, which is the column N = 0; a source of another label, whose numbers
    mean nothing here, is left out.
    """
    energies = any("mae_ev" in scores for measures in summary.values() for scores in measures.values())
    sizes = sorted({int(size) for measures in summary.values() for size in measures})

    def cell(measures: dict) -> str:
        if not energies:
            return spread(measures["mae"], 3)
        share = mean(measures["within_chemical_accuracy_per_atom"])
        return f"{spread(measures['mae_ev'])} ({1e3 * mean(measures['mae_ev_per_atom']):.0f}; {share:.0%})"

    key, largest = "mae_ev" if energies else "mae", str(sizes[-1])
    as_it_is = summary.get(ZERO_SHOT)
    means_something = as_it_is is not None and (
        mean(as_it_is[largest][key]) < mean(summary["references_alone"][largest][key])
    )
    rows = []
    if as_it_is is not None and means_something:
        rows.append([title(ZERO_SHOT), cell(as_it_is[largest]), *[None] * len(sizes)])
    for method, by_size in summary.items():
        if method != ZERO_SHOT:
            without = [None] if means_something else []
            rows.append(
                [
                    title(method),
                    *without,
                    *(cell(by_size[str(size)]) if str(size) in by_size else None for size in sizes),
                ]
            )
    columns = ["method", *["N = 0"] * means_something, *(f"N = {size}" for size in sizes)]
    head = (
        f"MAE in {unit} (meV/atom; share within 43 meV/atom)"
        if energies
        else with_unit("MAE", unit, brackets=True)
    )
    return Table(columns, rows, title=head, caption=caption)
