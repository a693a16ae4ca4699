"""Growing a source model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from matgraft.data import Dataset, Label
from matgraft.data.splits import condition_name, exclude, keep_where, validation_count
from matgraft.errors import InputError
from matgraft.evaluation.metrics import errors
from matgraft.evaluation.plots import training_curve
from matgraft.jobs.folder import alone, claim, write_json
from matgraft.models.files import load_model, load_source
from matgraft.models.model import Model
from matgraft.models.predictor import Predictor
from matgraft.models.schnet import Architecture
from matgraft.progress import Progress
from matgraft.training.distributed import ALONE, Workers
from matgraft.training.graft import Task, train_from_scratch
from matgraft.training.loop import resumable
from matgraft.training.recipe import PRETRAIN, Recipe

log = logging.getLogger(__name__)

AGREE = 0.1
"""How far teachers may differ on an unlabelled structure to learn from, in the label's unit per atom."""


def pretrain(
    data: str | Path | Dataset,
    target: str,
    out: str | Path,
    *,
    further: Sequence[str] = (),
    exclude_formulas_of: str | Path | None = None,
    exclude_elements: Sequence[str] = (),
    keep: Sequence[str] = (),
    val_size: float = 0.1,
    source: str | Path | None = None,
    arch: Architecture | None = None,
    recipe: Recipe = PRETRAIN,
    seed: int = 0,
    teachers: Sequence[str | Path] = (),
    unlabelled: str | Path | Dataset | None = None,
    name: str = "",
    licence: str = "",
    workers: Workers = ALONE,
) -> Model:
    """Train a source model on many crystals and write it with its card.

    Parameters
    ----------
    data : path or Dataset
    target : str
    further : sequence of str
        More labels for the same network to learn; a structure may lack them. ``load_model("OUT:LABEL")``
        opens the model of one.
    out : path
        Gets the model, ``metrics.json``, the log and the training curve; an interrupted run continues there.
    exclude_formulas_of : path, optional
        Structures with the reduced formula of one in this target set are left out.
    exclude_elements : sequence of str
        Structures that contain one of these elements are left out.
    keep : sequence of str
        Conditions on columns, such as ``e_form_spread<=0.1``.
    val_size : int or float
        Structures (or share) held out to choose the epoch and to state the error.
    source : str or path, optional
        Continue from the weights of this model; its architecture holds.
    arch : Architecture, optional
        Default ``arch1``.
    recipe : Recipe
    seed : int
    teachers : sequence of str or path
        Models of the same property that this one learns from as well (knowledge distillation): half of every
        training label is what they say on average. They must not have seen the structures held out here.
    unlabelled : path or Dataset, optional
        Further structures, whose label is wholly what the teachers say; those on which teachers differ by
        more than :data:`AGREE`, or with elements that one of them does not know, are left out.
    name, licence : str
        For the card.
    workers : Workers
        Processes that make this call together, with equal arguments; only rank 0 writes.
    """
    dataset = data if isinstance(data, Dataset) else Dataset.read(data, target=target)
    forbidden = None if exclude_formulas_of is None else Dataset.read(exclude_formulas_of)
    mask, report = exclude(dataset, forbidden, exclude_elements)
    chosen = mask & keep_where(dataset, keep)
    report["kept_after_conditions"] = int(chosen.sum())
    dataset = dataset[chosen]
    start = None if source is None else load_source(source)
    masters = {str(teacher): load_model(teacher) for teacher in teachers}
    arch = start.network.arch if start is not None else arch or Architecture()
    held = validation_count(len(dataset), val_size)
    order = np.random.default_rng(seed).permutation(len(dataset))
    labelled_rows, validation_rows = order[:-held], order[-held:]
    for label in (target, *further):
        known = dataset.values(label)[labelled_rows]
        if len(np.unique(known[~np.isnan(known)])) < 2:
            raise InputError(
                f"label {label!r}: the structures to train on have no two values of it, so there is nothing "
                "to learn. Choose another, or add structures."
            )
    if unlabelled is not None:
        if not masters:
            raise InputError("unlabelled structures need teachers: name models with --teachers.")
        more = unlabelled if isinstance(unlabelled, Dataset) else Dataset.read(unlabelled)
        more = _learnable(more, list(masters.values()), forbidden, exclude_elements, keep)
        dataset = Dataset.concatenate([dataset, more])
    train_rows = np.concatenate([labelled_rows, np.arange(len(order), len(dataset))])
    settings = {
        "command": "pretrain",
        "target": target,
        "further": list(further),
        "source": None if start is None else start.content_hash(),
        "exclude_formulas_of": None if exclude_formulas_of is None else Path(exclude_formulas_of).name,
        "exclude_elements": sorted(exclude_elements),
        "keep": list(keep),
        "structures": report,
        "n_train": len(labelled_rows),
        "n_unlabelled": len(train_rows) - len(labelled_rows),
        "teachers": {teacher: model.content_hash() for teacher, model in masters.items()},
        "n_val": held,
        "architecture": arch.as_dict(),
        "recipe": recipe.model_dump(),
        "seed": seed,
        "data_hash": dataset.content_hash(target),
    }
    for teacher, model in masters.items():
        _check_teacher(teacher, model, dataset.specs[target], settings)
    with workers.rank_zero_first():
        out = claim(out, settings)
    speaks = None if workers.rank == 0 else False
    with (
        alone(out) if workers.rank == 0 else nullcontext(),
        Progress(recipe.epochs, "pretrain", speaks, unit="epochs") as progress,
        resumable(out),
    ):
        with workers.rank_zero_first():
            tasks = [Task.of(dataset, label, arch.cutoff) for label in (target, *further)]
        models = train_from_scratch(
            _taught(tasks[0], list(masters.values()), train_rows),
            train_rows,
            validation_rows,
            arch=arch,
            recipe=recipe,
            seed=seed,
            folder=out,
            report=lambda row: progress.step(row["epoch"] - progress.count, loss=row["train_loss"]),
            further=tasks[1:],
            start=start,
            workers=workers,
        )
    rows = {"validation": validation_rows, "train": labelled_rows}
    if "structure_origin" in dataset.columns:
        origin = dataset.columns["structure_origin"][validation_rows]
        rows["validation_pbe_geometry"] = validation_rows[origin <= 2]
        rows["validation_later_geometry"] = validation_rows[origin == 3]
    metrics, *others = (_scores(model, task, rows) for model, task in zip(models, tasks, strict=True))
    if further:
        metrics["further"] = dict(zip(further, others, strict=True))
    history = models[0].card["history"]
    model = models[0].with_card(name=name or out.name, licence=licence, metrics=metrics, **settings)
    if workers.rank == 0:
        model.save(out, further=models[1:])
        write_json(out / "metrics.json", metrics)
        training_curve(out / "training.png", history, tasks[0].label.per_atom_unit)
    return model


def _check_teacher(name: str, teacher: Predictor, label: Label, settings: dict) -> None:
    """Refuse a teacher of something else; warn of one that may know the structures held out here."""
    if (teacher.label.kind, teacher.label.unit) != (label.kind, label.unit):
        raise InputError(
            f"teacher {name}: it predicts {teacher.label.name}, {teacher.label.meaning}, not {label.name}, "
            f"{label.meaning}. "
            "Take a model of the same property; NAME:LABEL names one of several."
        )
    decisive = ("structures", "seed", "n_val")
    if any(teacher.card.get(key) != settings[key] for key in decisive):
        log.warning(
            "teacher %s: its card does not say that it held out the same structures, so that the validation "
            "error of its pupil may be too good. Train it with the same data, --keep, --seed and --val-size",
            name,
        )


def _learnable(
    more: Dataset,
    teachers: Sequence[Predictor],
    forbidden: Dataset | None,
    elements: Sequence[str],
    keep: Sequence[str],
) -> Dataset:
    """Unlabelled structures from which to learn: allowed, and known to the teachers, who agree on them."""
    mask, _ = exclude(more, forbidden, elements)
    known = {"natoms", *more.labels, *more.columns}
    mask &= keep_where(more, [condition for condition in keep if condition_name(condition) in known])
    more = more[mask]
    said = [teacher.predict(more) for teacher in teachers]
    apart = np.ptp([one.per_atom for one in said], axis=0)
    strange = np.array([any(names) for names in zip(*(one.unseen for one in said), strict=True)], dtype=bool)
    return more[(apart <= AGREE) & ~strange]


def _taught(task: Task, teachers: Sequence[Predictor], rows: np.ndarray) -> Task:
    """A task whose labels in ``rows`` are half their own and half the teachers', wholly so where unknown."""
    if not teachers:
        return task
    said = np.mean([task.predicted_by(teacher) for teacher in teachers], axis=0)[rows]
    per_atom = task.per_atom.copy()
    per_atom[rows] = np.where(np.isnan(per_atom[rows]), said, (per_atom[rows] + said) / 2)
    return replace(task, per_atom=per_atom)


def _scores(model: Model, task: Task, rows: dict[str, np.ndarray]) -> dict:
    """Errors on the known labels among some rows."""
    prediction = model.label.from_per_atom(task.predicted_by(model), task.natoms)
    truth = model.label.from_per_atom(task.per_atom, task.natoms)
    known = {name: some[~np.isnan(truth[some])] for name, some in rows.items()}
    return {
        name: errors(model.label, truth[some], prediction[some], task.natoms[some])
        for name, some in known.items()
    }
