"""Interleaved timing, and what is made of it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from matgraft.progress import Progress

LEAST_SECONDS = 0.1

Rounds = dict[str, list[float]]
"""One value per round for each of "cpu" and "wall" (seconds per structure), or for "memory" (MB)."""


class DisagreementError(Exception):
    """Two sides that should compute the same do not."""


class Timer(Protocol):
    """Measures how long one contender takes for an item."""

    def warm_up(self, item: Any) -> None:
        """Whatever happens only the first time, before anything counts."""

    def __call__(self, item: Any) -> dict[str, float]:
        """CPU and wall seconds."""


class Timed:
    """Seconds of one call of ``work``; short work is repeated until a measurement is long enough."""

    def __init__(self, work: Callable[[Any], object]):
        self.work, self.repeats = work, 1

    def warm_up(self, item: Any) -> None:
        self.work(item)
        seconds = self(item)["cpu"]
        self.repeats = min(1000, math.ceil(LEAST_SECONDS / max(seconds, 1e-6)))

    def __call__(self, item: Any) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.repeats):
            self.work(item)
        return {
            "cpu": (time.process_time() - cpu) / self.repeats,
            "wall": (time.perf_counter() - wall) / self.repeats,
        }


def interleaved(
    timers: Mapping[str, Timer],
    items: Sequence[Any],
    sizes: Sequence[int],
    title: str,
) -> dict[str, Rounds]:
    """Seconds per structure: in each round every contender does the same item, one after the other.

    Parameters
    ----------
    timers : mapping of str to Timer
    items : sequence
        One per round.
    sizes : sequence of int
        Structures in each item.
    title : str
        Of the progress line.
    """
    rounds: dict[str, Rounds] = {name: {"cpu": [], "wall": []} for name in timers}
    for timer in timers.values():
        timer.warm_up(items[0])
    # What exists already is left out of every later collection, which so takes no time of anyone.
    gc.collect()
    gc.freeze()
    with Progress(len(items), title, unit="rounds") as progress:
        for item, size in zip(items, sizes, strict=True):
            for name, timer in timers.items():
                for clock, seconds in timer(item).items():
                    rounds[name][clock].append(seconds / size)
            progress.step()
    gc.unfreeze()
    return rounds


@dataclass(frozen=True)
class Comparison:
    """What was measured of several contenders on the same work.

    Attributes
    ----------
    name : str
    baseline : str
        The contender that the others are compared with.
    rounds : dict
        For each contender, its :data:`Rounds`.
    work : dict
        The workload in numbers.
    agreement : dict
        Largest differences between results, each within its tolerance.
    notes : dict of str to str
        What a reader should know of a contender.
    """

    name: str
    baseline: str
    rounds: dict[str, Rounds]
    work: dict = field(default_factory=dict)
    agreement: dict = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """For a JSON file: every round, and the summary."""
        return _rounded({**asdict(self), "summary": self.summary()})

    def summary(self) -> dict:
        """Spread of each quantity, and how many times more the baseline takes, round by round."""
        summary: dict[str, dict] = {}
        for name, rounds in self.rounds.items():
            summary[name] = {kind: spread(values) for kind, values in rounds.items()}
            summary[name]["ratio"] = {
                kind: spread(np.divide(self.rounds[self.baseline][kind], values))
                for kind, values in rounds.items()
            }
        return summary


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, extremes and quartiles."""
    low, q1, median, q3, high = np.percentile(np.asarray(values, dtype=float), [0, 25, 50, 75, 100])
    return {"median": median, "min": low, "q1": q1, "q3": q3, "max": high}


def agree(
    what: str,
    results: Mapping[str, np.ndarray | float],
    reference: str,
    tolerance: float,
    relative: bool = False,
) -> dict[str, float]:
    """Largest difference of each result from that of ``reference``.

    Raises
    ------
    DisagreementError
        If one is larger than ``tolerance``, or not a number.
    """
    truth = np.asarray(results[reference], dtype=float)
    differences = {}
    for name, values in results.items():
        if name == reference:
            continue
        difference = np.abs(np.asarray(values, dtype=float) - truth)
        largest = float((difference / np.maximum(np.abs(truth), 1e-30) if relative else difference).max())
        if not largest <= tolerance:
            raise DisagreementError(
                f"{what}: {name} and {reference} differ by {largest:.2e}, more than {tolerance:.0e}."
            )
        differences[name] = largest
    return differences


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
