"""Merging of equivalent atoms."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from matgraft.data import Dataset
from matgraft.graphs import Graphs, build_graphs, neighbour_list
from matgraft.graphs.quotient import _ascending, _distance_classes

CUTOFF = 5.0

PROTOTYPES = {
    # name: structure, atoms of each class in that cell
    "rock salt": (bulk("MgO", "rocksalt", a=4.21), {"Mg": 1, "O": 1}),
    "rock salt, cubic": (bulk("MgO", "rocksalt", a=4.21, cubic=True), {"Mg": 4, "O": 4}),
    "rutile": (
        crystal(
            ["Ti", "O"],
            [(0, 0, 0), (0.305, 0.305, 0)],
            spacegroup=136,
            cellpar=[4.594, 4.594, 2.959, 90, 90, 90],
        ),
        {"Ti": 2, "O": 4},
    ),
    "diamond": (bulk("Si"), {"Si": 2}),
    "perovskite": (
        crystal(
            ["Sr", "Ti", "O"],
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
            spacegroup=221,
            cellpar=[3.905] * 3 + [90] * 3,
        ),
        {"Sr": 1, "Ti": 1, "O": 3},
    ),
}
REPEATS = [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2)]


def graph(atoms: Atoms, merge_equivalent: bool = True, cutoff: float = CUTOFF) -> Graphs:
    return build_graphs(Dataset.from_atoms([atoms]), cutoff, merge_equivalent)


def directed_edges(graphs: Graphs) -> float:
    m = graphs.multiplicity
    return float((m[graphs.first] * graphs.into_first + m[graphs.second] * graphs.into_second).sum())


def by_species(graphs: Graphs) -> np.ndarray:
    """Both directions of each pair: species of the atom, its neighbour's, their distance, how many."""
    ends = graphs.species[graphs.first], graphs.species[graphs.second]
    rows = np.concatenate(
        [
            np.column_stack([*ends, graphs.distance, graphs.into_first]),
            np.column_stack([*ends[::-1], graphs.distance, graphs.into_second]),
        ]
    )
    rows = rows[rows[:, 3] > 0]
    return rows[np.lexsort(np.round(rows[:, 2::-1], 2).T)]


def rattled(atoms: Atoms, seed: int = 0, amount: float = 0.05) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, amount, atoms.positions.shape)
    return atoms


def low_symmetry() -> Atoms:
    """Four unlike atoms in a skewed cell, repeated so that each stands for several."""
    rng = np.random.default_rng(1)
    cell = np.array([[4.1, 0.0, 0.0], [1.3, 4.7, 0.0], [-0.9, 0.8, 5.2]])
    positions = np.array([[0, 0, 0], [2.0, 0.1, 2.4], [1.9, 2.3, 0.2], [0.2, 2.2, 2.6]])
    return Atoms("FeO3", positions=positions + rng.uniform(0, 0.1, (4, 3)), cell=cell, pbc=True)


@pytest.mark.parametrize("repeat", REPEATS, ids=str)
@pytest.mark.parametrize("name", PROTOTYPES)
def test_classes_of_known_crystals(name, repeat):
    atoms, classes = PROTOTYPES[name]
    merged, plain = graph(atoms.repeat(repeat)), graph(atoms.repeat(repeat), merge_equivalent=False)
    copies = np.prod(repeat)
    expected = {Atoms(symbol).numbers[0]: count * copies for symbol, count in classes.items()}
    assert dict(zip(merged.species.tolist(), merged.multiplicity.tolist(), strict=True)) == expected
    assert merged.natoms[0] == plain.natoms[0] == merged.multiplicity.sum() == len(plain.species)
    assert (plain.multiplicity == 1).all()
    big = atoms.repeat(repeat)
    edges = len(neighbour_list(big.positions, big.cell.array, big.pbc, CUTOFF)[0])
    assert directed_edges(merged) == directed_edges(plain) == edges


@pytest.mark.parametrize("name", PROTOTYPES)
def test_supercell_has_the_same_quotient(name):
    atoms, _ = PROTOTYPES[name]
    small, large = graph(atoms), graph(atoms.repeat((2, 2, 2)))
    assert sorted(8 * small.multiplicity) == sorted(large.multiplicity)
    np.testing.assert_allclose(by_species(large), by_species(small), atol=1e-5)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_rattled_structures_merge_nothing(name):
    # Repeated first: two like atoms alone in a cell are mirror images wherever they sit.
    atoms = rattled(PROTOTYPES[name][0].repeat((2, 2, 1)))
    merged, plain = graph(atoms), graph(atoms, merge_equivalent=False)
    assert len(merged.species) == len(plain.species) == len(atoms)
    assert (merged.multiplicity == 1).all()
    assert directed_edges(merged) == directed_edges(plain)


@pytest.mark.parametrize("cutoff", [5.0, 8.0])
def test_supercell_of_an_asymmetric_cell_merges_into_that_cell(cutoff):
    # Long lists of unrelated distances: neither chance neighbours nor round-off may change the classes.
    atoms = low_symmetry().repeat((3, 2, 2))
    merged, plain = graph(atoms, cutoff=cutoff), graph(atoms, merge_equivalent=False, cutoff=cutoff)
    assert sorted(merged.multiplicity) == [12] * 4
    assert directed_edges(merged) == directed_edges(plain)
    np.testing.assert_array_equal(merged.into_second, np.round(merged.into_second))


@pytest.mark.parametrize("name", PROTOTYPES)
def test_noise_below_the_tolerance_does_not_matter(name):
    atoms = PROTOTYPES[name][0].repeat((2, 2, 1))
    assert len(graph(rattled(atoms, amount=3e-7)).species) == len(graph(atoms).species)
    assert len(graph(rattled(atoms, amount=1e-3)).species) > len(graph(atoms).species)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_order_of_the_atoms_does_not_matter(data):
    atoms = data.draw(
        st.sampled_from([PROTOTYPES["rutile"][0].repeat((2, 1, 1)), low_symmetry().repeat((2, 1, 1))])
    )
    order = data.draw(st.permutations(range(len(atoms))))
    before, after = graph(atoms), graph(atoms[order])
    for field in ("species", "multiplicity", "first", "second", "into_first", "into_second"):
        np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
    np.testing.assert_allclose(before.distance, after.distance, atol=1e-6)


def test_nodes_see_what_their_atoms_see():
    """Each atom's neighbours by species and distance, from the quotient and from the plain neighbour list."""
    atoms = PROTOTYPES["perovskite"][0].repeat((2, 1, 1))
    rows = by_species(graph(atoms))
    i, j, _, d = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    for atom, z in enumerate(atoms.numbers):
        mine, seen = i == atom, rows[rows[:, 0] == z]
        for other in np.unique(atoms.numbers):
            plain = np.sort(d[mine & (atoms.numbers[j] == other)])
            of_kind = seen[seen[:, 1] == other]
            np.testing.assert_allclose(
                np.sort(np.repeat(of_kind[:, 2], of_kind[:, 3].astype(int))), plain, atol=1e-5
            )


def test_atoms_without_neighbours_merge_by_species():
    atoms = Atoms("H2He", positions=[[0, 0, 0], [20, 0, 0], [0, 20, 0]])
    merged = graph(atoms)
    assert sorted(zip(merged.species.tolist(), merged.multiplicity.tolist(), strict=True)) == [(1, 2), (2, 1)]
    assert len(merged.distance) == 0
    assert len(graph(atoms, merge_equivalent=False).species) == 3


def test_same_surroundings_but_other_species_stay_apart():
    dimer = graph(Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]))
    assert len(dimer.species) == 2
    assert len(graph(Atoms("O2", positions=[[0, 0, 0], [0, 0, 1.1]])).species) == 1


def test_atoms_that_only_distant_neighbours_tell_apart():
    """In a chain, the middle learns of the ends one neighbour at a time."""
    chain = graph(Atoms("H9", positions=np.arange(9)[:, None] * [0.0, 0.0, 3.0]))
    assert sorted(chain.multiplicity) == [1, 2, 2, 2, 2]


def classes_of(distance):
    order, ascending = _ascending(distance)
    assert ascending.tolist() == sorted(distance) == distance[order].tolist()
    return _distance_classes(order, ascending, 1e-5)


def test_close_distances_share_a_class_but_chains_of_them_do_not():
    distance = np.array([3.0, 2.0, 2.0 + 5e-6, 3.0 + 2e-5])
    assert classes_of(distance).tolist() == [1, 0, 0, 2]
    chain = 2.0 + 9e-6 * np.arange(40)
    classes = classes_of(chain)
    assert all(np.ptp(chain[classes == c]) <= 3e-5 for c in np.unique(classes))
    # The same pair measured from either end, right where a long chain has to be cut.
    both_ways = np.array([2.0, 2.0 + 9e-6, 2.0 + 1.8e-5, 2.0 + 2e-5 - 1e-13, 2.0 + 2e-5 + 1e-13])
    assert len(set(classes_of(both_ways)[-2:])) == 1
