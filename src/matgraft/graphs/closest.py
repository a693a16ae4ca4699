"""How near elements come to one another: below, a network only extrapolates."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from matgraft.graphs.graphs import Graphs

TOLERANCE = 1e-3
"""Angstrom; distances are kept in single precision."""


def closest(graphs: Graphs, rows: np.ndarray | None = None) -> np.ndarray:
    """The smallest distance of each pair of elements, shape (119, 119), symmetric.

    Parameters
    ----------
    graphs : Graphs
    rows : ndarray of int, optional
        Only these structures.

    Returns
    -------
    ndarray of float32
        In Angstrom; infinite for pairs that are nowhere within the cutoff.
    """
    owner, first, second = _elements(graphs)
    chosen = slice(None) if rows is None else np.isin(owner, rows)
    table = np.full((len(chemical_symbols),) * 2, np.inf, dtype=np.float32)
    np.minimum.at(table, (first[chosen], second[chosen]), graphs.distance[chosen])
    return np.minimum(table, table.T)


def nearer(graphs: Graphs, limits: np.ndarray) -> list[tuple[str, ...]]:
    """Pairs of elements, such as ``O-Ti``, that in each structure come nearer than ``limits``.

    Of pairs whose limit is infinite nothing is known and nothing said.
    """
    owner, first, second = _elements(graphs)
    limit = limits[first, second]
    found: list[set[str]] = [set() for _ in range(len(graphs))]
    for k in np.flatnonzero(np.isfinite(limit) & (graphs.distance < limit - TOLERANCE)):
        found[owner[k]].add("-".join(sorted((chemical_symbols[first[k]], chemical_symbols[second[k]]))))
    return [tuple(sorted(pairs)) for pairs in found]


def _elements(graphs: Graphs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Structure, and atomic numbers, of each pair of nodes."""
    owner = np.repeat(np.arange(len(graphs)), np.diff(graphs.pair_offsets))
    start = graphs.node_offsets[owner]
    return owner, graphs.species[start + graphs.first], graphs.species[start + graphs.second]
