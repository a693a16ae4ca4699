"""Layers of the network that the CPU runs as one compiled call forward and one back.

What they compute, and in which order, is what the modules of :mod:`matgraft.models.schnet` say in torch.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import nn
from torch.autograd.function import once_differentiable

from matgraft.graphs import Batch
from matgraft.models.cfconv import Pairs, convolution, convolution_backward, distance_backward
from matgraft.models.dense import ROWS_AT_ONCE, column_sums, dense, summed_products, transposed
from matgraft.models.lanes import CHANNELS, LANES
from matgraft.models.softplus import ssp_and_slope
from matgraft.models.table import Table


def fusible(*tensors: torch.Tensor) -> bool:
    """Whether compiled layers take these: float32 on the CPU, last axis a multiple of :data:`CHANNELS`."""
    return all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.shape[-1] % CHANNELS == 0
        for tensor in tensors
    )


def fused_filter(radial: torch.Tensor, envelope: torch.Tensor, layers: nn.Sequential) -> torch.Tensor:
    """Dense layer, ssp, dense layer, times the cutoff: shape (n, n_filters).

    Parameters
    ----------
    radial : Tensor, shape (n, n_basis)
    envelope : Tensor, shape (n, 1)
        Neither of the two gets a gradient.
    layers : Sequential
        The dense layers, with ssp between them.
    """
    first, last = layers[0], layers[2]
    return _Filter.apply(radial, envelope, first.weight, first.bias, last.weight, last.bias)


def fused_interaction(
    x: torch.Tensor,
    rows: torch.Tensor | None,
    graph: Batch,
    filters: Table,
    atomwise_in: nn.Linear,
    atomwise_out: nn.Sequential,
) -> torch.Tensor:
    """The refinement ``v`` of eq. (18): shape (n_nodes, features).

    Parameters
    ----------
    x : Tensor, shape (n_rows, features)
    rows : LongTensor, shape (n_nodes,), or None
        The row of ``x`` that belongs to each node; None if they are the nodes.
    graph : Batch
    filters : Table
    atomwise_in, atomwise_out : Module
        Layers of the block.
    """
    first, last = atomwise_out[0], atomwise_out[2]
    return _Interaction.apply(
        x, atomwise_in.weight, filters.coefficients, first.weight, first.bias, last.weight, last.bias,
        graph.distance, rows, Pairs.of(graph, filters), len(graph.species),
    )  # fmt: skip


def _arrays(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, radial, envelope, w_1, b_1, w_2, b_2):
        given = [tensor.contiguous() for tensor in (radial, envelope.reshape(-1), w_1, b_1, w_2, b_2)]
        n, width = len(radial), len(w_1)
        kept = [torch.empty(n, width), torch.empty(n, width)]
        out = torch.empty(n, len(w_2))
        _filter(*_arrays(given), *_arrays(kept), out.numpy())
        ctx.save_for_backward(*given[:3], given[4], *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        w_1, w_2 = ctx.saved_tensors[2:4]
        out = [torch.zeros(shape) for shape in (w_1.shape, len(w_1), w_2.shape, len(w_2))]
        _filter_backward(*_arrays([grad.contiguous(), *ctx.saved_tensors]), *_arrays(out))
        return None, None, *out


class _Interaction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_in, coefficients, w_1, b_1, w_2, b_2, distance, rows, pairs, n):
        given = [tensor.contiguous() for tensor in (x, w_in, coefficients, w_1, b_1, w_2, b_2)]
        ctx.pairs = pairs
        ctx.rows = np.empty(0, dtype=np.int64) if rows is None else _rows_of(rows, n, len(x))
        kept = [torch.empty(n, len(weight)) for weight in (w_in, w_in, w_1, w_1)]
        out = torch.empty(n, len(w_2))
        _interaction(*_arrays(given), ctx.rows, pairs.by_cell, *_arrays(kept), out.numpy())
        ctx.save_for_backward(*given[:4], given[5], *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w_in, coefficients, w_1, w_2, *_ = ctx.saved_tensors
        pairs = ctx.pairs
        distance = torch.empty(len(pairs.given[0]) if ctx.needs_input_grad[7] else 0)
        shapes = (w_in.shape, coefficients.shape, w_1.shape, len(w_1), w_2.shape, len(w_2))
        out = [torch.empty_like(x), *(torch.zeros(shape) for shape in shapes)]
        _interaction_backward(
            *_arrays([grad.contiguous(), *ctx.saved_tensors]), ctx.rows,
            pairs.by_cell, pairs.given, pairs.grid, *_arrays(out), distance.numpy(),
        )  # fmt: skip
        return *out, distance if ctx.needs_input_grad[7] else None, None, None, None


def _rows_of(rows: torch.Tensor, n_nodes: int, n_rows: int) -> np.ndarray:
    """Rows as the kernel takes them; a wrong type or index would let it read anywhere."""
    if rows.dtype != torch.int64 or rows.shape != (n_nodes,):
        raise TypeError(f"rows: int64 of shape ({n_nodes},) needed, not {rows.dtype} {rows.shape}")
    if n_nodes and not 0 <= int(rows.min()) <= int(rows.max()) < n_rows:
        raise IndexError(f"rows: one outside 0 to {n_rows - 1}")
    return rows.contiguous().numpy()


@njit(cache=True)
def _zeros(n):
    return np.zeros(n, dtype=np.float32)


@njit(cache=True)
def _multiply(a, by):
    a, by = a.reshape(-1), by.reshape(-1)
    for k in range(len(a)):
        a[k] *= by[k]


@njit(cache=True)
def _scale_rows(a, by):
    for r in range(len(a)):
        for k in range(a.shape[1]):
            a[r, k] *= by[r]


@njit(cache=True)
def _reach(radial):
    """Basis functions up to the last that any distance feels; the published ones go on past the cutoff."""
    reach = 0
    for r in range(len(radial)):
        k = radial.shape[1]
        while k > reach and radial[r, k - 1] == 0:
            k -= 1
        reach = max(reach, k)
    return reach


@njit(cache=True)
def _filter(radial, envelope, w_1, b_1, w_2, b_2, inner, slope, out):
    reach = _reach(radial)
    w_1_t = np.empty((reach, len(w_1)), dtype=np.float32)
    for k in range(len(w_1)):
        for c in range(reach):
            w_1_t[c, k] = w_1[k, c]
    dense(radial, w_1_t, b_1, inner)
    ssp_and_slope(inner.reshape(-1), inner.reshape(-1), slope.reshape(-1))
    dense(inner, transposed(w_2), b_2, out)
    _scale_rows(out, envelope)


@njit(cache=True)
def _filter_backward(
    grad, radial, envelope, w_1, w_2, inner, slope, grad_w_1, grad_b_1, grad_w_2, grad_b_2
):  # fmt: skip
    scaled = grad.copy()
    _scale_rows(scaled, envelope)
    summed_products(scaled, inner, grad_w_2)
    column_sums(scaled, grad_b_2)
    grad_inner = np.empty_like(inner)
    dense(scaled, w_2, _zeros(inner.shape[1]), grad_inner)
    _multiply(grad_inner, slope)
    column_sums(grad_inner, grad_b_1)
    reach = _reach(radial)
    whole = np.zeros((len(radial), reach + -reach % LANES), dtype=np.float32)
    whole[:, :reach] = radial[:, :reach]
    products = np.zeros((len(w_1), whole.shape[1]), dtype=np.float32)
    summed_products(grad_inner, whole, products)
    grad_w_1[:, :reach] = products[:, :reach]


@njit(cache=True)
def _interaction(x, w_in, table, w_1, b_1, w_2, b_2, rows, by_cell, y, summed, inner, slope, out):
    each = np.empty((len(x), len(w_in)), dtype=np.float32) if len(rows) else y
    dense(x, transposed(w_in), _zeros(len(w_in)), each)
    for k in range(len(rows)):
        y[k] = each[rows[k]]
    summed[:] = 0
    convolution(y, table, by_cell, summed)
    w_1_t, w_2_t = transposed(w_1), transposed(w_2)
    for a in range(0, len(y), ROWS_AT_ONCE):
        b = a + ROWS_AT_ONCE
        dense(summed[a:b], w_1_t, b_1, inner[a:b])
        ssp_and_slope(inner[a:b].reshape(-1), inner[a:b].reshape(-1), slope[a:b].reshape(-1))
        dense(inner[a:b], w_2_t, b_2, out[a:b])


@njit(cache=True)
def _interaction_backward(
    grad, x, w_in, table, w_1, w_2, y, summed, inner, slope, rows, by_cell, given, grid,
    grad_x, grad_w_in, grad_table, grad_w_1, grad_b_1, grad_w_2, grad_b_2, grad_distance,
):  # fmt: skip
    grad_summed = np.empty_like(summed)
    grad_inner = np.empty((ROWS_AT_ONCE, inner.shape[1]), dtype=np.float32)
    for a in range(0, len(y), ROWS_AT_ONCE):
        b = min(a + ROWS_AT_ONCE, len(y))
        summed_products(grad[a:b], inner[a:b], grad_w_2)
        column_sums(grad[a:b], grad_b_2)
        before = grad_inner[: b - a]
        dense(grad[a:b], w_2, _zeros(inner.shape[1]), before)
        _multiply(before, slope[a:b])
        summed_products(before, summed[a:b], grad_w_1)
        column_sums(before, grad_b_1)
        dense(before, w_1, _zeros(summed.shape[1]), grad_summed[a:b])
    grad_y = np.zeros_like(y)
    convolution_backward(grad_summed, y, table, by_cell, grad_y, grad_table)
    if len(grad_distance):
        distance_backward(grad_summed, y, table, given, grid, grad_distance)
    if len(rows):
        each = np.zeros((len(x), y.shape[1]), dtype=np.float32)
        for k in range(len(rows)):
            each[rows[k]] += grad_y[k]
        grad_y = each
    for a in range(0, len(x), ROWS_AT_ONCE):
        b = a + ROWS_AT_ONCE
        summed_products(grad_y[a:b], x[a:b], grad_w_in)
        dense(grad_y[a:b], w_in, _zeros(x.shape[1]), grad_x[a:b])
