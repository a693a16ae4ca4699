"""Intervals: how far off a prediction may be, by how far off it was for labels that had not been seen.

Conformal prediction with normalised scores (Papadopoulos, Gammerman and Vovk 2008; Lei et al. 2018): the
interval of a structure is a quantile of ``error / difficulty`` over the labels, each predicted without its
own fold (cross-conformal, Vovk 2015), times the structure's own difficulty.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist

from matgraft.models.process import GaussianProcess

COVERAGE = 0.9
"""Probability that an interval holds the label, unless another is asked for."""
NEAREST = 3
"""Neighbours whose mean distance says how far a structure is from the labels."""
NEIGHBOURS, PRIOR = 10, 5.0
"""Neighbours whose errors are averaged, and how many neighbours the overall average counts for."""
LACKING = 1.5
"""By how much intervals of structures with an element in no label are usually widened: with this nine in ten
of them hold, on the sets of benchmarks/contest.py and on others."""
STRANGE = 4.0
"""What the labels show of signals holds for so many standard deviations. Beyond, the slopes alone go on,
however little the difficulty told among the labels: twice as far from them, wider by the root of two."""


@dataclass(frozen=True)
class Intervals:
    """What was learned of errors; made by :func:`matgraft.training.intervals.calibrated`.

    Attributes
    ----------
    features : ndarray of float32, shape (n, d)
        Of the labelled structures.
    errors : ndarray, shape (n,)
        Their absolute errors per atom when they were not seen, the largest cut off.
    counts : ndarray, shape (119,)
        Labelled structures that contain each element.
    centre, width : ndarray, shape (4,)
        Mean and standard deviation of the signals; see :func:`signals_of`.
    slopes : ndarray, shape (4,)
        How the logarithm of the difficulty follows the signals before any error is known.
    process : GaussianProcess
        From standardised signals to what the errors add to that.
    level, power : float
        Mean of that logarithm without slopes; and how strongly intervals follow the difficulty, 0 not at all.
    scores : ndarray, shape (n,)
        Error in label units over difficulty, ascending.
    reach : float
        Seven in eight labelled structures are nearer than this to the nearest others.
    lacking : float
        Intervals of structures with an element in no label are so many times as wide.
    """

    features: np.ndarray
    errors: np.ndarray
    counts: np.ndarray
    centre: np.ndarray
    width: np.ndarray
    slopes: np.ndarray
    process: GaussianProcess
    level: float
    power: float
    scores: np.ndarray
    reach: float
    lacking: float

    def half_width(
        self, composition: np.ndarray, features: np.ndarray, coverage: float = COVERAGE
    ) -> np.ndarray:
        """Half the width of the interval that holds the label with probability ``coverage``.

        Parameters
        ----------
        composition : ndarray, shape (m, 119)
        features : ndarray, shape (m, d)
        coverage : float

        Returns
        -------
        ndarray, shape (m,)
            In label units, per cell if the label is. Infinite where so few labels cannot promise this much.
        """
        return self.assessed(composition, features, coverage)[0]

    def assessed(
        self, composition: np.ndarray, features: np.ndarray, coverage: float = COVERAGE
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`half_width` and :meth:`strangeness` from distances that are computed once."""
        distances = cdist(features, self.features)
        half_width = self._quantile(composition, coverage) * self._difficulty(composition, distances)
        return half_width, _nearest(distances) / self.reach

    def _quantile(self, composition: np.ndarray, coverage: float) -> np.ndarray:
        """Of the scores, larger where an element is in no label; shape (m,)."""
        usual = conformal_quantile(self.scores, coverage)
        lacks = (composition[:, self.counts == 0] > 0).any(axis=1)
        return np.where(lacks, self.lacking * usual, usual)

    def difficulty(self, composition: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Size of the error to be expected, in label units; shape (m,)."""
        return self._difficulty(composition, cdist(features, self.features))

    def _difficulty(self, composition: np.ndarray, distances: np.ndarray) -> np.ndarray:
        signals = signals_of(distances, self.errors, composition, self.counts)
        away = signals - self.centre
        standard = np.clip(away / self.width, -STRANGE, STRANGE)
        beyond = np.maximum(away - STRANGE * self.width, 0.0)
        told = self.power * (self.level + away @ self.slopes + self.process(standard))
        return np.exp(told + max(1.0 - self.power, 0.0) * (beyond @ self.slopes))

    def strangeness(self, features: np.ndarray) -> np.ndarray:
        """Distance to the nearest labels in units of :attr:`reach`, shape (m,); above 1 is outside."""
        return _nearest(cdist(features, self.features)) / self.reach

    def tensors(self) -> dict[str, torch.Tensor]:
        """Arrays by name, to be stored."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "process"}
        return {
            name: torch.from_numpy(np.atleast_1d(array)) for name, array in arrays.items()
        } | self.process.tensors()

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> Intervals:
        """What :meth:`tensors` gave."""
        process = GaussianProcess.from_tensors(tensors)
        if process is None:
            raise KeyError("process")
        # Models of before have no slopes, and kept other things of elements in no label.
        missing = {"slopes": np.zeros(4), "lacking": np.array([LACKING])}
        tensors = {name: torch.from_numpy(array) for name, array in missing.items()} | tensors
        arrays: dict[str, Any] = {f.name: tensors[f.name].numpy() for f in fields(cls) if f.name != "process"}
        for name in ("level", "power", "reach", "lacking"):
            arrays[name] = float(arrays[name][0])
        return cls(**arrays, process=process)


def signals_of(
    distances: np.ndarray, errors: np.ndarray, composition: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """What warns of an error, shape (m, 4), as logarithms.

    The distance to the nearest labels, the errors that the neighbours among them had, the number of atoms,
    and how seldom the rarest element is among the labels.

    Parameters
    ----------
    distances : ndarray, shape (m, n)
        To the labelled structures, between features; infinite for one that must not be looked at.
    errors : ndarray, shape (n,)
    composition : ndarray, shape (m, 119)
    counts : ndarray, shape (119,) or (m, 119)
    """
    around = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    near = (errors[around].sum(axis=1) + PRIOR * errors.mean()) / (around.shape[1] + PRIOR)
    rarest = np.where(composition > 0, counts, np.inf).min(axis=1)
    floor = 1e-6 * max(float(errors.mean()), 1e-300)
    return np.log(
        np.stack(
            [
                np.maximum(_nearest(distances), 1e-6),
                np.maximum(near, floor),
                composition.sum(axis=1),
                1.0 / np.maximum(rarest, 0.5),
            ],
            axis=1,
        )
    )


def _nearest(distances: np.ndarray) -> np.ndarray:
    return np.sort(distances, axis=1)[:, :NEAREST].mean(axis=1)


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The smallest score that a new one stays below with probability ``coverage``; scores ascend."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return float(scores[rank - 1]) if rank <= len(scores) else np.inf
