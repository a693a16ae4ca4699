"""Search for atoms that sit on top of one another, periodic images included."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def close_pairs(
    offsets: np.ndarray,
    frac: np.ndarray,
    closest: np.ndarray,
    cells: np.ndarray,
    heights: np.ndarray,
    pbc: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The closest pair of each structure among those that are closer than they may be.

    Two atoms whose fractional coordinates differ by ``f`` along an axis are at least ``|f| * height`` apart,
    so only images with ``|f + shift| * height`` within the limit are visited: none at all for most pairs.

    Parameters
    ----------
    offsets : ndarray of int64, shape (n + 1,)
    frac : ndarray of float64, shape (N, 3)
        Fractional coordinates, wrapped or not.
    closest : ndarray of float64, shape (N,)
        How near another atom may come; the smaller value of a pair counts. In the unit of the cells.
    cells : ndarray of float64, shape (n, 3, 3)
        Of full rank even where not periodic.
    heights : ndarray of float64, shape (n, 3)
        Distance between opposite faces of each cell.
    pbc : ndarray of bool, shape (n, 3)

    Returns
    -------
    pairs : ndarray of int64, shape (n, 2)
        Atom indices within the structure, -1 where all atoms keep their distance.
    distances : ndarray of float64, shape (n,)
    """
    n = len(offsets) - 1
    pairs = np.full((n, 2), -1, dtype=np.int64)
    distances = np.full(n, np.inf)
    low, high, f = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), np.zeros(3)
    for s in range(n):
        cell, start, stop = cells[s], offsets[s], offsets[s + 1]
        for i in range(start, stop):
            for j in range(i, stop):
                limit = min(closest[i], closest[j])
                possible = True
                for k in range(3):
                    f[k] = frac[j, k] - frac[i, k]
                    reach = limit / heights[s, k]
                    low[k] = high[k] = 0
                    if pbc[s, k]:
                        low[k] = math.ceil(-f[k] - reach)
                        high[k] = math.floor(-f[k] + reach)
                    elif abs(f[k]) > reach:
                        possible = False
                    if not possible or low[k] > high[k]:
                        possible = False
                        break
                if not possible:
                    continue
                for a in range(low[0], high[0] + 1):
                    for b in range(low[1], high[1] + 1):
                        for c in range(low[2], high[2] + 1):
                            if i == j and a == 0 and b == 0 and c == 0:
                                continue
                            square = 0.0
                            for x in range(3):
                                d = (
                                    (f[0] + a) * cell[0, x]
                                    + (f[1] + b) * cell[1, x]
                                    + (f[2] + c) * cell[2, x]
                                )
                                square += d * d
                            distance = math.sqrt(square)
                            if distance < limit and distance < distances[s]:
                                distances[s] = distance
                                pairs[s, 0], pairs[s, 1] = i - start, j - start
    return pairs, distances
