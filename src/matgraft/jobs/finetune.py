"""The main job: a graft on the user's labels, beside what they would have got without it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from matgraft.data import Dataset
from matgraft.data.checks import check_values
from matgraft.data.splits import groups, repeated, stated_size, validation_split
from matgraft.errors import InputError
from matgraft.evaluation.tables import Table
from matgraft.jobs.contest import cross_validate, run_contest
from matgraft.jobs.folder import alone, claim
from matgraft.jobs.methods import AUTO, named_method, reference_mode, sources_of, starts
from matgraft.jobs.verdict import list_suspects, write_verdict
from matgraft.models.model import Model
from matgraft.models.predictor import Predictor
from matgraft.models.references import References
from matgraft.models.schnet import ARCHITECTURES
from matgraft.progress import Progress
from matgraft.training.baselines import baselines, source_baselines
from matgraft.training.contest import LEAST, Contest, calibration, folds_of, require_enough
from matgraft.training.graft import Task, check_request
from matgraft.training.loop import Diverged
from matgraft.training.portfolio import Bench, Candidate, require_room
from matgraft.training.schemes import SCHEMES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning run gives.

    Attributes
    ----------
    model : Predictor
    metrics : dict
        The content of ``metrics.json``.
    table : Table
        Method beside baselines.
    out : Path
    """

    model: Predictor
    metrics: dict
    table: Table
    out: Path


def run_finetune(
    data: str | Path | Dataset,
    target: str,
    out: str | Path,
    *,
    source: str | Path | None = AUTO,
    recipe: str = AUTO,
    reference: str = "auto",
    references: str | Path | None = None,
    arch: str = "arch1",
    val: str = "0.2",
    group: str | None = None,
    seed: int = 0,
    preset: str = "default",
    direct: bool = False,
    forces: bool = False,
    intervals: bool = True,
    workers: int | None = None,
    missing: Literal["error", "drop"] = "error",
    label_check: bool = True,
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
        Source model, or several with commas between them for ``recipe="auto"``; None for none.
    recipe : str
        ``auto`` finds out by a contest on the training labels alone
        (:func:`matgraft.training.contest.contest`). Or a scheme (``direct``, ``tl1``, ``tl2``, ``tl3``,
        ``staged``), or one candidate of the contest.
    reference : str
        Of a scheme: ``auto``, ``labels``, ``residual``, ``none``, or a JSON file of energies by element.
    references : path, optional
        JSON file of what is known of the elements' energies. Where references are fitted they are tried as
        the mean of the prior, and taken as far as the labels agree; see
        :func:`matgraft.training.elements.fit_elements`.
    arch : {"arch1", "arch2", "wide"}
        For direct training.
    val, group
        See :func:`validation_split`.
    preset : {"default", "paper"}
    direct : bool
        Also train from a random start, for comparison.
    forces : bool
        Networks learn from the forces of the structures, too: an error of forces weighs
        :data:`matgraft.training.portfolio.FORCES` beside that of the label.
    intervals : bool
        Also learn how far off predictions are. A contest does in any case; a single recipe is fitted five
        times more, each time without a fifth of the labels.
    workers : int, optional
        Processes of the folds; default one per core.
    missing, label_check
        How files of ``data`` and ``val`` are read; see :func:`matgraft.data.readers.read`.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"no architecture named {arch!r}; there are {', '.join(ARCHITECTURES)}.")
    mode = reference_mode(reference)
    prior = None if references is None else References.read(references)
    if prior is not None and (isinstance(mode, References) or mode == "none"):
        raise InputError(
            f"--reference {reference} fixes energies, --references FILE suggests them: name one of them."
        )
    chosen = named_method(recipe, preset, mode)
    named = sources_of(source, recipe)
    sources = starts(named, preset)
    parent = sources[0] if sources else None
    if chosen.needs_source and parent is None:
        raise InputError(f"recipe {recipe} needs a source model; give --source, or --recipe direct.")
    if arch != "arch1" and recipe not in (AUTO, "direct") and not direct:
        raise InputError(
            f"--arch {arch}: it is the network of direct training, which recipe {recipe} has none of. Leave "
            "it out, or add --direct."
        )
    reading: dict[str, Any] = {"missing": missing, "label_check": label_check}
    dataset = data if isinstance(data, Dataset) else Dataset.read(data, target=target, **reading)
    dataset, train_rows, val_rows = validation_split(dataset, val, group, seed, target, **reading)
    check_values(dataset, target)
    _warn_of_repeated(dataset, target)
    scheme = SCHEMES[chosen.scheme or "direct"]
    check_request(len(train_rows), scheme, mode, parent is not None)
    if recipe == AUTO:
        require_enough(len(train_rows))
    require_room(chosen, len(train_rows))
    grouping = None if group is None else groups(dataset, group)
    if recipe == AUTO or (intervals and len(train_rows) >= LEAST):
        # Raises an error where groups are too large, and not in the middle of the work.
        folds_of(train_rows, seed, None if grouping is None else grouping[train_rows])
    if forces:
        _check_forces(dataset, train_rows, chosen if recipe != AUTO and not direct else None)
    cutoff = parent.cutoff if parent else ARCHITECTURES[arch].cutoff
    if parent is not None and ARCHITECTURES[arch].cutoff != cutoff:
        raise InputError(f"{source}: its cutoff of {cutoff} A is not that of {arch}.")
    task = replace(Task.of(dataset, target, cutoff, forces), prior=prior)
    if sources and (unit := task.label.other_energy_unit):
        log.warning(
            "%s is in %s, but the sources' energies are in eV: only their features help. Convert the labels",
            target,
            unit,
        )
    settings = {
        "command": "finetune",
        "target": target,
        "label": vars(task.label),
        "data_hash": task.data_hash,
        "source": [one.card.get("name", str(source)) for one in named],
        "source_hash": [one.content_hash() for one in named],
        "recipe": recipe,
        "scheme": scheme.model_dump(),
        "reference": mode if isinstance(mode, str) else mode.as_dict(),
        **({} if prior is None else {"references": prior.as_dict()}),
        "architecture": arch,
        "val": val if stated_size(val) is not None else [val, _digest(train_rows, val_rows)],
        "group": group,
        "seed": seed,
        "preset": preset,
        "direct": direct,
        "forces": forces,
        "intervals": intervals,
    }
    out = Path(out)
    with alone(out):
        claim(out, settings)

        bench = Bench(task, tuple(sources), ARCHITECTURES[arch])
        if recipe not in SCHEMES:
            chosen = bench.adapted(chosen)

        def train(one: Candidate) -> Model:
            if one.recipe is None:
                return bench.fit(one, train_rows, seed).with_card(recipe=recipe, n_train=len(train_rows))
            epochs = one.recipe.for_size(len(train_rows)).epochs
            with Progress(epochs, one.name, unit="epochs") as progress:

                def report(row: dict) -> None:
                    progress.step(row["epoch"] - progress.count, loss=row["train_loss"])

                return bench.fit(one, train_rows, seed, out / "training" / one.name, report)

        model: Predictor
        held: Contest | None = None
        if recipe == AUTO:
            held, model = run_contest(bench, train_rows, seed, out / "contest", workers, grouping)
        else:
            model = train(chosen)
            if chosen.reference == "auto":
                chosen = replace(chosen, reference=model.card["reference"])
            if intervals and len(train_rows) < LEAST:
                log.warning("%d labels are too few for intervals, which need %d", len(train_rows), LEAST)
            elif intervals:
                held = cross_validate(bench, chosen, train_rows, seed, out / "folds", workers, grouping)
                model = model.with_intervals(calibration(task, model, held))
        if held is not None:
            list_suspects(out / "suspects.csv", dataset, held)
        predictions = {recipe: task.predicted_by(model)}
        predictions |= baselines(task, train_rows, seed)
        for one, name, said in zip(sources, bench.names, bench.zero_shot, strict=True):
            of = f" @ {name}" if len(sources) > 1 else ""
            more = source_baselines(task, train_rows, one, said)
            predictions |= {baseline + of: values for baseline, values in more.items()}
        if direct and recipe != "direct":
            try:
                predictions["direct"] = task.predicted_by(train(named_method("direct", preset)))
            except Diverged as error:
                log.warning("no direct training to compare with: %s", error)
        metrics, table = write_verdict(out, dataset, task, model, parent, predictions, train_rows, val_rows)
        return FinetuneResult(model, metrics, table, out)


def _check_forces(dataset: Dataset, train_rows: np.ndarray, alone: Candidate | None) -> None:
    """Refuse to learn from forces where no network is trained or none are known; say where some are not."""
    if alone is not None and alone.kind != "network":
        raise InputError(
            f"--forces: recipe {alone.name} trains no network that could learn from them. Name another, such "
            "as tl1-residual-long."
        )
    known, n = int(dataset.has_forces[train_rows].sum()), len(train_rows)
    if not known:
        raise InputError(f"{dataset.source or 'dataset'}: no forces among the {n} structures to train on.")
    if known < n:
        log.warning("%d of %d structures to train on come with forces", known, n)


def _warn_of_repeated(dataset: Dataset, target: str) -> None:
    """Say which structures stand in the data more than once: the errors of all methods are too small then."""
    found = repeated(dataset)
    if not found:
        return
    apart = max(float(np.ptp(dataset.values(target)[rows])) for rows in found)
    log.warning(
        "%d structures stand in the data more than once, first %s, with labels up to %.3g %s apart: where a "
        "twin trains, the error of the other says little. Keep one of each",
        len(found), " = ".join(dataset.ids[found[0]][:2]), apart, dataset.specs[target].unit,
    )  # fmt: skip


def _digest(train_rows: np.ndarray, val_rows: np.ndarray) -> str:
    return hashlib.sha256(f"{train_rows.tolist()} {val_rows.tolist()}".encode()).hexdigest()
