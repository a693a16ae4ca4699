"""How good a graft is: errors beside the baselines, intervals, forces and pictures, written down."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from matgraft.data import Dataset, Label
from matgraft.evaluation.metrics import CHEMICAL_ACCURACY, errors
from matgraft.evaluation.plots import (
    contest_chart,
    error_distribution,
    interval_chart,
    parity,
    training_curve,
)
from matgraft.evaluation.style import with_unit
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import write_csv, write_json
from matgraft.models.intervals import COVERAGE
from matgraft.models.model import Model
from matgraft.models.predictor import Predictor, bounds
from matgraft.training.baselines import SHIFTED, ZERO_SHOT
from matgraft.training.contest import Contest
from matgraft.training.graft import Task

log = logging.getLogger(__name__)

SUSPECT = 5.0
"""Labels are listed that are so many times farther off than nine in ten."""
_CHOICES = ("reference", "reference_cross_validation_per_atom", "contest")
"""What a model's card says of how it was chosen."""
TITLES = {
    "auto": "auto: the graft that a contest chose",
    "process": "Gaussian process on frozen features",
    "references_alone": "reference energies alone",
    "composition_forest": "random forest on composition",
    ZERO_SHOT: "source model as it is",
    SHIFTED: "source + robust references",
    "direct": "direct training",
}


def write_verdict(
    out: Path,
    dataset: Dataset,
    task: Task,
    model: Predictor,
    source: Model | None,
    per_atom: dict[str, np.ndarray],
    train_rows: np.ndarray,
    val_rows: np.ndarray,
) -> tuple[dict, Table]:
    """Judge a graft on structures that were held out; save it with metrics, predictions and pictures.

    Parameters
    ----------
    out : Path
    dataset : Dataset
    task : Task
        Of the data set.
    model : Predictor
    source : Model or None
        Its forces stand beside those of a graft that learnt from forces.
    per_atom : dict of str to ndarray, shape (n,)
        Predictions of all structures by method, the graft's first.
    train_rows, val_rows : ndarray of int

    Returns
    -------
    metrics : dict
        The content of ``metrics.json``.
    table : Table
        See :func:`comparison`.
    """
    recipe = next(iter(per_atom))
    label, natoms = task.label, task.natoms[val_rows]
    truth = dataset.values(label.name)[val_rows]
    predictions = {name: label.from_per_atom(values[val_rows], natoms) for name, values in per_atom.items()}
    scores = {name: errors(label, truth, values, natoms) for name, values in predictions.items()}
    metrics = {
        "n_train": len(train_rows),
        "n_val": len(val_rows),
        **{key: value for key, value in scores[recipe].items() if key != "n"},
        "unit": label.unit,
        "recipe": recipe,
        **{key: model.card[key] for key in _CHOICES if key in model.card},
        "baselines": {name: score for name, score in scores.items() if name != recipe},
    }
    if model.intervals is not None:
        error = np.abs(predictions[recipe] - truth)
        half_width = half_widths(task, model, val_rows)
        metrics["intervals"] = interval_scores(error, half_width)
    if task.pulls is not None:
        held = dataset[val_rows]
        by_model = {title(recipe): model}
        if source is not None and source.label.is_energy:
            by_model[TITLES[ZERO_SHOT]] = source
        metrics["forces"] = _judge_forces(out / "forces.png", held, by_model)
    model = model.with_card(metrics={key: value for key, value in metrics.items() if key != "baselines"})
    model.save(out)
    columns = {"id": dataset.ids[val_rows], "target": truth, "prediction": predictions[recipe]}
    if model.intervals is not None:
        columns |= bounds(predictions[recipe], half_width)
        interval_chart(out / "intervals.png", error, half_width, model.intervals.scores, label.unit)
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    write_csv(out / "predictions.csv", list(columns), rows)
    of_sources = [name for name in predictions if name.startswith(SHIFTED)]
    of_sources.sort(key=lambda name: scores[name][_size_of_error(label)])
    drawn = (recipe, "direct", "references_alone", *of_sources[:1])
    shown = {title(name): values for name, values in predictions.items() if name in drawn}
    parity(out / "parity.png", truth, shown, label.unit)
    error_distribution(
        out / "errors.png",
        {name: label.to_per_atom(values - truth, natoms) for name, values in shown.items()},
        label.per_atom_unit,
        CHEMICAL_ACCURACY if label.is_energy else None,
    )
    if "history" in model.card:
        training_curve(out / "training.png", model.card["history"], label.per_atom_unit)
    if "contest" in model.card:
        contest_chart(out / "contest.png", model.card["contest"], label)
    write_json(out / "references.json", model.references.as_dict(assumed=False))
    write_json(out / "metrics.json", metrics)
    return metrics, comparison(scores, label, len(train_rows), len(val_rows))


def _judge_forces(path: Path, dataset: Dataset, models: Mapping[str, Predictor]) -> dict | None:
    """Errors of the components of forces by model, beside their mean size; None where none are known."""
    part = dataset[dataset.has_forces]
    if not len(part):
        log.warning("no forces in the structures that are held out: those of the graft cannot be judged")
        return None
    assert part.forces is not None
    truth = part.forces.ravel()
    said = {name: model.derivatives(part)[1].ravel() for name, model in models.items()}
    parity(path, truth, said, "eV/Å", counted="components of forces")
    return {
        "unit": "eV/Angstrom",
        "n": len(truth),
        "mae": {name: float(np.abs(values - truth).mean()) for name, values in said.items()},
        "mean_absolute": float(np.abs(truth).mean()),
    }


def list_suspects(path: Path, dataset: Dataset, held: Contest) -> None:
    """Labelled structures that are off by far more than most: a wrong unit, cell or label, or a rarity."""
    error = held.blended - held.truth
    usual = float(np.quantile(np.abs(error), 0.9))
    far = np.flatnonzero(np.abs(error) > SUSPECT * usual)
    far = far[np.argsort(-np.abs(error[far]))]
    path.unlink(missing_ok=True)
    if not len(far):
        return
    columns = zip(
        dataset.ids[held.rows[far]].tolist(),
        held.truth[far].tolist(),
        held.blended[far].tolist(),
        (np.abs(error[far]) / usual).tolist(),
        strict=True,
    )
    header = ("id", "label_per_atom", "predicted_per_atom", "error_in_ninth_deciles")
    write_csv(path, header, columns)
    log.warning(
        "%d of %d training labels are off by more than %g times what nine in ten stay below, first %s: "
        "look at them (%s)", len(far), len(error), SUSPECT, dataset.ids[held.rows[far[0]]], path,
    )  # fmt: skip


def half_widths(task: Task, model: Predictor, rows: np.ndarray, coverage: float = COVERAGE) -> np.ndarray:
    """Half the width of the intervals of structures ``rows``, in label units."""
    assert model.intervals is not None
    return model.intervals.half_width(task.composition[rows], model.features(task.graphs)[rows], coverage)


def interval_scores(
    error: np.ndarray, half_width: np.ndarray, coverage: float = COVERAGE
) -> dict[str, float]:
    """How often intervals hold the label, and how wide they are, in label units."""
    return {
        "coverage": coverage,
        "held": float((error <= half_width).mean()),
        "mean_half_width": float(half_width.mean()),
        "median_half_width": float(np.median(half_width)),
    }


def title(method: str) -> str:
    """How a method is called in tables; those of one source of several end in `` @ `` and its name."""
    name, _, source = method.partition(" @ ")
    scheme, _, mode = name.partition("/")
    words = TITLES.get(scheme, scheme.upper()) + (f", reference on {mode}" if mode else "")
    return f"{words} ({source})" if source else words


def _size_of_error(label: Label) -> str:
    return "mae_ev" if label.is_energy else "mae"


def comparison(scores: dict[str, dict[str, float]], label: Label, n_train: int, n_val: int) -> Table:
    """Methods and baselines, best first.

    A source as it is, of another label say, that is farther off than reference energies alone is only named.
    """
    size = _size_of_error(label)
    columns = ["method", with_unit("MAE", label.unit, brackets=True)]
    if label.is_energy:
        columns += ["MAE (meV/atom)", "within 43 meV/atom"]
    rows, off = [], []
    for name, score in sorted(scores.items(), key=lambda item: item[1][size]):
        if name.startswith(ZERO_SHOT) and score[size] > scores["references_alone"][size]:
            off.append(title(name))
            continue
        row = [title(name), f"{score[size]:.3f}"]
        if label.is_energy:
            row += [
                f"{1e3 * score['mae_ev_per_atom']:.0f}",
                f"{score['within_chemical_accuracy_per_atom']:.0%}",
            ]
        rows.append(row)
    caption = f"farther off than {TITLES['references_alone']}: {', '.join(off)}" if off else ""
    return Table(columns, rows, f"{n_train} labels, judged on {n_val} held-out structures", caption)
