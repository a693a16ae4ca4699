"""A Gaussian process on the features of a frozen source: the graft that needs no training.

Label (or label minus source prediction) per atom = what the elements contribute + a smooth function of the
network's pooled features + noise. The first is a linear kernel on element fractions, whose posterior mean is
a set of reference energies with a prior, by which neighbours in the periodic table are alike; the second a
Matern kernel on the features of all interactions.
Noise has heavy tails: outliers are weighted down as in :func:`matgraft.training.elements.fit_elements`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpotri
from scipy.spatial.distance import cdist

from matgraft.models.elements import likeness
from matgraft.models.process import GaussianProcess, matern
from matgraft.models.references import HUBER, References
from matgraft.training.descent import descended

_ITERATIONS = 5
_ELEMENTS = 10.0 ** np.arange(-3, 8)
_FEATURES = 10.0 ** np.arange(-2, 6.1, 0.5)
_LENGTHS = 2.0 ** np.arange(-1.5, 4.1, 0.5)
"""Variances of both kernels in units of the noise, and length scale in median distances of the features."""
_OWN = 0.03
"""Share of an element's energy that its neighbours know nothing of."""
_STARTS = ((3, 4, 3), (8, 4, 4))
"""Where the search begins: elements known well, and not at all."""
_SEARCHED = 1000
"""The kernel is chosen on so many structures at the most: a trial takes a time that grows as their cube."""
MOST = 10_000
"""More structures do not fit the memory of a laptop."""


def fit_process(
    composition: np.ndarray, values: np.ndarray, features: np.ndarray, means: Sequence[np.ndarray] = ()
) -> tuple[References, GaussianProcess]:
    """Fit references and Gaussian process together.

    Variances and length scale are those with the least error in leave-one-out prediction (Rasmussen and
    Williams 2006, eq. 5.12), which does not believe that the noise is normal, as the likelihood would.

    Parameters
    ----------
    composition : ndarray, shape (n, 119)
        Atoms of each element.
    values : ndarray, shape (n,)
        Per atom.
    features : ndarray, shape (n, d)
        See :meth:`matgraft.models.schnet.SchNet.features`.
    means : sequence of ndarray, shape (119,)
        Energies about which those of the elements may lie; zero is always tried first.
    """
    fractions = composition / composition.sum(axis=1, keepdims=True)
    width = float(np.sqrt(((features - features.mean(axis=0)) ** 2).mean())) or 1.0
    distances = cdist(features, features)
    apart = distances[distances > 1e-6 * width]
    unit = float(np.median(apart, overwrite_input=True)) if len(apart) else width
    del apart
    some = np.sort(np.random.default_rng(0).permutation(len(values))[:_SEARCHED])
    alike = likeness() + _OWN * np.eye(composition.shape[1])
    linear = fractions @ alike @ fractions.T
    nearby = np.ix_(some, some)
    least = np.inf
    for mean in (np.zeros(composition.shape[1]), *means):
        centre = float(np.median(values - fractions @ mean))
        left = values - fractions @ mean - centre
        error, kernel = _Search(linear[nearby], distances[nearby] / unit, left[some]).best()
        if error < least:
            least, (around, left_over, (elements, smooth, length)) = error, (mean + centre, left, kernel)
    covariance = linear
    for some in np.array_split(np.arange(len(values)), len(values) // _SEARCHED + 1):
        # A part at a time and in place: whole matrices would be the most that this takes of memory.
        covariance[some] = elements * linear[some] + smooth * matern(distances[some] / unit / length)
    del distances
    weights, _ = _robust(covariance, left_over)
    energies = around + elements * alike @ (fractions.T @ weights)
    inverse = np.full(features.shape[1], 1.0 / (unit * length), dtype=np.float32)
    process = GaussianProcess(features.astype(np.float32), inverse, smooth * weights)
    return References.of_all(energies, composition), process


class _Search:
    """For the best of a grid of kernels."""

    def __init__(self, linear: np.ndarray, distances: np.ndarray, values: np.ndarray):
        self.linear, self.distances, self.values = linear, distances, values
        self.error = cache(self._error)

    def best(self) -> tuple[float, tuple[float, float, float]]:
        """The least error, and both variances and the length scale that have it."""
        grids = (_ELEMENTS, _FEATURES, _LENGTHS)
        sizes = [len(grid) for grid in grids]
        found = min((descended(self.error, start, sizes) for start in _STARTS), key=self.error)
        elements, smooth, length = (float(g[k]) for g, k in zip(grids, found, strict=True))
        return self.error(found), (elements, smooth, length)

    def _error(self, at: tuple[int, ...]) -> float:
        elements, smooth, length = at
        kernel = _FEATURES[smooth] * matern(self.distances / _LENGTHS[length])
        _, left_out = _robust(_ELEMENTS[elements] * self.linear + kernel, self.values)
        return float(np.abs(left_out).mean())


def posterior(covariance: np.ndarray, noise: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the posterior mean, and the errors of leave-one-out prediction.

    Rasmussen and Williams 2006, eq. 5.12.

    Parameters
    ----------
    covariance : ndarray, shape (n, n)
    noise, values : ndarray, shape (n,)
        ``noise`` is a variance.
    """
    # In the order of LAPACK, which then works in place.
    noisy = np.array(covariance, order="F")
    noisy[np.diag_indices(len(noise))] += noise
    factor, lower = cho_factor(noisy, lower=True, overwrite_a=True)
    weights = cho_solve((factor, lower), values)
    # Two thirds of the time of solving against the identity.
    inverse, _ = dpotri(factor, lower=lower, overwrite_c=True)
    return weights, weights / np.diag(inverse)


def _robust(covariance: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`posterior` with more noise where errors are large."""
    noise = np.ones(len(values))
    for _ in range(_ITERATIONS):
        weights, left_out = posterior(covariance, noise, values)
        width = max(HUBER * 1.4826 * float(np.median(np.abs(left_out))), 1e-12)
        noise = np.maximum(np.abs(left_out) / width, 1.0)
    return weights, left_out
