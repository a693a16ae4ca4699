"""Calculations that need no program, and an engine that answers at once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.db.sqlite import SQLite3Database

from matgraft.data import Dataset
from matgraft.dft.calculation import Calculation
from matgraft.dft.engine import Engine, find
from matgraft.dft.output import NOT_CONVERGED, Failure, Result
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.errors import InputError

TOY = Protocol(name="toy", ecutwfc=20, kspacing=2.0)


def silicon(i: int) -> Atoms:
    """Silicon under a strain of its own."""
    return bulk("Si", a=5.3 + 0.002 * i)


def strained(n: int) -> Dataset:
    return Dataset.from_atoms([silicon(i) for i in range(n)], [f"si-{i}" for i in range(n)])


def calculation(i: int) -> Calculation:
    return Calculation.of(silicon(i), TOY, library())


def truth(one: Calculation) -> float:
    """The energy that :class:`FakeEngine` gives, whenever and wherever it is asked."""
    return -float(int(one.key[:8], 16)) / 1e6


def result(one: Calculation) -> Result:
    return Result(
        free_energy=truth(one), energy=truth(one) + 0.1, smearing=-0.1, fermi=1.0, magnetization=None,
        absolute_magnetization=None, iterations=3, kpoints=1, electrons=8.0, cpu_seconds=0.0,
        wall_seconds=0.001, version="fake", trace=[(truth(one) + 1.0, 1.0), (truth(one), 1e-6)],
    )  # fmt: skip


@dataclass
class FakeEngine:
    """Answers from the key alone; one structure in five converges on the second step of the ladder only."""

    seconds: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def run(
        self, one: Calculation, rung: int = 0, max_seconds: float | None = None, scratch: str | None = None
    ):
        self.calls.append((one.key, rung))
        time.sleep(self.seconds)
        if rung == 0 and int(one.key[:4], 16) % 5 == 0:
            return Failure(NOT_CONVERGED, "100 iterations", 0.001)
        return result(one)

    def require_pw(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """A process that is killed loses nothing that it has written; only a machine that loses power does."""
    connect = SQLite3Database._connect

    def quick(self):
        connection = connect(self)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(SQLite3Database, "_connect", quick)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def program() -> Engine:
    """Quantum ESPRESSO, where there is one."""
    try:
        return find()
    except InputError as error:
        pytest.skip(str(error))
