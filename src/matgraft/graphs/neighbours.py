"""Periodic neighbour lists."""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell
from numba import njit

from matgraft.errors import InputError


@njit(cache=True)
def _search(positions, cell, inverse, pbc, cutoff, count_only, centre, neighbour, shift, distance):
    """Visit every (i, j, S) with |r_j + S cell - r_i| < cutoff; return how many there are.

    Along reciprocal vector k, a pair at fractional separation f + S is at least |f + S| plane
    spacings apart, which bounds S for each pair on its own and holds for any cell, however skewed.
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
    squared = cutoff * cutoff
    found = 0
    for i in range(n):
        for j in range(n):
            for k in range(3):
                if pbc[k]:
                    f = fractional[j, k] - fractional[i, k]
                    low[k] = np.int64(np.ceil(-reach[k] - f - 1e-9))
                    high[k] = np.int64(np.floor(reach[k] - f + 1e-9))
            dx = positions[j, 0] - positions[i, 0]
            dy = positions[j, 1] - positions[i, 1]
            dz = positions[j, 2] - positions[i, 2]
            for a in range(low[0], high[0] + 1):
                for b in range(low[1], high[1] + 1):
                    for c in range(low[2], high[2] + 1):
                        if i == j and a == 0 and b == 0 and c == 0:
                            continue
                        x = dx + a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0]
                        y = dy + a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1]
                        z = dz + a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2]
                        d2 = x * x + y * y + z * z
                        if d2 < squared:
                            if not count_only:
                                centre[found] = i
                                neighbour[found] = j
                                shift[found, 0] = a
                                shift[found, 1] = b
                                shift[found, 2] = c
                                distance[found] = np.sqrt(d2)
                            found += 1
    return found


@njit(cache=True)
def edges_of(positions, cell, inverse, pbc, cutoff):
    """Directed edges of one structure, sorted by centre; see :func:`neighbour_list`."""
    none_i = np.empty(0, dtype=np.int64)
    none_s = np.empty((0, 3), dtype=np.int64)
    none_d = np.empty(0)
    n = _search(positions, cell, inverse, pbc, cutoff, True, none_i, none_i, none_s, none_d)
    centre = np.empty(n, dtype=np.int64)
    neighbour = np.empty(n, dtype=np.int64)
    shift = np.empty((n, 3), dtype=np.int64)
    distance = np.empty(n)
    _search(positions, cell, inverse, pbc, cutoff, False, centre, neighbour, shift, distance)
    return centre, neighbour, shift, distance


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
    lengths = np.linalg.norm(cells, axis=2, keepdims=True)
    directions = np.where(pbc[:, :, None], cells / np.maximum(lengths, 1e-30), 0.0)
    gram = directions @ directions.transpose(0, 2, 1) + np.eye(3) * ~pbc[:, None, :]
    flat = np.flatnonzero(np.linalg.det(gram) < 1e-10)
    if len(flat):
        raise InputError(
            f"structure {flat[0]} (counted from 0): its periodic lattice vectors span no volume "
            "(one is zero, or they lie in a plane or on a line). "
            "Correct the cell, or mark a direction as not periodic."
        )
    for i in np.flatnonzero(~pbc.all(axis=1)):
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
    return edges_of(
        np.ascontiguousarray(positions, dtype=float), full, np.linalg.inv(full), pbc, float(cutoff)
    )
