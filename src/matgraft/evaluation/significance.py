"""Whether one method is better than another, and what that is worth in labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from scipy import stats


def paired_p(first: np.ndarray, second: np.ndarray, n_train: int, n_test: int) -> float:
    """Two-sided p-value of ``first - second`` by the corrected resampled t-test; NaN for a single repeat.

    Repeats that draw their splits from one pool of structures are not independent, and the plain paired test
    finds differences where there are none; the variance is therefore enlarged by ``n_test / n_train`` (Nadeau
    and Bengio, Machine Learning 52, 239, 2003).

    Parameters
    ----------
    first, second : ndarray, shape (repeats,)
        Errors of two methods on the same splits.
    n_train, n_test : int
        Structures to train on and to judge on in each repeat.
    """
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    n = len(difference)
    mean = float(difference.mean())
    if n < 2:
        return math.nan
    deviation = float(difference.std(ddof=1))
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    t = mean / (deviation * math.sqrt(1 / n + n_test / n_train))
    return float(2 * stats.t.sf(abs(t), n - 1))


def labels_to_reach(curve: Mapping[int, float], level: float) -> float:
    """Number of labels at which a learning curve comes down to an error.

    Parameters
    ----------
    curve : mapping of int to float
        Mean error by number of labels.
    level : float

    Returns
    -------
    float
        Between measured sizes along a power law; 0 if the fewest labels do already, infinity if the most do
        not.
    """
    sizes = sorted(curve)
    if curve[sizes[0]] <= level:
        return 0.0
    for low, high in pairwise(sizes):
        if curve[high] <= level:
            share = math.log(curve[low] / level) / math.log(curve[low] / curve[high])
            return low * (high / low) ** share
    return math.inf
