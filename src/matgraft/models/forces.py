"""Forces and stress: the network's derivative with respect to every distance, by automatic differentiation.

SchNet sees distances only, so one derivative per undirected pair says everything. With ``g = dE/dd`` and the
unit vector ``u`` from the first atom to the second, the pair pulls the first with ``g u`` and the second with
``-g u``, and adds ``g d (u outer u)`` to the derivative with respect to strain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from matgraft.data import Dataset
from matgraft.data.checks import check_numbers
from matgraft.graphs import Batch
from matgraft.graphs.neighbours import completed_cells, half_edges

MAX_PAIRS = 30_000
"""Pairs of a batch: without a compiled kernel, every layer keeps several tensors (n_pairs, n_filters)."""


@dataclass(frozen=True)
class Forces:
    """Energy and its derivatives for ``n`` structures.

    Attributes
    ----------
    energies : ndarray, shape (n,)
        Of the whole cell, in eV.
    forces : list of ndarray, shape (natoms, 3), length n
        In eV/Angstrom.
    stresses : ndarray, shape (n, 6)
        ``dE/d strain / volume`` in eV/Angstrom^3, in Voigt order (xx, yy, zz, yz, xz, xy), with ASE's
        sign: positive where the cell wants to shrink. NaN where a direction is not periodic.
    unseen : list of tuple of str, length n
        As in :class:`matgraft.models.predictor.Prediction`.
    """

    energies: np.ndarray
    forces: list[np.ndarray]
    stresses: np.ndarray
    unseen: list[tuple[str, ...]]


@dataclass(frozen=True)
class HalfList:
    """Neighbours of one structure, every undirected pair once, no equivalent atoms merged.

    Attributes
    ----------
    first, second : ndarray of int64, shape (n_pairs,)
        Atoms; equal for an atom and its own periodic image.
    distance : ndarray of float64, shape (n_pairs,)
        In Angstrom.
    direction : ndarray of float64, shape (n_pairs, 3)
        Unit vector from first to second; zero where both are in the same place.
    """

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray
    direction: np.ndarray

    def displaced(self, by: np.ndarray) -> HalfList:
        """The same pairs with atoms displaced a little, shape (natoms, 3), in Angstrom."""
        vector = self.direction * self.distance[:, None] + by[self.second] - by[self.first]
        distance = np.linalg.norm(vector, axis=1)
        return replace(self, distance=distance, direction=vector / np.maximum(distance, 1e-12)[:, None])


def half_lists(dataset: Dataset, cutoff: float) -> Iterator[HalfList]:
    """The neighbours of every structure, in order.

    Raises
    ------
    InputError
        If a structure has no atoms, a coordinate or lattice vector is not finite, or a periodic cell spans
        no volume.
    """
    offsets = dataset.offsets
    check_numbers(dataset)
    cells = completed_cells(dataset.cells, dataset.pbc)
    for s, (cell, pbc) in enumerate(zip(cells, dataset.pbc, strict=True)):
        positions = dataset.positions[offsets[s] : offsets[s + 1]]
        first, second, shift, distance = half_edges(positions, cell, pbc, cutoff)
        vector = positions[second] + shift @ cell - positions[first]
        yield HalfList(first, second, distance, vector / np.maximum(distance, 1e-12)[:, None])


def derivatives(
    module: nn.Module, cutoff: float, dataset: Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of a module and the derivatives of ``natoms * output``.

    Parameters
    ----------
    module : Module
        From a batch to one number for each structure. Evaluated in the precision and on the device of its
        weights; sums over pairs are in float64.
    cutoff : float
        Of its graphs, in Angstrom.
    dataset : Dataset

    Returns
    -------
    outputs : ndarray, shape (n,)
    forces : ndarray, shape (N, 3)
        Minus the derivatives with respect to the positions, per Angstrom.
    strain : ndarray, shape (n, 3, 3)
        Derivatives with respect to a homogeneous strain of positions and cell.
    """
    outputs = np.zeros(len(dataset))
    forces = np.zeros((len(dataset.numbers), 3))
    strain = np.zeros((len(dataset), 3, 3))
    offsets = dataset.offsets
    start, waiting = 0, 0
    parts: list[HalfList] = []
    for s, part in enumerate(half_lists(dataset, cutoff)):
        parts.append(part)
        waiting += len(part.distance)
        if waiting >= MAX_PAIRS or s + 1 == len(dataset):
            stop = s + 1
            atoms = slice(offsets[start], offsets[stop])
            outputs[start:stop], forces[atoms], strain[start:stop] = _of_batch(
                module, dataset.numbers[atoms], dataset.natoms[start:stop], parts
            )
            start, waiting, parts = stop, 0, []
    return outputs, forces, strain


def side_by_side(
    numbers: np.ndarray, natoms: np.ndarray, parts: Sequence[HalfList]
) -> tuple[Batch, np.ndarray]:
    """Structures as one batch in float64, and the unit vectors of its pairs, shape (n_pairs, 3).

    Parameters
    ----------
    numbers : ndarray, shape (N,)
        Atomic numbers of all structures.
    natoms : ndarray, shape (n,)
    parts : sequence of HalfList, length n
    """
    starts = np.cumsum(natoms) - natoms
    first = np.concatenate([part.first + start for part, start in zip(parts, starts, strict=True)])
    second = np.concatenate([part.second + start for part, start in zip(parts, starts, strict=True)])
    distance = np.concatenate([part.distance for part in parts])
    direction = np.concatenate([part.direction for part in parts])
    structure = np.repeat(np.arange(len(natoms)), natoms)
    # Pairs that use the same rows of a filter table follow one another.
    order = np.argsort(distance)
    first, second, distance, direction = first[order], second[order], distance[order], direction[order]
    own_image = first == second
    batch = Batch(
        species=torch.from_numpy(numbers.astype(np.int64)),
        multiplicity=torch.ones(len(numbers), dtype=torch.float64),
        structure=torch.from_numpy(structure),
        natoms=torch.from_numpy(natoms.astype(float)),
        first=torch.from_numpy(first),
        second=torch.from_numpy(second),
        distance=torch.from_numpy(distance),
        # The image at -S is not in the list: the one at S counts for both.
        into_first=torch.from_numpy(np.where(own_image, 2.0, 1.0)),
        into_second=torch.from_numpy(np.where(own_image, 0.0, 1.0)),
    )
    return batch, direction


def pulled(batch: Batch, direction: np.ndarray, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forces, shape (N, 3), and the pull on the first atom of each pair, shape (n_pairs, 3); float64.

    Parameters
    ----------
    batch : Batch
    direction : ndarray, shape (n_pairs, 3)
        See :func:`side_by_side`.
    slope : Tensor, shape (n_pairs,)
        Derivative of the energies with respect to each distance.
    """
    pull = slope.cpu().double()[:, None] * torch.from_numpy(direction)
    forces = torch.zeros(len(batch.species), 3, dtype=torch.float64)
    return forces.index_add_(0, batch.first.cpu(), pull).index_add_(0, batch.second.cpu(), -pull), pull


def _of_batch(
    module: nn.Module, numbers: np.ndarray, natoms: np.ndarray, parts: list[HalfList]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`derivatives` of one batch."""
    weight = next(module.parameters())
    batch, direction = side_by_side(numbers, natoms, parts)
    vectors = torch.from_numpy(direction) * batch.distance[:, None]
    batch = batch.to(weight.device, weight.dtype)
    batch.distance.requires_grad_()
    # Constant weights: nothing is kept or computed for gradients that nobody asks for.
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    with torch.enable_grad():
        output = functional_call(module, constants, (batch,))
        (slope,) = torch.autograd.grad((batch.natoms * output).sum(), batch.distance)
    forces, pull = pulled(batch, direction, slope)
    strain = torch.zeros(len(natoms), 3, 3, dtype=torch.float64).index_add_(
        0, batch.structure[batch.first].cpu(), pull[:, :, None] * vectors[:, None, :]
    )
    return output.detach().cpu().double().numpy(), forces.numpy(), strain.numpy()
