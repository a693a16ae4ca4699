"""Neighbour lists of many structures within the cutoff."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import ase.neighborlist
import numpy as np
from ase import Atoms
from peers import SchNetPack
from timing import Comparison, agree
from workloads import CUTOFF, Workload, directed_edges

from matgraft.graphs import Graphs, build_graphs
from quantities.setup import SCHNETPACK, Setup

ROUNDS = 7
STRUCTURES, STRUCTURES_FOR_ASE = 2000, 60
LIST, MERGED = "matgraft", "matgraft, with merging of equivalent atoms"
WRAPPER = f"{SCHNETPACK} (MatScipyNeighborList)"
TOLERANCE = 1e-4
"""Relative, of the sum over all edges of a cutoff function: which edges there are, and how long they are."""

Distances = list[np.ndarray]


def measure(setup: Setup) -> list[Comparison]:
    sample = setup.crystals(STRUCTURES_FOR_ASE)
    comparisons = [_compare(setup, f"neighbour lists against ASE, {sample.name}", "ASE", sample)]
    if setup.peer:
        many = setup.crystals(STRUCTURES)
        comparisons.insert(0, _compare(setup, f"neighbour lists, {many.name}", WRAPPER, many))
    return comparisons


def with_ase(structures: list[Atoms]) -> Distances:
    return [ase.neighborlist.neighbor_list("ijd", atoms, CUTOFF)[2] for atoms in structures]


def with_matscipy(structures: list[Atoms]) -> Distances:
    from matscipy.neighbours import neighbour_list

    return [neighbour_list("ijd", atoms, CUTOFF)[2] for atoms in structures]


def with_vesin(structures: list[Atoms]) -> Distances:
    from vesin import NeighborList

    # Structures of which only some directions are periodic do not occur here.
    find = NeighborList(cutoff=CUTOFF, full_list=True)
    return [
        find.compute(
            points=atoms.positions, box=atoms.cell.array, periodic=bool(atoms.pbc.all()), quantities="ijd"
        )[2]
        for atoms in structures
    ]


def with_schnetpack(peer: SchNetPack) -> Callable[[list[dict]], list[dict]]:
    find = peer.MatScipyNeighborList(CUTOFF)
    return lambda items: [find(dict(item)) for item in items]


def _compare(setup: Setup, name: str, baseline: str, workload: Workload) -> Comparison:
    dataset, structures = workload.dataset, workload.atoms
    works: dict[str, Callable[[Any], Any]] = {
        LIST: lambda _: build_graphs(dataset, CUTOFF, merge_equivalent=False),
        MERGED: lambda _: build_graphs(dataset, CUTOFF, merge_equivalent=True),
    }
    if baseline == WRAPPER:
        assert setup.peer
        p, raw, find = setup.peer.properties, setup.peer.raw(structures), with_schnetpack(setup.peer)
        works[WRAPPER] = lambda _: find(raw)
        if find_spec("matscipy"):
            works["matscipy"] = lambda _: with_matscipy(structures)
        if find_spec("vesin"):
            works["vesin"] = lambda _: with_vesin(structures)
    else:
        works["ASE"] = lambda _: with_ase(structures)
    sums = {}
    for who, work in works.items():
        found = work(None)
        if who == WRAPPER:
            found = [
                np.linalg.norm(
                    (item[p.R][item[p.idx_j]] - item[p.R][item[p.idx_i]] + item[p.offsets]).numpy(), axis=1
                )
                for item in found
            ]
        sums[who] = _sums(found)
    agreement = {"sum_over_edges_relative": agree(name, sums, baseline, TOLERANCE, relative=True)}
    rounds = [None] * setup.at_most(ROUNDS)
    return setup.compared(name, works, rounds, workload.describe(), agreement, len(dataset), baseline)


def _sums(found: Graphs | Distances) -> np.ndarray:
    """Sum of a cutoff function over the directed edges of each structure."""

    def smooth(distance: np.ndarray) -> np.ndarray:
        return 0.5 * (np.cos(np.pi * distance.astype(float) / CUTOFF) + 1.0)

    if isinstance(found, Graphs):
        return directed_edges(found, smooth(found.distance))
    return np.array([smooth(distance).sum() for distance in found])
