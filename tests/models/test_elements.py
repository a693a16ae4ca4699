"""Places in the periodic table."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers

from matgraft.models.elements import likeness, places


@pytest.mark.parametrize(
    ("symbol", "group", "period"),
    [
        ("H", 1, 1), ("He", 18, 1), ("Li", 1, 2), ("Be", 2, 2), ("B", 13, 2), ("F", 17, 2), ("Ar", 18, 3),
        ("Sc", 3, 4), ("Fe", 8, 4), ("Zn", 12, 4), ("Ga", 13, 4), ("Zr", 4, 5), ("I", 17, 5), ("Ba", 2, 6),
        ("La", 3, 6), ("Gd", 3, 6), ("Lu", 3, 6), ("Hf", 4, 6), ("Pb", 14, 6), ("U", 3, 7), ("Og", 18, 7),
    ],
)  # fmt: skip
def test_groups_and_periods_are_those_of_the_table(symbol, group, period):
    assert places()[atomic_numbers[symbol]].tolist() == [group, period]


def test_likeness_is_a_covariance_by_which_neighbours_are_most_alike():
    kernel = likeness()
    np.testing.assert_allclose(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
    ti, zr, v, cl = (atomic_numbers[symbol] for symbol in ("Ti", "Zr", "V", "Cl"))
    assert kernel[ti, ti] == 1
    assert min(kernel[ti, zr], kernel[ti, v]) > kernel[ti, cl]
