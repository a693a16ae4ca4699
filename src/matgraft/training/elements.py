"""Reference energies from few labels: what the labels cannot tell, the periodic table does.

Label per atom = sum over elements of fraction times energy + noise, where the energies have a Gaussian prior
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sec. 2.7). Its covariance is a sum of
three: a level that all elements share, a smooth function over groups and periods
(:func:`matgraft.models.elements.likeness`), and something of each element's own. How much of each there is,
is chosen by leave-one-out error. The energy of an element that no label contains follows from those of
elements like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from matgraft.models.elements import likeness
from matgraft.models.references import HUBER, References
from matgraft.training.descent import descended

_LEVELS = (0.0, 1e6)
_SMOOTH = (0.0, 1.0, 1e1, 1e2, 1e3, 1e4)
_OWN = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4, 1e6)
"""Variances of the three in units of the noise."""
_STARTS = ((0, 0, 2), (1, 3, 2), (1, 0, len(_OWN) - 1))
"""Where the search begins: no shift at all, neighbours alike, each element by itself."""
_GAIN = 0.02
"""Neighbours and means are asked only if that lowers the error by so much: a small gain may be chance."""
_EXACT = 1e-4
"""Smaller errors than this share of the labels' range are none."""
_COUNTED = 0.9
"""Share of the labels, those with the least errors, that the choice rests on: no prior foresees wild ones."""
_ITERATIONS = 8, 30
"""While a prior is sought, and when it is found."""
_SEARCHED = 1000
"""The prior is chosen on so many structures at the most."""

At = tuple[int, int, int]


def fit_elements(
    composition: np.ndarray,
    per_atom: np.ndarray,
    means: Sequence[np.ndarray] = (),
    free: Sequence[int] | np.ndarray = (),
) -> References:
    """One energy per element, robustly, with a prior from the periodic table.

    Parameters
    ----------
    composition : ndarray, shape (n, 119)
        Atoms of each element.
    per_atom : ndarray, shape (n,)
        Labels, or label minus the source's prediction, per atom.
    means : sequence of ndarray, shape (119,)
        Energies about which those sought may lie; zero is always tried first.
    free : sequence of int
        Atomic numbers of elements whose energies may be anything.

    Returns
    -------
    References
        With an energy for every element; those that no structure contains are ``assumed``.
    """
    present = np.flatnonzero(composition.any(axis=0))
    fractions = composition / composition.sum(axis=1, keepdims=True)
    loose = np.zeros(composition.shape[1])
    loose[np.asarray(free, dtype=int)] = _OWN[-1]
    some = np.sort(np.random.default_rng(0).permutation(len(per_atom))[:_SEARCHED])
    best, chosen = np.inf, (np.zeros(composition.shape[1]), (0, 0, 0))
    for mean in (chosen[0], *means):
        values = per_atom - fractions @ mean
        search = _Search(fractions[np.ix_(some, present)], values[some], present, loose)
        at = search.best()
        if search.error(at) < (1 - _GAIN) * best:
            best, chosen = search.error(at), (mean, at)
    mean, at = chosen
    covariance = _covariance(at) + np.diag(loose)
    among = covariance[np.ix_(present, present)]
    shift, _ = _posterior(among, fractions[:, present], per_atom - fractions @ mean, trusting=True)
    energies = mean + covariance[:, present] @ np.linalg.solve(among, shift)
    return References.of_all(energies, composition)


class _Search:
    """For the best of a grid of priors."""

    def __init__(self, fractions: np.ndarray, values: np.ndarray, present: np.ndarray, loose: np.ndarray):
        self.fractions, self.values, self.present = fractions, values, present
        self.loose = np.diag(loose[present])
        self.error = cache(self._error)

    def best(self) -> At:
        alone, together = (
            min((self._descended(start, smooth) for start in _STARTS), key=self.error)
            for smooth in (False, True)
        )
        return together if self.error(together) < (1 - _GAIN) * self.error(alone) else alone

    def _descended(self, start: At, smooth: bool) -> At:
        sizes = (len(_LEVELS), len(_SMOOTH) if smooth else 1, len(_OWN))
        inside = [min(k, size - 1) for k, size in zip(start, sizes, strict=True)]
        return cast(At, descended(self.error, inside, sizes))

    def _error(self, at: At) -> float:
        covariance = _covariance(at)[np.ix_(self.present, self.present)] + self.loose
        size = np.sort(np.abs(_posterior(covariance, self.fractions, self.values)[1]))
        return float(size[: int(np.ceil(_COUNTED * len(size)))].mean())


@cache
def _covariance(at: At) -> np.ndarray:
    level, smooth, own = at
    kernel = likeness()
    # Where elements are not known beforehand, those without labels are drawn to their neighbours and to all.
    least = _OWN[own] if _OWN[own] > 1 else 0.0
    common, near = max(_LEVELS[level], least), max(_SMOOTH[smooth], least)
    return common + near * kernel + _OWN[own] * np.eye(len(kernel))


def _posterior(
    covariance: np.ndarray, fractions: np.ndarray, values: np.ndarray, trusting: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Energies, and the errors of leave-one-out prediction.

    Noise is larger where errors are: those of leave-one-out prediction while a prior is to be chosen, as a
    wild label with an element of its own would hide behind it; with ``trusting`` those of the fit, by which
    the only label of an element is believed.
    """
    root = cholesky(covariance, lower=True)
    design = fractions @ root
    weights = np.ones(len(values))
    # Where labels are exact, what the prior leaves over must not count as an outlier.
    least = max(_EXACT * float(np.ptp(values)), 1e-12)
    for _ in range(_ITERATIONS[trusting]):
        weighted = design * weights[:, None]
        factor = cholesky(design.T @ weighted + np.eye(len(root)), lower=True)
        half = solve_triangular(factor, design.T, lower=True)
        solution = solve_triangular(factor, half @ (weights * values), lower=True, trans=1)
        leverage = weights * (half**2).sum(axis=0)
        left_out = (values - design @ solution) / np.maximum(1 - leverage, 1e-9)
        size = np.abs(values - design @ solution if trusting else left_out)
        width = max(HUBER * 1.4826 * float(np.median(size)), least)
        weights = np.minimum(1.0, width / np.maximum(size, width))
    return root @ solution, left_out
