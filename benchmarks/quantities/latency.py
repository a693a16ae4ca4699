"""One structure at a time, from ASE to a number, neighbour list included."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from ase import Atoms
from peers import SchNetPack, seeded
from timing import Comparison, agree
from workloads import CUTOFF, Workload

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.models.model import Model
from matgraft.models.schnet import Architecture, SchNet
from quantities.setup import ENERGY_TOLERANCE, OURS, REFERENCE, SCHNETPACK, Setup, predictor

ROUNDS = 15
STRUCTURES = 20
ATOMS = (16, 24)

Energy = Callable[[Atoms], float]


def measure(setup: Setup) -> list[Comparison]:
    return [_compare(setup, workload) for workload in (setup.crystals(), setup.prototypes())]


def ours(model: Model) -> Energy:
    """This package's way from a structure to its energy per atom."""
    return lambda atoms: float(model.predict(atoms).per_atom[0])


def reference(network: SchNet) -> Energy:
    """The same by the reference kernel, on atoms that are not merged."""
    network.spacing = None

    def energy(atoms: Atoms) -> float:
        graphs = build_graphs(Dataset.from_atoms([atoms]), CUTOFF, merge_equivalent=False)
        with torch.no_grad():
            return float(network(graphs.batch(np.array([0]))))

    return energy


def schnetpack(peer: SchNetPack, network: SchNet) -> Energy:
    """SchNetPack's own converter, with its MatScipyNeighborList, and its network."""
    converter, module = peer.converter(CUTOFF), peer.network(network)

    def energy(atoms: Atoms) -> float:
        with torch.no_grad():
            return float(module(converter(atoms))["energy"])

    return energy


def contenders(setup: Setup, network: SchNet) -> dict[str, Energy]:
    """Who competes, with the weights of ``network``."""
    energy_of = {OURS: ours(predictor(network))}
    if setup.peer:
        return energy_of | {SCHNETPACK: schnetpack(setup.peer, network)}
    return energy_of | {REFERENCE: reference(deepcopy(network))}


def one_by_one(energy: Energy, structures: list[Atoms], rows: np.ndarray) -> np.ndarray:
    """Energies of structures ``rows``, each computed alone."""
    return np.array([energy(structures[row]) for row in rows])


def about_twenty_atoms(workload: Workload) -> list[Atoms]:
    """The first structures of that size."""
    low, high = ATOMS
    rows = np.flatnonzero((workload.dataset.natoms >= low) & (workload.dataset.natoms <= high))
    return list(workload.dataset[rows[:STRUCTURES]])


def _compare(setup: Setup, workload: Workload) -> Comparison:
    name, network = f"latency, {workload.name}", seeded(Architecture())
    structures = about_twenty_atoms(workload)
    energy_of = contenders(setup, network)
    works = {who: partial(one_by_one, energy, structures) for who, energy in energy_of.items()}
    every = np.arange(len(structures))
    energies = {who: work(every) for who, work in works.items()}
    agreement = {"energy_eV_per_atom": agree(name, energies, setup.baseline, ENERGY_TOLERANCE)}
    rounds = [every] * setup.at_most(ROUNDS)
    described = Workload(workload.name, Dataset.from_atoms(structures)).describe()
    return setup.compared(name, works, rounds, described, agreement)
