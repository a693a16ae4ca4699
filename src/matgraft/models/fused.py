"""A whole network that the CPU runs as one compiled call forward and one back.

What it computes, and in which order, is what the modules of :mod:`matgraft.models.schnet` say in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numba import njit
from torch import nn
from torch.autograd.function import once_differentiable

from matgraft.graphs import Batch
from matgraft.lanes import CHANNELS, LANES
from matgraft.models.cfconv import Pairs, convolution, convolution_backward, distance_backward
from matgraft.models.dense import (
    ROWS_AT_ONCE,
    column_sums,
    dense,
    filled,
    packed,
    packed_transposed,
    summed_products,
)
from matgraft.models.radial import GaussianBasis, cosine_cutoff
from matgraft.models.softplus import ssp_and_slope
from matgraft.models.table import Knots, combine, combine_backward

if TYPE_CHECKING:
    from matgraft.models.schnet import Interaction, SchNet

_MATRICES, _VECTORS = 5, 4
"""Of each interaction; see :func:`_parameters`."""


def fusible(network: SchNet, graph: Batch) -> bool:
    """Whether compiled code takes these: tabulated filters, float32 on the CPU, whole vectors of channels."""
    weight, arch = network.embedding.weight, network.arch
    return (
        network.spacing is not None
        and weight.device.type == graph.distance.device.type == "cpu"
        and weight.dtype == graph.distance.dtype == torch.float32
        and arch.features % CHANNELS == arch.filters % CHANNELS == 0
    )


def fused_schnet(network: SchNet, graph: Batch, knots: Knots) -> torch.Tensor:
    """Output of a network for each structure, shape (n_structures, outputs).

    Parameters
    ----------
    network : SchNet
    graph : Batch
    knots : Knots
        Where the filters are evaluated.
    """
    given = _Given.of(network, graph, knots)
    return _SchNet.apply(graph.distance, given, *_parameters(network))


def _parameters(network: SchNet) -> list[torch.Tensor]:
    """Embedding; matrices of each interaction and of the output; then their biases."""
    layers: list[nn.Linear] = []
    for block in cast("list[Interaction]", network.interactions):
        hidden, out = block.filter.dense, block.atomwise_out
        layers += cast("list[nn.Linear]", [block.atomwise_in, hidden[0], hidden[2], out[0], out[2]])
    layers += cast("list[nn.Linear]", [network.output[0], network.output[2]])
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return [network.embedding.weight, *(layer.weight for layer in layers), *biases]


@dataclass(frozen=True)
class _Given:
    """What does not get a gradient.

    Attributes
    ----------
    nodes : tuple of ndarray
        Species, structure and multiplicity of each node.
    natoms : ndarray of float32, shape (n_structures,)
        What to divide the sum over each structure by.
    pairs : Pairs
    cells : int
        Of the filter tables.
    basis : tuple of ndarray
        Result of :func:`basis_at`.
    n_matrices : int
        How many parameters after the embedding are matrices.
    """

    nodes: tuple[np.ndarray, ...]
    natoms: np.ndarray
    pairs: Pairs
    cells: int
    basis: tuple[np.ndarray, np.ndarray]
    n_matrices: int

    @classmethod
    def of(cls, network: SchNet, graph: Batch, knots: Knots) -> _Given:
        natoms = graph.natoms.to(torch.float32).numpy()
        return cls(
            nodes=_checked_nodes(graph, len(network.embedding.weight)),
            natoms=natoms if network.arch.pooling == "mean" else np.ones_like(natoms),
            pairs=Pairs.of(graph, knots),
            cells=knots.cells,
            basis=basis_at(knots, network.basis, network.arch.cutoff),
            n_matrices=_MATRICES * network.arch.interactions + 2,
        )


@lru_cache(maxsize=64)
def basis_at(knots: Knots, basis: GaussianBasis, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Radial basis, shape (n_knots, n_basis) filled up to whole vectors, and cutoff function at the knots."""
    distance = knots.distances(like=basis.centres)
    radial = basis(distance).numpy()
    # The published basis goes on past the cutoff, where no distance feels it.
    reach = int(np.flatnonzero(radial.any(axis=0))[-1]) + 1
    return filled(radial[:, :reach], (1,), LANES), cosine_cutoff(distance, cutoff).numpy()


def _checked_nodes(graph: Batch, n_species: int) -> tuple[np.ndarray, ...]:
    """Arrays of the nodes; a wrong index would let the kernels read and write anywhere."""
    arrays = []
    for name, below in (("species", n_species), ("structure", len(graph.natoms))):
        tensor = getattr(graph, name)
        if tensor.dtype != torch.int64 or tensor.shape != graph.multiplicity.shape:
            raise TypeError(
                f"Batch.{name}: int64 of shape {tuple(graph.multiplicity.shape)} needed, "
                f"not {tensor.dtype} {tuple(tensor.shape)}"
            )
        array = tensor.contiguous().numpy()
        if len(array) and not 0 <= array.min() <= array.max() < below:
            raise IndexError(f"Batch.{name}: one outside 0 to {below - 1}")
        arrays.append(array)
    return *arrays, graph.multiplicity.to(torch.float32).contiguous().numpy()


class _SchNet(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance, given, *parameters):
        arrays = [parameter.detach().contiguous().numpy() for parameter in parameters]
        matrices, vectors = tuple(arrays[1 : 1 + given.n_matrices]), tuple(arrays[1 + given.n_matrices :])
        out, kept = _forward(
            given.nodes, given.natoms, given.pairs.by_cell, given.cells, *given.basis,
            arrays[0], matrices, vectors,
        )  # fmt: skip
        ctx.given, ctx.weights, ctx.kept = given, (arrays[0], matrices), kept
        # For its check that none has changed since.
        ctx.save_for_backward(*parameters)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        given, parameters, needed = ctx.given, ctx.saved_tensors, ctx.needs_input_grad[2:]
        n_matrices = given.n_matrices
        head = (n_matrices - 1, n_matrices, len(needed) - 2, len(needed) - 1)
        learn = any(need for k, need in enumerate(needed) if k not in head)
        found, start = [], 0
        flat = np.zeros(sum(parameter.numel() for parameter in parameters), dtype=np.float32)
        for parameter in parameters:
            stop = start + parameter.numel()
            found.append(flat[start:stop].reshape(parameter.shape))
            start = stop
        pull = np.zeros(len(given.pairs.given[0]) if ctx.needs_input_grad[0] else 0, dtype=np.float32)
        _backward(
            grad.contiguous().numpy(), given.nodes, given.natoms, given.pairs.by_cell, given.pairs.given,
            given.pairs.grid, *given.basis, *ctx.weights, ctx.kept, learn,
            found[0], tuple(found[1 : 1 + n_matrices]), tuple(found[1 + n_matrices :]), pull,
        )  # fmt: skip
        gradients = [
            torch.from_numpy(part) if need else None for part, need in zip(found, needed, strict=True)
        ]
        return torch.from_numpy(pull) if ctx.needs_input_grad[0] else None, None, *gradients


@njit(cache=True)
def _zeros(n):
    return np.zeros(n, dtype=np.float32)


@njit(cache=True)
def _multiply(a, by):
    a, by = a.reshape(-1), by.reshape(-1)
    for k in range(len(a)):
        a[k] *= by[k]


@njit(cache=True)
def _add(a, more):
    a, more = a.reshape(-1), more.reshape(-1)
    for k in range(len(a)):
        a[k] += more[k]


@njit(cache=True)
def _scale_rows(a, by):
    for r in range(len(a)):
        for k in range(a.shape[1]):
            a[r, k] *= by[r]


@njit(cache=True)
def filter_forward(radial, envelope, w_1, b_1, w_2, b_2, inner, slope, out):
    """Dense layer, ssp, dense layer, times the cutoff."""
    dense(radial, packed_transposed(w_1, radial.shape[1]), b_1, inner)
    ssp_and_slope(inner.reshape(-1), inner.reshape(-1), slope.reshape(-1))
    dense(inner, packed_transposed(w_2, len(w_1)), b_2, out)
    _scale_rows(out, envelope)


@njit(cache=True)
def filter_backward(
    grad, radial, envelope, w_2, inner, slope, grad_w_1, grad_b_1, grad_w_2, grad_b_2
):  # fmt: skip
    _scale_rows(grad, envelope)
    summed_products(grad, inner, grad_w_2)
    column_sums(grad, grad_b_2)
    grad_inner = np.empty_like(inner)
    dense(grad, packed(w_2), _zeros(inner.shape[1]), grad_inner)
    _multiply(grad_inner, slope)
    column_sums(grad_inner, grad_b_1)
    products = np.zeros((len(grad_w_1), radial.shape[1]), dtype=np.float32)
    summed_products(grad_inner, radial, products)
    felt = min(grad_w_1.shape[1], radial.shape[1])
    grad_w_1[:, :felt] += products[:, :felt]


@njit(cache=True)
def _forward(
    nodes, natoms, by_cell, cells, radial, envelope, embedding, matrices, vectors
):  # fmt: skip
    species, structure, multiplicity = nodes
    n, n_knots, layers = len(species), len(radial), len(matrices) // _MATRICES
    filters, features = matrices[0].shape
    tables = np.empty((layers, cells + 3, filters), dtype=np.float32)
    filter_inner = np.empty((layers, n_knots, filters), dtype=np.float32)
    filter_slope = np.empty((layers, n_knots, filters), dtype=np.float32)
    x = np.empty((layers + 1, n, features), dtype=np.float32)
    y = np.empty((layers, n, filters), dtype=np.float32)
    summed = np.zeros((layers, n, filters), dtype=np.float32)
    inner = np.empty((layers, n, features), dtype=np.float32)
    slope = np.empty((layers, n, features), dtype=np.float32)

    values = np.empty((n_knots, filters), dtype=np.float32)
    for t in range(layers):
        w_1, w_2 = matrices[_MATRICES * t + 1], matrices[_MATRICES * t + 2]
        b_1, b_2 = vectors[_VECTORS * t], vectors[_VECTORS * t + 1]
        filter_forward(radial, envelope, w_1, b_1, w_2, b_2, filter_inner[t], filter_slope[t], values)
        combine(values, tables[t])

    # Atoms of a species are still alike before the first convolution.
    entry = np.empty((len(embedding), filters), dtype=np.float32)
    dense(embedding, packed_transposed(matrices[0], features), _zeros(filters), entry)
    for i in range(n):
        x[0, i] = embedding[species[i]]
        y[0, i] = entry[species[i]]
    for t in range(layers):
        convolution(y[t], tables[t], by_cell, summed[t])
        w_1 = packed_transposed(matrices[_MATRICES * t + 3], filters)
        w_2 = packed_transposed(matrices[_MATRICES * t + 4], features)
        b_1, b_2 = vectors[_VECTORS * t + 2], vectors[_VECTORS * t + 3]
        # After the last interaction there is no next one; compiled code wants a value all the same.
        w_in = packed_transposed(matrices[_MATRICES * min(t + 1, layers - 1)], features)
        for a in range(0, n, ROWS_AT_ONCE):
            b = min(a + ROWS_AT_ONCE, n)
            dense(summed[t][a:b], w_1, b_1, inner[t][a:b])
            ssp_and_slope(inner[t][a:b].reshape(-1), inner[t][a:b].reshape(-1), slope[t][a:b].reshape(-1))
            dense(inner[t][a:b], w_2, b_2, x[t + 1][a:b])
            _add(x[t + 1][a:b], x[t][a:b])
            if t + 1 < layers:
                dense(x[t + 1][a:b], w_in, _zeros(filters), y[t + 1][a:b])

    w_1, w_2 = matrices[-2], matrices[-1]
    b_1, b_2 = vectors[-2], vectors[-1]
    head_inner = np.empty((n, len(w_1)), dtype=np.float32)
    head_slope = np.empty((n, len(w_1)), dtype=np.float32)
    dense(x[layers], packed_transposed(w_1, features), b_1, head_inner)
    ssp_and_slope(head_inner.reshape(-1), head_inner.reshape(-1), head_slope.reshape(-1))
    last = packed_transposed(w_2, len(w_1))
    per_node = np.empty((n, len(last) * LANES), dtype=np.float32)
    dense(head_inner, last, _zeros(per_node.shape[1]), per_node)
    out = np.zeros((len(natoms), len(w_2)))
    for i in range(n):
        share = multiplicity[i] / natoms[structure[i]]
        for o in range(len(w_2)):
            out[structure[i], o] += share * (per_node[i, o] + b_2[o])
    return out.astype(np.float32), (
        tables,
        filter_inner,
        filter_slope,
        x,
        y,
        summed,
        inner,
        slope,
        head_inner,
        head_slope,
    )


@njit(cache=True)
def _backward(
    grad, nodes, natoms, by_cell, given, grid, radial, envelope, embedding, matrices, kept, learn,
    grad_embedding, grad_matrices, grad_vectors, grad_distance,
):  # fmt: skip
    species, structure, multiplicity = nodes
    tables, filter_inner, filter_slope, x, y, summed, inner, slope, head_inner, head_slope = kept
    layers, n, filters = y.shape
    features = x.shape[2]

    w_1, w_2 = matrices[-2], matrices[-1]
    grad_head = np.zeros_like(head_inner)
    for i in range(n):
        share = multiplicity[i] / natoms[structure[i]]
        for o in range(len(w_2)):
            pull = share * grad[structure[i], o]
            grad_vectors[-1][o] += pull
            for k in range(len(w_1)):
                grad_matrices[-1][o, k] += pull * head_inner[i, k]
                grad_head[i, k] += pull * w_2[o, k]
    _multiply(grad_head, head_slope)
    summed_products(grad_head, x[layers], grad_matrices[-2])
    column_sums(grad_head, grad_vectors[-2])
    if not learn and not len(grad_distance):
        return
    grad_x = np.empty((n, features), dtype=np.float32)
    dense(grad_head, packed(w_1), _zeros(features), grad_x)

    grad_summed = np.empty((n, filters), dtype=np.float32)
    grad_inner = np.empty((ROWS_AT_ONCE, features), dtype=np.float32)
    change = np.empty((ROWS_AT_ONCE, features), dtype=np.float32)
    for t in range(layers - 1, -1, -1):
        m, v = _MATRICES * t, _VECTORS * t
        w_in, w_1, w_2 = packed(matrices[m]), packed(matrices[m + 3]), packed(matrices[m + 4])
        for a in range(0, n, ROWS_AT_ONCE):
            b = min(a + ROWS_AT_ONCE, n)
            before = grad_inner[: b - a]
            dense(grad_x[a:b], w_2, _zeros(features), before)
            _multiply(before, slope[t][a:b])
            dense(before, w_1, _zeros(filters), grad_summed[a:b])
            if learn:
                summed_products(grad_x[a:b], inner[t][a:b], grad_matrices[m + 4])
                column_sums(grad_x[a:b], grad_vectors[v + 3])
                summed_products(before, summed[t][a:b], grad_matrices[m + 3])
                column_sums(before, grad_vectors[v + 2])
        grad_y = np.zeros((n, filters), dtype=np.float32)
        grad_table = np.zeros_like(tables[t])
        convolution_backward(grad_summed, y[t], tables[t], by_cell, grad_y, grad_table)
        if len(grad_distance):
            distance_backward(grad_summed, y[t], tables[t], given, grid, grad_distance)
        if learn:
            values = np.empty_like(filter_inner[t])
            combine_backward(grad_table, values)
            filter_backward(
                values, radial, envelope, matrices[m + 2], filter_inner[t], filter_slope[t],
                grad_matrices[m + 1], grad_vectors[v], grad_matrices[m + 2], grad_vectors[v + 1],
            )  # fmt: skip
        for a in range(0, n if t else 0, ROWS_AT_ONCE):
            b = min(a + ROWS_AT_ONCE, n)
            dense(grad_y[a:b], w_in, _zeros(features), change[: b - a])
            _add(grad_x[a:b], change[: b - a])
            if learn:
                summed_products(grad_y[a:b], x[t][a:b], grad_matrices[m])
    if learn:
        grad_entry = np.zeros((len(embedding), filters), dtype=np.float32)
        for i in range(n):
            grad_entry[species[i]] += grad_y[i]
        dense(grad_entry, w_in, _zeros(features), grad_embedding)
        summed_products(grad_entry, embedding, grad_matrices[0])
        for i in range(n):
            grad_embedding[species[i]] += grad_x[i]
