"""Paired tests against scipy's, and learning curves that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from matgraft.evaluation.significance import labels_to_reach, paired_p


def test_without_correction_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 0.3, 8), rng.normal(0.8, 0.3, 8)
    found = paired_p(first, second, n_train=10**9, n_test=1)
    assert found == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6)


def test_the_correction_is_that_of_nadeau_and_bengio():
    first, second = np.array([3.0, 4.0, 5.0, 4.5]), np.array([2.0, 3.5, 3.0, 4.0])
    difference = first - second
    t = difference.mean() / (difference.std(ddof=1) * math.sqrt(1 / 4 + 117 / 400))
    assert paired_p(first, second, 400, 117) == pytest.approx(2 * stats.t.sf(t, 3))
    assert paired_p(first, second, 400, 117) > stats.ttest_rel(first, second).pvalue


def test_one_repeat_proves_nothing_and_no_difference_is_none():
    assert math.isnan(paired_p(np.array([1.0]), np.array([2.0]), 10, 5))
    same = np.array([1.0, 2.0])
    assert paired_p(same, same, 10, 5) == 1.0


@given(st.floats(0.1, 10), st.floats(0.1, 0.9), st.floats(101, 399))
def test_between_sizes_the_curve_is_a_power_law(factor, power, n):
    curve = {size: factor * size**-power for size in (100, 200, 400)}
    assert labels_to_reach(curve, factor * n**-power) == pytest.approx(n, rel=1e-6)


def test_beyond_the_curve():
    curve = {100: 3.0, 200: 2.0}
    assert labels_to_reach(curve, 3.5) == 0
    assert math.isinf(labels_to_reach(curve, 1.9))
