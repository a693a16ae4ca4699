"""What all quantities share: who competes, on what, with which network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from peers import Matgraft, PyG, SchNetPack, Side
from timing import Comparison, Timed, Timer, interleaved
from workloads import Workload, mp_crystals, oxides, rattled_prototypes

from matgraft.data import Label
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet

OURS, UNMERGED = "matgraft", "matgraft, atoms not merged"
REFERENCE = "matgraft, reference kernel"
SCHNETPACK, PYG = "SchNetPack", "PyG SchNet"

BATCH = 32
ENERGY_TOLERANCE = 2e-5
"""In eV/atom, for every structure."""


@dataclass(frozen=True)
class Setup:
    """Settings of one run.

    Attributes
    ----------
    schnetpack : Path or None
        SchNetPack's source tree. Without it, the baseline is this package's reference kernel: the filter
        is evaluated for every pair, in plain torch operations, and no atoms are merged.
    peer : SchNetPack or None
    orientation : Path or None
        Python interpreter that has CHGNet and MACE.
    rounds, structures : int or None
        Fewer than by default, for trials.
    """

    schnetpack: Path | None = None
    peer: SchNetPack | None = None
    orientation: Path | None = None
    rounds: int | None = None
    structures: int | None = None

    @property
    def baseline(self) -> str:
        return SCHNETPACK if self.peer else REFERENCE

    def at_most(self, rounds: int) -> int:
        """Rounds to measure, ``rounds`` by default."""
        return min(rounds, self.rounds or rounds)

    def crystals(self, n: int = 500) -> Workload:
        """Real crystals: of the Materials Project, or those that ship if there is no peer."""
        return (mp_crystals if self.schnetpack else oxides)(min(n, self.structures or n))

    def prototypes(self, n: int = 512) -> Workload:
        return rattled_prototypes(min(n, self.structures or n))

    def contenders(self, workload: Workload) -> list[str]:
        """Who competes when neighbour lists are at hand; ours first."""
        if self.peer is None:
            return [OURS, REFERENCE]
        unmerged = [UNMERGED] if workload.symmetric else []
        return [OURS, *unmerged, SCHNETPACK, *([PYG] if PyG.installed() else [])]

    def compared(
        self,
        name: str,
        works: Mapping[str, Callable[[Any], Any]],
        rounds: Sequence[Any],
        work: dict,
        agreement: dict,
        size: int | None = None,
        baseline: str | None = None,
        others: Mapping[str, Timer] | None = None,
        notes: dict[str, str] | None = None,
    ) -> Comparison:
        """Contenders that agree, timed in turns.

        Parameters
        ----------
        works : mapping of str to callable
            What each does with an item of ``rounds``.
        work, agreement, notes
            See :class:`timing.Comparison`.
        size : int, optional
            Structures in each item, where that is not its length.
        baseline : str, optional
            If another than :attr:`baseline`.
        others : mapping of str to Timer, optional
            Contenders that time themselves.
        """
        timers = {who: Timed(one) for who, one in works.items()} | dict(others or {})
        sizes = [len(item) if size is None else size for item in rounds]
        seconds = interleaved(timers, rounds, sizes, name)
        return Comparison(name, baseline or self.baseline, seconds, work, agreement, notes or {})

    def side(self, name: str, model: SchNet, workload: Workload, spacing: float | None) -> Side:
        """A contender's network on a workload, with the weights of ``model``."""
        if name == SCHNETPACK:
            assert self.peer
            return self.peer.side(model, workload.atoms)
        if name == PYG:
            return PyG(model, workload.atoms)
        if name == REFERENCE:
            return Matgraft(model, workload.dataset, None, merge=False)
        return Matgraft(model, workload.dataset, spacing, merge=name == OURS)


def batches(n: int, rounds: int, size: int = BATCH) -> list[np.ndarray]:
    """One batch per round, going through the structures in a random order, again and again."""
    order = np.random.default_rng(0).permutation(n)
    per_epoch = max(n // size, 1)
    return [np.sort(order[(k % per_epoch) * size :][:size]) for k in range(rounds)]


def predictor(network: SchNet) -> Model:
    """A model of every element whose prediction per atom is the bare output of ``network``."""
    label = Label("energy", unit="eV/atom", kind="atom")
    return Model(network, label, References.none(), scale=1.0, species=frozenset(chemical_symbols[1:]))
