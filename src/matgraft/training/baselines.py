"""Predictions without any training: what a graft has to beat."""

from __future__ import annotations

import numpy as np

from matgraft.models.model import Model
from matgraft.training.forest import composition_forest
from matgraft.training.graft import Task, fit_references

ZERO_SHOT, SHIFTED = "zero_shot_source", "source_plus_references"


def baselines(task: Task, rows: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Per-atom predictions without any network.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``references_alone`` and ``composition_forest``.
    """
    return {
        "references_alone": fit_references(task, rows, "labels", None, None).per_atom(task.composition),
        "composition_forest": composition_forest(task, rows, seed),
    }


def source_baselines(
    task: Task, rows: np.ndarray, source: Model, zero_shot: np.ndarray
) -> dict[str, np.ndarray]:
    """Per-atom predictions of a source that is not trained any further.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``zero_shot_source`` and ``source_plus_references``.
    """
    shifted = fit_references(task, rows, "residual", source, zero_shot)
    difference = shifted.per_atom(task.composition) - source.references.per_atom(task.composition)
    return {ZERO_SHOT: zero_shot, SHIFTED: zero_shot + difference}
