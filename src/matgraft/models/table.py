"""Filters as tables: the filter network is a function of one number, so it need not be run for every pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

from matgraft.lanes import LANES, fma, load, splat, store

_CELLS_PER_KNOT = 3
_POINTS = 12
"""Values between knots come from polynomials through so many of them."""


@dataclass(frozen=True)
class Knots:
    """Evenly spaced distances at which a filter is evaluated, with some cells of a spline between each two.

    A filter network is smoother than a cubic spline can follow: it needs a third of the evaluations that the
    spline needs cells, if values between are interpolated to high order.

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
        """A grid for all distances from the shortest to the cutoff, in cells of at most ``spacing``."""
        knots = math.ceil(cutoff / spacing / _CELLS_PER_KNOT)
        apart = cutoff / knots
        skipped = min(max(math.floor(shortest / apart), 0), knots - 1)
        return cls(skipped * apart, apart / _CELLS_PER_KNOT, (knots - skipped) * _CELLS_PER_KNOT)

    def distances(self, like: torch.Tensor) -> torch.Tensor:
        """All knots, as many before the first cell and after the last as the interpolation needs."""
        count = self.cells // _CELLS_PER_KNOT + 1
        knots = torch.arange(-_MARGIN, count + _MARGIN, device=like.device, dtype=like.dtype)
        return self.start + self.step * _CELLS_PER_KNOT * knots


@dataclass(frozen=True)
class Table:
    """A filter as a cubic B-spline: twice continuously differentiable, so that forces are smooth.

    Attributes
    ----------
    coefficients : Tensor, shape (n_cells + 3, n_filters)
        ``W(start + (g + t) step) = sum_s B_s(t) coefficients[g + s]``, ``s = 0 ... 3``, ``t`` in [0, 1].
    knots : Knots
        Where its cells are.
    """

    coefficients: torch.Tensor
    knots: Knots

    @classmethod
    def through(cls, values: torch.Tensor, knots: Knots) -> Table:
        """The spline through the values of a filter at its knots, shape (n_knots, n_filters)."""
        return cls(_coefficients(values), knots)

    def __call__(self, distance: torch.Tensor) -> torch.Tensor:
        """Distances, shape (n,), to filter values, shape (n, n_filters), in plain torch operations."""
        scaled = (distance - self.knots.start) / self.knots.step
        cell = scaled.detach().floor().clamp(0, self.knots.cells - 1)
        t, row = (scaled - cell)[:, None], cell.long()
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        return torch.stack([w / 6 * self.coefficients[row + s] for s, w in enumerate(weights)]).sum(0)


def table_error(
    filters_at: Callable[[torch.Tensor], list[torch.Tensor]], cutoff: float, spacing: float
) -> float:
    """Largest error of tabulated filters, as a share of the largest filter value.

    Measured within the cells, where the error of a cubic spline is largest.

    Parameters
    ----------
    filters_at : callable
        Distances in Angstrom, shape (n,), to filters of shape (n, n_filters), one per layer.
    cutoff, spacing : float
        In Angstrom.
    """
    knots = Knots.between(0.0, cutoff, spacing)
    like = torch.zeros(1, dtype=torch.float64)
    cells = torch.arange(knots.cells, dtype=torch.float64)
    between = knots.step * (cells[:, None] + torch.tensor([0.25, 0.5, 0.75])).flatten()
    worst = 0.0
    for values, exact in zip(filters_at(knots.distances(like)), filters_at(between), strict=True):
        difference = (Table.through(values, knots)(between) - exact).abs().max()
        worst = max(worst, float(difference / exact.abs().max().clamp_min(1e-30)))
    return worst


def _stencils() -> np.ndarray:
    """Coefficients between two knots as sums of values at the knots before and behind, shape (cells, knots).

    Coefficients are local sums of values on the cells' own grid (a quasi-interpolant that reproduces every
    cubic), not the solution of a linear system: for Gaussians the error is an eighth of that of four-point
    Lagrange interpolation on the same grid. Those values in turn are Lagrange sums of values at the knots.
    """
    half = _POINTS // 2
    stencils = np.zeros((_CELLS_PER_KNOT, 2 * half + 2))
    for cell in range(_CELLS_PER_KNOT):
        for away, weight in zip(range(-2, 3), np.array([1, -10, 54, -10, 1]) / 36, strict=True):
            at = (cell + away) / _CELLS_PER_KNOT
            points = np.arange(1 - half, 1 + half) + math.floor(at)
            for k in points:
                others = points[points != k]
                stencils[cell, half + k] += weight * np.prod((at - others) / (k - others))
    return stencils


_STENCILS = _stencils()
_STENCILS_32 = _STENCILS.astype(np.float32)
_REVERSED_32 = _STENCILS_32[:, ::-1].T.flatten()
"""What each coefficient takes of one value, for all coefficients around it in their order."""
_MARGIN = _STENCILS.shape[1] // 2
"""Knots either side: coefficients start before the first cell and end behind the last."""
_SURPLUS = _CELLS_PER_KNOT - 1
"""Coefficients that the stencils give before the first that a cell needs."""


def _coefficients(values: torch.Tensor) -> torch.Tensor:
    """Spline coefficients from values at the knots, shape (n_knots, n_filters), in plain torch operations."""
    stencils = torch.from_numpy(_STENCILS).to(values)
    sums = values.unfold(0, stencils.shape[1], 1) @ stencils.T
    rows = sums.transpose(1, 2).reshape(-1, values.shape[1])
    return rows[_SURPLUS : _SURPLUS + _n_coefficients(len(values))]


def _n_coefficients(n_knots: int) -> int:
    return (n_knots - 2 * _MARGIN - 1) * _CELLS_PER_KNOT + 3


@njit(cache=True)
def combine(values, out):
    """The same for float32 and whole vectors of filters, compiled; ``out`` has a row per coefficient."""
    width = values.shape[1]
    for row in range(len(out)):
        knot, cell = divmod(row + _SURPLUS, _CELLS_PER_KNOT)
        for c in range(0, width, LANES):
            s = splat(np.float32(0))
            for k in range(_STENCILS_32.shape[1]):
                s = fma(splat(_STENCILS_32[cell, k]), load(values, (knot + k) * width + c), s)
            store(out, row * width + c, s)


@njit(cache=True)
def combine_backward(grad, out):
    """Gradient of :func:`combine`'s values, from that of the coefficients."""
    width = grad.shape[1]
    for knot in range(len(out)):
        start = (knot + 1) * _CELLS_PER_KNOT - len(_REVERSED_32) - _SURPLUS
        inside = range(max(0, -start), min(len(_REVERSED_32), len(grad) - start))
        for c in range(0, width, LANES):
            s = splat(np.float32(0))
            for k in inside:
                s = fma(splat(_REVERSED_32[k]), load(grad, (start + k) * width + c), s)
            store(out, knot * width + c, s)
