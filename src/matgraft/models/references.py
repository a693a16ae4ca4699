"""Reference energies: what each element contributes before the network says anything."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from matgraft.errors import InputError

HUBER = 1.345
"""Where the loss of robust fits turns linear, in standard deviations: 95 % efficient for normal errors."""


@dataclass(frozen=True, eq=False)
class References:
    """One energy per element, in the label's unit per atom.

    Attributes
    ----------
    energies : ndarray, shape (119,)
        Indexed by atomic number; NaN for elements that nothing is known of.
    fallback : float
        Stands in for those.
    assumed : frozenset of int
        Elements whose energy rests on no label; predictions for these and for unknown ones are marked.
    """

    energies: np.ndarray
    fallback: float = 0.0
    assumed: frozenset[int] = frozenset()

    @classmethod
    def none(cls) -> References:
        """No references at all: zero for every element."""
        return cls(np.zeros(len(chemical_symbols)))

    @classmethod
    def given(cls, energies: dict[str, float], assumed: Iterable[str] = ()) -> References:
        """Reference energies that the user knows, by element symbol, per atom."""
        values = np.full(len(chemical_symbols), np.nan)
        for symbol, energy in energies.items():
            if not atomic_numbers.get(symbol) or not np.isfinite(energy):
                raise InputError(
                    f"reference energies: {symbol!r}: {energy!r} is not an element with a finite energy."
                )
            values[atomic_numbers[symbol]] = energy
        fallback = float(np.nanmean(values)) if energies else 0.0
        return cls(values, fallback, frozenset(atomic_numbers[symbol] for symbol in assumed))

    @classmethod
    def read(cls, path: str | Path) -> References:
        """Reference energies from a JSON file such as ``{"O": -4.9, "Ti": -7.8}``."""
        try:
            return cls.given(json.loads(Path(path).read_text()))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f'{path}: not a JSON file of reference energies such as {{"O": -4.9}} ({error}).'
            ) from error

    @classmethod
    def of_all(cls, energies: np.ndarray, composition: np.ndarray) -> References:
        """Energies of all elements, shape (119,), of which only those in ``composition`` rest on labels."""
        absent = np.flatnonzero(~composition.any(axis=0))[1:]
        energies = np.where(np.arange(len(energies)) == 0, np.nan, energies)
        return cls(energies, float(np.nanmean(energies)), frozenset(absent.tolist()))

    @classmethod
    def fit(cls, composition: np.ndarray, per_atom: np.ndarray, ridge: float = 1e-6) -> References:
        """Least squares of ``per_atom = sum_Z x_Z e_Z`` over the fractions ``x_Z``, for many labels.

        Parameters
        ----------
        composition : ndarray, shape (n, 119)
            Atoms of each element.
        per_atom : ndarray, shape (n,)
            Labels per atom.
        ridge : float
            Pull towards the mean label. Total energies of some codes differ by 1000 eV from element to
            element: what looks like a gentle pull then shifts predictions by electronvolts.
        """
        known = composition.sum(axis=0) > 0
        fractions = (composition / composition.sum(axis=1, keepdims=True))[:, known]
        centre = float(per_atom.mean())
        strength = ridge * np.eye(known.sum())
        energies = np.full(len(known), np.nan)
        shift = np.linalg.solve(fractions.T @ fractions + strength, fractions.T @ (per_atom - centre))
        energies[known] = centre + shift
        return cls(energies, centre)

    def per_atom(self, composition: np.ndarray) -> np.ndarray:
        """Reference part of each structure, per atom, shape (n,)."""
        energies = self.filled
        # A matrix product would round by the number of structures that are asked about together.
        return (composition * energies).sum(axis=1) / composition.sum(axis=1)

    def __add__(self, other: References) -> References:
        """Sum of two; an element is fitted if ``other`` fitted it (the later fit decides what is known)."""
        return References(self.filled + other.energies, self.fallback + other.fallback, other.assumed)

    @cached_property
    def filled(self) -> np.ndarray:
        """Energies with :attr:`fallback` where there is none, shape (119,)."""
        return np.where(np.isnan(self.energies), self.fallback, self.energies)

    @cached_property
    def fitted(self) -> np.ndarray:
        """Atomic numbers with an energy of their own, be it assumed."""
        return np.flatnonzero(~np.isnan(self.energies))

    @cached_property
    def missing(self) -> np.ndarray:
        """Atomic numbers that no label contained."""
        return np.union1d(np.flatnonzero(np.isnan(self.energies)), sorted(self.assumed)).astype(int)

    def as_dict(self, assumed: bool = True) -> dict[str, float]:
        """Energies by element symbol, where there is one, with or without those that rest on no label."""
        numbers = self.fitted if assumed else np.setdiff1d(self.fitted, self.missing)
        return {chemical_symbols[z]: float(self.energies[z]) for z in numbers if z > 0}
