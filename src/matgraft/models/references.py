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
_ITERATIONS = 30
_SETTLED = 1e-4


@dataclass(frozen=True)
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
            if symbol not in atomic_numbers or not np.isfinite(energy):
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
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
            raise InputError(
                f'{path}: not a JSON file of reference energies such as {{"O": -4.9}} ({error}).'
            ) from error

    @classmethod
    def fit(
        cls,
        composition: np.ndarray,
        per_atom: np.ndarray,
        robust: bool = True,
        ridge: float = 1e-6,
        pull: float = 0.0,
        pulled: np.ndarray | None = None,
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
        pull : float
            Weight of a prior that the energies of elements ``pulled`` are zero, in structures of that element
            alone: 1 counts as much as one such label.
        pulled : ndarray of int, optional
            Atomic numbers.
        """
        known = composition.sum(axis=0) > 0
        prior = np.zeros(len(known), dtype=bool)
        if pull and pulled is not None:
            prior[pulled] = True
        fractions = (composition / composition.sum(axis=1, keepdims=True))[:, known]
        average = np.median if robust else np.mean
        rest = fractions[:, ~prior[known]].sum(axis=1)
        # Elements without a prior are drawn to the level of what the others leave unexplained.
        centre = float(average(per_atom[rest > 0])) if (rest > 0).any() else 0.0
        base = np.where(prior[known], 0.0, centre)
        strength = np.diag(np.where(prior[known], pull, ridge))
        unexplained = per_atom - fractions @ base
        weights = np.ones(len(per_atom))
        for _ in range(_ITERATIONS if robust else 1):
            weighted = fractions * weights[:, None]
            shift = np.linalg.solve(weighted.T @ fractions + strength, weighted.T @ unexplained)
            residual = np.abs(unexplained - fractions @ shift)
            # Where labels are exact, what the ridge leaves over must not count as an outlier.
            width = max(HUBER * 1.4826 * np.median(residual), 1e-6 * np.abs(unexplained).max(), 1e-12)
            before = weights
            weights = np.minimum(1.0, width / np.maximum(residual, width))
            if np.abs(weights - before).max() < _SETTLED:
                break
        energies = np.where(prior, 0.0, np.nan)
        energies[known] = base + shift
        return cls(energies, centre, frozenset(np.flatnonzero(prior & ~known).tolist()))

    def per_atom(self, composition: np.ndarray) -> np.ndarray:
        """Reference part of each structure, per atom, shape (n,)."""
        energies = self._with_fallback
        # A matrix product would round by the number of structures that are asked about together.
        return (composition * energies).sum(axis=1) / composition.sum(axis=1)

    def __add__(self, other: References) -> References:
        """Sum of two; an element is fitted if ``other`` fitted it (the later fit decides what is known)."""
        return References(self._with_fallback + other.energies, self.fallback + other.fallback, other.assumed)

    @cached_property
    def _with_fallback(self) -> np.ndarray:
        return np.where(np.isnan(self.energies), self.fallback, self.energies)

    @cached_property
    def fitted(self) -> np.ndarray:
        """Atomic numbers with an energy of their own, be it assumed."""
        return np.flatnonzero(~np.isnan(self.energies))

    @cached_property
    def missing(self) -> np.ndarray:
        """Atomic numbers that no label contained."""
        return np.union1d(np.flatnonzero(np.isnan(self.energies)), sorted(self.assumed)).astype(int)

    def as_dict(self) -> dict[str, float]:
        """Energies by element symbol, where there is one."""
        return {chemical_symbols[z]: float(self.energies[z]) for z in self.fitted if z > 0}
