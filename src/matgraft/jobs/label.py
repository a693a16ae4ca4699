"""Labels for structures from first principles: the queue and its workers."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from matgraft.data import Dataset
from matgraft.dft.calculation import Calculation, Unfit
from matgraft.dft.engine import Engine
from matgraft.dft.output import KILLED, Failure, Result
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import DONE, FAILED, LEASE, Entry, Store, new_owner
from matgraft.errors import InputError
from matgraft.progress import Progress

POLL = 1.0
"""Seconds between two looks at what other labellers do."""


@dataclass
class Labelled:
    """What a run of the queue came to.

    Attributes
    ----------
    done, failed : int
        Distinct structures that have a label now, and those that have a recorded reason instead.
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
        Anything with its method ``run``.
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
        Structures that cannot be read or overlap, a store of another kind, a full disk.
    """
    dataset = structures if isinstance(structures, Dataset) else Dataset.read(structures)
    known = library(pseudopotentials)
    opened, report = Store(store), Labelled()
    queue: dict[str, tuple[Calculation, list[str]]] = {}
    for name, atoms in zip(dataset.ids.tolist(), dataset, strict=True):
        if max_atoms is not None and len(atoms) > max_atoms:
            report.too_large.append(name)
            continue
        try:
            calculation = Calculation.of(atoms, protocol, known)
        except Unfit as unfit:
            opened.reject(atoms, protocol, unfit, name)
            report.fail(unfit.reason)
            continue
        queue.setdefault(calculation.key, (calculation, []))[1].append(name)
    return work(
        opened, list(queue.values()), engine, report,
        executor=executor, workers=workers, max_seconds=max_seconds, scratch=scratch,
    )  # fmt: skip


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
    """Begin anew with what has failed.

    Parameters
    ----------
    reasons : sequence of str
        Only failures for one of these; all of them by default.
    """
    opened, known = Store(store, create=False), library(pseudopotentials)
    report, queue = Labelled(), []
    for entry in list(opened.entries(FAILED)):
        if reasons and entry.reason not in reasons:
            continue
        try:
            calculation = Calculation.of(entry.atoms, entry.protocol, known)
        except Unfit as unfit:
            report.fail(unfit.reason)
            continue
        opened.forget_failures(entry.key)
        queue.append((calculation, entry.ids))
    return work(
        opened, queue, engine, report,
        executor=executor, workers=workers, max_seconds=max_seconds, scratch=scratch,
    )  # fmt: skip


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
    owner = new_owner()
    waiting: list[tuple[Calculation, list[str], int]] = []
    labelled, failed = store.keys(DONE), {entry.key: entry for entry in store.entries(FAILED)}
    report.done += sum(calculation.key in labelled for calculation, _ in queue)
    queue = [one for one in queue if one[0].key not in labelled]
    for calculation, ids in sorted(queue, key=lambda one: one[0].cost):
        if (rung := _settled(failed.get(calculation.key), report)) is not None:
            waiting.append((calculation, ids, rung))
    running: dict[Future, tuple[Calculation, list[str], int]] = {}
    speed = _Speed(workers)
    own = ThreadPoolExecutor(workers) if executor is None else None
    heart = _Heart(store, owner)
    try:
        done = report.done + report.failed
        with Progress(
            done + len(waiting),
            "label",
            unit="structures",
            done=done,
            left=lambda: speed.left([*waiting, *running.values()]),
        ) as progress:
            while waiting or running:
                elsewhere = []
                while waiting and len(running) < workers:
                    calculation, ids, rung = waiting.pop(0)
                    if store.claim(calculation.key, owner):
                        future = (executor or own).submit(engine.run, calculation, rung, max_seconds, scratch)  # type: ignore[union-attr]
                        running[future] = (calculation, ids, rung)
                    elif (again := _settled(store.get(calculation.key), report)) is not None:
                        elsewhere.append((calculation, ids, again))
                    else:
                        progress.step()
                waiting += elsewhere
                if running:
                    finished, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
                else:
                    finished = set()
                    time.sleep(POLL)
                for future in finished:
                    calculation, ids, rung = running.pop(future)
                    outcome = _outcome(future)
                    store.record(calculation, outcome, ids, rung)
                    if isinstance(outcome, Result):
                        report.here += 1
                        speed.learn(calculation, outcome)
                    else:
                        progress.note(f"{ids[0]}: {outcome.reason} ({outcome.message})")
                    again = _settled(store.get(calculation.key), report)
                    if again is None:
                        progress.step(labels=report.done, failures=report.failed)
                    else:
                        waiting.insert(0, (calculation, ids, again))
    finally:
        heart.stop()
        # What is still running is of no use to anyone, for nobody is left to record it.
        for future in running:
            future.cancel()
        engine.stop()
        if own is not None:
            own.shutdown(cancel_futures=True)
        store.release(owner)
    return report


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

    def left(self, queue: Iterable[tuple[Calculation, list[str], int]]) -> float | None:
        if not self._rates:
            return None
        return sum(calculation.cost for calculation, *_ in queue) * median(self._rates) / self._workers
