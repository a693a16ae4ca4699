"""Predicting files of structures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from matgraft.data import Dataset
from matgraft.jobs.folder import write_csv
from matgraft.models.model import Model, Prediction, load_model

log = logging.getLogger(__name__)


def predict(
    model: str | Path | Model, files: Sequence[str | Path], out: str | Path | None = None
) -> tuple[Dataset, Prediction]:
    """Predict every structure in some files.

    Parameters
    ----------
    model : str, Path or Model
        A shipped model's name, a model folder, or a model.
    files : sequence of path
    out : path, optional
        A CSV file: id, formula, prediction in the label's unit, per atom, and what the model does not know.

    Returns
    -------
    dataset : Dataset
    prediction : Prediction
    """
    model = model if isinstance(model, Model) else load_model(model)
    dataset = Dataset.read(list(files))
    prediction = model.predict(dataset)
    marked = [(i, elements) for i, elements in zip(dataset.ids, prediction.unseen, strict=True) if elements]
    if marked:
        log.warning(
            "%d of %d structures contain elements that the model never saw (%s), the first is %s: "
            "their values are guesses, marked in the column unseen_species",
            len(marked),
            len(dataset),
            ", ".join(sorted({symbol for _, elements in marked for symbol in elements})),
            marked[0][0],
        )
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_csv(
            Path(out),
            ("id", "prediction", "unit", "formula", "per_atom", "unseen_species", "unreferenced_species"),
            zip(
                dataset.ids,
                prediction.values.tolist(),
                [model.label.unit] * len(dataset),
                dataset.formulas,
                prediction.per_atom.tolist(),
                [" ".join(symbols) for symbols in prediction.unseen],
                [" ".join(symbols) for symbols in prediction.unreferenced],
                strict=True,
            ),
        )
    return dataset, prediction
