"""The continuous-filter convolution, eq. (15), behind one function with several kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable
from torch.nn import functional

from matgraft.graphs import Batch
from matgraft.models.lanes import LANES, fma, load, product, splat, store, total


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
            return triton_cfconv(features, filters.coefficients, graph, filters.start, filters.step)
    return convolve(features, filters(graph.distance), graph)


def convolve(features: torch.Tensor, filters: torch.Tensor, graph: Batch) -> torch.Tensor:
    """The sum itself, in plain torch operations, given the filter of each pair (n_pairs, n_filters)."""
    out = torch.zeros_like(features)
    out = out.index_add(0, graph.first, features[graph.second] * filters * graph.into_first[:, None])
    return out.index_add(0, graph.second, features[graph.first] * filters * graph.into_second[:, None])


@dataclass(frozen=True)
class Knots:
    """Evenly spaced distances at which a filter is evaluated.

    Attributes
    ----------
    start, step : float
        Where the first cell begins, and the length of each, in Angstrom.
    cells : int
    """

    start: float
    step: float
    cells: int

    @classmethod
    def between(cls, shortest: float, cutoff: float, spacing: float) -> Knots:
        """A grid that holds all distances from the shortest to the cutoff, at most ``spacing`` apart."""
        cells = math.ceil(cutoff / spacing)
        step = cutoff / cells
        skipped = min(max(math.floor(shortest / step), 0), cells - 1)
        return cls(skipped * step, step, cells - skipped)

    def distances(self, like: torch.Tensor) -> torch.Tensor:
        """All knots, three before the first cell and three after the last; shape (cells + 7,)."""
        return self.start + self.step * torch.arange(-3, self.cells + 4, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Table:
    """A filter as a cubic B-spline: twice continuously differentiable, so that forces are smooth.

    Attributes
    ----------
    coefficients : Tensor, shape (n_cells + 3, n_filters)
        ``W(start + (g + t) step) = sum_s B_s(t) coefficients[g + s]``, ``s = 0 ... 3``, ``t`` in [0, 1].
    start, step : float
        Where the first cell begins, and the length of each, in Angstrom.
    """

    coefficients: torch.Tensor
    start: float
    step: float

    @classmethod
    def through(cls, values: torch.Tensor, knots: Knots) -> Table:
        """The spline through the values of a filter at its knots, shape (n_knots, n_filters).

        The coefficients are local sums of values (a quasi-interpolant that reproduces every cubic), not the
        solution of a linear system: for Gaussians the error is an eighth of that of four-point Lagrange
        interpolation on the same grid.
        """
        coefficients = (
            values[:-4] + values[4:] - 10.0 * (values[1:-3] + values[3:-1]) + 54.0 * values[2:-2]
        ) / 36.0
        return cls(coefficients, knots.start, knots.step)

    def __call__(self, distance: torch.Tensor) -> torch.Tensor:
        """Distances, shape (n,), to filter values, shape (n, n_filters), in plain torch operations."""
        scaled = (distance - self.start) / self.step
        cell = scaled.detach().floor().clamp(0, len(self.coefficients) - 4)
        t, row = (scaled - cell)[:, None], cell.long()
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        return torch.stack([w / 6 * self.coefficients[row + s] for s, w in enumerate(weights)]).sum(0)


def table_error(
    filters_at: Callable[[torch.Tensor], list[torch.Tensor]], cutoff: float, spacing: float
) -> float:
    """Largest error of tabulated filters, as a share of the largest filter value.

    Measured between the knots, where the error of a cubic spline is largest.

    Parameters
    ----------
    filters_at : callable
        Distances in Angstrom, shape (n,), to filters of shape (n, n_filters), one per layer.
    cutoff, spacing : float
        In Angstrom.
    """
    knots = Knots.between(0.0, cutoff, spacing)
    grid = knots.distances(torch.zeros(1, dtype=torch.float64))
    between = (grid[3:-4, None] + knots.step * torch.tensor([0.25, 0.5, 0.75])).flatten()
    worst = 0.0
    for values, exact in zip(filters_at(grid), filters_at(between), strict=True):
        difference = (Table.through(values, knots)(between) - exact).abs().max()
        worst = max(worst, float(difference / exact.abs().max().clamp_min(1e-30)))
    return worst


def _compiled(features: torch.Tensor, table: Table, graph: Batch) -> torch.Tensor:
    """The same in compiled loops over pairs, where nothing is kept per pair but its distance."""
    width, coefficients = features.shape[1], table.coefficients
    missing = -width % LANES
    if missing:
        features, coefficients = (functional.pad(part, (0, missing)) for part in (features, coefficients))
    out = _TableConvolution.apply(features, coefficients, graph.distance, graph, table.start, table.step)
    return out[:, :width] if missing else out


def _pairs_of(graph: Batch, n_nodes: int) -> tuple[np.ndarray, ...]:
    """Pair arrays as the kernels take them; a wrong type or index would let them write anywhere."""
    kinds = {
        "first": torch.int64,
        "second": torch.int64,
        "distance": torch.float32,
        "into_first": torch.float32,
        "into_second": torch.float32,
    }
    n_pairs = len(graph.distance)
    arrays = []
    for name, kind in kinds.items():
        tensor = getattr(graph, name)
        if tensor.dtype != kind or tensor.shape != (n_pairs,):
            raise TypeError(
                f"Batch.{name}: {kind} of shape ({n_pairs},) needed, not {tensor.dtype} {tensor.shape}"
            )
        if kind == torch.int64 and n_pairs and not 0 <= int(tensor.min()) <= int(tensor.max()) < n_nodes:
            raise IndexError(f"Batch.{name}: a node outside 0 to {n_nodes - 1}")
        arrays.append(tensor.detach().contiguous().numpy())
    return tuple(arrays)


class _TableConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, coefficients, distance, graph, start, step):
        features, coefficients = features.contiguous(), coefficients.contiguous()
        ctx.pairs = _pairs_of(graph, len(features))
        ctx.grid = np.float32(start), np.float32(1.0 / step)
        ctx.save_for_backward(features, coefficients)
        out = torch.zeros_like(features)
        convolution(
            features.detach().numpy(), coefficients.detach().numpy(), *ctx.pairs, *ctx.grid, out.numpy()
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, coefficients = ctx.saved_tensors
        arrays = (
            grad.contiguous().numpy(),
            features.detach().numpy(),
            coefficients.detach().numpy(),
            *ctx.pairs,
            *ctx.grid,
        )
        grad_features, grad_coefficients = torch.zeros_like(features), torch.zeros_like(coefficients)
        _backward(*arrays, grad_features.numpy(), grad_coefficients.numpy())
        grad_distance = None
        if ctx.needs_input_grad[2]:
            grad_distance = torch.empty(len(ctx.pairs[2]))
            _backward_distance(*arrays, grad_distance.numpy())
        return grad_features, grad_coefficients, grad_distance, None, None, None


@njit(cache=True, fastmath=True)
def _cell(distance, start, inverse_step, cells):
    """Cell of a distance and the position in it."""
    scaled = (distance - start) * inverse_step
    g = min(max(int(scaled), 0), cells - 1)
    return g, scaled - np.float32(g)


@njit(cache=True, fastmath=True)
def _weights(t):
    """The four cubic B-splines that overlap a cell."""
    one, three, four, six = np.float32(1), np.float32(3), np.float32(4), np.float32(6)
    u = one - t
    return (
        splat(u * u * u / six),
        splat(((three * t - six) * t * t + four) / six),
        splat(((three * u - six) * u * u + four) / six),
        splat(t * t * t / six),
    )


@njit(cache=True, fastmath=True)
def _slopes(t):
    """Their derivatives with respect to ``t``."""
    one, three, four = np.float32(1), np.float32(3), np.float32(4)
    half, u = np.float32(0.5), one - t
    return (
        splat(-half * u * u),
        splat(half * (three * t - four) * t),
        splat(half * (four - three * u) * u),
        splat(half * t * t),
    )


@njit(cache=True, fastmath=True)
def _spline(coefficients, row, width, c0, c1, c2, c3):
    """Sixteen filters at once: four neighbouring rows of coefficients, weighted."""
    return fma(
        c3,
        load(coefficients, row + 3 * width),
        fma(
            c2,
            load(coefficients, row + 2 * width),
            fma(c1, load(coefficients, row + width), product(c0, load(coefficients, row))),
        ),
    )


@njit(cache=True, fastmath=True)
def convolution(
    features, coefficients, first, second, distance, into_first, into_second, start, inverse_step, out
):
    """Add the convolution to ``out``; widths are multiples of :data:`LANES`, bounds are the caller's."""
    cells, width = len(coefficients) - 3, features.shape[1]
    for p in range(len(first)):
        a, b = first[p] * width, second[p] * width
        m, n = splat(into_first[p]), splat(into_second[p])
        g, t = _cell(distance[p], start, inverse_step, cells)
        c0, c1, c2, c3 = _weights(t)
        for k in range(0, width, LANES):
            w = _spline(coefficients, g * width + k, width, c0, c1, c2, c3)
            store(out, a + k, fma(product(m, w), load(features, b + k), load(out, a + k)))
            store(out, b + k, fma(product(n, w), load(features, a + k), load(out, b + k)))


@njit(cache=True, fastmath=True)
def _backward(
    grad,
    features,
    coefficients,
    first,
    second,
    distance,
    into_first,
    into_second,
    start,
    inverse_step,
    grad_features,
    grad_coefficients,
):
    cells, width = len(coefficients) - 3, features.shape[1]
    for p in range(len(first)):
        a, b = first[p] * width, second[p] * width
        m, n = splat(into_first[p]), splat(into_second[p])
        g, t = _cell(distance[p], start, inverse_step, cells)
        c0, c1, c2, c3 = _weights(t)
        for k in range(0, width, LANES):
            row = g * width + k
            w = _spline(coefficients, row, width, c0, c1, c2, c3)
            grad_a, grad_b = product(m, load(grad, a + k)), product(n, load(grad, b + k))
            q = fma(grad_a, load(features, b + k), product(grad_b, load(features, a + k)))
            store(grad_features, b + k, fma(w, grad_a, load(grad_features, b + k)))
            store(grad_features, a + k, fma(w, grad_b, load(grad_features, a + k)))
            store(grad_coefficients, row, fma(c0, q, load(grad_coefficients, row)))
            row += width
            store(grad_coefficients, row, fma(c1, q, load(grad_coefficients, row)))
            row += width
            store(grad_coefficients, row, fma(c2, q, load(grad_coefficients, row)))
            row += width
            store(grad_coefficients, row, fma(c3, q, load(grad_coefficients, row)))


@njit(cache=True, fastmath=True)
def _backward_distance(
    grad,
    features,
    coefficients,
    first,
    second,
    distance,
    into_first,
    into_second,
    start,
    inverse_step,
    grad_distance,
):
    cells, width = len(coefficients) - 3, features.shape[1]
    for p in range(len(first)):
        a, b = first[p] * width, second[p] * width
        m, n = splat(into_first[p]), splat(into_second[p])
        g, t = _cell(distance[p], start, inverse_step, cells)
        c0, c1, c2, c3 = _slopes(t)
        slope = splat(np.float32(0))
        for k in range(0, width, LANES):
            grad_a, grad_b = product(m, load(grad, a + k)), product(n, load(grad, b + k))
            q = fma(grad_a, load(features, b + k), product(grad_b, load(features, a + k)))
            slope = fma(q, _spline(coefficients, g * width + k, width, c0, c1, c2, c3), slope)
        grad_distance[p] = total(slope) * inverse_step
