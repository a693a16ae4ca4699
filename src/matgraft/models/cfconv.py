"""The continuous-filter convolution, eq. (15), behind one function with several kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from matgraft.graphs import Batch

Filter = Callable[[torch.Tensor], torch.Tensor]
"""Distances in Angstrom, shape (n,), to filter values, shape (n, n_filters)."""


def cfconv(
    features: torch.Tensor, graph: Batch, filter_of: Filter, cutoff: float, spacing: float | None
) -> torch.Tensor:
    """Continuous-filter convolution ``sum_j x_j * W(d_ij)``, eq. (15).

    Parameters
    ----------
    features : Tensor, shape (n_nodes, n_filters)
    graph : Batch
        Who sees whom, at which distance and how often.
    filter_of : callable
        The filter ``W``.
    cutoff : float
        No pair is further apart, in Angstrom.
    spacing : float or None
        None evaluates the filter for every pair. A number evaluates it only at distances that far apart
        (Angstrom) and interpolates cubically between them; gradients flow through the interpolation.

    Returns
    -------
    Tensor, shape (n_nodes, n_filters)
    """
    if spacing is None:
        return convolve(features, filter_of(graph.distance), graph)
    intervals = math.ceil(cutoff / spacing)
    step = cutoff / intervals
    # One point before zero and one past the cutoff: every pair needs two table rows on either side.
    grid = torch.arange(-1, intervals + 2, device=features.device, dtype=features.dtype) * step
    table = filter_of(grid)
    if features.device.type == "cpu" and features.dtype == torch.float32 and not graph.distance.requires_grad:
        return _TableConvolution.apply(features, table, graph, step)
    return convolve(features, interpolate(table, graph.distance / step), graph)


def convolve(features: torch.Tensor, filters: torch.Tensor, graph: Batch) -> torch.Tensor:
    """The sum itself, in plain torch operations, given the filter of each pair (n_pairs, n_filters)."""
    out = torch.zeros_like(features)
    out = out.index_add(0, graph.first, features[graph.second] * filters * graph.into_first[:, None])
    return out.index_add(0, graph.second, features[graph.first] * filters * graph.into_second[:, None])


def interpolate(table: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
    """Four-point cubic Lagrange interpolation.

    Parameters
    ----------
    table : Tensor, shape (n_intervals + 3, n_filters)
        Values at -1, 0, 1, ... n_intervals + 1 steps.
    scaled : Tensor, shape (n,)
        Distances in steps.

    Returns
    -------
    Tensor, shape (n, n_filters)
    """
    cell = scaled.detach().floor().clamp(0, len(table) - 4)
    t = (scaled - cell)[:, None]
    rows = cell.long()
    return (
        -t * (t - 1) * (t - 2) / 6 * table[rows]
        + (t + 1) * (t - 1) * (t - 2) / 2 * table[rows + 1]
        - (t + 1) * t * (t - 2) / 2 * table[rows + 2]
        + (t + 1) * t * (t - 1) / 6 * table[rows + 3]
    )


class _TableConvolution(torch.autograd.Function):
    """:func:`interpolate` and :func:`convolve` in compiled loops: nothing is kept per pair."""

    @staticmethod
    def forward(ctx, features, table, graph, step):
        features, table = features.contiguous(), table.contiguous()
        arrays = tuple(
            getattr(graph, name).contiguous().numpy()
            for name in ("first", "second", "distance", "into_first", "into_second")
        )
        out = torch.zeros_like(features)
        _table_forward(
            features.detach().numpy(), table.detach().numpy(), *arrays, np.float32(1.0 / step), out.numpy()
        )
        ctx.save_for_backward(features, table)
        ctx.arrays, ctx.step = arrays, step
        return out

    @staticmethod
    def backward(ctx, grad):
        features, table = ctx.saved_tensors
        grad_features, grad_table = torch.zeros_like(features), torch.zeros_like(table)
        _table_backward(
            grad.contiguous().numpy(),
            features.detach().numpy(),
            table.detach().numpy(),
            *ctx.arrays,
            np.float32(1.0 / ctx.step),
            grad_features.numpy(),
            grad_table.numpy(),
        )
        return grad_features, grad_table, None, None


@njit(cache=True, fastmath=True, inline="always")
def _stencil(scaled, intervals):
    one, two, half, sixth = np.float32(1.0), np.float32(2.0), np.float32(0.5), np.float32(1.0 / 6.0)
    g = min(max(int(scaled), 0), intervals - 1)
    t = scaled - np.float32(g)
    c0 = -t * (t - one) * (t - two) * sixth
    c1 = (t + one) * (t - one) * (t - two) * half
    c2 = -(t + one) * t * (t - two) * half
    c3 = (t + one) * t * (t - one) * sixth
    return g, c0, c1, c2, c3


# The loops below are short, with one output each: with more of them in one loop the compiler cannot
# prove that they do not overlap and gives up on vector code. Row views would cost a reference count each.


@njit(cache=True, fastmath=True)
def _table_forward(features, table, first, second, distance, into_first, into_second, inverse_step, out):
    intervals, width = len(table) - 3, features.shape[1]
    filters = np.empty(width, dtype=np.float32)
    for p in range(len(first)):
        a, b, m, n = first[p], second[p], into_first[p], into_second[p]
        g, c0, c1, c2, c3 = _stencil(distance[p] * inverse_step, intervals)
        for k in range(width):
            filters[k] = c0 * table[g, k] + c1 * table[g + 1, k] + c2 * table[g + 2, k] + c3 * table[g + 3, k]
        for k in range(width):
            out[a, k] += m * filters[k] * features[b, k]
        if a != b:
            for k in range(width):
                out[b, k] += n * filters[k] * features[a, k]


@njit(cache=True, fastmath=True)
def _table_backward(
    grad,
    features,
    table,
    first,
    second,
    distance,
    into_first,
    into_second,
    inverse_step,
    grad_features,
    grad_table,
):
    intervals, width = len(table) - 3, features.shape[1]
    filters = np.empty(width, dtype=np.float32)
    product = np.empty(width, dtype=np.float32)
    for p in range(len(first)):
        a, b, m, n = first[p], second[p], into_first[p], into_second[p]
        g, c0, c1, c2, c3 = _stencil(distance[p] * inverse_step, intervals)
        for k in range(width):
            filters[k] = c0 * table[g, k] + c1 * table[g + 1, k] + c2 * table[g + 2, k] + c3 * table[g + 3, k]
        for k in range(width):
            grad_features[b, k] += m * filters[k] * grad[a, k]
        for k in range(width):
            product[k] = m * features[b, k] * grad[a, k]
        if a != b:
            for k in range(width):
                grad_features[a, k] += n * filters[k] * grad[b, k]
            for k in range(width):
                product[k] += n * features[a, k] * grad[b, k]
        for k in range(width):
            grad_table[g, k] += c0 * product[k]
        for k in range(width):
            grad_table[g + 1, k] += c1 * product[k]
        for k in range(width):
            grad_table[g + 2, k] += c2 * product[k]
        for k in range(width):
            grad_table[g + 3, k] += c3 * product[k]
