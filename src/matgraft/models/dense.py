"""Matrix products in compiled code, for the sizes that occur here.

No row of a result depends on how many rows there are: libraries choose among kernels by the size of a product
and round accordingly, but a prediction must not depend on its company.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from matgraft.lanes import LANES, fma, load, splat, store

_ROWS = 6
"""Rows at a time: their sums and one row of the other matrix fill the registers of a processor with AVX2."""
_RUN = 32
ROWS_AT_ONCE = 48
"""For layers that follow one another: what one makes of so many rows is still near when the next reads it."""


def filled(array: np.ndarray, axes: tuple[int, ...], multiple: int) -> np.ndarray:
    """The array, C-contiguous, with zeros behind up to a multiple of some length along ``axes``."""
    missing = [(0, -length % multiple if k in axes else 0) for k, length in enumerate(array.shape)]
    return np.ascontiguousarray(np.pad(array, missing))


@njit(cache=True)
def dense(x, weight, bias, out):
    """``out = x @ weight + bias``, all C-contiguous float32; bounds are the caller's.

    Parameters
    ----------
    x : ndarray, shape (n, n_in)
    weight : ndarray, shape (n_in, n_out)
        ``n_out`` a multiple of :data:`LANES`.
    bias : ndarray, shape (n_out,)
    out : ndarray, shape (n, n_out)
    """
    n_in, n_out = weight.shape
    n = len(x)
    left = n % _ROWS
    # Many rows that are left over go with some that are done already, a few alone: whichever is less work.
    alone = left if n < _ROWS or left < 3 else 0
    for c in range(0, n_out, LANES):
        start = load(bias, c)
        for block in range(0, n - alone, _ROWS):
            r = min(block, n - _ROWS)
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
    last = n_out - LANES
    for r in range(n - alone, n):
        # Several sums at once, because each has to wait for its own last product.
        for c0 in range(0, n_out, 4 * LANES):
            c1, c2, c3 = min(c0 + LANES, last), min(c0 + 2 * LANES, last), min(c0 + 3 * LANES, last)
            s0, s1, s2, s3 = load(bias, c0), load(bias, c1), load(bias, c2), load(bias, c3)
            for k in range(n_in):
                v, row = splat(x[r, k]), k * n_out
                s0 = fma(v, load(weight, row + c0), s0)
                s1 = fma(v, load(weight, row + c1), s1)
                s2 = fma(v, load(weight, row + c2), s2)
                s3 = fma(v, load(weight, row + c3), s3)
            store(out, r * n_out + c0, s0)
            store(out, r * n_out + c1, s1)
            store(out, r * n_out + c2, s2)
            store(out, r * n_out + c3, s3)


@njit(cache=True)
def summed_products(a, b, out):
    """Add ``a.T @ b`` to ``out``, all C-contiguous float32: the gradient of a dense layer's weight.

    Parameters
    ----------
    a : ndarray, shape (n, n_out)
        ``n_out`` a multiple of 4.
    b : ndarray, shape (n, n_in)
        ``n_in`` a multiple of :data:`LANES`.
    out : ndarray, shape (n_out, n_in)
    """
    n_out, n_in = out.shape
    # In runs of rows that stay near the core while every element of the result takes its share of them.
    for start in range(0, len(a), _RUN):
        stop = min(start + _RUN, len(a))
        for r in range(0, n_out, 4):
            for c in range(0, n_in, LANES):
                at = r * n_in + c
                s0, s1 = load(out, at), load(out, at + n_in)
                s2, s3 = load(out, at + 2 * n_in), load(out, at + 3 * n_in)
                for k in range(start, stop):
                    v = load(b, k * n_in + c)
                    s0 = fma(splat(a[k, r]), v, s0)
                    s1 = fma(splat(a[k, r + 1]), v, s1)
                    s2 = fma(splat(a[k, r + 2]), v, s2)
                    s3 = fma(splat(a[k, r + 3]), v, s3)
                store(out, at, s0)
                store(out, at + n_in, s1)
                store(out, at + 2 * n_in, s2)
                store(out, at + 3 * n_in, s3)


@njit(cache=True)
def transposed(a):
    """A C-contiguous copy of ``a.T``; both lengths multiples of :data:`LANES`."""
    rows, columns = a.shape
    out = np.empty((columns, rows), dtype=a.dtype)
    # Eight by eight, so that what is read by columns is still near when the next column needs it.
    for c in range(0, columns, 8):
        for r in range(0, rows, 8):
            for i in range(c, c + 8):
                for j in range(r, r + 8):
                    out[i, j] = a[j, i]
    return out


@njit(cache=True)
def column_sums(a, out):
    """Add ``a.sum(0)`` to ``out``, C-contiguous float32: the gradient of a dense layer's bias."""
    width = a.shape[1]
    for c in range(0, width, LANES):
        s = load(out, c)
        for r in range(len(a)):
            s = fma(splat(np.float32(1)), load(a, r * width + c), s)
        store(out, c, s)
