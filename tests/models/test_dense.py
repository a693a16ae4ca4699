"""Products in compiled code against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from matgraft.lanes import LANES
from matgraft.models.dense import column_sums, dense, filled, packed, packed_transposed, summed_products


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 50])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 16), (50, 32), (128, 48), (64, 128)])
def test_dense_layer(n, n_in, n_out):
    x, weight, bias = numbers(n, n_in), numbers(n_in, n_out), numbers(n_out)
    out = np.full((n, n_out), np.nan, dtype=np.float32)
    dense(x, packed(weight), bias, out)
    np.testing.assert_allclose(out, x.astype(float) @ weight + bias, rtol=1e-5, atol=1e-4)


def test_no_row_depends_on_its_company():
    x, weight, bias = numbers(40, 128), numbers(128, 128), numbers(128)
    whole = np.empty((40, 128), dtype=np.float32)
    dense(x, packed(weight), bias, whole)
    for start in range(0, 40, 7):
        for stop in range(start + 1, 41):
            part = np.empty((stop - start, 128), dtype=np.float32)
            dense(x[start:stop], packed(weight), bias, part)
            np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 100])
@pytest.mark.parametrize(("n_out", "n_in"), [(4, 16), (64, 80), (128, 128)])
def test_sum_of_products_and_of_columns_are_added(n, n_out, n_in):
    a, b = numbers(n, n_out), numbers(n, n_in)
    start, start_sums = numbers(n_out, n_in), numbers(n_in)
    out, sums = start.copy(), start_sums.copy()
    summed_products(a, b, out)
    column_sums(b, sums)
    np.testing.assert_allclose(out, start + a.T.astype(float) @ b, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(sums, start_sums + b.astype(float).sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 32), (5, 3), (17, 16)])
@pytest.mark.parametrize("more", [-2, 0, 5])
def test_packed(shape, more):
    a = numbers(*shape)
    n_in = shape[0] + more
    blocks = packed_transposed(np.ascontiguousarray(a.T), n_in)
    assert blocks.shape == (-(-shape[1] // LANES), n_in, LANES)
    flat = blocks.transpose(1, 0, 2).reshape(n_in, -1)
    expected = np.pad(a, ((0, max(more, 0)), (0, flat.shape[1] - shape[1])))[:n_in]
    np.testing.assert_array_equal(flat, expected)
    if not more:
        np.testing.assert_array_equal(packed(a), blocks)


def test_filled_with_zeros():
    a = numbers(5, 33)
    wide = filled(a, (1,), 32)
    assert wide.shape == (5, 64)
    np.testing.assert_array_equal(wide[:, :33], a)
    assert (wide[:, 33:] == 0).all()
