from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from matgraft.data import Dataset


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the large data sets, made known to the catalogue; without it the test is skipped."""
    folder = Path(os.environ.get("MATGRAFT_DATA") or Path(__file__).parents[3] / "shared" / "data").absolute()
    if not (folder / "mp_source.npz").is_file():
        pytest.skip("the large data sets are not on this machine")
    monkeypatch.setenv("MATGRAFT_DATA", str(folder))
    return folder


@pytest.fixture
def salts() -> list[Atoms]:
    """Three small crystals of different size."""
    return [
        bulk("NaCl", "rocksalt", 5.64),
        bulk("MgO", "rocksalt", 4.21, cubic=True),
        bulk("Fe", "bcc", 2.87).repeat((2, 1, 1)),
    ]


@pytest.fixture
def dataset(salts: list[Atoms]) -> Dataset:
    """The salts with ids, labels and columns of every type, some values missing."""
    return Dataset.from_atoms(
        salts,
        ids=["0012", "mp 7", 'T"x\\'],
        labels={"energy": [-6.81234567890123, -48.0, -16.5], "gap": [5.0, np.nan, 0.0]},
        columns={"rank": [3, 1, 2], "clean": [True, False, True], "origin": ["a b", "", "1x"]},
        source="salts",
    )
