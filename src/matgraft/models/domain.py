"""Where the crystals lie that a source learnt from, and how far from them others are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

LANDMARKS, SAMPLE = 1000, 10_000
"""Crystals that stand for all that were learnt from; and those that the axes are found on, at most."""
AXES = 32
"""Principal components of the features that distances are measured along."""
FAR = 0.99
"""Share of the crystals held out that are nearer than :attr:`Domain.reach`."""


@dataclass(frozen=True)
class Domain:
    """The applicability domain of a network: crystals like those that it learnt from.

    The distance of a crystal from its domain is that of its features, along their principal components, to
    the nearest of a random sample of the training crystals.

    Attributes
    ----------
    centre : ndarray of float32, shape (d,)
        Mean of the features.
    axes : ndarray of float32, shape (d, k)
        Principal components.
    landmarks : ndarray of float32, shape (k, n)
        Training crystals, one to a column.
    reach : float
        Distance that :data:`FAR` of the crystals held out from the training stay below.
    """

    centre: np.ndarray
    axes: np.ndarray
    landmarks: np.ndarray
    reach: float

    @classmethod
    def of(cls, features: np.ndarray, held: np.ndarray) -> Domain:
        """The domain that crystals span.

        Parameters
        ----------
        features : ndarray, shape (n, d)
            Of training crystals, in random order; see :func:`sample`.
        held : ndarray, shape (m, d)
            Of crystals that were held out.
        """
        centre = features.mean(axis=0)
        # The eigenvalues ascend.
        axes = np.linalg.eigh(np.cov(features, rowvar=False))[1][:, ::-1][:, :AXES]
        landmarks = ((features[:LANDMARKS] - centre) @ axes).T
        centre, axes, landmarks = (
            np.ascontiguousarray(array, dtype=np.float32) for array in (centre, axes, landmarks)
        )
        reach = np.quantile(cls(centre, axes, landmarks, 1.0).strangeness(held), FAR)
        return cls(centre, axes, landmarks, max(float(reach), 1e-6))

    def strangeness(self, features: np.ndarray) -> np.ndarray:
        """Distance from the domain in units of :attr:`reach`, shape (m,); above 1 is outside."""
        nearest = _nearest(features.astype(np.float32), self.centre, self.axes, self.landmarks)
        return nearest / self.reach

    def tensors(self) -> dict[str, torch.Tensor]:
        """Arrays by name, to be stored."""
        return {name: torch.from_numpy(np.atleast_1d(array)) for name, array in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> Domain:
        """What :meth:`tensors` gave."""
        centre, axes, landmarks = (tensors[name].numpy() for name in ("centre", "axes", "landmarks"))
        return cls(centre, axes, landmarks, float(tensors["reach"][0]))


def sample(train: np.ndarray, seed: int) -> np.ndarray:
    """Rows of training crystals that a domain is made from, in random order."""
    return np.random.default_rng([seed, 5]).permutation(train)[:SAMPLE]


# One structure at a time: a matrix product would round by the number of structures asked about together.
@njit(cache=True)
def _nearest(features, centre, axes, landmarks):
    out = np.empty(len(features))
    place = np.empty(axes.shape[1], dtype=np.float32)
    squares = np.empty(landmarks.shape[1], dtype=np.float32)
    for i in range(len(features)):
        place[:] = 0.0
        for a in range(len(centre)):
            away = features[i, a] - centre[a]
            for k in range(len(place)):
                place[k] += away * axes[a, k]
        squares[:] = 0.0
        for k in range(len(place)):
            for j in range(len(squares)):
                difference = place[k] - landmarks[k, j]
                squares[j] += difference * difference
        # Features that are no numbers are infinitely far.
        least = np.float32(np.inf)
        for j in range(len(squares)):
            if squares[j] < least:
                least = squares[j]
        out[i] = np.sqrt(least)
    return out
