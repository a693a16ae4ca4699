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
"""Rows that stay near the core while every element of a weight's gradient takes its share of them."""
_TERMS = 32
"""Terms that are summed before they are added to the rest: short sums lose less than one long one."""
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
    weight : ndarray, shape (n_out / LANES, n_in, LANES)
        Result of :func:`packed` or :func:`packed_transposed`.
    bias : ndarray, shape (n_out,)
    out : ndarray, shape (n, n_out)
    """
    blocks, n_in = weight.shape[:2]
    n, n_out = len(x), blocks * LANES
    nothing, one = splat(np.float32(0)), splat(np.float32(1))
    left = n % _ROWS
    # Many rows that are left over go with some that are done already, a few alone: whichever is less work.
    alone = left if n < _ROWS or left < 3 else 0
    for block in range(blocks):
        start, w_at = load(bias, block * LANES), block * n_in * LANES
        for first in range(0, n - alone, _ROWS):
            r = min(first, n - _ROWS)
            s0 = s1 = s2 = s3 = s4 = s5 = start
            for k in range(0, n_in, _TERMS):
                t0 = t1 = t2 = t3 = t4 = t5 = nothing
                for j in range(k, min(k + _TERMS, n_in)):
                    w = load(weight, w_at + j * LANES)
                    t0 = fma(splat(x[r, j]), w, t0)
                    t1 = fma(splat(x[r + 1, j]), w, t1)
                    t2 = fma(splat(x[r + 2, j]), w, t2)
                    t3 = fma(splat(x[r + 3, j]), w, t3)
                    t4 = fma(splat(x[r + 4, j]), w, t4)
                    t5 = fma(splat(x[r + 5, j]), w, t5)
                s0, s1, s2 = fma(one, t0, s0), fma(one, t1, s1), fma(one, t2, s2)
                s3, s4, s5 = fma(one, t3, s3), fma(one, t4, s4), fma(one, t5, s5)
            at = r * n_out + block * LANES
            store(out, at, s0)
            store(out, at + n_out, s1)
            store(out, at + 2 * n_out, s2)
            store(out, at + 3 * n_out, s3)
            store(out, at + 4 * n_out, s4)
            store(out, at + 5 * n_out, s5)
    size = n_in * LANES
    for r in range(n - alone, n):
        # Several sums at once, because each has to wait for its own last product.
        for b0 in range(0, blocks, 4):
            b1, b2, b3 = min(b0 + 1, blocks - 1), min(b0 + 2, blocks - 1), min(b0 + 3, blocks - 1)
            s0, s1 = load(bias, b0 * LANES), load(bias, b1 * LANES)
            s2, s3 = load(bias, b2 * LANES), load(bias, b3 * LANES)
            for k in range(0, n_in, _TERMS):
                t0 = t1 = t2 = t3 = nothing
                for j in range(k, min(k + _TERMS, n_in)):
                    v, row = splat(x[r, j]), j * LANES
                    t0 = fma(v, load(weight, row + b0 * size), t0)
                    t1 = fma(v, load(weight, row + b1 * size), t1)
                    t2 = fma(v, load(weight, row + b2 * size), t2)
                    t3 = fma(v, load(weight, row + b3 * size), t3)
                s0, s1 = fma(one, t0, s0), fma(one, t1, s1)
                s2, s3 = fma(one, t2, s2), fma(one, t3, s3)
            store(out, r * n_out + b0 * LANES, s0)
            store(out, r * n_out + b1 * LANES, s1)
            store(out, r * n_out + b2 * LANES, s2)
            store(out, r * n_out + b3 * LANES, s3)


@njit(cache=True)
def packed(a):
    """A matrix, shape (n_in, n_out), as :func:`dense` takes it: by blocks of columns, so that it is read from
    front to back; zeros behind the last column fill its block."""
    n_in, n_out = a.shape
    out = np.zeros(((n_out + LANES - 1) // LANES, n_in, LANES), dtype=a.dtype)
    for block in range(len(out)):
        start = block * LANES
        for k in range(n_in):
            for c in range(min(LANES, n_out - start)):
                out[block, k, c] = a[k, start + c]
    return out


@njit(cache=True)
def packed_transposed(a, n_in):
    """The same of the transpose of a matrix, shape (n_out, columns), of which ``n_in`` columns count; if it
    has fewer, there are zeros behind."""
    n_out, columns = a.shape
    out = np.zeros(((n_out + LANES - 1) // LANES, n_in, LANES), dtype=a.dtype)
    columns = min(columns, n_in)
    # Eight columns at a time, so that what is read across rows is still near when the next one needs it.
    for block in range(len(out)):
        start = block * LANES
        for first in range(0, columns, 8):
            for c in range(min(LANES, n_out - start)):
                for k in range(first, min(first + 8, columns)):
                    out[block, k, c] = a[start + c, k]
    return out


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
def column_sums(a, out):
    """Add ``a.sum(0)`` to ``out``, C-contiguous float32: the gradient of a dense layer's bias."""
    width = a.shape[1]
    for c in range(0, width, LANES):
        s = load(out, c)
        for r in range(len(a)):
            s = fma(splat(np.float32(1)), load(a, r * width + c), s)
        store(out, c, s)
