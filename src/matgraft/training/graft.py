"""Grafting: a source network, a few labels, one predictor."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs import Graphs, graphs_of
from matgraft.graphs.closest import closest
from matgraft.models.damping import spanned
from matgraft.models.domain import Domain, sample
from matgraft.models.model import Model, run_network
from matgraft.models.predictor import Predictor
from matgraft.models.references import References
from matgraft.models.schnet import Architecture, SchNet
from matgraft.training.distributed import ALONE, Workers
from matgraft.training.elements import fit_elements
from matgraft.training.forces import Pulls
from matgraft.training.loop import Report, Samples, fit
from matgraft.training.recipe import DIRECT, FINETUNE, Recipe
from matgraft.training.schemes import SCHEMES, Scheme

ReferenceMode = Literal["auto", "labels", "residual", "none"]
REFERENCE_MODES = get_args(ReferenceMode)

_FOLDS = 5
LEAST_LABELS = 2 * _FOLDS
_DECISIVE = 0.6
"""Below this ratio of cross-validated errors the cheap comparison settles the reference mode."""


@dataclass(frozen=True)
class Task:
    """Labelled structures made ready once, for any number of fits on any of their rows.

    Attributes
    ----------
    label : Label
    graphs : Graphs
    composition : ndarray, shape (n, 119)
    natoms : ndarray, shape (n,)
    per_atom : ndarray, shape (n,)
        Labels on the per-atom scale.
    data_hash : str
    prior : References, optional
        What the user knows of the elements' energies; see :func:`matgraft.training.elements.fit_elements`.
    pulls : Pulls, optional
        Forces, for fits that learn from them.
    """

    label: Label
    graphs: Graphs
    composition: np.ndarray
    natoms: np.ndarray
    per_atom: np.ndarray
    data_hash: str
    prior: References | None = None
    pulls: Pulls | None = None

    @classmethod
    def of(cls, dataset: Dataset, target: str, cutoff: float, forces: bool = False) -> Task:
        """Make a label ready, and forces if they are to be learnt from.

        Raises
        ------
        InputError
            No such label; no forces, or a label that they are no derivative of.
        """
        label = dataset.specs[target] if target in dataset.specs else Label.guess(target)
        if forces and not label.is_energy:
            raise InputError(
                f"{target} is {label.meaning}: forces are no derivative of it. Learn from forces with an "
                "energy in eV or eV/atom."
            )
        return cls(
            label=label,
            graphs=graphs_of(dataset, cutoff),
            composition=dataset.composition(),
            natoms=dataset.natoms,
            per_atom=label.to_per_atom(dataset.values(target), dataset.natoms),
            pulls=Pulls.of(dataset, cutoff) if forces else None,
            data_hash=dataset.content_hash(target, forces=forces),
        )

    def predicted_by(self, model: Predictor) -> np.ndarray:
        """What a model says of these structures, per atom and in the model's unit; shape (n,)."""
        return model.per_atom(self.composition, self.graphs)

    def closest(self, rows: np.ndarray, source: Model | None) -> np.ndarray | None:
        """Smallest distances in structures ``rows`` and in those that the source learnt from."""
        here = closest(self.graphs, rows)
        if source is None:
            return here
        return None if source.closest is None else np.minimum(here, source.closest)


@dataclass(frozen=True)
class ReferenceChoice:
    """Reference energies, how they were got, and what the choice rests on."""

    mode: str
    references: References
    cross_validation: dict[str, float]


def fit_references(
    task: Task, rows: np.ndarray, mode: str, source: Model | None, zero_shot: np.ndarray | None
) -> References:
    """Reference energies from the labels of ``rows``.

    Parameters
    ----------
    mode : {"labels", "residual", "none"}
        On the labels alone; on label minus source prediction (:func:`residual_shift`, so that the source's
        own references stay inside); or only the mean of the labels.
    zero_shot : ndarray, shape (n,), optional
        The source's prediction of every row of the task; needed by ``residual``.
    """
    if mode == "labels":
        means = () if task.prior is None else (task.prior.filled,)
        return fit_elements(task.composition[rows], task.per_atom[rows], means)
    if mode == "none":
        mean = float(task.per_atom[rows].mean())
        return References.of_all(np.full(task.composition.shape[1], mean), task.composition[rows])
    assert source is not None
    assert zero_shot is not None
    return source.references + residual_shift(task, rows, source, zero_shot)


def residual_shift(task: Task, rows: np.ndarray, source: Model, zero_shot: np.ndarray) -> References:
    """What the labels of ``rows`` add to the source's prediction, one energy per element.

    Where source and target are of one level of theory the true shift is zero, and knowing so is worth more
    than many labels; where they are not, it may be hundreds of eV, and alike for elements that are neighbours
    in the periodic table (:func:`matgraft.training.elements.fit_elements`). Of elements that the source never
    saw it says nothing.
    """
    prior = task.prior
    means = () if prior is None else (prior.filled, prior.filled - source.references.filled)
    known = [atomic_numbers[symbol] for symbol in source.species]
    strange = np.setdiff1d(np.arange(1, len(chemical_symbols)), known)
    return fit_elements(task.composition[rows], (task.per_atom - zero_shot)[rows], means, strange)


def _folds(rows: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows to judge on, for each fold."""
    order = np.random.default_rng([seed, 1]).permutation(rows)
    for fold in np.array_split(order, min(_FOLDS, len(rows))):
        yield np.setdiff1d(rows, fold), fold


def cross_validated_references(
    task: Task, rows: np.ndarray, source: Model, zero_shot: np.ndarray, seed: int
) -> dict[str, float]:
    """Mean absolute error per atom of both modes on held-out folds of ``rows``, without any training."""
    errors: dict[str, list[np.ndarray]] = {"labels": [], "residual": []}
    for rest, fold in _folds(rows, seed):
        alone = fit_references(task, rest, "labels", None, None)
        shift = residual_shift(task, rest, source, zero_shot)
        for mode, references, base in (("labels", alone, 0.0), ("residual", shift, zero_shot[fold])):
            predicted = base + references.per_atom(task.composition[fold])
            errors[mode].append(np.abs(task.per_atom[fold] - predicted))
    return {mode: float(np.concatenate(parts).mean()) for mode, parts in errors.items()}


def finetune(
    source: Model | None,
    train: Dataset | Task,
    target: str | None = None,
    *,
    rows: np.ndarray | None = None,
    scheme: str | Scheme = "tl1",
    reference: ReferenceMode | References = "auto",
    recipe: Recipe | None = None,
    arch: Architecture | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    report: Report | None = None,
    zero_shot: np.ndarray | None = None,
) -> Model:
    """Graft a source model onto labelled structures, or train from a random start.

    Parameters
    ----------
    source : Model or None
        None (or a scheme that starts at random) trains directly. Where the labels hold elements that it
        never saw, give :meth:`~matgraft.models.model.Model.acquainted`, as ``matgraft finetune`` does.
    train : Dataset or Task
        Labelled structures; every one of them is used, some to stop early if the recipe says so. A recipe
        that learns from forces needs theirs.
    target : str, optional
        The label; may be left out if the data set has just one.
    rows : ndarray, optional
        Only these structures of ``train``.
    scheme : str or Scheme
        ``direct``, ``tl1``, ``tl2``, ``tl3``, or your own.
    reference : {"auto", "labels", "residual", "none"} or References
        How reference energies are fitted; ``auto`` chooses between labels and residual by
        cross-validation inside the training structures.
    recipe : Recipe, optional
        Default: the one chosen by measurement for the kind of start.
    arch : Architecture, optional
        For a random start; default the source's, or ``arch1``.
    seed : int
        Start weights, inner split and order of batches.
    folder : path, optional
        Checkpoints and log; an interrupted run continues from there.
    report : callable, optional
        Called after every epoch.
    zero_shot : ndarray, optional
        The source's per-atom prediction of every structure of ``train``, if it is at hand.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        Too few structures, no such label or scheme, a residual reference without a source.
    """
    scheme = named_scheme(scheme)
    start = source if scheme.start == "source" else None
    arch = (
        start.network.arch
        if start is not None
        else arch or (source.network.arch if source else Architecture())
    )
    recipe = recipe or (FINETUNE if start is not None else DIRECT)
    task = (
        train
        if isinstance(train, Task)
        else Task.of(train, _only_label(train, target), arch.cutoff, forces=recipe.forces > 0)
    )
    rows = np.arange(len(task.per_atom)) if rows is None else np.asarray(rows)
    check_request(len(rows), scheme, reference, source is not None)
    if unknown := int((~np.isfinite(task.per_atom[rows])).sum()):
        raise InputError(
            f"{unknown} of {len(rows)} structures have no {task.label.name} that is a number. Leave them out."
        )
    recipe = recipe.for_size(len(rows))

    if start is not None and zero_shot is None:
        zero_shot = task.predicted_by(start)
    choice = _choose_references(task, rows, reference, start, zero_shot, recipe, scheme, seed)
    torch.manual_seed(seed)
    network = copy.deepcopy(start.network) if start is not None else SchNet(arch)
    network.to(_device())
    residual = task.per_atom - choice.references.per_atom(task.composition)
    scale = (
        start.scale if start is not None and choice.mode == "residual" else float(residual[rows].std()) or 1.0
    )

    train_rows, validation_rows = inner_split(rows, recipe.validation, seed)
    if recipe.forces and task.pulls is None:
        raise InputError(
            "the recipe learns from forces, which the task is without: Task.of(..., forces=True)."
        )
    pulls = task.pulls and task.pulls.scaled(scale)
    samples = Samples(task.graphs, residual[train_rows] / scale, train_rows, pulls)
    held_out = Samples(task.graphs, residual[validation_rows] / scale, validation_rows)
    history = fit(
        network,
        samples,
        held_out if len(validation_rows) else None,
        recipe,
        scheme,
        scale=scale,
        seed=seed,
        folder=None if folder is None else Path(folder),
        fingerprint=_fingerprint(task, rows, recipe, scheme, choice, seed, start, arch),
        report=report,
    )
    network.to("cpu").eval()
    species = symbols(task.composition[rows])
    outputs = run_network(network, task.graphs, rows)
    return Model(
        network=network,
        label=task.label,
        references=choice.references,
        scale=scale,
        species=species | (start.species if start is not None else frozenset()),
        card={
            "scheme": scheme.model_dump(),
            "source": None if start is None else start.card.get("name", "a model of your own"),
            "reference": choice.mode,
            "reference_cross_validation_per_atom": choice.cross_validation,
            "recipe": recipe.model_dump(),
            "seed": seed,
            "n_train": len(rows),
            "data_hash": task.data_hash,
            "species_target": sorted(species),
            "epochs": len(history),
            "history": history,
        },
        closest=task.closest(rows, start),
        span=_span(outputs, start),
    )


def train_from_scratch(
    task: Task,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    *,
    arch: Architecture,
    recipe: Recipe,
    seed: int,
    folder: Path | None,
    report: Report | None = None,
    further: Sequence[Task] = (),
    start: Model | None = None,
    workers: Workers = ALONE,
) -> list[Model]:
    """Train a source model: many labels, plain least-squares references, a validation set of its own.

    Parameters
    ----------
    task : Task
    train_rows, validation_rows : ndarray
        The validation rows choose the epoch, by the error of ``task``.
    further : sequence of Task
        Other properties of the same structures, NaN where unknown; they share all layers but the last.
    start : Model, optional
        Continue from the weights of this model instead of random ones.
    workers : Workers
        Processes that make this call together.

    Returns
    -------
    list of Model
        One for ``task`` and one for each further property.
    """
    tasks = (task, *further)
    arch = replace(arch, outputs=len(tasks))
    references, scales, targets = [], [], []
    for one in tasks:
        known = train_rows[~np.isnan(one.per_atom[train_rows])]
        fitted = References.fit(one.composition[known], one.per_atom[known], ridge=1e-3)
        residual = one.per_atom - fitted.per_atom(one.composition)
        references.append(fitted)
        scales.append(float(residual[known].std()))
        targets.append(residual / scales[-1])
    values = targets[0] if arch.outputs == 1 else np.stack(targets, axis=1)
    torch.manual_seed(seed)
    network = SchNet(arch) if start is None else start.network.joined([start.network] * len(further))
    network.to(_device())
    scheme = SCHEMES["direct"]
    choice = ReferenceChoice("labels", references[0], {})
    digest = hashlib.sha256(
        _fingerprint(task, train_rows, recipe, scheme, choice, seed, start, arch).encode()
    )
    for one in further:
        digest.update(one.data_hash.encode())
    history = fit(
        network,
        Samples(task.graphs, values[train_rows], train_rows),
        Samples(task.graphs, values[validation_rows], validation_rows),
        recipe,
        scheme,
        scale=scales[0],
        seed=seed,
        folder=folder,
        fingerprint=digest.hexdigest(),
        report=report,
        workers=workers,
    )
    network.to("cpu").eval()
    species = symbols(task.composition[train_rows])
    seen = task.closest(train_rows, start)
    outputs = run_network(network, task.graphs, train_rows).reshape(len(train_rows), -1)
    learnt, held = sample(train_rows, seed), validation_rows
    domain = Domain.of(*(run_network(network, task.graphs, rows, of="features") for rows in (learnt, held)))
    return [
        Model(
            network.head(k) if arch.outputs > 1 else network,
            one.label,
            references[k],
            scales[k],
            species,
            {"history": history},
            closest=seen,
            span=spanned(outputs[:, k]),
            domain=domain,
        )
        for k, one in enumerate(tasks)
    ]


def check_request(n: int, scheme: Scheme, reference: str | References, has_source: bool) -> None:
    """Refuse what cannot be trained, before any work is done.

    Raises
    ------
    InputError
        Too few labels; a scheme or a reference mode that needs a source where there is none.
    """
    if n < LEAST_LABELS:
        raise InputError(
            f"{n} labelled structures are too few to train on; at least {LEAST_LABELS} are needed."
        )
    if scheme.start == "source" and not has_source:
        raise InputError(f"scheme {scheme.name} needs a source model; give --source, or --scheme direct.")
    if reference == "residual" and (scheme.start == "random" or not has_source):
        raise InputError("reference residual needs a source model to start from; use reference labels.")


def named_scheme(scheme: str | Scheme) -> Scheme:
    """A scheme by name, or an error that lists the names."""
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        raise InputError(f"no scheme named {scheme!r}; there are {', '.join(SCHEMES)}.")
    return SCHEMES[scheme]


def _only_label(dataset: Dataset, target: str | None) -> str:
    if target is None and len(dataset.labels) != 1:
        raise InputError(
            f"{dataset.source or 'dataset'}: say which label to learn: {', '.join(sorted(dataset.labels))}."
        )
    target = target or next(iter(dataset.labels))
    dataset.values(target)
    return target


def _choose_references(
    task: Task,
    rows: np.ndarray,
    reference: ReferenceMode | References,
    start: Model | None,
    zero_shot: np.ndarray | None,
    recipe: Recipe,
    scheme: Scheme,
    seed: int,
) -> ReferenceChoice:
    if isinstance(reference, References):
        return ReferenceChoice("given", reference, {})
    if reference != "auto":
        return ReferenceChoice(reference, fit_references(task, rows, reference, start, zero_shot), {})
    if start is None or zero_shot is None:
        return ReferenceChoice("labels", fit_references(task, rows, "labels", None, None), {})
    errors = cross_validated_references(task, rows, start, zero_shot, seed)
    low, high = sorted(errors.values())
    can_spare_a_fold = len(rows) - round(len(rows) / _FOLDS) >= LEAST_LABELS
    if low > _DECISIVE * high and can_spare_a_fold:
        errors = _cross_validated_training(task, rows, start, zero_shot, recipe, scheme, seed)
    mode = min(errors, key=errors.__getitem__)
    return ReferenceChoice(mode, fit_references(task, rows, mode, start, zero_shot), errors)


def _cross_validated_training(
    task: Task,
    rows: np.ndarray,
    source: Model,
    zero_shot: np.ndarray,
    recipe: Recipe,
    scheme: Scheme,
    seed: int,
) -> dict[str, float]:
    """Error per atom of both reference modes after fine-tuning, on a held-out fifth of ``rows``."""
    rest, held = inner_split(rows, 1.0 / _FOLDS, seed)
    errors = {}
    for mode in ("labels", "residual"):
        model = finetune(
            source,
            task,
            rows=rest,
            scheme=scheme,
            reference=mode,
            recipe=recipe,
            seed=seed,
            zero_shot=zero_shot,
        )
        prediction = task.predicted_by(model)[held]
        errors[mode] = float(np.abs(prediction - task.per_atom[held]).mean())
    return errors


def inner_split(rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows to move the weights, and a share of them to choose the epoch."""
    held = round(share * len(rows))
    order = np.random.default_rng([seed, 2]).permutation(rows)
    return np.sort(order[held:]), np.sort(order[:held])


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def symbols(composition: np.ndarray) -> frozenset[str]:
    """Elements that any of the structures contains."""
    return frozenset(chemical_symbols[z] for z in np.flatnonzero(composition.any(axis=0)))


def _span(outputs: np.ndarray, source: Model | None) -> tuple[float, float] | None:
    """Of a network in training, its source's included; None where that is not known."""
    if source is None:
        return spanned(outputs)
    return None if source.span is None else spanned(outputs, source.span)


def _fingerprint(
    task: Task,
    rows: np.ndarray,
    recipe: Recipe,
    scheme: Scheme,
    choice: ReferenceChoice,
    seed: int,
    source: Model | None,
    arch: Architecture,
) -> str:
    digest = hashlib.sha256(task.data_hash.encode())
    digest.update(np.asarray(rows, dtype=np.int64).tobytes())
    # Fitted on another processor they differ in the last digits.
    digest.update((np.nan_to_num(choice.references.energies).round(6) + 0.0).tobytes())
    settings = [recipe.model_dump(), scheme.model_dump(), choice.mode, seed, arch.as_dict()]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    if source is not None:
        digest.update(source.content_hash().encode())
    return digest.hexdigest()
