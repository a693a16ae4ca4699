"""The neighbour list, edge for edge against ASE."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from matgraft.errors import InputError
from matgraft.graphs import neighbour_list

CUTOFF = 5.0
CELLS_PER_KIND = 50


def random_cell(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Lattice vectors of the given lengths at random angles, in a random orientation and handedness."""
    while True:
        gram = np.eye(3)
        gram[[0, 0, 1], [1, 2, 2]] = gram[[1, 2, 2], [0, 0, 1]] = np.cos(rng.uniform(0.7, 2.44, 3))
        if np.linalg.det(gram) > 0.1:  # otherwise no three vectors have these angles, or they are almost flat
            rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            return rng.uniform(low, high, 3)[:, None] * np.linalg.cholesky(gram) @ rotation


def scattered(rng, cell, most: int = 4, pbc=True) -> Atoms:
    n = rng.integers(1, most + 1)
    return Atoms(f"H{n}", scaled_positions=rng.uniform(0, 1, (n, 3)), cell=cell, pbc=pbc)


def general(rng):
    return scattered(rng, random_cell(rng, 2.5, 8.0), 6)


def skewed(rng):
    """The same lattice as a compact cell, described by very oblique vectors."""
    shear = np.eye(3)
    shear[1, 0], shear[2, 0], shear[2, 1] = rng.integers(-2, 3, 3)
    return scattered(rng, shear @ random_cell(rng, 2.2, 4.5), 3)


def tiny(rng):
    return scattered(rng, random_cell(rng, 1.5, 2.5), 2)


def needle(rng):
    scale = rng.permutation([1.0, 1.0, 10.0])
    return scattered(rng, scale[:, None] * random_cell(rng, 1.5, 2.5))


def plate(rng):
    scale = rng.permutation([1.0, 7.0, 7.0])
    return scattered(rng, scale[:, None] * random_cell(rng, 1.5, 2.5))


def outside(rng):
    atoms = scattered(rng, random_cell(rng, 2.0, 6.0))
    atoms.positions += rng.integers(-4, 5, (len(atoms), 3)) @ atoms.cell.array
    return atoms


def mixed(rng):
    """One or two periodic directions; a vector that is not periodic may be zero, or point anywhere."""
    atoms = scattered(rng, random_cell(rng, 1.8, 6.0))
    atoms.pbc = rng.permutation([True, False, rng.random() < 0.5])
    if rng.random() < 0.5:
        cell = atoms.cell.array.copy()
        cell[~atoms.pbc] = 0.0
        atoms.set_cell(cell)
    return atoms


def open_cell(rng):
    return scattered(rng, random_cell(rng, 3.0, 8.0), 8, pbc=False)


def no_cell(rng):
    return Atoms("H8", positions=rng.uniform(-4, 4, (8, 3)))


def isolated(rng):
    """Atoms without neighbours beside atoms with them, periodic and not."""
    positions = [[0, 0, 0], [8.0, 8.0, 8.0], [8.0, 8.0, 8.0 + rng.uniform(0.7, 6.0)]]
    return Atoms("H3", positions=positions, cell=np.diag([16, 17, 22.0]), pbc=bool(rng.random() < 0.5))


KINDS = [general, skewed, tiny, needle, plate, outside, mixed, open_cell, no_cell, isolated]


def by_edge(centre, neighbour, shift, distance) -> tuple[np.ndarray, np.ndarray]:
    """Rows (i, j, S) in lexical order, and the distances in the same order."""
    edges = np.column_stack([centre, neighbour, shift]).astype(int)
    order = np.lexsort(edges.T[::-1])
    return edges[order], np.asarray(distance)[order]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_agrees_with_ase(kind):
    rng = np.random.default_rng([KINDS.index(kind), 20])
    compared = lonely = most = 0
    while compared < CELLS_PER_KIND:
        atoms = kind(rng)
        i, j, d, s = neighbor_list("ijdS", atoms, CUTOFF + 1e-9)
        if len(d) and d.max() > CUTOFF - 1e-9:
            continue  # Which side of the cutoff a pair is on would be decided by round-off.
        centre, neighbour, shift, distance = neighbour_list(
            atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF
        )
        expected, expected_distance = by_edge(i, j, s, d)
        edges, distances = by_edge(centre, neighbour, shift, distance)
        np.testing.assert_array_equal(edges, expected)
        np.testing.assert_allclose(distances, expected_distance, rtol=0, atol=1e-9)
        assert (np.diff(centre) >= 0).all()
        compared += 1
        lonely += len(set(range(len(atoms))) - set(i)) > 0
        most = max(most, int(np.abs(s).max(initial=0)))
    if kind is isolated:
        assert lonely == CELLS_PER_KIND
    if kind in (tiny, needle, skewed):
        assert most >= 3


def test_distance_is_that_of_the_shifted_neighbour():
    rng = np.random.default_rng(3)
    atoms = skewed(rng)
    centre, neighbour, shift, distance = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    vectors = atoms.positions[neighbour] + shift @ atoms.cell.array - atoms.positions[centre]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), distance, atol=1e-12)


def test_atom_sees_its_own_images_but_not_itself():
    centre, neighbour, shift, distance = neighbour_list(np.zeros((1, 3)), 2.0 * np.eye(3), [True] * 3, 2.5)
    assert len(distance) == 6
    assert (np.abs(shift).sum(axis=1) == 1).all()
    assert not (centre != neighbour).any()


def test_pair_at_the_cutoff_is_left_out():
    for reach, edges in ((2.0, 0), (2.0 + 1e-9, 2)):
        found = neighbour_list(np.array([[0, 0, 0], [2.0, 0, 0]]), np.zeros((3, 3)), [False] * 3, reach)
        assert len(found[0]) == edges


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        (np.diag([4.0, 0.0, 4.0]), (True, True, False)),
        (np.diag([4.0, 0.0, 4.0]), (True, True, True)),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], (True, True, True)),
        ([[4, 0, 0], [8, 0, 0], [0, 0, 4]], (True, True, False)),
    ],
)
def test_periodic_vectors_that_span_no_volume_are_refused(cell, pbc):
    with pytest.raises(InputError, match="span no volume"):
        neighbour_list(np.zeros((1, 3)), np.array(cell, dtype=float), pbc, CUTOFF)


def test_parallel_vectors_in_directions_that_are_not_periodic_do_no_harm():
    cell = np.array([[4, 0, 0], [8, 0, 0], [0, 0, 4]], dtype=float)
    assert len(neighbour_list(np.zeros((1, 3)), cell, [True, False, True], CUTOFF)[0]) == 4
