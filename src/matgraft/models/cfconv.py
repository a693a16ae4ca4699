"""The continuous-filter convolution, eq. (15), behind one function with several kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable
from torch.nn import functional

from matgraft.graphs import Batch
from matgraft.lanes import CHANNELS, LANES, fma, load, product, splat, store, total
from matgraft.models.table import Knots, Table


def cfconv(features: torch.Tensor, graph: Batch, filters: torch.Tensor | Table) -> torch.Tensor:
    """Continuous-filter convolution ``sum_j x_j * W(d_ij)``, eq. (15).

    Parameters
    ----------
    features : Tensor, shape (n_nodes, n_filters)
    graph : Batch
        Who sees whom, at which distance and how often.
    filters : Tensor, shape (n_pairs, n_filters), or Table
        ``W`` of every pair, or ``W`` as a function of the distance.

    Returns
    -------
    Tensor, shape (n_nodes, n_filters)
    """
    if isinstance(filters, torch.Tensor):
        return convolve(features, filters, graph)
    if features.device.type == "cpu" and features.dtype == torch.float32:
        return _compiled(features, filters, graph)
    if features.device.type == "cuda" and features.dtype == torch.float32:
        # Imported here because torch for the CPU comes without Triton.
        from matgraft.models.cfconv_triton import available, triton_cfconv

        if available(features.device):
            return triton_cfconv(
                features, filters.coefficients, graph, filters.knots.start, filters.knots.step
            )
    return convolve(features, filters(graph.distance), graph)


def convolve(features: torch.Tensor, filters: torch.Tensor, graph: Batch) -> torch.Tensor:
    """The sum itself, in plain torch operations, given the filter of each pair (n_pairs, n_filters)."""
    out = torch.zeros_like(features)
    out = out.index_add(0, graph.first, features[graph.second] * filters * graph.into_first[:, None])
    return out.index_add(0, graph.second, features[graph.first] * filters * graph.into_second[:, None])


def _compiled(features: torch.Tensor, table: Table, graph: Batch) -> torch.Tensor:
    """The same in compiled loops over pairs, where nothing is kept per pair but its distance."""
    width, coefficients = features.shape[1], table.coefficients
    missing = -width % CHANNELS
    if missing:
        features, coefficients = (functional.pad(part, (0, missing)) for part in (features, coefficients))
    pairs = Pairs.of(graph, table.knots)
    out = _TableConvolution.apply(features, coefficients, graph.distance, pairs)
    return out[:, :width] if missing else out


@dataclass(frozen=True)
class Pairs:
    """Pairs of a batch as the compiled kernels take them.

    Attributes
    ----------
    by_cell : tuple of ndarray
        Result of :func:`sort_by_cell`.
    given : tuple of ndarray
        ``first``, ``second``, ``distance``, ``into_first``, ``into_second`` of the batch.
    grid : tuple of float32
        Start and inverse step of the table.
    """

    by_cell: tuple[np.ndarray, ...]
    given: tuple[np.ndarray, ...]
    grid: tuple[np.float32, np.float32]

    @classmethod
    def of(cls, graph: Batch, knots: Knots) -> Pairs:
        """For a batch and the tables on some knots; layers that follow one another get the same object."""
        return _pairs_of(graph, knots)


@lru_cache(maxsize=1)
def _pairs_of(graph: Batch, knots: Knots) -> Pairs:
    given = _checked(graph)
    grid = np.float32(knots.start), np.float32(1.0 / knots.step)
    return Pairs(sort_by_cell(*given, *grid, knots.cells), given, grid)


def _checked(graph: Batch) -> tuple[np.ndarray, ...]:
    """Arrays of a batch; a wrong type or index would let the kernels write anywhere."""
    kinds = {
        "first": torch.int64,
        "second": torch.int64,
        "distance": torch.float32,
        "into_first": torch.float32,
        "into_second": torch.float32,
    }
    n_pairs, n_nodes = len(graph.distance), len(graph.species)
    arrays = []
    for name, kind in kinds.items():
        tensor = getattr(graph, name)
        if tensor.dtype != kind or tensor.shape != (n_pairs,):
            raise TypeError(
                f"Batch.{name}: {kind} of shape ({n_pairs},) needed, not {tensor.dtype} {tensor.shape}"
            )
        array = tensor.detach().contiguous().numpy()
        if kind == torch.int64 and n_pairs and not 0 <= array.min() <= array.max() < n_nodes:
            raise IndexError(f"Batch.{name}: a node outside 0 to {n_nodes - 1}")
        arrays.append(array)
    return tuple(arrays)


class _TableConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, coefficients, distance, pairs):
        features, coefficients = features.contiguous(), coefficients.contiguous()
        ctx.pairs = pairs
        ctx.save_for_backward(features, coefficients)
        out = torch.zeros_like(features)
        convolution(features.detach().numpy(), coefficients.detach().numpy(), pairs.by_cell, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, coefficients = (tensor.detach() for tensor in ctx.saved_tensors)
        pairs = ctx.pairs
        arrays = grad.contiguous().numpy(), features.numpy(), coefficients.numpy()
        grad_features, grad_coefficients = torch.zeros_like(features), torch.zeros_like(coefficients)
        convolution_backward(*arrays, pairs.by_cell, grad_features.numpy(), grad_coefficients.numpy())
        grad_distance = None
        if ctx.needs_input_grad[2]:
            grad_distance = torch.zeros(len(pairs.given[0]))
            distance_backward(*arrays, pairs.given, pairs.grid, grad_distance.numpy())
        return grad_features, grad_coefficients, grad_distance, None


@njit(cache=True, fastmath=True)
def _cell(distance, start, inverse_step, cells):
    """Cell of a distance and the position in it."""
    scaled = (distance - start) * inverse_step
    g = min(max(int(scaled), 0), cells - 1)
    return g, scaled - np.float32(g)


@njit(cache=True, fastmath=True)
def sort_by_cell(first, second, distance, into_first, into_second, start, inverse_step, cells):
    """Pairs sorted by the cell of a table that their distance falls in.

    Returns
    -------
    occupied : ndarray of int64, shape (n_occupied,)
        Cells that have pairs.
    offsets : ndarray of int64, shape (n_occupied + 1,)
        Cell ``occupied[k]`` has pairs ``offsets[k]:offsets[k + 1]``.
    nodes : ndarray of int64, shape (n_pairs, 2)
    weights : ndarray of float32, shape (n_pairs, 6)
        The four cubic B-splines that overlap the cell, at the distance; into_first; into_second.
    """
    one, three, four, six = np.float32(1), np.float32(3), np.float32(4), np.float32(6)
    n_pairs = len(first)
    counts = np.zeros(cells, dtype=np.int64)
    for p in range(n_pairs):
        counts[_cell(distance[p], start, inverse_step, cells)[0]] += 1
    occupied = np.flatnonzero(counts)
    offsets = np.zeros(len(occupied) + 1, dtype=np.int64)
    free = counts
    for k in range(len(occupied)):
        offsets[k + 1] = offsets[k] + counts[occupied[k]]
        free[occupied[k]] = offsets[k]
    nodes = np.empty((n_pairs, 2), dtype=np.int64)
    weights = np.empty((n_pairs, 6), dtype=np.float32)
    for p in range(n_pairs):
        g, t = _cell(distance[p], start, inverse_step, cells)
        q, u = free[g], one - t
        free[g] += 1
        nodes[q, 0], nodes[q, 1] = first[p], second[p]
        weights[q, 0] = u * u * u / six
        weights[q, 1] = ((three * t - six) * t * t + four) / six
        weights[q, 2] = ((three * u - six) * u * u + four) / six
        weights[q, 3] = t * t * t / six
        weights[q, 4], weights[q, 5] = into_first[p], into_second[p]
    return occupied, offsets, nodes, weights


@njit(cache=True, fastmath=True)
def _slopes(t):
    """Derivatives of the four B-splines that overlap a cell, with respect to the position in it."""
    one, three, four = np.float32(1), np.float32(3), np.float32(4)
    half, u = np.float32(0.5), one - t
    return (
        splat(-half * u * u),
        splat(half * (three * t - four) * t),
        splat(half * (four - three * u) * u),
        splat(half * t * t),
    )


@njit(cache=True, fastmath=True)
def _rows(coefficients, at, width):
    """Sixteen channels of the four rows of coefficients that a cell needs."""
    return (
        load(coefficients, at),
        load(coefficients, at + width),
        load(coefficients, at + 2 * width),
        load(coefficients, at + 3 * width),
    )


@njit(cache=True, fastmath=True)
def _spline(c, t):
    """Sixteen filters at once: four rows of coefficients, weighted."""
    return fma(c[3], t[3], fma(c[2], t[2], fma(c[1], t[1], product(c[0], t[0]))))


@njit(cache=True, fastmath=True)
def convolution(features, coefficients, by_cell, out):
    """Add the convolution to ``out``; widths are multiples of :data:`CHANNELS`, bounds are the caller's."""
    occupied, offsets, nodes, weights = by_cell
    width = features.shape[1]
    for k in range(0, width, CHANNELS):
        for g in range(len(occupied)):
            row = occupied[g] * width + k
            t, u = _rows(coefficients, row, width), _rows(coefficients, row + LANES, width)
            for p in range(offsets[g], offsets[g + 1]):
                c = splat(weights[p, 0]), splat(weights[p, 1]), splat(weights[p, 2]), splat(weights[p, 3])
                m, n = splat(weights[p, 4]), splat(weights[p, 5])
                a, b = nodes[p, 0] * width + k, nodes[p, 1] * width + k
                w = _spline(c, t)
                store(out, a, fma(product(m, w), load(features, b), load(out, a)))
                store(out, b, fma(product(n, w), load(features, a), load(out, b)))
                a, b = a + LANES, b + LANES
                w = _spline(c, u)
                store(out, a, fma(product(m, w), load(features, b), load(out, a)))
                store(out, b, fma(product(n, w), load(features, a), load(out, b)))


@njit(cache=True, fastmath=True)
def _pair_backward(grad, features, a, b, m, n, w, grad_features):
    """Gradient of one pair's filters; that of its features is added."""
    grad_a, grad_b = product(m, load(grad, a)), product(n, load(grad, b))
    store(grad_features, b, fma(w, grad_a, load(grad_features, b)))
    store(grad_features, a, fma(w, grad_b, load(grad_features, a)))
    return fma(grad_a, load(features, b), product(grad_b, load(features, a)))


@njit(cache=True, fastmath=True)
def convolution_backward(grad, features, coefficients, by_cell, grad_features, grad_coefficients):
    """Add the gradients of features and coefficients."""
    occupied, offsets, nodes, weights = by_cell
    width = features.shape[1]
    for k in range(0, width, CHANNELS):
        for g in range(len(occupied)):
            row = occupied[g] * width + k
            next_row = row + LANES
            t, u = _rows(coefficients, row, width), _rows(coefficients, next_row, width)
            s0, s1, s2, s3 = _rows(grad_coefficients, row, width)
            r0, r1, r2, r3 = _rows(grad_coefficients, next_row, width)
            for p in range(offsets[g], offsets[g + 1]):
                c = splat(weights[p, 0]), splat(weights[p, 1]), splat(weights[p, 2]), splat(weights[p, 3])
                m, n = splat(weights[p, 4]), splat(weights[p, 5])
                a, b = nodes[p, 0] * width + k, nodes[p, 1] * width + k
                q = _pair_backward(grad, features, a, b, m, n, _spline(c, t), grad_features)
                s0, s1, s2, s3 = fma(c[0], q, s0), fma(c[1], q, s1), fma(c[2], q, s2), fma(c[3], q, s3)
                a, b = a + LANES, b + LANES
                q = _pair_backward(grad, features, a, b, m, n, _spline(c, u), grad_features)
                r0, r1, r2, r3 = fma(c[0], q, r0), fma(c[1], q, r1), fma(c[2], q, r2), fma(c[3], q, r3)
            _store_rows(grad_coefficients, row, width, s0, s1, s2, s3)
            _store_rows(grad_coefficients, next_row, width, r0, r1, r2, r3)


@njit(cache=True, fastmath=True)
def _store_rows(coefficients, at, width, s0, s1, s2, s3):
    store(coefficients, at, s0)
    store(coefficients, at + width, s1)
    store(coefficients, at + 2 * width, s2)
    store(coefficients, at + 3 * width, s3)


@njit(cache=True, fastmath=True)
def distance_backward(grad, features, coefficients, given, grid, grad_distance):
    """Add the gradient of each distance, in the order in which the pairs were given."""
    first, second, distance, into_first, into_second = given
    start, inverse_step = grid
    cells, width = len(coefficients) - 3, features.shape[1]
    for p in range(len(first)):
        a, b = first[p] * width, second[p] * width
        m, n = splat(into_first[p]), splat(into_second[p])
        g, t = _cell(distance[p], start, inverse_step, cells)
        c = _slopes(t)
        slope = splat(np.float32(0))
        for k in range(0, width, LANES):
            grad_a, grad_b = product(m, load(grad, a + k)), product(n, load(grad, b + k))
            q = fma(grad_a, load(features, b + k), product(grad_b, load(features, a + k)))
            slope = fma(q, _spline(c, _rows(coefficients, g * width + k, width)), slope)
        grad_distance[p] += total(slope) * inverse_step
