"""Small crystals with labels that a network can learn."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from ase.build import bulk
from matplotlib.figure import Figure

from matgraft.data import Dataset, Label
from matgraft.data.writers import write
from matgraft.evaluation import style

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def crystals() -> Dataset:
    """Sixty strained rock salts; the energy is -5 eV per metal, -4 per O, and grows with the strain."""
    rng = np.random.default_rng(0)
    structures, energies = [], []
    for k in range(60):
        metal = ("Ti", "V", "Fe")[k % 3]
        strain = rng.uniform(-0.05, 0.05)
        atoms = bulk(f"{metal}O", "rocksalt", a=4.3 * (1 + strain)).repeat((1 + k % 2, 1, 1))
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        structures.append(atoms)
        energies.append(len(atoms) * (-4.5 + 0.1 * (k % 3) + 40 * strain**2))
    ids = [f"salt-{k}" for k in range(60)]
    return Dataset.from_atoms(
        structures, ids, {"energy": energies}, {"energy": Label("energy")}, source="salts.extxyz"
    )


@pytest.fixture(scope="session")
def salts(crystals, tmp_path_factory):
    """The crystals as an extended XYZ file."""
    path = tmp_path_factory.mktemp("data") / "salts.extxyz"
    write(crystals, path)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """The figures made during a test, for a look at what is in them."""
    figures = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(style, "Figure", Kept)
    return figures
