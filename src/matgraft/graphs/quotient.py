"""Merging equivalent atoms: the equitable quotient of a crystal graph.

SchNet gives two atoms the same features in every layer if they have the same species and see the
same multiset of (neighbour's features, distance). Colour refinement finds these classes without a
symmetry finder; keeping one node per class, with multiplicities, changes no output.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TOLERANCE = 1e-5
"""Distances (Angstrom) closer than this count as equal."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True)
def _mix(x):
    """The splitmix64 finaliser: a good 64-bit hash of a 64-bit word."""
    x = np.uint64(x) + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _distance_classes(distance, tolerance):
    """Number the groups of (almost) equal distances, nearest first."""
    order = np.argsort(distance)
    group = np.empty(len(distance), dtype=np.int64)
    current = -1
    first = last = -np.inf
    for e in order:
        d = distance[e]
        # A chain of close distances must not grow into one wide group, nor may round-off part i-j from j-i.
        if d - last > tolerance or (d - first > 2 * tolerance and d - last > 1e-9):
            current += 1
            first = d
        last = d
        group[e] = current
    return group


@njit(cache=True)
def colours(numbers, centre, neighbour, group):
    """Coarsest equitable partition of the atoms of one structure.

    Parameters
    ----------
    numbers : ndarray of uint8, shape (n,)
    centre, neighbour, group : ndarray of int64, shape (n_edges,)
        Directed edges and the class of each edge's distance.

    Returns
    -------
    ndarray of int64, shape (n,)
        Colour of each atom, from 0; the numbering does not depend on the order of the atoms.
    """
    n = len(numbers)
    colour = np.empty(n, dtype=np.uint64)
    for i in range(n):
        colour[i] = _mix(np.uint64(numbers[i]))
    classes = len(np.unique(colour))
    while classes < n:
        sums = np.zeros(n, dtype=np.uint64)
        for e in range(len(centre)):
            sums[centre[e]] += _mix(colour[neighbour[e]] ^ _mix(np.uint64(group[e]) + _GOLDEN))
        for i in range(n):
            colour[i] = _mix(colour[i] ^ _mix(sums[i]))
        refined = len(np.unique(colour))
        if refined == classes:
            break
        classes = refined
    return np.searchsorted(np.unique(colour), colour)


@njit(cache=True)
def pairs(numbers, centre, neighbour, distance, tolerance, merge_equivalent):
    """Nodes and undirected pairs of one structure; the directed edges must be sorted by centre.

    Returns
    -------
    species : ndarray of uint8, shape (n_nodes,)
    multiplicity : ndarray of int64, shape (n_nodes,)
        Atoms that each node stands for.
    first, second : ndarray of int64, shape (n_pairs,)
        Nodes of each pair, ``first <= second``.
    pair_distance : ndarray of float64, shape (n_pairs,)
    into_first, into_second : ndarray of float64, shape (n_pairs,)
        How many such neighbours an atom of ``first`` has in ``second``, and the reverse. A pair of a node
        with itself is counted in ``into_first`` alone.
    """
    n = len(numbers)
    if merge_equivalent:
        group = _distance_classes(distance, tolerance)
        colour = colours(numbers, centre, neighbour, group)
    else:
        group = np.arange(len(distance))
        colour = np.arange(n)
    nodes, groups = 0, 1
    for i in range(n):
        nodes = max(nodes, colour[i] + 1)
    for e in range(len(group)):
        groups = max(groups, group[e] + 1)
    representative = np.full(nodes, -1, dtype=np.int64)
    multiplicity = np.zeros(nodes, dtype=np.int64)
    for i in range(n):
        if representative[colour[i]] < 0:
            representative[colour[i]] = i
        multiplicity[colour[i]] += 1
    first_edge = np.searchsorted(centre, np.arange(n + 1))

    species = np.empty(nodes, dtype=np.uint8)
    first = np.empty(len(centre), dtype=np.int64)
    second = np.empty(len(centre), dtype=np.int64)
    pair_distance = np.empty(len(centre))
    count = np.empty(len(centre), dtype=np.int64)
    filled = 0
    for c in range(nodes):
        i = representative[c]
        species[c] = numbers[i]
        start, stop = first_edge[i], first_edge[i + 1]
        keys = np.empty(stop - start, dtype=np.int64)
        kept = 0
        for e in range(start, stop):
            if colour[neighbour[e]] >= c:
                keys[kept] = (group[e] * nodes + colour[neighbour[e]]) * (stop - start) + (e - start)
                kept += 1
        last = -1
        for key in np.sort(keys[:kept]):
            kind, d = key // (stop - start), distance[start + key % (stop - start)]
            if kind != last:
                last = kind
                first[filled], second[filled] = c, kind % nodes
                pair_distance[filled] = d
                count[filled] = 1
                filled += 1
            else:
                m = count[filled - 1]
                pair_distance[filled - 1] = (pair_distance[filled - 1] * m + d) / (m + 1)
                count[filled - 1] = m + 1
    into_first = count[:filled].astype(np.float64)
    into_second = np.zeros(filled)
    for p in range(filled):
        a, b = first[p], second[p]
        if a != b:
            into_second[p] = into_first[p] * multiplicity[a] / multiplicity[b]
    return (
        species,
        multiplicity,
        first[:filled],
        second[:filled],
        pair_distance[:filled],
        into_first,
        into_second,
    )
