"""What users hold: predictions, forces, what is unknown; whatever computes them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from safetensors.torch import save as serialized

from matgraft.data import Dataset, Label
from matgraft.data.checks import check_numbers
from matgraft.errors import InputError
from matgraft.graphs import Graphs, graphs_of
from matgraft.graphs.closest import nearer
from matgraft.models.calculator import MatgraftCalculator
from matgraft.models.domain import Domain
from matgraft.models.forces import Forces
from matgraft.models.intervals import COVERAGE, Intervals
from matgraft.models.references import References
from matgraft.whole import whole


@dataclass(frozen=True)
class Prediction:
    """What a model says of ``n`` structures.

    Attributes
    ----------
    values : ndarray, shape (n,)
        In the label's unit, per cell if the label is.
    per_atom : ndarray, shape (n,)
        The same divided by the number of atoms (or equal to it, for labels that are not per cell).
    unseen : list of tuple of str, length n
        Elements that no training structure of source or target contained: the value is a guess.
    unreferenced : list of tuple of str, length n
        Elements that no label of the target contained: their reference energy is a guess.
    half_width : ndarray, shape (n,), optional
        The label lies within so much of ``values`` with the probability that was asked for; None of a model
        without intervals.
    strangeness : ndarray, shape (n,), optional
        How far a structure is from the labels; above 1, farther than seven in eight of them from one another.
        Its interval then rests on little. Of a source as it is: how far from the crystals that it learnt
        from; above 1, farther than ninety-nine in a hundred of those held out. Infinite where an atom has no
        neighbour within the cutoff. None where neither is known.
    too_close : list of tuple of str, length n, optional
        Pairs of elements, such as ``O-Ti``, nearer than in any training structure of source or target: the
        network extrapolates. None of a model that does not know its training structures.
    """

    values: np.ndarray
    per_atom: np.ndarray
    unseen: list[tuple[str, ...]]
    unreferenced: list[tuple[str, ...]]
    half_width: np.ndarray | None = None
    strangeness: np.ndarray | None = None
    too_close: list[tuple[str, ...]] | None = None


if TYPE_CHECKING:
    from typing_extensions import Self

INTERVALS, CLOSEST, DOMAIN = "intervals.safetensors", "closest.safetensors", "domain.safetensors"


class Predictor(ABC):
    """What predicts structures: a :class:`Model`, or a blend of several."""

    label: Label
    references: References
    species: frozenset[str]
    card: dict
    intervals: Intervals | None
    closest: np.ndarray | None
    """Smallest distances in training, see :func:`matgraft.graphs.closest.closest`; None if unknown."""
    domain: Domain | None = None
    """Crystals that its network learnt from; None of a graft, which knows how far its labels are."""

    @property
    @abstractmethod
    def cutoff(self) -> float:
        """Of its graphs, in Angstrom."""

    @abstractmethod
    def per_atom(self, composition: np.ndarray, graphs: Graphs) -> np.ndarray:
        """Predictions per atom for structures of these compositions and graphs, shape (n,)."""

    @abstractmethod
    def features(self, graphs: Graphs) -> np.ndarray:
        """Features that intervals rest on, shape (n, d)."""

    @abstractmethod
    def with_features(self, composition: np.ndarray, graphs: Graphs) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`per_atom` and :meth:`features`, for the price of one."""

    @abstractmethod
    def derivatives(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predictions per atom, forces and strain derivatives.

        See :func:`matgraft.models.forces.derivatives`.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors) and card (JSON) into a folder; nothing in it can execute code."""

    @abstractmethod
    def description(self) -> dict:
        """What it is made of: architecture and number of parameters."""

    @abstractmethod
    def content_hash(self) -> str:
        """SHA-256 of everything that decides a prediction in the domain."""

    def graphs(self, dataset: Dataset) -> Graphs:
        """Graphs of a data set with this model's cutoff."""
        return graphs_of(dataset, self.cutoff)

    def predict(
        self,
        structures: Dataset | Atoms | Iterable[Atoms],
        graphs: Graphs | None = None,
        coverage: float = COVERAGE,
    ) -> Prediction:
        """Predict structures.

        Parameters
        ----------
        structures : Dataset, Atoms or iterable of Atoms
        graphs : Graphs, optional
            Their graphs, if they are at hand.
        coverage : float
            Probability that an interval is to hold the label.

        Raises
        ------
        InputError
            If a structure has no atoms, or a coordinate or lattice vector that is not finite; for a coverage
            that is no probability.
        """
        if not 0 < coverage < 1:
            raise InputError(f"coverage {coverage:g} is no probability between 0 and 1.")
        dataset = _dataset(structures)
        check_numbers(dataset)
        composition = dataset.composition()
        graphs = graphs if graphs is not None else self.graphs(dataset)
        if self.intervals is None and self.domain is None:
            per_atom, features = self.per_atom(composition, graphs), np.zeros((len(graphs), 0))
        else:
            per_atom, features = self.with_features(composition, graphs)
        prediction = Prediction(
            values=self.label.from_per_atom(per_atom, dataset.natoms),
            per_atom=per_atom,
            unseen=self._unseen(composition),
            unreferenced=_elements(composition, self.references.missing),
            too_close=None if self.closest is None else nearer(graphs, self.closest),
        )
        if self.intervals is not None:
            half_width, strangeness = self.intervals.assessed(composition, features, coverage)
            prediction = replace(prediction, half_width=half_width)
        elif self.domain is not None:
            strangeness = self.domain.strangeness(features)
        else:
            return prediction
        # Of an atom without neighbours a network knows the element, which is none of its crystals' features.
        return replace(prediction, strangeness=np.where(graphs.isolated(), np.inf, strangeness))

    def forces(self, structures: Dataset | Atoms | Iterable[Atoms]) -> Forces:
        """Energies, forces and stresses of structures, many at once.

        The energy is that of :meth:`predict`, per cell. Of an energy per atom, such as a formation energy,
        the forces are those of the value times the number of atoms.

        Parameters
        ----------
        structures : Dataset, Atoms or iterable of Atoms

        Raises
        ------
        InputError
            If the label is not an energy in eV, or a structure has a coordinate that is not finite or a
            periodic cell without volume.
        """
        self.require_energy()
        dataset = _dataset(structures)
        per_atom, forces, strain = self.derivatives(dataset)
        volume = np.where(dataset.pbc.all(axis=1), np.abs(np.linalg.det(dataset.cells)), np.nan)
        return Forces(
            energies=per_atom * dataset.natoms,
            forces=[forces[start:stop] for start, stop in pairwise(dataset.offsets)],
            stresses=full_3x3_to_voigt_6_stress(strain / volume[:, None, None]),
            unseen=self._unseen(dataset.composition()),
        )

    def calculator(self) -> MatgraftCalculator:
        """This model as an ASE calculator with energy, forces and stress; see :meth:`forces`."""
        return MatgraftCalculator(self)

    def require_energy(self) -> None:
        """Raise InputError unless the label is an energy in eV, per cell or per atom."""
        if not self.label.is_energy:
            raise InputError(
                f"label {self.label.name!r} ({self.label.unit or 'no unit'}, {self.label.kind}) is not an "
                "energy in eV per cell or per atom, so it has no forces. Take a model of an energy; if this "
                "is one, train it with a Label that says so."
            )

    def _unseen(self, composition: np.ndarray) -> list[tuple[str, ...]]:
        return _elements(composition, self._strange)

    @cached_property
    def _strange(self) -> np.ndarray:
        seen = [atomic_numbers[symbol] for symbol in self.species]
        return np.setdiff1d(np.arange(len(chemical_symbols)), seen)

    def with_intervals(self, intervals: Intervals) -> Self:
        """A copy that says how far off it may be."""
        return replace(self, intervals=intervals)  # type: ignore[type-var]

    def _bounds(self) -> dict[str, dict[str, torch.Tensor]]:
        """Intervals, smallest distances and domain: arrays by name, for each file; none for what is not."""
        return {
            INTERVALS: {} if self.intervals is None else self.intervals.tensors(),
            CLOSEST: {} if self.closest is None else {"closest": torch.from_numpy(self.closest)},
            DOMAIN: {} if self.domain is None else self.domain.tensors(),
        }

    def bounds_hash(self) -> str:
        """SHA-256 of everything that decides an interval, and what is out of its depth."""
        digest = hashlib.sha256()
        for name, tensors in self._bounds().items():
            digest.update(name.encode())
            for tensor in tensors.values():
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def save_bounds(self, folder: Path) -> None:
        """Write intervals, smallest distances and domain, where there are any, beside the model."""
        for name, tensors in self._bounds().items():
            if not tensors:
                (folder / name).unlink(missing_ok=True)
                continue
            with whole(folder / name) as partial:
                partial.write_bytes(serialized({k: v.contiguous() for k, v in tensors.items()}))

    def with_card(self, **entries) -> Self:
        """A copy whose card has more entries."""
        return replace(self, card={**self.card, **entries})  # type: ignore[type-var]


def bounds(values: np.ndarray, half_width: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of a table: both ends of the intervals."""
    return {"lower": values - half_width, "upper": values + half_width}


def _dataset(structures: Dataset | Atoms | Iterable[Atoms]) -> Dataset:
    if isinstance(structures, Dataset):
        return structures
    return Dataset.from_atoms([structures] if isinstance(structures, Atoms) else structures)


def _elements(composition: np.ndarray, numbers: np.ndarray) -> list[tuple[str, ...]]:
    """Which of some elements each structure contains."""
    found: list[tuple[str, ...]] = [()] * len(composition)
    if not len(numbers):
        return found
    present = composition[:, numbers] > 0
    for i in np.flatnonzero(present.any(axis=1)):
        found[i] = tuple(chemical_symbols[z] for z in numbers[present[i]])
    return found
