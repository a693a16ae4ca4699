"""Periodic neighbour lists."""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell
from numba import njit

from matgraft.errors import InputError


@njit(cache=True)
def grown(array):
    """The same elements at the start of an array twice as long."""
    longer = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True)
def half_edges(positions, cell, inverse, pbc, cutoff):
    """Every pair of atoms closer than the cutoff once, with its periodic images.

    Along reciprocal vector k, a pair at fractional separation f + S is at least |f + S| plane spacings
    apart, which bounds S for each pair on its own and holds for any cell, however skewed. Along the third
    vector the sphere itself gives the interval of S, so that hardly an image is tried in vain.

    Returns
    -------
    first, second : ndarray of int64, shape (n_pairs,)
        ``first <= second``; of an atom's own images, only one of each opposite two.
    shift : ndarray of int64, shape (n_pairs, 3)
        ``second`` sits at ``positions[second] + shift @ cell``.
    distance : ndarray of float64, shape (n_pairs,)
    """
    n = len(positions)
    fractional = np.empty((n, 3))
    for i in range(n):
        for k in range(3):
            fractional[i, k] = (
                positions[i, 0] * inverse[0, k]
                + positions[i, 1] * inverse[1, k]
                + positions[i, 2] * inverse[2, k]
            )
    reach = np.empty(3)
    for k in range(3):
        reach[k] = cutoff * np.sqrt(inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2)
    low = np.zeros(3, dtype=np.int64)
    high = np.zeros(3, dtype=np.int64)
    x2, y2, z2 = cell[2, 0], cell[2, 1], cell[2, 2]
    length2 = x2 * x2 + y2 * y2 + z2 * z2
    squared = cutoff * cutoff
    capacity = 64 + 32 * n
    first = np.empty(capacity, dtype=np.int64)
    second = np.empty(capacity, dtype=np.int64)
    shift = np.empty((capacity, 3), dtype=np.int64)
    distance = np.empty(capacity)
    found = 0
    for i in range(n):
        for j in range(i, n):
            for k in range(3):
                if pbc[k]:
                    f = fractional[j, k] - fractional[i, k]
                    low[k] = np.int64(np.ceil(-reach[k] - f - 1e-9))
                    high[k] = np.int64(np.floor(reach[k] - f + 1e-9))
            dx = positions[j, 0] - positions[i, 0]
            dy = positions[j, 1] - positions[i, 1]
            dz = positions[j, 2] - positions[i, 2]
            for a in range(0 if i == j else low[0], high[0] + 1):
                for b in range(0 if i == j and a == 0 else low[1], high[1] + 1):
                    x = dx + a * cell[0, 0] + b * cell[1, 0]
                    y = dy + a * cell[0, 1] + b * cell[1, 1]
                    z = dz + a * cell[0, 2] + b * cell[1, 2]
                    start, stop = low[2], high[2]
                    if pbc[2]:
                        along = x * x2 + y * y2 + z * z2
                        inside = along * along - length2 * (x * x + y * y + z * z - squared)
                        if inside < -1e-9 * length2 * squared:
                            continue
                        half = np.sqrt(max(inside, 0.0)) / length2
                        middle = -along / length2
                        start = max(start, np.int64(np.ceil(middle - half - 1e-6)))
                        stop = min(stop, np.int64(np.floor(middle + half + 1e-6)))
                    if i == j and a == 0 and b == 0:
                        start = 1
                    for c in range(start, stop + 1):
                        d2 = (x + c * x2) ** 2 + (y + c * y2) ** 2 + (z + c * z2) ** 2
                        if d2 < squared:
                            if found == len(first):
                                first, second = grown(first), grown(second)
                                shift, distance = grown(shift), grown(distance)
                            first[found] = i
                            second[found] = j
                            shift[found, 0] = a
                            shift[found, 1] = b
                            shift[found, 2] = c
                            distance[found] = np.sqrt(d2)
                            found += 1
    return first[:found], second[:found], shift[:found], distance[:found]


@njit(cache=True)
def _flat(cells, pbc):
    """Structures whose periodic lattice vectors are zero, parallel or coplanar."""
    found = np.zeros(len(cells), dtype=np.bool_)
    for s in range(len(cells)):
        basis = np.zeros((3, 3))
        for k in range(3):
            if pbc[s, k]:
                length = np.sqrt((cells[s, k] ** 2).sum())
                rest = cells[s, k] / max(length, 1e-30)
                for previous in basis[:k]:
                    rest = rest - (rest * previous).sum() * previous
                left = np.sqrt((rest**2).sum())
                found[s] |= left < 1e-5
                basis[k] = rest / max(left, 1e-30)
    return np.flatnonzero(found)


def completed_cells(cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Cells whose missing (zero) or non-periodic vectors are filled in so that they can be inverted.

    Parameters
    ----------
    cells : ndarray, shape (n, 3, 3)
    pbc : ndarray of bool, shape (n, 3)

    Raises
    ------
    InputError
        If periodic lattice vectors of a structure are zero, parallel or coplanar.
    """
    cells = np.array(cells, dtype=float)
    flat = _flat(cells, np.ascontiguousarray(pbc))
    if len(flat):
        raise InputError(
            f"structure {flat[0]} (counted from 0): its periodic lattice vectors span no volume "
            "(one is zero, or they lie in a plane or on a line). "
            "Correct the cell, or mark a direction as not periodic."
        )
    for i in np.flatnonzero(~pbc.all(axis=1)) if not pbc.all() else ():
        cell = cells[i].copy()
        cell[~pbc[i]] = 0.0
        cells[i] = complete_cell(cell)
    return cells


def neighbour_list(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs closer than a cutoff, counted with their periodic images.

    Parameters
    ----------
    positions : ndarray, shape (n, 3)
        Cartesian, in Angstrom; atoms may lie outside the cell.
    cell : ndarray, shape (3, 3)
        Rows are lattice vectors.
    pbc : ndarray of bool, shape (3,)
    cutoff : float
        In Angstrom.

    Returns
    -------
    centre, neighbour : ndarray of int64, shape (n_edges,)
    shift : ndarray of int64, shape (n_edges, 3)
        The neighbour sits at ``positions[neighbour] + shift @ cell``.
    distance : ndarray of float64, shape (n_edges,)
    """
    pbc = np.asarray(pbc, dtype=bool)
    full = completed_cells(np.asarray(cell, dtype=float)[None], pbc[None])[0]
    first, second, shift, distance = half_edges(
        np.ascontiguousarray(positions, dtype=float), full, np.linalg.inv(full), pbc, float(cutoff)
    )
    centre = np.concatenate([first, second])
    order = np.argsort(centre, kind="stable")
    return (
        centre[order],
        np.concatenate([second, first])[order],
        np.concatenate([shift, -shift])[order],
        np.concatenate([distance, distance])[order],
    )
