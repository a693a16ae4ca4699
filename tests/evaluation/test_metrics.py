"""Errors, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from matgraft.data import Label
from matgraft.evaluation.metrics import CHEMICAL_ACCURACY, errors

TARGET, PREDICTION = np.zeros(4), np.array([0.04, -0.2, 0.6, -4.0])
NATOMS = np.array([1, 10, 4, 2])
RMSE = np.sqrt((0.0016 + 0.04 + 0.36 + 16) / 4)


def test_errors_of_an_energy_per_cell():
    """Per atom they are 0.04, 0.02, 0.15 and 2."""
    assert errors(Label("energy"), TARGET, PREDICTION, NATOMS) == pytest.approx(
        {
            "n": 4, "mae_ev": 1.21, "rmse_ev": RMSE, "mae_ev_per_atom": 0.5525, "median_ev_per_atom": 0.095,
            "within_chemical_accuracy": 0.25, "within_chemical_accuracy_per_atom": 0.5,
        }
    )  # fmt: skip


def test_errors_of_an_energy_per_atom_are_not_divided_again():
    found = errors(Label("e", "eV/atom", "atom"), TARGET, PREDICTION, NATOMS)
    assert found["mae_ev_per_atom"] == found["mae_ev"] == pytest.approx(1.21)
    assert found["within_chemical_accuracy_per_atom"] == found["within_chemical_accuracy"] == 0.25


def test_errors_of_a_label_that_is_no_energy():
    found = errors(Label("gap", "eV", "intensive"), TARGET, PREDICTION, NATOMS)
    assert found == pytest.approx({"n": 4, "mae": 1.21, "rmse": RMSE, "median": 0.4})


def test_chemical_accuracy_is_a_kilocalorie_per_mole():
    avogadro, charge = 6.02214076e23, 1.602176634e-19
    assert pytest.approx(4184 / avogadro / charge, abs=1e-5) == CHEMICAL_ACCURACY
