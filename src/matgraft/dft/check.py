"""Does the engine work, and is its energy right? Silicon, two atoms, against a run made by hand."""

from __future__ import annotations

from dataclasses import dataclass

from ase.build import bulk

from matgraft.dft.calculation import Calculation
from matgraft.dft.engine import Engine
from matgraft.dft.output import Failure, Result
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library

SETTINGS = Protocol(name="check", ecutwfc=60, kspacing=0.8, conv_thr=1e-8)
EXPECTED = -229.65558
"""Free energy of the cell, eV: from an input file written by hand (``benchmarks/dft/si2.in``)."""
TOLERANCE = 1e-3
"""eV/atom."""


@dataclass(frozen=True)
class Check:
    """What the engine answered.

    Attributes
    ----------
    engine : Engine
    version : str
    outcome : Result or Failure
    """

    engine: Engine
    version: str
    outcome: Result | Failure

    @property
    def difference(self) -> float | None:
        """Distance to the expected energy, eV/atom; None if there is no energy."""
        return None if isinstance(self.outcome, Failure) else (self.outcome.free_energy - EXPECTED) / 2

    @property
    def right(self) -> bool:
        return self.difference is not None and abs(self.difference) < TOLERANCE


def check(engine: Engine) -> Check:
    """Run silicon."""
    version = engine.version()
    return Check(engine, version, engine.run(Calculation.of(bulk("Si", a=5.43), SETTINGS, library())))
