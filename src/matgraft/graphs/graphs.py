"""Crystal graphs of a whole data set as flat arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit

from matgraft.graphs.neighbours import completed_cells, half_list
from matgraft.graphs.quotient import TOLERANCE, pairs

if TYPE_CHECKING:
    from matgraft.data import Dataset


@dataclass(frozen=True, eq=False)
class Batch:
    """Graphs put side by side, as tensors, which must not be changed in place.

    Each undirected pair of nodes is kept once: the distance, and so the filter, is the same both ways.

    Attributes
    ----------
    species : LongTensor, shape (n_nodes,)
        Atomic numbers.
    multiplicity : Tensor, shape (n_nodes,)
        Atoms that the node stands for.
    structure : LongTensor, shape (n_nodes,)
        Structure that the node belongs to.
    natoms : Tensor, shape (n_structures,)
    first, second : LongTensor, shape (n_pairs,)
        The two nodes of each pair.
    distance : Tensor, shape (n_pairs,)
        In Angstrom, below the cutoff.
    into_first, into_second : Tensor, shape (n_pairs,)
        Neighbours of this kind that an atom of ``first`` has in ``second``, and the reverse.
    """

    species: torch.Tensor
    multiplicity: torch.Tensor
    structure: torch.Tensor
    natoms: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    distance: torch.Tensor
    into_first: torch.Tensor
    into_second: torch.Tensor

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch on a device; ``dtype`` converts the floating-point members only."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return Batch(**{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def jittered(self, noise: torch.Tensor, cutoff: float) -> Batch:
        """The same batch with noise (Angstrom, shape (n_pairs,)) on the distances."""
        distance = (self.distance + noise).clamp(max=cutoff).maximum(0.5 * self.distance)
        return replace(self, distance=distance)


@dataclass(frozen=True)
class Graphs:
    """Graphs of ``n`` structures; nodes are atoms, or classes of equivalent atoms.

    Attributes
    ----------
    natoms : ndarray of int64, shape (n,)
        Atoms in the cell, whether merged or not.
    node_offsets, pair_offsets : ndarray of int64, shape (n + 1,)
        Structure ``i`` owns nodes ``node_offsets[i]:node_offsets[i + 1]``, and pairs likewise.
    species : ndarray of uint8, shape (n_nodes,)
    multiplicity : ndarray of float32, shape (n_nodes,)
    first, second : ndarray of int32, shape (n_pairs,)
        Nodes of each pair, counted within their structure.
    distance, into_first, into_second : ndarray of float32, shape (n_pairs,)
        As in :class:`Batch`.
    """

    natoms: np.ndarray
    node_offsets: np.ndarray
    pair_offsets: np.ndarray
    species: np.ndarray
    multiplicity: np.ndarray
    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    into_first: np.ndarray
    into_second: np.ndarray

    def __len__(self) -> int:
        return len(self.natoms)

    def isolated(self) -> np.ndarray:
        """Whether some atom of a structure has no neighbour within the cutoff; bool, shape (n,)."""
        alone = np.ones(len(self.species), dtype=bool)
        start = np.repeat(self.node_offsets[:-1], np.diff(self.pair_offsets))
        alone[start + self.first] = alone[start + self.second] = False
        return np.logical_or.reduceat(alone, self.node_offsets[:-1]) if len(self) else alone

    def batch(self, rows: np.ndarray) -> Batch:
        """Structures ``rows`` side by side."""
        rows = np.asarray(rows, dtype=np.int64)
        arrays = gathered(
            rows,
            self.node_offsets,
            self.pair_offsets,
            self.species,
            self.multiplicity,
            self.first,
            self.second,
            self.distance,
            self.into_first,
            self.into_second,
        )
        names = (
            "species",
            "multiplicity",
            "structure",
            "first",
            "second",
            "distance",
            "into_first",
            "into_second",
        )
        return Batch(
            natoms=torch.from_numpy(self.natoms[rows].astype(np.float32)),
            **{name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)},
        )

    def batches(self, order: np.ndarray, batch_size: int, max_pairs: int = 200_000) -> Iterator[np.ndarray]:
        """Cut ``order`` by :func:`in_batches`."""
        return in_batches(order, np.diff(self.pair_offsets), batch_size, max_pairs)


def in_batches(order: np.ndarray, pairs: np.ndarray, batch_size: int, max_pairs: int) -> Iterator[np.ndarray]:
    """Cut ``order`` into runs of at most ``batch_size`` structures and ``max_pairs`` pairs.

    A structure that alone has more pairs gets a batch of its own.

    Parameters
    ----------
    order : ndarray of int
        Structures.
    pairs : ndarray of int, shape (n,)
        Pairs of each structure that there is.
    batch_size, max_pairs : int
    """
    start, total = 0, 0
    for stop, row in enumerate(order):
        if stop > start and (stop - start == batch_size or total + pairs[row] > max_pairs):
            yield order[start:stop]
            start, total = stop, 0
        total += pairs[row]
    if start < len(order):
        yield order[start:]


def build_graphs(dataset: Dataset, cutoff: float, merge_equivalent: bool = True) -> Graphs:
    """Neighbour lists of a data set, with equivalent atoms merged.

    Parameters
    ----------
    dataset : Dataset
    cutoff : float
        In Angstrom.
    merge_equivalent : bool
        False keeps one node per atom.
    """
    cells = completed_cells(dataset.cells, dataset.pbc)
    built = _build(
        np.ascontiguousarray(dataset.numbers),
        np.ascontiguousarray(dataset.positions, dtype=float),
        cells,
        np.ascontiguousarray(dataset.pbc),
        dataset.offsets,
        float(cutoff),
        TOLERANCE,
        merge_equivalent,
    )
    return Graphs(np.asarray(dataset.natoms, dtype=np.int64), *built)


_SPHERE = 4 / 3 * np.pi


@njit(cache=True)
def _expected_pairs(cells, offsets, cutoff):
    """About how many pairs there are, before equivalent atoms are merged: as if atoms were spread evenly."""
    total = 1024.0
    for s in range(len(cells)):
        (a, b, c), (d, e, f), (g, h, i) = cells[s]
        volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
        n = offsets[s + 1] - offsets[s]
        total += n * n * min(1.1 * _SPHERE / 2 * cutoff**3 / volume, 100.0)
    return np.int64(total)


@njit(cache=True)
def _trimmed(array, size):
    """The first elements; without the memory behind them, if that is much."""
    return array[:size].copy() if size < 0.8 * len(array) else array[:size]


@njit(cache=True)
def _appended(array, size, values):
    """Put ``values`` behind the first ``size`` elements, in a longer array if need be."""
    needed = size + len(values)
    if needed > len(array):
        longer = np.empty(max(needed, 2 * len(array)), dtype=array.dtype)
        longer[:size] = array[:size]
        array = longer
    for k in range(len(values)):
        array[size + k] = values[k]
    return array


@njit(cache=True)
def _build(numbers, positions, cells, pbc, offsets, cutoff, tolerance, merge_equivalent):
    n = len(cells)
    node_offsets = np.zeros(n + 1, dtype=np.int64)
    pair_offsets = np.zeros(n + 1, dtype=np.int64)
    species = np.empty(len(numbers), dtype=np.uint8)
    multiplicity = np.empty(len(numbers), dtype=np.float32)
    expected = _expected_pairs(cells, offsets, cutoff)
    first = np.empty(expected, dtype=np.int32)
    second = np.empty(expected, dtype=np.int32)
    distance = np.empty(expected, dtype=np.float32)
    into_first = np.empty(expected, dtype=np.float32)
    into_second = np.empty(expected, dtype=np.float32)
    n_nodes = n_pairs = 0
    for s in range(n):
        atoms = slice(offsets[s], offsets[s + 1])
        i, j, d, _, _, _ = half_list(positions[atoms], cells[s], pbc[s], cutoff)
        z, m, a, b, r, into_a, into_b = pairs(numbers[atoms], i, j, d, tolerance, merge_equivalent)
        species[n_nodes : n_nodes + len(z)] = z
        multiplicity[n_nodes : n_nodes + len(z)] = m
        first = _appended(first, n_pairs, a)
        second = _appended(second, n_pairs, b)
        distance = _appended(distance, n_pairs, r)
        into_first = _appended(into_first, n_pairs, into_a)
        into_second = _appended(into_second, n_pairs, into_b)
        n_nodes += len(z)
        n_pairs += len(r)
        node_offsets[s + 1] = n_nodes
        pair_offsets[s + 1] = n_pairs
    return (
        node_offsets,
        pair_offsets,
        species[:n_nodes].copy(),
        multiplicity[:n_nodes].copy(),
        _trimmed(first, n_pairs),
        _trimmed(second, n_pairs),
        _trimmed(distance, n_pairs),
        _trimmed(into_first, n_pairs),
        _trimmed(into_second, n_pairs),
    )


@njit(cache=True)
def gathered(
    rows, node_offsets, pair_offsets, species, multiplicity, first, second, distance, into_first, into_second
):
    n_nodes = n_pairs = 0
    for row in rows:
        n_nodes += node_offsets[row + 1] - node_offsets[row]
        n_pairs += pair_offsets[row + 1] - pair_offsets[row]
    out_species = np.empty(n_nodes, dtype=np.int64)
    out_multiplicity = np.empty(n_nodes, dtype=np.float32)
    out_structure = np.empty(n_nodes, dtype=np.int64)
    out_first = np.empty(n_pairs, dtype=np.int64)
    out_second = np.empty(n_pairs, dtype=np.int64)
    out_distance = np.empty(n_pairs, dtype=np.float32)
    out_into_first = np.empty(n_pairs, dtype=np.float32)
    out_into_second = np.empty(n_pairs, dtype=np.float32)
    node = q = 0
    for k, row in enumerate(rows):
        for p in range(pair_offsets[row], pair_offsets[row + 1]):
            out_first[q] = node + first[p]
            out_second[q] = node + second[p]
            out_distance[q] = distance[p]
            out_into_first[q] = into_first[p]
            out_into_second[q] = into_second[p]
            q += 1
        for c in range(node_offsets[row], node_offsets[row + 1]):
            out_species[node] = species[c]
            out_multiplicity[node] = multiplicity[c]
            out_structure[node] = k
            node += 1
    return (
        out_species,
        out_multiplicity,
        out_structure,
        out_first,
        out_second,
        out_distance,
        out_into_first,
        out_into_second,
    )
