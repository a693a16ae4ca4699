"""The composition baseline learns what a composition tells, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from matgraft.training.forest import composition_forest, descriptors
from matgraft.training.graft import Task, fit_references


def composition(**atoms: int) -> np.ndarray:
    row = np.zeros((1, 119))
    for symbol, count in atoms.items():
        row[0, atomic_numbers[symbol]] = count
    return row


def test_descriptors_of_rutile():
    found = descriptors(composition(Ti=2, O=4))[0]
    assert found[8] == 2 / 3
    assert found[22] == 1 / 3
    assert found[119] == 2
    z = np.array([22, 8, 8])
    np.testing.assert_allclose(found[120:124], [z.mean(), z.std(), 8, 22])
    mass = atomic_masses[z]
    np.testing.assert_allclose(found[124:128], [mass.mean(), mass.std(), mass.min(), mass.max()])
    # Titanium: fourth row, fourth in it; oxygen: second row, sixth in it.
    assert found[134:136].tolist() == [2, 4]
    assert found[138:140].tolist() == [4, 6]


def test_cell_size_does_not_matter():
    np.testing.assert_array_equal(descriptors(composition(Ti=1, O=2)), descriptors(composition(Ti=4, O=8)))


def test_it_learns_what_references_cannot(crystals):
    task = Task.of(crystals, "energy", 5.0)
    rng = np.random.default_rng(0)
    counts = np.zeros((300, 119))
    counts[:, 22], counts[:, 8] = rng.integers(1, 9, 300), rng.integers(1, 9, 300)
    share = counts[:, 8] / counts.sum(axis=1)
    label = np.abs(share - 0.5) - 5.0
    task = replace(task, composition=counts, natoms=counts.sum(axis=1), per_atom=label)
    rows, held = np.arange(200), np.arange(200, 300)
    forest = composition_forest(task, rows)
    line = fit_references(task, rows, "labels", None, None).per_atom(counts)
    assert np.abs(forest - label)[held].mean() < 0.2 * np.abs(line - label)[held].mean()
    np.testing.assert_array_equal(forest, composition_forest(task, rows))
