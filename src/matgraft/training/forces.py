"""Learning from forces with first derivatives alone.

How an error ``L`` of the forces ``F = -grad E`` changes with the weights ``w`` is a mixed second derivative.
Along the one direction ``v = dL/dF`` it is the derivative of a slope, ``dL/dw = v dF/dw = -d/dw (v grad E)``,
and a slope is the difference of two energies. So two displaced copies of each structure say it, and compiled
kernels, which know first derivatives only, need no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from matgraft.data import Dataset
from matgraft.errors import InputError
from matgraft.graphs import Batch
from matgraft.models.forces import HalfList, half_lists, pulled, side_by_side
from matgraft.models.schnet import SchNet

STEP = 0.003
"""How far atoms are displaced, in Angstrom. The difference errs to second order in it: gradients are off by
less than a thousandth of their length, in single precision as in double (tests/training/test_forces.py)."""


@dataclass(frozen=True)
class Pulls:
    """Structures, atom by atom, and the forces on them.

    Attributes
    ----------
    numbers : ndarray, shape (N,)
    natoms : ndarray, shape (n,)
    neighbours : list of HalfList, length n
    cutoff : float
        Of the neighbours, in Angstrom.
    forces : ndarray, shape (N, 3)
        In eV/Angstrom, or in multiples of a network's scale; NaN for structures whose forces are not known.
    """

    numbers: np.ndarray
    natoms: np.ndarray
    neighbours: list[HalfList]
    cutoff: float
    forces: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, cutoff: float) -> Pulls:
        """Of a data set.

        Raises
        ------
        InputError
            If it has no forces.
        """
        known = dataset.has_forces
        if dataset.forces is None or not known.any():
            raise InputError(
                f"{dataset.source or 'dataset'}: no forces to learn from. Extended XYZ has them as "
                "forces:R:3 in Properties; ASE databases and npz files may hold them, too."
            )
        forces = np.where(np.repeat(known, dataset.natoms)[:, None], dataset.forces, np.nan)
        return cls(dataset.numbers, dataset.natoms, list(half_lists(dataset, cutoff)), cutoff, forces)

    def scaled(self, unit: float) -> Pulls:
        """The same with forces in multiples of ``unit``."""
        return replace(self, forces=self.forces / unit)

    @property
    def pairs(self) -> np.ndarray:
        """Pairs of each structure that a step works on, its two displaced copies included, shape (n,)."""
        return 3 * np.array([len(one.distance) for one in self.neighbours])

    @cached_property
    def _atoms(self) -> list[slice]:
        ends = np.cumsum(self.natoms)
        return [slice(end - n, end) for end, n in zip(ends, self.natoms, strict=True)]

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Forces on the atoms of structures ``rows``, one structure after the other."""
        return np.concatenate([self.forces[self._atoms[row]] for row in rows])

    def batch(self, rows: np.ndarray) -> tuple[Batch, np.ndarray]:
        """Structures ``rows`` side by side; see :func:`matgraft.models.forces.side_by_side`."""
        return self._batch(rows, [self.neighbours[row] for row in rows])

    def displaced(self, rows: np.ndarray, by: Sequence[np.ndarray]) -> Batch:
        """Structures ``rows``, each with its atoms displaced by an array of shape (natoms, 3)."""
        parts = [self.neighbours[row].displaced(one) for row, one in zip(rows, by, strict=True)]
        batch, _ = self._batch(rows, parts)
        return replace(batch, distance=batch.distance.clamp(max=self.cutoff))

    def _batch(self, rows: np.ndarray, parts: Sequence[HalfList]) -> tuple[Batch, np.ndarray]:
        return side_by_side(
            np.concatenate([self.numbers[self._atoms[row]] for row in rows]), self.natoms[rows], parts
        )


def force_error(
    network: SchNet, pulls: Pulls, rows: np.ndarray, graph: Batch, direction: np.ndarray, output: torch.Tensor
) -> torch.Tensor:
    """Mean length of the error of the force on an atom, averaged over structures.

    Parameters
    ----------
    network : SchNet
    pulls : Pulls
        In units of the network's output per Angstrom.
    rows : ndarray, shape (n,)
    graph, direction
        Of these structures, as :meth:`Pulls.batch` gives them, on the network's device; the distances ask for
        gradients.
    output : Tensor, shape (n,)
        Of the network, per atom.

    Returns
    -------
    Tensor
        A number, whose gradients with respect to the weights are those of the error. A structure whose forces
        are not known counts as one without error.
    """
    (slope,) = torch.autograd.grad((graph.natoms * output).sum(), graph.distance, retain_graph=True)
    forces, _ = pulled(graph, direction, slope)
    off = np.nan_to_num(forces.numpy() - pulls.known(rows))
    length = np.linalg.norm(off, axis=1)
    natoms = pulls.natoms[rows]
    # Of the mean length: the same length for each atom that errs at all.
    along = off / np.maximum(length, 1e-12)[:, None]
    steps = np.split(STEP * along, np.cumsum(natoms)[:-1])
    both = pulls.displaced(np.concatenate([rows, rows]), [*steps, *(-step for step in steps)])
    both = both.to(output.device, output.dtype)
    ahead, behind = network(both).reshape(2, -1)
    # Of natoms * output, over natoms.
    sliding = (behind - ahead).mean() / (2 * STEP)
    error = float((length / np.repeat(natoms, natoms)).sum()) / len(rows)
    return error + sliding - sliding.detach()
