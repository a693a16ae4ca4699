"""The main job: a graft on the user's labels, beside what they would have got without it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from matgraft.data import Dataset, Label
from matgraft.data.checks import check_values
from matgraft.data.splits import groups, repeated, stated_size, validation_split
from matgraft.errors import InputError
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
from matgraft.jobs.contest import cross_validate, run_contest
from matgraft.jobs.folder import alone, claim, write_csv, write_json
from matgraft.models.files import load_source
from matgraft.models.intervals import COVERAGE
from matgraft.models.model import Model
from matgraft.models.predictor import Predictor, bounds
from matgraft.models.references import References
from matgraft.models.schnet import ARCHITECTURES
from matgraft.progress import Progress
from matgraft.training.contest import LEAST, Contest, calibration, folds_of, require_enough
from matgraft.training.forest import composition_forest
from matgraft.training.graft import (
    REFERENCE_MODES,
    ReferenceMode,
    Task,
    check_request,
    finetune,
    fit_references,
)
from matgraft.training.loop import Diverged
from matgraft.training.portfolio import PORTFOLIO, Bench, Candidate, require_room
from matgraft.training.recipe import PRESETS, Recipe
from matgraft.training.schemes import SCHEMES

log = logging.getLogger(__name__)

_CHOICES = ("reference", "reference_cross_validation_per_atom", "contest")
"""What a model's card says of how it was chosen."""

ZERO_SHOT, SHIFTED = "zero_shot_source", "source_plus_references"
TITLES = {
    "auto": "auto: the graft that a contest chose",
    "process": "Gaussian process on frozen features",
    "references_alone": "reference energies alone",
    "composition_forest": "random forest on composition",
    ZERO_SHOT: "source model as it is",
    SHIFTED: "source + robust references",
    "direct": "direct training",
}


AUTO = "auto"
SUSPECT = 5.0
"""Labels are listed that are so many times farther off than nine in ten."""
SOURCES = ("mp-schnet", "mp-schnet-total-energy")
"""Sources of a contest, unless others are named; the first is that of a single recipe."""


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


def sources_of(source: str | Path | None, recipe: str) -> list[Model]:
    """The models that ``--source`` names, separated by commas.

    Raises
    ------
    InputError
        No such model; several for a recipe that starts from one; unequal cutoffs.
    """
    if source is None:
        return []
    names = str(source).split(",")
    if names == [AUTO]:
        names = list(SOURCES if recipe == AUTO else SOURCES[:1])
    if len(names) > 1 and recipe != AUTO:
        raise InputError(f"--source {source}: recipe {recipe} starts from one source; name it.")
    sources = [load_source(name.strip()) for name in names]
    if len({one.cutoff for one in sources}) > 1:
        cutoffs = ", ".join(f"{one.cutoff:g}" for one in sources)
        raise InputError(f"--source {source}: their cutoffs of {cutoffs} A differ. Name others.")
    return sources


def starts(sources: list[Model], preset: str) -> list[Model]:
    """Sources as grafts start from them: with a guess of unknown elements, but for the published preset."""
    return sources if preset == "paper" else [one.acquainted() for one in sources]


def named_recipe(recipe: str, preset: str, reference: ReferenceMode | References) -> Candidate:
    """A transfer scheme by name, trained by the preset's settings; or a candidate of the contest.

    Raises
    ------
    InputError
        Neither; or settings that a candidate has of its own.
    """
    for_direct, for_graft = recipes(preset)
    if recipe in SCHEMES:
        settings = for_direct if SCHEMES[recipe].start == "random" else for_graft
        return Candidate(recipe, SCHEMES[recipe].description, "network", scheme=recipe, recipe=settings)
    candidates = {one.name: one for one in PORTFOLIO}
    if recipe not in (AUTO, *candidates):
        known = ", ".join(dict.fromkeys([AUTO, *SCHEMES, *candidates]))
        raise InputError(f"no recipe named {recipe!r}; there are {known}.")
    if preset != "default" or reference != "auto":
        raise InputError(
            f"recipe {recipe} brings settings and references of its own: with --preset or --reference, give "
            f"--recipe {', '.join(SCHEMES)}."
        )
    return candidates.get(recipe, Candidate(AUTO, "", "references"))


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
    chosen = named_recipe(recipe, preset, mode)
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
    chosen = replace(chosen, source=0 if chosen.needs_source else None)
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

        def train(name: str, recipe: Recipe, **options) -> Model:
            with Progress(recipe.for_size(len(train_rows)).epochs, name, unit="epochs") as progress:
                return finetune(
                    train=task,
                    rows=train_rows,
                    arch=ARCHITECTURES[arch],
                    recipe=bench.learning(recipe),
                    seed=seed,
                    folder=out / "training" / name,
                    report=lambda row: progress.step(row["epoch"] - progress.count, loss=row["train_loss"]),
                    **options,
                )

        zero_shot = bench.zero_shot[0] if sources else None
        model: Predictor
        held: Contest | None = None
        if recipe == AUTO:
            held, model = run_contest(bench, train_rows, seed, out / "contest", workers, grouping)
        elif chosen.recipe is not None:
            model = train(
                recipe,
                chosen.recipe,
                source=parent if scheme.start == "source" else None,
                scheme=scheme,
                reference=mode if recipe in SCHEMES else chosen.reference,
                zero_shot=zero_shot if scheme.start == "source" else None,
            )
        else:
            model = bench.fit(chosen, train_rows, seed).with_card(recipe=recipe, n_train=len(train_rows))
        if held is None and intervals and len(train_rows) < LEAST:
            log.warning("%d labels are too few for intervals, which need %d", len(train_rows), LEAST)
        elif held is None and intervals:
            if recipe in SCHEMES:
                settled = mode if isinstance(mode, References) else model.card["reference"]
                chosen = replace(chosen, reference=settled)
            held = cross_validate(bench, chosen, train_rows, seed, out / "folds", workers, grouping)
            model = model.with_intervals(calibration(task, model, held))
        if held is not None:
            _list_suspects(out / "suspects.csv", dataset, held)
        predictions = {recipe: task.predicted_by(model)}
        predictions |= baselines(task, train_rows, seed)
        for one, name, said in zip(sources, bench.names, bench.zero_shot, strict=True):
            of = f" @ {name}" if len(sources) > 1 else ""
            more = source_baselines(task, train_rows, one, said)
            predictions |= {method + of: values for method, values in more.items()}
        if direct and recipe != "direct":
            for_direct, _ = recipes(preset)
            try:
                alone_trained = train("direct", for_direct, source=None, scheme="direct")
                predictions["direct"] = task.predicted_by(alone_trained)
            except Diverged as error:
                log.warning("no direct training to compare with: %s", error)
        rivals = {TITLES[ZERO_SHOT]: parent} if forces and parent and parent.label.is_energy else {}
        return _write(out, dataset, task, model, recipe, predictions, train_rows, val_rows, rivals)


def baselines(task: Task, rows: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Per-atom predictions without any network: what a graft has to beat.

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


def _list_suspects(path: Path, dataset: Dataset, held: Contest) -> None:
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


def _write(
    out: Path,
    dataset: Dataset,
    task: Task,
    model: Predictor,
    recipe: str,
    per_atom: dict[str, np.ndarray],
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    rivals: Mapping[str, Predictor],
) -> FinetuneResult:
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
        metrics["forces"] = _judge_forces(out / "forces.png", held, {title(recipe): model, **rivals})
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
    return FinetuneResult(model, metrics, comparison(scores, label, len(train_rows), len(val_rows)), out)


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
