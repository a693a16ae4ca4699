"""Learning curves: every scheme and every baseline at several numbers of labels."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from matgraft.data import Dataset
from matgraft.errors import InputError
from matgraft.evaluation.metrics import errors
from matgraft.evaluation.plots import learning_curves
from matgraft.evaluation.protocol import Subset, learning_curve_subsets
from matgraft.evaluation.tables import Table, spread
from matgraft.jobs.finetune import TITLES, baselines, recipes
from matgraft.jobs.folder import claim, write_json, write_text
from matgraft.models.model import Model, load_model
from matgraft.models.schnet import ARCHITECTURES
from matgraft.progress import Progress
from matgraft.training.graft import REFERENCE_MODES, Task, check_request, finetune, named_scheme


@dataclass(frozen=True)
class _Job:
    """What one worker needs to know of the whole benchmark."""

    task: Task
    source: Model | None
    zero_shot: np.ndarray | None
    preset: str
    arch: str


_job: _Job


def _start_worker(job: _Job) -> None:
    global _job
    torch.set_num_threads(1)
    _job = job


def _fit(subset: Subset, method: str) -> dict:
    """Train one method on one subset, or evaluate the baselines; returns scores by method."""
    task, start = _job.task, time.monotonic()
    if method == "baselines":
        predictions = baselines(task, subset.train, _job.source, _job.zero_shot)
        extra: dict = {}
    else:
        name, _, mode = method.partition("/")
        scheme = named_scheme(name)
        for_direct, for_graft = recipes(_job.preset)
        from_source = scheme.start == "source"
        model = finetune(
            _job.source if from_source else None,
            task,
            rows=subset.train,
            scheme=scheme,
            reference=mode or "auto",  # type: ignore[arg-type]
            recipe=for_graft if from_source else for_direct,
            arch=ARCHITECTURES[_job.arch],
            seed=subset.seed,
            zero_shot=_job.zero_shot if from_source else None,
        )
        predictions = {method: task.predicted_by(model)}
        extra = {"reference": model.card["reference"]}
    rows, label = subset.validation, task.label
    truth = label.from_per_atom(task.per_atom[rows], task.natoms[rows])
    scores = {
        name: errors(label, truth, label.from_per_atom(values[rows], task.natoms[rows]), task.natoms[rows])
        for name, values in predictions.items()
    }
    return {
        "seed": subset.seed,
        "size": subset.size,
        "part": subset.part,
        "seconds": time.monotonic() - start,
        **extra,
        "scores": scores,
    }


def benchmark(
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
    arch: str = "arch1",
    workers: int | None = None,
) -> dict:
    """Run the study's learning-curve protocol and write table, JSON and curves.

    Parameters
    ----------
    data : path, name or Dataset
    target : str
    out : path
        Every finished fit is kept here at once; an interrupted benchmark goes on with what is missing.
    sizes : sequence of int
        Numbers of labels. The largest training set is cut into disjoint parts of the smaller sizes.
    val_size : int
    schemes : sequence of str
        ``direct``, ``tl1``, ``tl2``, ``tl3``; ``tl1/labels`` fixes the reference mode.
    seeds : int
        Repeats with another split and other start weights.
    group : {"formula", "chemical_system"}, optional
    source : str, path or None
    preset : {"default", "paper"}
    arch : {"arch1", "arch2"}
        For direct training.
    workers : int, optional
        Processes of one thread each; default one per core.

    Returns
    -------
    dict
        The content of ``benchmark.json``.
    """
    recipes(preset)
    for method in schemes:
        name, _, mode = method.partition("/")
        if mode and mode not in REFERENCE_MODES:
            raise InputError(
                f"{method!r}: no reference mode {mode!r}; there are {', '.join(REFERENCE_MODES)}."
            )
        check_request(min(sizes), named_scheme(name), mode or "auto", source is not None)
    if arch not in ARCHITECTURES:
        raise InputError(f"no architecture named {arch!r}; there are {', '.join(ARCHITECTURES)}.")
    parent = None if source is None else load_model(source)
    dataset = data if isinstance(data, Dataset) else Dataset.read(data, target=target)
    subsets = learning_curve_subsets(dataset, list(sizes), val_size, seeds, group)
    task = Task.of(dataset, target, parent.cutoff if parent else ARCHITECTURES[arch].cutoff)
    for_direct, for_graft = recipes(preset)
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
    out = claim(out, settings)
    zero_shot = None if parent is None else task.predicted_by(parent)
    results = _run(
        _Job(task, parent, zero_shot, preset, arch), subsets, ["baselines", *schemes], out / "fits", workers
    )
    report: dict = {"settings": settings, "results": results, "summary": summarise(results)}
    write_json(out / "benchmark.json", report)
    table = tabulate(report["summary"], task.label.unit, f"{dataset.source}, {seeds} seeds")
    write_text(out / "benchmark.md", table.markdown() + "\n")
    learning_curves(out / "benchmark.png", _curves(report["summary"]), _error_unit(task.label.unit))
    return report


def _run(
    job: _Job, subsets: list[Subset], methods: list[str], folder: Path, workers: int | None
) -> list[dict]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        (subset.name, method): folder / f"{subset.name}-{method.replace('/', '-')}.json"
        for subset in subsets
        for method in methods
    }
    # Long fits first: the last ones to finish are then short, and no core waits for long.
    waiting = [
        (subset, method)
        for subset in sorted(subsets, key=lambda subset: -subset.size)
        for method in methods
        if not files[subset.name, method].exists()
    ]
    # Children import the libraries anew and must not bring a thread per core each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with (
        Progress(len(files), "benchmark", unit="fits", done=len(files) - len(waiting)) as progress,
        ProcessPoolExecutor(
            max_workers=workers or os.cpu_count(),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(job,),
        ) as pool,
    ):
        pending = {pool.submit(_fit, subset, method): (subset.name, method) for subset, method in waiting}
        try:
            for future in as_completed(pending):
                write_json(files[pending[future]], future.result())
                progress.step()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [json.loads(files[subset.name, method].read_text()) for subset in subsets for method in methods]


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


def _error_unit(unit: str) -> str:
    return "meV/atom" if unit.startswith("eV") else unit


def _curves(summary: dict) -> dict[str, dict[int, np.ndarray]]:
    def values(measures: dict) -> np.ndarray:
        return (
            1e3 * np.asarray(measures["mae_ev_per_atom"])
            if "mae_ev" in measures
            else np.asarray(measures["mae"])
        )

    return {
        title(method): {int(size): values(measures) for size, measures in sizes.items()}
        for method, sizes in summary.items()
        if method != "zero_shot_source"
    }


def title(method: str) -> str:
    """How a method is called in tables."""
    scheme, _, mode = method.partition("/")
    return TITLES.get(scheme, scheme.upper()) + (f", reference on {mode}" if mode else "")


def tabulate(summary: dict, unit: str, caption: str = "") -> Table:
    """Rows are methods, columns numbers of labels; mean and standard deviation over seeds."""
    energies = unit.startswith("eV")
    sizes = sorted({int(size) for measures in summary.values() for size in measures})
    rows = []
    for method, by_size in summary.items():
        row = [title(method)]
        for size in sizes:
            cell = by_size[str(size)]
            if energies:
                share = mean(cell["within_chemical_accuracy_per_atom"])
                row.append(
                    f"{spread(cell['mae_ev'])} ({1e3 * mean(cell['mae_ev_per_atom']):.0f}; {share:.0%})"
                )
            else:
                row.append(spread(cell["mae"], 3))
        rows.append(row)
    head = f"MAE in {unit} (meV/atom; share within 43 meV/atom)" if energies else f"MAE in {unit}"
    return Table(["method", *(f"N = {size}" for size in sizes)], rows, title=head, caption=caption)
