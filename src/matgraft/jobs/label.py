"""Labels for structures from first principles: the queue and its workers."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from matgraft.data import Dataset
from matgraft.data.checks import check_ids
from matgraft.dft.calculation import Calculation, Unfit, key_of_unfit
from matgraft.dft.engine import Engine
from matgraft.dft.output import KILLED, Failure, Result
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import Pseudopotential, library
from matgraft.dft.store import DONE, FAILED, LEASE, Entry, Store, new_owner
from matgraft.errors import InputError
from matgraft.progress import Progress

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at what other labellers do."""


@dataclass
class Labelled:
    """What a run of the queue came to.

    Attributes
    ----------
    done, failed : int
        Structures and settings that have a label now, and structures that have a recorded reason instead.
    here : int
        Labels that this run has calculated.
    too_large : list of str
        Ids that were left out by ``max_atoms``.
    reasons : Counter
        Of the failures.
    """

    done: int = 0
    failed: int = 0
    here: int = 0
    too_large: list[str] = field(default_factory=list)
    reasons: Counter = field(default_factory=Counter)

    def fail(self, reason: str) -> None:
        """Count a failure."""
        self.failed += 1
        self.reasons[reason] += 1


def label(
    structures: str | Path | Dataset,
    store: str | Path,
    protocol: Protocol,
    engine: Engine,
    *,
    executor: Executor | None = None,
    workers: int = 1,
    max_atoms: int | None = None,
    max_seconds: float | None = None,
    pseudopotentials: str | Path | None = None,
    scratch: str | None = None,
) -> Labelled:
    """Label structures that the store does not know yet, cheapest first.

    Any number of labellers may work on one store; each takes what no other has. Killed at any moment, nothing
    is lost but what was running: the same command goes on.

    Parameters
    ----------
    structures : path, name of a known data set, or Dataset
    store : path or URL
    protocol : Protocol
    engine : Engine
        Anything with its methods ``run``, ``require_pw`` and ``stop``.
    executor : Executor, optional
        Where calculations run; threads of this process, each of which waits for one pw.x, by default.
    workers : int
        Calculations at a time.
    max_atoms : int, optional
        Larger structures are left out, and counted.
    max_seconds : float, optional
        Wall time for one calculation.
    pseudopotentials : path, optional
        Folder; see :func:`matgraft.dft.pseudopotentials.library`.
    scratch : str, optional
        Folder for the files of running calculations.

    Raises
    ------
    InputError
        A file that cannot be read, a store of another kind, a program that is not pw.x, a full disk.
    """
    dataset = read(structures)
    known = library(pseudopotentials)
    opened, report = Store(store), Labelled()
    failed = opened.keys(FAILED)
    queue: dict[str, tuple[Calculation, list[str]]] = {}
    for name, atoms in zip(dataset.ids.tolist(), dataset, strict=True):
        if max_atoms is not None and len(atoms) > max_atoms:
            report.too_large.append(name)
            continue
        try:
            calculation = Calculation.of(atoms, protocol, known)
        except Unfit as unfit:
            if opened.reject(atoms, protocol, unfit, name):
                log.warning("%s: %s (%s)", name, unfit.reason, unfit)
            report.fail(unfit.reason)
            continue
        if (unfit_before := key_of_unfit(atoms, protocol)) in failed:
            opened.begin_anew(unfit_before, calculation)
        queue.setdefault(calculation.key, (calculation, []))[1].append(name)
    return work(
        opened, list(queue.values()), engine, report,
        executor=executor, workers=workers, max_seconds=max_seconds, scratch=scratch,
    )  # fmt: skip


def read(structures: str | Path | Dataset) -> Dataset:
    """Structures to label; what is wrong with one of them is left to be kept in the store."""
    dataset = structures if isinstance(structures, Dataset) else Dataset.read(structures, check=False)
    if not len(dataset):
        raise InputError(f"{dataset.source or structures}: no structures in it.")
    check_ids(dataset)
    return dataset


def retry(
    store: str | Path,
    engine: Engine,
    *,
    reasons: Sequence[str] = (),
    executor: Executor | None = None,
    workers: int = 1,
    max_seconds: float | None = None,
    pseudopotentials: str | Path | None = None,
    scratch: str | None = None,
) -> Labelled:
    """Begin anew with what has failed; interrupted, the same call goes on.

    Parameters
    ----------
    reasons : sequence of str
        Only failures for one of these; all of them by default.

    Raises
    ------
    InputError
        A reason that no failure has, or a failure with other pseudopotentials.
    """
    opened, known, report = Store(store, create=False), library(pseudopotentials), Labelled()
    chosen = _failures(opened, reasons)
    for entry in chosen:
        _require_same(entry, known, opened.place)
    queue: dict[str, tuple[Calculation, list[str]]] = {}
    for entry in chosen:
        try:
            calculation = Calculation.of(entry.atoms, entry.protocol, known)
        except Unfit as unfit:
            log.warning("%s: %s (%s)", entry.ids[0], unfit.reason, unfit)
            report.fail(unfit.reason)
            continue
        opened.begin_anew(entry.key, calculation)
        queue.setdefault(calculation.key, (calculation, []))[1].extend(entry.ids)
    return work(
        opened, list(queue.values()), engine, report,
        executor=executor, workers=workers, max_seconds=max_seconds, scratch=scratch,
    )  # fmt: skip


def _failures(store: Store, reasons: Sequence[str]) -> list[Entry]:
    """Failures for one of these reasons, or all."""
    failed = list(store.entries(FAILED))
    there_are = {reason for entry in failed for reason in entry.reasons}
    chosen = [entry for entry in failed if not reasons or entry.reasons & set(reasons)]
    lacking = [reason for reason in reasons if reason not in there_are]
    # Of several, an interrupted retry may be done with one.
    if lacking and not (chosen and {*lacking} <= {entry.retried for entry in store.entries()}):
        raise InputError(
            f"{store.place}: no failure for the reason {lacking[0]!r}; there are "
            f"{', '.join(sorted(there_are)) or 'no failures at all'}."
        )
    return chosen


def _require_same(entry: Entry, known: Mapping[str, Pseudopotential], place: str) -> None:
    """Raise an InputError if a failure had other pseudopotentials, with which its label would be another."""
    for element, sha256 in entry.pseudopotentials.items():
        if element not in known or known[element].sha256 != sha256:
            raise InputError(
                f"{place}: structure {entry.ids[0]} failed with another pseudopotential of {element} than "
                "the one there is now. Give the folder that it was labelled with (--pseudopotentials), or "
                "begin anew with the one of now: matgraft label."
            )


def work(
    store: Store,
    queue: list[tuple[Calculation, list[str]]],
    engine: Engine,
    report: Labelled,
    *,
    executor: Executor | None,
    workers: int,
    max_seconds: float | None,
    scratch: str | None,
) -> Labelled:
    """Bring every calculation of the queue to a label or to a last failure."""
    labelled, failed = store.keys(DONE), {entry.key: entry for entry in store.entries(FAILED)}
    for calculation, ids in queue:
        if calculation.key in labelled or calculation.key in failed:
            store.name(calculation.key, ids)
    report.done += sum(calculation.key in labelled for calculation, _ in queue)
    queue = [one for one in queue if one[0].key not in labelled]
    waiting = []
    for calculation, ids in sorted(queue, key=lambda one: one[0].cost):
        if (rung := _settled(failed.get(calculation.key), report)) is not None:
            waiting.append(_Task(calculation, ids, rung))
    if waiting and executor is None:
        # What is not pw.x would use up the ladder of every structure. Workers of a cluster may have it alone.
        engine.require_pw()
    own = ThreadPoolExecutor(workers) if executor is None else None
    crew = _Crew(store, engine, report, waiting, executor or own, workers, (max_seconds, scratch))  # type: ignore[arg-type]
    try:
        crew.run()
    finally:
        crew.leave()
        if own is not None:
            # A thread may have been about to start a program when all were ended.
            while wait(crew.running, POLL / 10).not_done:
                engine.stop()
            own.shutdown()
        # A claim that cannot be given back ends by itself.
        with suppress(InputError):
            store.release(crew.owner)
    return report


class _Task(NamedTuple):
    """A calculation, the names of its structure, and the step of the ladder to take."""

    calculation: Calculation
    ids: list[str]
    rung: int


class _Crew:
    """Takes from a queue what no other labeller has, and records what comes of it."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        report: Labelled,
        waiting: list[_Task],
        executor: Executor,
        workers: int,
        limits: tuple[float | None, str | None],
    ):
        self.owner = new_owner()
        self.running: dict[Future, _Task] = {}
        self._store, self._engine, self._report = store, engine, report
        self._waiting, self._executor, self._workers, self._limits = waiting, executor, workers, limits
        self._speed = _Speed(workers)
        self._heart = _Heart(store, self.owner)

    def run(self) -> None:
        done = self._report.done + self._report.failed
        with Progress(
            done + len(self._waiting),
            "label",
            unit="structures",
            done=done,
            left=lambda: self._speed.left([*self._waiting, *self.running.values()]),
        ) as progress:
            while self._waiting or self.running:
                self._begin(progress)
                for future in self._finished():
                    self._record(future, progress)

    def leave(self) -> None:
        """What is still running is of no use to anyone, for nobody is left to record it."""
        self._heart.stop()
        for future in self.running:
            # Parsl ends what is running when it is closed, and not before.
            with suppress(NotImplementedError):
                future.cancel()
        self._engine.stop()

    def _begin(self, progress: Progress) -> None:
        """Start as much as there is room for."""
        elsewhere = []
        while self._waiting and len(self.running) < self._workers:
            task = self._waiting.pop(0)
            key = task.calculation.key
            if self._store.claim(key, self.owner):
                future = self._executor.submit(self._engine.run, task.calculation, task.rung, *self._limits)
                self.running[future] = task
            elif (rung := _settled(self._store.get(key), self._report)) is not None:
                elsewhere.append(task._replace(rung=rung))
            else:
                self._store.name(key, task.ids)
                progress.step()
        self._waiting += elsewhere

    def _finished(self) -> set[Future]:
        if not self.running:
            # All that is left is with other labellers.
            time.sleep(POLL)
            return set()
        return wait(self.running, timeout=POLL, return_when=FIRST_COMPLETED).done

    def _record(self, future: Future, progress: Progress) -> None:
        """Keep what came of a calculation; it goes first in the queue if there is more to try."""
        task, outcome = self.running.pop(future), _outcome(future)
        self._store.record(task.calculation, outcome, task.ids, task.rung)
        if isinstance(outcome, Result):
            self._report.here += 1
            self._speed.learn(task.calculation, outcome)
        else:
            progress.note(f"{task.ids[0]}: {outcome.reason} ({outcome.message})")
        rung = _settled(self._store.get(task.calculation.key), self._report)
        if rung is None:
            progress.step(labels=self._report.done, failures=self._report.failed)
        else:
            self._waiting.insert(0, task._replace(rung=rung))


def _settled(entry: Entry | None, report: Labelled) -> int | None:
    """Count what is settled; else the step of the ladder to take next."""
    if entry is None:
        return 0
    if entry.status == DONE:
        report.done += 1
        return None
    if entry.rung is None:
        report.fail(entry.reason)
    return entry.rung


def _outcome(future: Future) -> Result | Failure:
    try:
        return future.result()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left for the files of running calculations ({error}). Make room or give another "
                "--scratch folder, and run the command again: what was finished before is kept."
            ) from error
        raise
    except Exception as error:
        # A worker on another machine was lost with what it was running.
        return Failure(KILLED, f"{type(error).__name__}: {error}"[:500])


class _Heart:
    """Renews the claims of this process for as long as it lives."""

    def __init__(self, store: Store, owner: str):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(store, owner), daemon=True)
        self._thread.start()

    def _beat(self, store: Store, owner: str) -> None:
        while not self._stop.wait(LEASE / 4):
            # A store that cannot be written will be found out, and told, where labels are recorded.
            with suppress(Exception):
                store.renew(owner)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class _Speed:
    """Time left: work still to be done, by what finished calculations took for theirs."""

    def __init__(self, workers: int):
        self._workers = workers
        self._rates: list[float] = []

    def learn(self, calculation: Calculation, result: Result) -> None:
        self._rates.append(result.wall_seconds / calculation.cost)

    def left(self, queue: Iterable[_Task]) -> float | None:
        if not self._rates:
            return None
        return sum(task.calculation.cost for task in queue) * median(self._rates) / self._workers
