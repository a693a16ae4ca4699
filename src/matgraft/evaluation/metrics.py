"""Errors of a set of predictions."""

from __future__ import annotations

import numpy as np

from matgraft.data import Label

CHEMICAL_ACCURACY = 0.04336
"""1 kcal/mol in eV."""


def errors(label: Label, target: np.ndarray, prediction: np.ndarray, natoms: np.ndarray) -> dict[str, float]:
    """Summary of prediction errors.

    Parameters
    ----------
    label : Label
        Energies get names with ``_ev`` and the shares within chemical accuracy.
    target, prediction : ndarray, shape (n,)
        In the label's own unit.
    natoms : ndarray, shape (n,)

    Returns
    -------
    dict
        For energies ``n``, ``mae_ev``, ``rmse_ev``, ``mae_ev_per_atom``, ``median_ev_per_atom``,
        ``within_chemical_accuracy`` (1 kcal/mol per cell, as published) and
        ``within_chemical_accuracy_per_atom``; per-atom labels count per atom in both. For other
        labels ``n``, ``mae``, ``rmse``, ``median``.
    """
    error = np.abs(np.asarray(prediction) - np.asarray(target))
    if not label.is_energy:
        return {
            "n": len(error),
            "mae": float(error.mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "median": float(np.median(error)),
        }
    per_atom = label.to_per_atom(error, natoms)
    return {
        "n": len(error),
        "mae_ev": float(error.mean()),
        "rmse_ev": float(np.sqrt((error**2).mean())),
        "mae_ev_per_atom": float(per_atom.mean()),
        "median_ev_per_atom": float(np.median(per_atom)),
        "within_chemical_accuracy": float((error <= CHEMICAL_ACCURACY).mean()),
        "within_chemical_accuracy_per_atom": float((per_atom <= CHEMICAL_ACCURACY).mean()),
    }
