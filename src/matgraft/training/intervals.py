"""Calibrating intervals on predictions that labels had no part in."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from matgraft.data import Label
from matgraft.models.intervals import COVERAGE, LACKING, Intervals, conformal_quantile, signals_of
from matgraft.models.process import GaussianProcess, matern
from matgraft.training.process import posterior

_LENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
_AMPLITUDES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_POWERS = np.arange(0.0, 1.51, 0.1)
"""How strongly intervals follow the difficulty: such that those of the usual coverage are narrowest."""
_SLOPES = 0.5, 1.0
"""Errors per atom grow as the square root of the distance to the labels, and in proportion to the errors of
the neighbours: so they do, within a factor of three, on each set of benchmarks/contest.py, and a few labels
need only say where they do not."""
_BELIEF = 20
"""Labels that the usual value of :attr:`Intervals.lacking` counts for."""
_DOUBT = 2.5
"""About two standard deviations of the logarithm of a median of errors, times the root of their number."""
_NEAR = 7 / 8
"""Share of the labels whose distance from the others counts as near."""
_SEARCHED, _MOST = 1000, 4000
"""The smooth function is chosen on so many labels at the most, and intervals rest on so many: time grows as
the cube of their number, memory as its square."""
_FLOOR = 0.1
_CUT = 0.9
"""Logarithms of errors end at a tenth of the median, and no neighbour's error counts for more than the ninth
decile: otherwise single lucky hits and single outliers would rule."""


def calibrated(
    composition: np.ndarray,
    features: np.ndarray,
    per_atom: np.ndarray,
    label: Label,
    folds: np.ndarray | None = None,
) -> Intervals:
    """Learn from errors where more of them are to be expected.

    Parameters
    ----------
    composition : ndarray, shape (n, 119)
        Of labelled structures.
    features : ndarray, shape (n, d)
        Of the predictor's network.
    per_atom : ndarray, shape (n,)
        Absolute errors per atom of predictions by fits without the structure.
    label : Label
        Of what they are errors: those of a label per cell add up over its atoms.
    folds : ndarray, shape (n,), optional
        Structures of a number were left out together; default each alone.
    """
    features = features.astype(np.float32)
    contains, natoms = composition > 0, composition.sum(axis=1)
    errors = label.from_per_atom(per_atom, natoms)
    counts = contains.sum(axis=0).astype(float)
    folds = np.arange(len(per_atom)) if folds is None else folds
    folds_of, member = np.unique(folds, return_inverse=True)
    together = np.stack([contains[folds == fold].sum(axis=0) for fold in folds_of])
    others = counts - together[member]
    if len(features) > _MOST:
        part = np.sort(np.random.default_rng(0).permutation(len(features))[:_MOST])
        composition, features, per_atom, errors, natoms, contains, others = (
            array[part] for array in (composition, features, per_atom, errors, natoms, contains, others)
        )
    cut = np.minimum(per_atom, np.quantile(per_atom, _CUT))
    distances = cdist(features, features)
    np.fill_diagonal(distances, np.inf)
    # As for a structure that is not among the labels.
    signals = signals_of(distances, cut, composition, others)
    centre, width = signals.mean(axis=0), signals.std(axis=0)
    width = np.where(width > 1e-9, width, 1.0)
    standard = (signals - centre) / width
    slopes = np.array([*_SLOPES, float(label.kind == "cell"), 0.0])
    prior = (standard * width) @ slopes
    floor = max(_FLOOR * float(np.median(per_atom)), 1e-12)
    logarithm = np.log(label.from_per_atom(per_atom + floor, natoms))
    level = float((logarithm - prior).mean())
    process, left_out = _smooth(standard, logarithm - prior - level)
    expected = level + prior + left_out
    power = min(_POWERS, key=lambda p: _mean_width(errors, np.exp(p * expected)))
    scores = errors / np.exp(power * expected)
    lacking = _lacking(scores, (contains & (others == 0)).any(axis=1))
    scores = np.sort(scores)
    reach = max(float(np.exp(np.quantile(signals[:, 0], _NEAR))), 1e-6)
    return Intervals(
        features, cut, counts, centre, width, slopes, process, level, float(power), scores, reach, lacking
    )


def _lacking(scores: np.ndarray, lacks: np.ndarray) -> float:
    """How many times larger scores are where an element is in no label.

    By medians, for a quantile of so few would be the largest of them; drawn to what is usual, but not below
    what these labels rule out.
    """
    n = int(lacks.sum())
    usual = float(np.median(scores))
    if not n or not usual:
        return LACKING
    ratio = max(float(np.median(scores[lacks])) / usual, 1e-3)
    drawn = np.exp((_BELIEF * np.log(LACKING) + n * np.log(ratio)) / (_BELIEF + n))
    return max(1.0, float(drawn), ratio * float(np.exp(-_DOUBT / np.sqrt(n))))


def _mean_width(errors: np.ndarray, difficulty: np.ndarray) -> float:
    return conformal_quantile(np.sort(errors / difficulty), COVERAGE) * float(difficulty.mean())


def _smooth(points: np.ndarray, values: np.ndarray) -> tuple[GaussianProcess, np.ndarray]:
    """A Gaussian process with the least squared error in leave-one-out prediction, and these predictions."""
    some = slice(None, None, -(-len(points) // _SEARCHED))
    distances = cdist(points[some], points[some])
    best = np.inf
    for length in _LENGTHS:
        kernel = matern(distances / length)
        for amplitude in _AMPLITUDES:
            _, left_out = posterior(amplitude * kernel, np.ones(len(kernel)), values[some])
            if (error := float((left_out**2).mean())) < best:
                best, chosen = error, (length, amplitude)
    length, amplitude = chosen
    kernel = amplitude * matern(cdist(points, points) / length)
    weights, left_out = posterior(kernel, np.ones(len(values)), values)
    inverse_length = np.full(points.shape[1], 1.0 / length, dtype=np.float32)
    return GaussianProcess(points.astype(np.float32), inverse_length, amplitude * weights), values - left_out
