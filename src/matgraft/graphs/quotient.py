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

_FEW = 48
"""So many are sorted faster by insertion."""

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
def _ascending(distance):
    """Order that sorts distances, and the sorted distances: into as many buckets as there are distances, then
    by insertion.

    Neighbours fill a sphere evenly, so cubes of their distances are spread evenly.
    """
    n = len(distance)
    largest = distance.max() if n else 0.0
    scale = n / max(largest**3, 1e-30)
    bucket = np.empty(n, dtype=np.int64)
    for e in range(n):
        d = distance[e]
        bucket[e] = min(int(scale * d * d * d), n - 1)
    ends = np.zeros(n + 1, dtype=np.int64)
    for e in range(n):
        ends[bucket[e] + 1] += 1
    for b in range(n):
        ends[b + 1] += ends[b]
    order, ascending = np.empty(n, dtype=np.int64), np.empty(n)
    for e in range(n):
        at = ends[bucket[e]]
        ends[bucket[e]] = at + 1
        order[at], ascending[at] = e, distance[e]
    for k in range(1, n):
        d, e, at = ascending[k], order[k], k
        while at > 0 and ascending[at - 1] > d:
            order[at], ascending[at] = order[at - 1], ascending[at - 1]
            at -= 1
        order[at], ascending[at] = e, d
    return order, ascending


@njit(cache=True)
def _distance_classes(order, ascending, tolerance):
    """Number the groups of (almost) equal distances, nearest first."""
    group = np.empty(len(order), dtype=np.int64)
    current = -1
    first = last = -np.inf
    for k in range(len(order)):
        d = ascending[k]
        # A chain of close distances must not grow into one wide group, nor may round-off part equal ones.
        if d - last > tolerance or (d - first > 2 * tolerance and d - last > 1e-9):
            current += 1
            first = d
        last = d
        group[order[k]] = current
    return group


@njit(cache=True)
def colours(numbers, first, second, group):
    """Coarsest equitable partition of the atoms of one structure.

    Parameters
    ----------
    numbers : ndarray of uint8, shape (n,)
    first, second, group : ndarray of int64, shape (n_pairs,)
        Pairs of atoms, each once, and the class of each pair's distance.

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
    mixed = np.empty(len(group), dtype=np.uint64)
    for e in range(len(group)):
        mixed[e] = _mix(np.uint64(group[e]) + _GOLDEN)
    sums = np.empty(n, dtype=np.uint64)
    while classes < n:
        sums[:] = 0
        e = 0
        while e < len(group):
            # Pairs come sorted by their first atom, whose sum need not go through memory each time.
            i, own = first[e], np.uint64(0)
            while e < len(group) and first[e] == i:
                own += _mix(colour[second[e]] ^ mixed[e])
                sums[second[e]] += _mix(colour[i] ^ mixed[e])
                e += 1
            sums[i] += own
        for i in range(n):
            colour[i] = _mix(colour[i] ^ _mix(sums[i]))
        refined = len(np.unique(colour))
        if refined == classes:
            break
        classes = refined
    return np.searchsorted(np.unique(colour), colour)


@njit(cache=True)
def _sort_within_classes(keys, lengths, size):
    """Sort keys, and lengths by them, both in place; ``keys // size`` are ascending already."""
    start = 0
    while start < len(keys):
        stop = start + 1
        end = (keys[start] // size + 1) * size
        while stop < len(keys) and keys[stop] < end:
            stop += 1
        if stop - start > _FEW:
            order = np.argsort(keys[start:stop], kind="mergesort")
            keys[start:stop], lengths[start:stop] = keys[start:stop][order], lengths[start:stop][order]
        else:
            for k in range(start + 1, stop):
                key, length, at = keys[k], lengths[k], k
                while at > start and keys[at - 1] > key:
                    keys[at], lengths[at] = keys[at - 1], lengths[at - 1]
                    at -= 1
                keys[at], lengths[at] = key, length
        start = stop


@njit(cache=True)
def pairs(numbers, first, second, distance, tolerance, merge_equivalent):
    """Nodes and undirected pairs of one structure, from pairs of its atoms (each once).

    Returns
    -------
    species : ndarray of uint8, shape (n_nodes,)
    multiplicity : ndarray of int64, shape (n_nodes,)
        Atoms that each node stands for.
    node_first, node_second : ndarray of int64, shape (n_node_pairs,)
        Nodes of each pair, ``node_first <= node_second``.
    pair_distance : ndarray of float64, shape (n_node_pairs,)
    into_first, into_second : ndarray of float64, shape (n_node_pairs,)
        How many such neighbours an atom of the first node has in the second, and the reverse. A pair of a
        node with itself is counted in ``into_first`` alone.
    """
    n = len(numbers)
    if not merge_equivalent:
        into_first, into_second = np.ones(len(first)), np.ones(len(first))
        for e in range(len(first)):
            if first[e] == second[e]:
                into_first[e], into_second[e] = 2, 0
        return numbers, np.ones(n, dtype=np.int64), first, second, distance, into_first, into_second
    order, ascending = _ascending(distance)
    group = _distance_classes(order, ascending, tolerance)
    colour = colours(numbers, first, second, group)
    nodes = 0
    for i in range(n):
        nodes = max(nodes, colour[i] + 1)
    representative = np.full(nodes, -1, dtype=np.int64)
    multiplicity = np.zeros(nodes, dtype=np.int64)
    species = np.empty(nodes, dtype=np.uint8)
    for i in range(n):
        if representative[colour[i]] < 0:
            representative[colour[i]] = i
            species[colour[i]] = numbers[i]
        multiplicity[colour[i]] += 1

    # Neighbours of the representatives, as (distance class, node, node) in one number.
    keys = np.empty(2 * len(group), dtype=np.int64)
    lengths = np.empty(2 * len(group))
    seen = 0
    for e in order:
        i, j = first[e], second[e]
        for _ in range(2):
            a, b = colour[i], colour[j]
            if representative[a] == i and b >= a:
                keys[seen] = (group[e] * nodes + a) * nodes + b
                lengths[seen] = distance[e]
                seen += 1
            i, j = j, i
    _sort_within_classes(keys[:seen], lengths[:seen], nodes * nodes)
    node_first = np.empty(seen, dtype=np.int64)
    node_second = np.empty(seen, dtype=np.int64)
    pair_distance = np.empty(seen)
    into_first = np.empty(seen)
    filled, last = 0, -1
    for k in range(seen):
        if keys[k] != last:
            last = keys[k]
            node_first[filled] = last // nodes % nodes
            node_second[filled] = last % nodes
            pair_distance[filled] = lengths[k]
            into_first[filled] = 1
            filled += 1
        else:
            m = into_first[filled - 1]
            pair_distance[filled - 1] = (pair_distance[filled - 1] * m + lengths[k]) / (m + 1)
            into_first[filled - 1] = m + 1
    into_second = np.zeros(filled)
    for p in range(filled):
        a, b = node_first[p], node_second[p]
        if a != b:
            into_second[p] = into_first[p] * multiplicity[a] / multiplicity[b]
    return (
        species,
        multiplicity,
        node_first[:filled],
        node_second[:filled],
        pair_distance[:filled],
        into_first[:filled],
        into_second,
    )
