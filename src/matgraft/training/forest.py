"""A baseline that never sees a structure: a random forest on the composition."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses, covalent_radii
from sklearn.ensemble import RandomForestRegressor

from matgraft.models.elements import NOBLE
from matgraft.training.graft import Task, fit_references

TREES = 300


def composition_forest(task: Task, rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Per-atom predictions of a random forest (Breiman 2001) trained on ``rows``.

    Energies, which add up over atoms, are first reduced by element references: a forest cannot extrapolate,
    and would spend its labels on learning a sum.

    Parameters
    ----------
    task : Task
    rows : ndarray of int
    seed : int

    Returns
    -------
    ndarray, shape (n,)
        For every structure of the task.
    """
    base = np.zeros(len(task.per_atom))
    if task.label.kind != "intensive":
        base = fit_references(task, rows, "labels", None, None).per_atom(task.composition)
    features = descriptors(task.composition)
    forest = RandomForestRegressor(TREES, max_features=1 / 3, random_state=seed, n_jobs=1)
    forest.fit(features[rows], (task.per_atom - base)[rows])
    return base + forest.predict(features)


def descriptors(composition: np.ndarray) -> np.ndarray:
    """Element fractions, and what kinds of elements they are.

    Parameters
    ----------
    composition : ndarray, shape (n, 119)
        Atoms of each element.

    Returns
    -------
    ndarray, shape (n, 119 + 1 + 5 * 4)
        Fractions; number of elements; mean, standard deviation, least and greatest of atomic number, mass,
        covalent radius, row of the periodic table and position in the row.
    """
    fractions = composition / composition.sum(axis=1, keepdims=True)
    present = composition > 0
    parts = [fractions, present.sum(axis=1, keepdims=True)]
    for values in _properties(composition.shape[1]):
        mean = fractions @ values
        deviation = np.sqrt(np.maximum(fractions @ values**2 - mean**2, 0.0))
        least = np.where(present, values, np.inf).min(axis=1)
        greatest = np.where(present, values, -np.inf).max(axis=1)
        parts.append(np.stack([mean, deviation, least, greatest], axis=1))
    return np.concatenate(parts, axis=1)


def _properties(n: int) -> list[np.ndarray]:
    z = np.arange(n)
    row = np.searchsorted(NOBLE, z)
    within = z - NOBLE[np.maximum(row - 1, 0)]
    return [np.asarray(v, dtype=float) for v in (z, atomic_masses[:n], covalent_radii[:n], row, within)]
