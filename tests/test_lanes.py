"""Vectors in compiled code, against numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from matgraft.lanes import LANES, below, count, difference, load, splat, store, store_numbers


@njit
def _smaller(numbers, limit, found):
    """Where numbers are below a limit, sixteen at a time; how many there are."""
    met = 0
    for start in range(0, len(numbers), LANES):
        bits = below(load(numbers, start), splat(limit))
        store_numbers(found, met, start, bits)
        met += count(bits)
    return met


@njit
def _subtract(a, b, out):
    store(out, 0, difference(load(a, 0), load(b, 0)))


@settings(deadline=None)  # The first call compiles.
@given(st.lists(st.floats(-1, 1, width=32), min_size=LANES, max_size=3 * LANES), st.floats(-1, 1, width=32))
def test_positions_of_what_is_below_a_limit(values, limit):
    whole = len(values) - len(values) % LANES
    numbers = np.array(values[:whole], dtype=np.float32)
    found = np.full(whole + LANES, 77, dtype=np.uint32)
    met = _smaller(numbers, np.float32(limit), found)
    assert found[:met].tolist() == np.flatnonzero(numbers < np.float32(limit)).tolist()


def test_not_a_number_is_not_below_anything():
    numbers = np.full(LANES, np.nan, dtype=np.float32)
    assert _smaller(numbers, np.float32(1), np.zeros(2 * LANES, dtype=np.uint32)) == 0


def test_difference():
    a, b = np.random.default_rng(0).normal(size=(2, LANES)).astype(np.float32)
    out = np.empty(LANES, dtype=np.float32)
    _subtract(a, b, out)
    np.testing.assert_array_equal(out, a - b)
