"""A contest of candidates over several processes, resumed where it was interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from matgraft.data import Label
from matgraft.evaluation.tables import Table, number, per_atom_scale
from matgraft.jobs.folder import write_json
from matgraft.jobs.pool import Submit, finished, pool
from matgraft.models.predictor import Predictor
from matgraft.progress import Progress
from matgraft.training.contest import (
    FOLDS,
    Contest,
    Runner,
    Work,
    contest,
    entrants,
    outcome,
    predicted,
    single,
)
from matgraft.training.portfolio import Bench, Candidate


def run_contest(
    bench: Bench,
    rows: np.ndarray,
    seed: int,
    folder: Path,
    workers: int | None = None,
    groups: np.ndarray | None = None,
) -> tuple[Contest, Predictor]:
    """A contest and its outcome, with every fit of a fold kept in ``folder`` at once.

    Parameters
    ----------
    bench, rows, seed, groups
        See :func:`matgraft.training.contest.contest`.
    workers : int, optional
        Processes of one thread each; default one per core.
    """
    everyone = entrants(bench, len(rows))
    with _at_work(bench, everyone, seed, folder, workers, "contest") as (run, submit):
        held = contest(bench, rows, seed, run=run, groups=groups)
        winners = {submit(Bench.fit, one, rows, seed): one for one in held.weights}
        return held, outcome(bench, held, seed, dict(finished(winners)))


def cross_validate(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    seed: int,
    folder: Path,
    workers: int | None = None,
    groups: np.ndarray | None = None,
) -> Contest:
    """One candidate alone on the folds of a contest, kept and resumed like :func:`run_contest`."""
    with _at_work(bench, [candidate], seed, folder, workers, "intervals") as (run, _):
        return single(bench, candidate, rows, seed, run=run, groups=groups)


@contextmanager
def _at_work(
    bench: Bench, candidates: Sequence[Candidate], seed: int, folder: Path, workers: int | None, doing: str
) -> Iterator[tuple[Runner, Submit]]:
    """What does the fits of folds in several processes, and what gives these other work."""
    folder.mkdir(parents=True, exist_ok=True)
    workers = workers or os.cpu_count() or 1
    bench.prepare(candidates)
    most = FOLDS * len(candidates)
    with Progress(most, doing, unit="fits at most") as progress, pool(workers, bench) as submit:

        def run(works: Sequence[Work]) -> Iterator[tuple[Work, np.ndarray]]:
            pending = {}
            for work in works:
                path = _path(folder, work)
                if path.is_file():
                    progress.step()
                    yield work, np.asarray(json.loads(path.read_text()))
                else:
                    pending[submit(predicted, work, seed)] = work
            for work, values in finished(pending):
                write_json(_path(folder, work), values.tolist())
                progress.step()
                yield work, values

        yield run, submit


def _path(folder: Path, work: Work) -> Path:
    source = "" if work.candidate.source is None else f"-source{work.candidate.source}"
    return folder / f"{work.candidate.name}{source}-fold{work.fold}.json"


def contest_table(story: dict, label: Label) -> Table:
    """What :func:`matgraft.training.contest.told` tells, for readers."""
    factor, shown = per_atom_scale(label)
    most = max(one["folds"] for one in story["candidates"])
    not_begun = f"; not begun: {'; '.join(story['not_begun'])}" if story["not_begun"] else ""
    rows = [
        [
            one["words"],
            one["source"],
            number(factor * one["error_per_atom"]),
            f"{one['folds']} of {most}" if one["folds"] < most else "all",
            f"{one['weight']:.0%}" if one["weight"] else None,
        ]
        for one in story["candidates"]
    ]
    return Table(
        ["candidate", "source", f"error ({shown})" if shown else "error", "folds", "share in the outcome"],
        rows,
        title="The contest, on the training labels alone",
        caption=f"outcome in cross-validation: {number(factor * story['error_per_atom'])} {shown}"
        + not_begun,
    )
