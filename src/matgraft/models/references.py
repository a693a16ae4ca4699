"""Reference energies: what each element contributes before the network says anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from matgraft.errors import InputError

_HUBER = 1.345
_ITERATIONS = 30


@dataclass(frozen=True)
class References:
    """One energy per element, in the label's unit per atom.

    Attributes
    ----------
    energies : ndarray, shape (119,)
        Indexed by atomic number; NaN for elements that were never fitted.
    fallback : float
        Stands in for those (and the prediction is marked).
    """

    energies: np.ndarray
    fallback: float = 0.0

    @classmethod
    def none(cls) -> References:
        """No references at all: zero for every element."""
        return cls(np.zeros(len(chemical_symbols)))

    @classmethod
    def given(cls, energies: dict[str, float]) -> References:
        """Reference energies that the user knows, by element symbol, per atom."""
        values = np.full(len(chemical_symbols), np.nan)
        for symbol, energy in energies.items():
            if symbol not in atomic_numbers or not np.isfinite(energy):
                raise InputError(
                    f"reference energies: {symbol!r}: {energy!r} is not an element with a finite energy."
                )
            values[atomic_numbers[symbol]] = energy
        return cls(values, float(np.nanmean(values)) if energies else 0.0)

    @classmethod
    def read(cls, path: str | Path) -> References:
        """Reference energies from a JSON file such as ``{"O": -4.9, "Ti": -7.8}``."""
        try:
            return cls.given(json.loads(Path(path).read_text()))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
            raise InputError(
                f'{path}: not a JSON file of reference energies such as {{"O": -4.9}} ({error}).'
            ) from error

    @classmethod
    def fit(
        cls, composition: np.ndarray, per_atom: np.ndarray, robust: bool = True, ridge: float = 1e-6
    ) -> References:
        """Least squares of ``per_atom = sum_Z x_Z e_Z`` over the fractions ``x_Z``.

        Parameters
        ----------
        composition : ndarray, shape (n, 119)
            Atoms of each element.
        per_atom : ndarray, shape (n,)
            Labels, or label minus the source's prediction, per atom.
        robust : bool
            Huber's loss by iteratively reweighted least squares, so that a few wrong labels or
            structures outside the source's domain do not set the references of everyone.
        ridge : float
            Pull towards the mean label. Total energies of some codes differ by 1000 eV from element to
            element: what looks like a gentle pull then shifts predictions by electronvolts.
        """
        fractions = composition / composition.sum(axis=1, keepdims=True)
        centre = float(np.median(per_atom) if robust else np.mean(per_atom))
        pull = ridge * np.eye(fractions.shape[1])
        weights = np.ones(len(per_atom))
        for _ in range(_ITERATIONS if robust else 1):
            weighted = fractions * weights[:, None]
            shift = np.linalg.solve(weighted.T @ fractions + pull, weighted.T @ (per_atom - centre))
            residual = np.abs(per_atom - centre - fractions @ shift)
            width = _HUBER * 1.4826 * np.median(residual)
            weights = (
                np.minimum(1.0, width / np.maximum(residual, 1e-12)) if width > 0 else np.ones_like(weights)
            )
        energies = centre + shift
        energies[composition.sum(axis=0) == 0] = np.nan
        return cls(energies, centre)

    def per_atom(self, composition: np.ndarray) -> np.ndarray:
        """Reference part of each structure, per atom, shape (n,)."""
        energies = self._with_fallback
        # A matrix product would round by the number of structures that are asked about together.
        return (composition * energies).sum(axis=1) / composition.sum(axis=1)

    def __add__(self, other: References) -> References:
        """Sum of two; an element is fitted if ``other`` fitted it (the later fit decides what is known)."""
        return References(self._with_fallback + other.energies, self.fallback + other.fallback)

    @cached_property
    def _with_fallback(self) -> np.ndarray:
        return np.where(np.isnan(self.energies), self.fallback, self.energies)

    @cached_property
    def fitted(self) -> np.ndarray:
        """Atomic numbers with an energy of their own."""
        return np.flatnonzero(~np.isnan(self.energies))

    @cached_property
    def missing(self) -> np.ndarray:
        """Atomic numbers without one."""
        return np.flatnonzero(np.isnan(self.energies))

    def as_dict(self) -> dict[str, float]:
        """Energies by element symbol, elements that were fitted only."""
        return {chemical_symbols[z]: float(self.energies[z]) for z in self.fitted if z > 0}
