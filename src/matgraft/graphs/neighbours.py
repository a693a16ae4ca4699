"""Periodic neighbour lists."""

from __future__ import annotations

import numpy as np
from ase.geometry import complete_cell
from numba import njit

from matgraft.errors import InputError
from matgraft.lanes import LANES, below, count, difference, fma, load, product, splat, store_numbers

_SLACK = 1e-5
"""Places in float32 tell who is far away, in half the time. Who seems nearer than the limit and this share of
the size of everything, some hundred times what float32 loses, is looked at again in float64."""
_FAR = np.float32(1e18)


@njit(cache=True)
def grown(array):
    """The same elements at the start of an array twice as long."""
    longer = np.empty((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True)
def _inverse(cell):
    """Columns are the reciprocal vectors, without 2 pi."""
    inverse = np.empty((3, 3))
    for k in range(3):
        a, b = cell[(k + 1) % 3], cell[(k + 2) % 3]
        inverse[0, k] = a[1] * b[2] - a[2] * b[1]
        inverse[1, k] = a[2] * b[0] - a[0] * b[2]
        inverse[2, k] = a[0] * b[1] - a[1] * b[0]
    volume = cell[0, 0] * inverse[0, 0] + cell[0, 1] * inverse[1, 0] + cell[0, 2] * inverse[2, 0]
    return inverse / volume


@njit(cache=True)
def _inside(positions, cell, inverse, pbc):
    """Atoms moved into the cell, the shift (lattice vectors) that takes each there, and their fractions."""
    n = len(positions)
    shift = np.zeros((n, 3), dtype=np.int64)
    fractions, inside = np.empty((n, 3)), positions.copy()
    for i in range(n):
        for k in range(3):
            f = 0.0
            for x in range(3):
                f += positions[i, x] * inverse[x, k]
            if pbc[k]:
                shift[i, k] = -np.int64(np.floor(f))
                for x in range(3):
                    inside[i, x] += shift[i, k] * cell[k, x]
            fractions[i, k] = f + shift[i, k]
    return inside, shift, fractions


@njit(cache=True)
def _translations(cell, most, longest):
    """Lattice vectors of at most ``most[k]`` steps along each, not longer than ``longest``, as whole numbers.

    The sphere cuts an interval out of the third, so that in a skewed cell hardly one is tried in vain.
    """
    x2, y2, z2 = cell[2, 0], cell[2, 1], cell[2, 2]
    length2 = x2 * x2 + y2 * y2 + z2 * z2
    steps = np.empty((64, 3), dtype=np.int64)
    found = 0
    for a in range(-most[0], most[0] + 1):
        for b in range(-most[1], most[1] + 1):
            x = a * cell[0, 0] + b * cell[1, 0]
            y = a * cell[0, 1] + b * cell[1, 1]
            z = a * cell[0, 2] + b * cell[1, 2]
            along = x * x2 + y * y2 + z * z2
            within = along * along - length2 * (x * x + y * y + z * z - longest * longest)
            if within < 0:
                continue
            half, middle = np.sqrt(within) / length2, -along / length2
            start = max(-most[2], np.int64(np.ceil(middle - half)))
            stop = min(most[2], np.int64(np.floor(middle + half)))
            for c in range(start, stop + 1):
                if found == len(steps):
                    steps = grown(steps)
                steps[found, 0], steps[found, 1], steps[found, 2] = a, b, c
                found += 1
    return steps[:found]


@njit(cache=True)
def _images(inside, fractions, cell, inverse, pbc, cutoff):
    """Periodic images of atoms that an atom of the cell may have within the cutoff.

    An image is in the sphere around all atoms, grown by the cutoff; and along reciprocal vector ``k`` within
    the slab that the atoms fill, grown by the cutoff.

    Returns
    -------
    places : ndarray, shape (n_images, 3)
        Where they are.
    rough : ndarray of float32, shape (3, n_images + LANES)
        The same relative to ``centre``; behind the last, far away.
    owner, which : ndarray, shape (n_images or more,)
        The atom, and the row of ``steps`` that leads from it to the image.
    starts : ndarray of int64, shape (n + 1,)
        Atom ``j`` has images ``starts[j]:starts[j + 1]``.
    steps : ndarray of int64, shape (n_steps, 3)
        In lattice vectors.
    radius : float
        Of the sphere around all images.
    centre : ndarray, shape (3,)
    """
    n = len(inside)
    centre, lowest, highest = np.zeros(3), np.zeros(3), np.zeros(3)
    most = np.zeros(3, dtype=np.int64)
    for k in range(3):
        reach = cutoff * np.sqrt(inverse[0, k] ** 2 + inverse[1, k] ** 2 + inverse[2, k] ** 2) + 1e-9
        lowest[k], highest[k] = fractions[:, k].min() - reach, fractions[:, k].max() + reach
        centre[k] = inside[:, k].sum() / n
        if pbc[k]:
            most[k] = np.int64(highest[k] - lowest[k] - reach)
    radius = 0.0
    for i in range(n):
        x, y, z = inside[i, 0] - centre[0], inside[i, 1] - centre[1], inside[i, 2] - centre[2]
        radius = max(radius, x * x + y * y + z * z)
    radius = np.sqrt(radius) * (1 + 1e-9) + 1e-9
    steps = _translations(cell, most, 2 * radius + cutoff)
    radius += cutoff
    slack = np.float32(_SLACK * radius)
    # Where each step leads, in Angstrom and in lattice vectors; behind the last, far away.
    n_steps = len(steps)
    vectors, ways = np.empty((n_steps, 3)), np.full((6, n_steps + LANES), _FAR, dtype=np.float32)
    for t in range(n_steps):
        for x in range(3):
            vectors[t, x] = steps[t, 0] * cell[0, x] + steps[t, 1] * cell[1, x] + steps[t, 2] * cell[2, x]
            ways[x, t], ways[3 + x, t] = vectors[t, x], steps[t, x]
    row = ways.shape[1]
    owner, which = np.empty(n * n_steps, dtype=np.int64), np.empty(n * n_steps + LANES, dtype=np.uint32)
    starts = np.zeros(n + 1, dtype=np.int64)
    limit = splat(np.float32((1 + _SLACK) * radius * radius))
    found = 0
    for j in range(n):
        x = splat(np.float32(centre[0] - inside[j, 0]))
        y = splat(np.float32(centre[1] - inside[j, 1]))
        z = splat(np.float32(centre[2] - inside[j, 2]))
        for start in range(0, n_steps, LANES):
            a = difference(load(ways, start), x)
            b = difference(load(ways, row + start), y)
            c = difference(load(ways, 2 * row + start), z)
            near = below(fma(a, a, fma(b, b, product(c, c))), limit)
            for k in range(3):
                along = load(ways, (3 + k) * row + start)
                low = splat(np.float32(lowest[k] - fractions[j, k]) - slack)
                high = splat(np.float32(highest[k] - fractions[j, k]) + slack)
                near &= below(low, along) & below(along, high)
            store_numbers(which, found, start, near)
            found += count(near)
        starts[j + 1] = found
    places, rough = np.empty((found, 3)), np.empty((3, found + LANES), dtype=np.float32)
    for j in range(n):
        for g in range(starts[j], starts[j + 1]):
            owner[g] = j
            for k in range(3):
                places[g, k] = inside[j, k] + vectors[which[g], k]
                rough[k, g] = places[g, k] - centre[k]
    rough[:, found : found + LANES] = _FAR
    return places, rough, owner, which, starts, steps, radius, centre


@njit(cache=True)
def half_list(positions, cell, pbc, cutoff):
    """Every pair of atoms closer than the cutoff once, with its periodic images.

    Returns
    -------
    first, second : ndarray of int64, shape (n_pairs,)
        ``first <= second``; of an atom's own images, only one of each opposite two.
    distance : ndarray of float64, shape (n_pairs,)
    step : ndarray of int64, shape (n_pairs,)
    steps, home : ndarray of int64, shape (n_steps, 3), (n, 3)
        ``second`` sits at ``positions[second] + (steps[step] + home[second] - home[first]) @ cell``.
    """
    n = len(positions)
    inverse = _inverse(cell)
    inside, home, fractions = _inside(positions, cell, inverse, pbc)
    places, rough, owner, which, starts, steps, radius, centre = _images(
        inside, fractions, cell, inverse, pbc, cutoff
    )
    forward = np.empty(len(steps), dtype=np.bool_)
    for t in range(len(steps)):
        a, b, c = steps[t]
        forward[t] = a > 0 or (a == 0 and (b > 0 or (b == 0 and c > 0)))
    squared = cutoff * cutoff
    limit = splat(np.float32(squared + _SLACK * radius * radius))
    capacity = 64 + 32 * n
    first = np.empty(capacity, dtype=np.int64)
    second = np.empty(capacity, dtype=np.int64)
    distance = np.empty(capacity)
    step = np.empty(capacity, dtype=np.int64)
    row = rough.shape[1]
    candidates = np.empty(row, dtype=np.uint32)
    found = 0
    for i in range(n):
        x, y, z = inside[i, 0], inside[i, 1], inside[i, 2]
        u, v = splat(np.float32(x - centre[0])), splat(np.float32(y - centre[1]))
        w = splat(np.float32(z - centre[2]))
        met = 0
        # Images of this atom and of later ones.
        for start in range(starts[i], starts[n], LANES):
            a = difference(load(rough, start), u)
            b = difference(load(rough, row + start), v)
            c = difference(load(rough, 2 * row + start), w)
            near = below(fma(a, a, fma(b, b, product(c, c))), limit)
            store_numbers(candidates, met, start, near)
            met += count(near)
        while found + met > len(first):
            first, second, distance, step = grown(first), grown(second), grown(distance), grown(step)
        for k in range(met):
            g = candidates[k]
            away = (places[g, 0] - x) ** 2 + (places[g, 1] - y) ** 2 + (places[g, 2] - z) ** 2
            first[found], second[found], distance[found], step[found] = i, owner[g], away, which[g]
            found += (away < squared) & ((owner[g] != i) | forward[which[g]])
    return first[:found], second[:found], np.sqrt(distance[:found]), step[:found], steps, home


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


def half_edges(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair once, as :func:`half_list` finds them, with the shift of each written out.

    Returns
    -------
    first, second : ndarray of int64, shape (n_pairs,)
    shift : ndarray of int64, shape (n_pairs, 3)
        ``second`` sits at ``positions[second] + shift @ cell``.
    distance : ndarray of float64, shape (n_pairs,)
    """
    first, second, distance, step, steps, home = half_list(
        np.ascontiguousarray(positions, dtype=float), cell, pbc, float(cutoff)
    )
    return first, second, steps[step] + home[second] - home[first], distance


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
    first, second, shift, distance = half_edges(positions, full, pbc, cutoff)
    centre = np.concatenate([first, second])
    order = np.argsort(centre, kind="stable")
    return (
        centre[order],
        np.concatenate([second, first])[order],
        np.concatenate([shift, -shift])[order],
        np.concatenate([distance, distance])[order],
    )
