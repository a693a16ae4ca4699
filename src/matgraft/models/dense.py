"""A dense layer in compiled code, in which no row of the result depends on how many rows there are.

Libraries choose among kernels by the size of a product, and round accordingly; here a prediction must not
depend on its company. On processors tried it is also faster than theirs for matrices of this size.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from matgraft.models.lanes import LANES, fma, load, splat, store

ROWS = 6
"""Rows at a time: their sums and one row of weights fill the registers of a processor with AVX2."""


def filled(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The array, C-contiguous, with zeros behind up to a multiple of :data:`LANES` along ``axes``."""
    missing = [(0, -length % LANES if k in axes else 0) for k, length in enumerate(array.shape)]
    return np.ascontiguousarray(np.pad(array, missing))


@njit(cache=True)
def dense(x, weight, bias, out):
    """``out = x @ weight + bias``, C-contiguous float32.

    Parameters
    ----------
    x : ndarray, shape (n, n_in)
        ``n`` a multiple of :data:`ROWS`; bounds are the caller's.
    weight : ndarray, shape (n_in, n_out)
        ``n_out`` a multiple of :data:`LANES`.
    bias : ndarray, shape (n_out,)
    out : ndarray, shape (n, n_out)
    """
    n_in, n_out = weight.shape
    for c in range(0, n_out, LANES):
        start = load(bias, c)
        for r in range(0, len(x), ROWS):
            s0 = s1 = s2 = s3 = s4 = s5 = start
            for k in range(n_in):
                w = load(weight, k * n_out + c)
                s0 = fma(splat(x[r, k]), w, s0)
                s1 = fma(splat(x[r + 1, k]), w, s1)
                s2 = fma(splat(x[r + 2, k]), w, s2)
                s3 = fma(splat(x[r + 3, k]), w, s3)
                s4 = fma(splat(x[r + 4, k]), w, s4)
                s5 = fma(splat(x[r + 5, k]), w, s5)
            at = r * n_out + c
            store(out, at, s0)
            store(out, at + n_out, s1)
            store(out, at + 2 * n_out, s2)
            store(out, at + 3 * n_out, s3)
            store(out, at + 4 * n_out, s4)
            store(out, at + 5 * n_out, s5)
