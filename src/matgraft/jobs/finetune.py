"""The main job: a graft on the user's labels, beside what they would have got without it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matgraft.data import Dataset
from matgraft.data.splits import ID_LISTS, grouped_split, groups, random_split, split_by_file
from matgraft.errors import InputError
from matgraft.evaluation.metrics import CHEMICAL_ACCURACY, errors
from matgraft.evaluation.plots import error_distribution, parity, training_curve
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import claim, write_csv, write_json
from matgraft.models.model import Model, load_model
from matgraft.models.references import References
from matgraft.models.schnet import ARCHITECTURES
from matgraft.progress import Progress
from matgraft.training.forest import composition_forest
from matgraft.training.graft import (
    REFERENCE_MODES,
    ReferenceMode,
    Task,
    check_request,
    finetune,
    fit_references,
    named_scheme,
)
from matgraft.training.recipe import PRESETS, Recipe

log = logging.getLogger(__name__)

TITLES = {
    "references_alone": "reference energies alone",
    "composition_forest": "random forest on composition",
    "zero_shot_source": "source model as it is",
    "source_plus_references": "source + robust references",
    "direct": "direct training",
}


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning run gives.

    Attributes
    ----------
    model : Model
    metrics : dict
        The content of ``metrics.json``.
    table : Table
        Method beside baselines.
    out : Path
    """

    model: Model
    metrics: dict
    table: Table
    out: Path


def validation_split(
    dataset: Dataset, val: str, group: str | None, seed: int, target: str | None = None
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on.

    Parameters
    ----------
    val : str
        A fraction, a number of structures, a text file of ids, or a file of further labelled structures
        (which is then put behind the data set).
    group : {"formula", "chemical_system"}, optional
        Keep each group on one side.
    target : str, optional
        Label that a file of further structures must carry.
    """
    size = _size(val)
    if size is None:
        if Path(val).suffix.lower() in ID_LISTS:
            return dataset, *split_by_file(dataset, val)
        more = Dataset.read(val, target=target)
        both = sorted(set(more.ids) & set(dataset.ids))
        if both:
            raise InputError(
                f"{val}: {len(both)} ids are also in {dataset.source}, the first is {both[0]}: "
                "a structure cannot both train and validate."
            )
        n = len(dataset)
        return Dataset.concatenate([dataset, more]), np.arange(n), np.arange(n, n + len(more))
    if group is None:
        return dataset, *random_split(len(dataset), size, seed)
    return dataset, *grouped_split(groups(dataset, group), size, seed)  # type: ignore[arg-type]


def _size(val: str) -> float | None:
    """``0.2`` as a fraction, ``117`` as a number of structures, None for anything else."""
    for number in (int, float):
        try:
            return number(val)
        except ValueError:
            continue
    return None


def recipes(preset: str) -> tuple[Recipe, Recipe]:
    """The recipes of a preset: for a random start, and for a start from a source."""
    if preset not in PRESETS:
        raise InputError(f"no preset named {preset!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[preset]


def reference_mode(text: str) -> ReferenceMode | References:
    """A reference mode by name, or the reference energies in a JSON file."""
    if text in REFERENCE_MODES:
        return text  # type: ignore[return-value]
    if text.endswith(".json"):
        return References.read(text)
    raise InputError(
        f"--reference {text!r}: write {', '.join(REFERENCE_MODES)}, or a JSON file of energies by element."
    )


def run_finetune(
    data: str | Path | Dataset,
    target: str,
    out: str | Path,
    *,
    source: str | Path | None = "mp-schnet",
    scheme: str = "tl1",
    reference: str = "auto",
    arch: str = "arch1",
    val: str = "0.2",
    group: str | None = None,
    seed: int = 0,
    preset: str = "default",
    direct: bool = False,
) -> FinetuneResult:
    """Graft, judge on structures that were held out, compare with the baselines, and write it all down.

    Parameters
    ----------
    data : path, name of a known data set, or Dataset
        Labelled structures.
    target : str
    out : path
        New folder; an interrupted run of equal settings continues in it.
    source : str, path or None
        Source model; None trains directly.
    scheme : str
        See :func:`matgraft.training.graft.finetune`.
    reference : str
        ``auto``, ``labels``, ``residual``, ``none``, or a JSON file of energies by element.
    arch : {"arch1", "arch2", "wide"}
        For direct training.
    val, group
        See :func:`validation_split`.
    preset : {"default", "paper"}
    direct : bool
        Also train from a random start, for comparison.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"no architecture named {arch!r}; there are {', '.join(ARCHITECTURES)}.")
    chosen = named_scheme(scheme)
    for_direct, for_graft = recipes(preset)
    parent = None if source is None else load_model(source)
    dataset = data if isinstance(data, Dataset) else Dataset.read(data, target=target)
    dataset, train_rows, val_rows = validation_split(dataset, val, group, seed, target)
    references = reference_mode(reference)
    check_request(len(train_rows), chosen, references, parent is not None)
    cutoff = parent.cutoff if parent else ARCHITECTURES[arch].cutoff
    if parent is not None and ARCHITECTURES[arch].cutoff != cutoff:
        raise InputError(f"{source}: its cutoff of {cutoff} A is not that of {arch}.")
    task = Task.of(dataset, target, cutoff)
    settings = {
        "command": "finetune",
        "target": target,
        "label": vars(task.label),
        "data_hash": task.data_hash,
        "source": None if parent is None else parent.card.get("name", str(source)),
        "source_hash": None if parent is None else parent.content_hash(),
        "scheme": chosen.model_dump(),
        "reference": references if isinstance(references, str) else references.as_dict(),
        "architecture": arch,
        "val": val,
        "group": group,
        "seed": seed,
        "preset": preset,
        "direct": direct,
    }
    out = claim(out, settings)

    def train(name: str, recipe: Recipe, **options) -> Model:
        with Progress(recipe.for_size(len(train_rows)).epochs, name, unit="epochs") as progress:
            return finetune(
                train=task,
                rows=train_rows,
                arch=ARCHITECTURES[arch],
                recipe=recipe,
                seed=seed,
                folder=out / "training" / name,
                report=lambda row: progress.step(row["epoch"] - progress.count, loss=row["train_loss"]),
                **options,
            )

    zero_shot = None if parent is None else task.predicted_by(parent)
    start = parent if chosen.start == "source" else None
    model = train(
        scheme,
        for_graft if start else for_direct,
        source=start,
        scheme=chosen,
        reference=references,
        zero_shot=zero_shot,
    )
    predictions = {scheme: task.predicted_by(model)}
    predictions |= baselines(task, train_rows, parent, zero_shot, seed)
    if direct and scheme != "direct":
        predictions["direct"] = task.predicted_by(train("direct", for_direct, source=None, scheme="direct"))
    return _write(out, dataset, task, model, scheme, predictions, train_rows, val_rows)


def baselines(
    task: Task, rows: np.ndarray, source: Model | None, zero_shot: np.ndarray | None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Per-atom predictions that need no network to be trained: what a graft has to beat.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        ``references_alone`` and ``composition_forest``; with a source also ``zero_shot_source`` and
        ``source_plus_references``.
    """
    alone = {
        "references_alone": fit_references(task, rows, "labels", None, None).per_atom(task.composition),
        "composition_forest": composition_forest(task, rows, seed),
    }
    if source is None or zero_shot is None:
        return alone
    shifted = fit_references(task, rows, "residual", source, zero_shot)
    difference = shifted.per_atom(task.composition) - source.references.per_atom(task.composition)
    return {**alone, "zero_shot_source": zero_shot, "source_plus_references": zero_shot + difference}


def _write(
    out: Path,
    dataset: Dataset,
    task: Task,
    model: Model,
    scheme: str,
    per_atom: dict[str, np.ndarray],
    train_rows: np.ndarray,
    val_rows: np.ndarray,
) -> FinetuneResult:
    label, natoms = task.label, task.natoms[val_rows]
    truth = dataset.values(label.name)[val_rows]
    predictions = {name: label.from_per_atom(values[val_rows], natoms) for name, values in per_atom.items()}
    scores = {name: errors(label, truth, values, natoms) for name, values in predictions.items()}
    metrics = {
        "n_train": len(train_rows),
        "n_val": len(val_rows),
        **{key: value for key, value in scores[scheme].items() if key != "n"},
        "unit": label.unit,
        "scheme": scheme,
        "reference": model.card["reference"],
        "reference_cross_validation_per_atom": model.card["reference_cross_validation_per_atom"],
        "baselines": {name: score for name, score in scores.items() if name != scheme},
    }
    history = model.card["history"]
    model = model.with_card(metrics={key: value for key, value in metrics.items() if key != "baselines"})
    model.save(out)
    write_csv(
        out / "predictions.csv",
        ("id", "target", "prediction"),
        zip(dataset.ids[val_rows], truth.tolist(), predictions[scheme].tolist(), strict=True),
    )
    shown = {
        TITLES.get(name, name.upper()): values
        for name, values in predictions.items()
        if name in (scheme, "direct", "source_plus_references", "references_alone")
    }
    parity(out / "parity.png", truth, shown, label.unit)
    energies = label.unit.startswith("eV")
    error_distribution(
        out / "errors.png",
        {name: label.to_per_atom(values - truth, natoms) for name, values in shown.items()},
        f"{label.unit}/atom" if label.kind == "cell" else label.unit,
        CHEMICAL_ACCURACY if energies else None,
    )
    training_curve(out / "training.png", history)
    write_json(out / "references.json", model.references.as_dict())
    write_json(out / "metrics.json", metrics)
    return FinetuneResult(model, metrics, comparison(scores, label.unit, len(train_rows), len(val_rows)), out)


def comparison(scores: dict[str, dict[str, float]], unit: str, n_train: int, n_val: int) -> Table:
    """Methods and baselines, best first."""
    energies = unit.startswith("eV")
    size = "mae_ev" if energies else "mae"
    columns = ["method", f"MAE ({unit})"]
    if energies:
        columns += ["MAE (meV/atom)", "within 43 meV/atom"]
    rows = []
    for name, score in sorted(scores.items(), key=lambda item: item[1][size]):
        row = [TITLES.get(name, name.upper()), f"{score[size]:.3f}"]
        if energies:
            row += [
                f"{1e3 * score['mae_ev_per_atom']:.0f}",
                f"{score['within_chemical_accuracy_per_atom']:.0%}",
            ]
        rows.append(row)
    return Table(columns, rows, title=f"{n_train} labels, judged on {n_val} held-out structures")
