"""Graphs of a data set, and batches of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from matgraft.data import Dataset
from matgraft.graphs import Graphs, build_graphs


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    rng = np.random.default_rng(5)
    rattled = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    rattled.positions += rng.normal(0, 0.1, rattled.positions.shape)
    return [
        bulk("Si"),
        Atoms("Ne", cell=np.eye(3) * 15, pbc=True),
        rattled,
        Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]),
        Atoms("He"),
        bulk("Fe", "bcc", a=2.87).repeat((2, 1, 1)),
    ]


@pytest.fixture(scope="module", params=[True, False], ids=["merged", "plain"])
def graphs(request, structures) -> Graphs:
    return build_graphs(Dataset.from_atoms(structures), 5.0, request.param)


def with_pairs(counts: list[int]) -> Graphs:
    """Graphs of which only the numbers of pairs matter."""
    n, empty = len(counts), np.zeros(0)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Graphs(np.ones(n, dtype=np.int64), np.arange(n + 1), offsets, *[empty] * 7)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=30),
    batch_size=st.integers(1, 8),
    max_pairs=st.integers(1, 100),
    data=st.data(),
)
def test_batches_keep_their_limits(counts, batch_size, max_pairs, data):
    order = np.array(data.draw(st.permutations(range(len(counts)))))
    batches = list(with_pairs(counts).batches(order, batch_size, max_pairs))
    np.testing.assert_array_equal(np.concatenate(batches), order)
    sizes = np.array(counts)
    for rows in batches:
        assert 1 <= len(rows) <= batch_size
        assert len(rows) == 1 or sizes[rows].sum() <= max_pairs
    for rows, following in pairwise(batches):
        full = len(rows) == batch_size or sizes[rows].sum() + sizes[following[0]] > max_pairs
        assert full, "a batch was closed although the next structure would have fitted"


def test_big_structure_gets_a_batch_of_its_own():
    batches = with_pairs([10, 10, 500, 10, 10]).batches(np.arange(5), 8, max_pairs=100)
    assert [rows.tolist() for rows in batches] == [[0, 1], [2], [3, 4]]


def test_batches_of_a_subset_and_of_nothing():
    graphs = with_pairs([1, 2, 3, 4])
    assert [rows.tolist() for rows in graphs.batches(np.array([3, 1]), 1)] == [[3], [1]]
    assert list(graphs.batches(np.array([], dtype=int), 4)) == []


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [5, 2, 0], [1], [4, 1], [2, 2, 3]], ids=str)
def test_batch_is_its_structures_side_by_side(graphs, structures, rows):
    batch = graphs.batch(np.array(rows))
    assert batch.natoms.tolist() == [len(structures[r]) for r in rows]
    assert len(batch.species) == sum(graphs.node_offsets[r + 1] - graphs.node_offsets[r] for r in rows)
    assert torch.equal(batch.structure[batch.first], batch.structure[batch.second])
    start = 0
    for k, r in enumerate(rows):
        nodes = slice(*graphs.node_offsets[[r, r + 1]])
        pairs = slice(*graphs.pair_offsets[[r, r + 1]])
        mine = (batch.structure == k).numpy()
        np.testing.assert_array_equal(batch.species.numpy()[mine], graphs.species[nodes])
        np.testing.assert_array_equal(batch.multiplicity.numpy()[mine], graphs.multiplicity[nodes])
        here = (batch.structure[batch.first] == k).numpy()
        names = ("first", "second", "distance", "into_first", "into_second")
        got = np.column_stack([getattr(batch, name).numpy()[here] for name in names]).astype(float)
        want = np.column_stack([getattr(graphs, name)[pairs] for name in names]).astype(float)
        want[:, :2] += start
        np.testing.assert_array_equal(got[np.lexsort(got.T)], want[np.lexsort(want.T)])
        start += nodes.stop - nodes.start


def test_batch_types(graphs):
    batch = graphs.batch(np.arange(len(graphs)))
    for name in ("species", "structure", "first", "second"):
        assert getattr(batch, name).dtype == torch.int64
    for name in ("multiplicity", "natoms", "distance", "into_first", "into_second"):
        assert getattr(batch, name).dtype == torch.float32
    double = batch.to(dtype=torch.float64)
    assert double.distance.dtype == torch.float64
    assert double.first.dtype == torch.int64


def test_structures_of_a_set_do_not_depend_on_one_another(graphs, structures):
    merged = len(graphs.species) < sum(len(atoms) for atoms in structures)
    for r, atoms in enumerate(structures):
        alone = build_graphs(Dataset.from_atoms([atoms]), 5.0, merged)
        nodes = slice(*graphs.node_offsets[[r, r + 1]])
        pairs = slice(*graphs.pair_offsets[[r, r + 1]])
        np.testing.assert_array_equal(alone.species, graphs.species[nodes])
        np.testing.assert_array_equal(alone.distance, graphs.distance[pairs])
        np.testing.assert_array_equal(alone.into_second, graphs.into_second[pairs])


def test_empty_data_set():
    graphs = build_graphs(Dataset.from_atoms([]), 5.0)
    assert len(graphs) == 0
    assert len(graphs.distance) == 0


def test_who_has_no_neighbour(graphs):
    apart = Atoms("OFeO", positions=[[0, 0, 0], [2, 0, 0], [9, 0, 0]], cell=np.eye(3) * 20, pbc=True)
    assert graphs.isolated().tolist() == [False, True, False, False, True, False]
    assert build_graphs(Dataset.from_atoms([bulk("Si"), apart]), 5.0).isolated().tolist() == [False, True]
    assert build_graphs(Dataset.from_atoms([bulk("Si"), apart]), 8.0).isolated().tolist() == [False, False]
    assert build_graphs(Dataset.from_atoms([]), 5.0).isolated().tolist() == []


def test_set_in_which_nobody_has_a_neighbour():
    graphs = build_graphs(Dataset.from_atoms([Atoms("He"), Atoms("Ne", cell=np.eye(3) * 9, pbc=True)]), 5.0)
    batch = graphs.batch(np.arange(2))
    assert batch.species.tolist() == [2, 10]
    assert len(batch.distance) == 0
