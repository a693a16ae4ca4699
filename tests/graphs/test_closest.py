"""Smallest distances, against ASE."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.graphs.closest import closest, nearer

CUTOFF = 4.0


@pytest.fixture(scope="module")
def oxides() -> Dataset:
    return Dataset.read("tmo-oxides")[np.arange(0, 660, 33)]


def test_smallest_distances_are_those_of_ase(oxides):
    expected = np.full((119, 119), np.inf)
    for atoms in oxides:
        first, second, distance = neighbor_list("ijd", atoms, CUTOFF)
        np.minimum.at(expected, (atoms.numbers[first], atoms.numbers[second]), distance)
    found = closest(build_graphs(oxides, CUTOFF))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    seen = np.isfinite(expected)
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-3)


def test_only_the_structures_that_are_asked_for(oxides):
    graphs = build_graphs(oxides, CUTOFF)
    alone = closest(build_graphs(oxides[[3, 7]], CUTOFF))
    np.testing.assert_array_equal(closest(graphs, np.array([3, 7])), alone)


def test_what_is_squeezed_is_named_and_what_is_known_is_not(oxides):
    limits = closest(build_graphs(oxides, CUTOFF))
    assert nearer(build_graphs(oxides, CUTOFF), limits) == [()] * len(oxides)
    atoms = [bulk("TiO", "rocksalt", a=a) for a in (4.3, 2.8)]
    atoms.append(bulk("AgO", "rocksalt", a=2.8))
    limits = closest(build_graphs(Dataset.from_atoms(atoms[:1]), CUTOFF))
    # Of silver nothing is known; its oxygen atoms are as near to one another as those of TiO.
    assert nearer(build_graphs(Dataset.from_atoms(atoms), CUTOFF), limits) == [
        (), ("O-O", "O-Ti", "Ti-Ti"), ("O-O",),
    ]  # fmt: skip
