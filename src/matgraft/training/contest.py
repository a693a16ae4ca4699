"""Which way to a predictor is best for these labels: found out on these labels alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matgraft.errors import InputError
from matgraft.models.blend import Blend
from matgraft.models.intervals import Intervals
from matgraft.models.model import Model
from matgraft.models.predictor import Predictor
from matgraft.training.graft import LEAST_LABELS, Task
from matgraft.training.intervals import calibrated
from matgraft.training.loop import Diverged
from matgraft.training.portfolio import MANY, Bench, Candidate

FOLDS = 5
ROUNDS = ((0,), (1,), (2, 3, 4))
"""Folds that networks do before the hopeless ones are dropped."""
USELESS = 0.8
"""A network from random weights starts only where no cheap candidate with a source is better than references
alone by a fifth: wherever features of a source helped that much, it never won (results/paper)."""
HOPELESS, ENOUGH = 1.1, 40
"""Dropped after a fold: worse by a tenth, and by one standard error of the difference, on forty rows."""
BAD = 1.4
"""Dropped after a fold: worse by so much, and by one standard error, on however few rows. Networks with
references of a kind (on labels, on residuals) whose best cheap candidate is so much worse than that of the
other kind do not start."""
LEAST = 13
"""Labels that a contest needs, for a network needs ten of them without a fold."""
_DIVERGED = 1e12
_STEPS = 20
_BAGS = 100
_LEAST_WEIGHT = 0.05


@dataclass(frozen=True)
class Work:
    """One fit of the contest: a candidate, the fold that is left out, and the rows of both sides."""

    candidate: Candidate
    fold: int
    rest: np.ndarray
    held: np.ndarray


Runner = Callable[[Sequence[Work]], Iterable[tuple[Work, np.ndarray]]]
"""Does some work, in any order, and gives the prediction per atom for what was left out of each."""


@dataclass(frozen=True)
class Contest:
    """How a contest ended.

    Attributes
    ----------
    rows : ndarray, shape (n,)
    folds : ndarray, shape (n,)
        Fold of each row.
    predictions : dict of Candidate to ndarray, shape (n,)
        What was predicted per atom for each row by a fit without its fold; NaN where none was made.
    truth : ndarray, shape (n,)
    weights : dict of Candidate to float
        Of those to be fitted to all labels; the sum is 1.
    blended : ndarray, shape (n,)
        Out-of-fold predictions of the outcome: each fold's, with the weights that the other folds alone would
        have chosen. A fold's own labels would find the weights that flatter it.
    """

    rows: np.ndarray
    folds: np.ndarray
    predictions: dict[Candidate, np.ndarray]
    truth: np.ndarray
    weights: dict[Candidate, float]
    blended: np.ndarray

    def error(self, candidate: Candidate) -> float:
        """Mean absolute error per atom over the folds that it took part in."""
        return float(np.nanmean(np.abs(self.predictions[candidate] - self.truth)))

    @property
    def blended_error(self) -> float:
        """Mean absolute error per atom of :attr:`blended`."""
        return float(np.abs(self.blended - self.truth).mean())


def contest(
    bench: Bench, rows: np.ndarray, seed: int, *, run: Runner | None = None, groups: np.ndarray | None = None
) -> Contest:
    """Cross-validate the portfolio on ``rows``: cheap candidates first, hopeless ones dropped early.

    Parameters
    ----------
    bench : Bench
    rows : ndarray of int
    seed : int
    run : callable, optional
        Default: one piece of work after the other, in this process.
    groups : ndarray, shape (n_structures,), optional
        Each is kept in one fold, as new structures will be of other groups.

    Raises
    ------
    InputError
        Too few labels.
    """
    require_enough(len(rows))
    folds = folds_of(rows, seed, None if groups is None else groups[rows])
    truth = bench.task.per_atom[rows]
    found: dict[Candidate, np.ndarray] = {}
    runner = run or _one_by_one(bench, seed)

    def go(candidates: Sequence[Candidate], some: Iterable[int]) -> None:
        _cross_validate(found, candidates, rows, folds, some, runner)

    def errors(candidate: Candidate) -> np.ndarray:
        return np.abs(found[candidate] - truth)

    everyone = entrants(bench, len(rows))
    cheap = [one for one in everyone if one.kind != "network"]
    go(cheap, range(FOLDS))
    racing = _starters(everyone, {one: float(errors(one).mean()) for one in cheap})
    # Who asks for forces wants those of what has learnt from them; the cheap only say which networks start.
    rivals = [] if bench.learns_forces and racing else cheap
    for some in ROUNDS:
        go(racing, some)
        racing = _still_racing(racing, rivals, errors)
    finished = [*rivals, *racing]
    predictions = np.stack([found[one] for one in finished])
    weights = {one: w for one, w in zip(finished, _weights(predictions, truth), strict=True) if w > 0}
    return Contest(rows, folds, found, truth, weights, _left_out(predictions, truth, folds))


def single(
    bench: Bench,
    candidate: Candidate,
    rows: np.ndarray,
    seed: int,
    *,
    run: Runner | None = None,
    groups: np.ndarray | None = None,
) -> Contest:
    """One candidate alone on the folds of a contest, so that its intervals rest on the same.

    Parameters
    ----------
    candidate : Candidate
    bench, rows, seed, run, groups
        See :func:`contest`.
    """
    folds = folds_of(rows, seed, None if groups is None else groups[rows])
    found: dict[Candidate, np.ndarray] = {}
    _cross_validate(found, [candidate], rows, folds, range(FOLDS), run or _one_by_one(bench, seed))
    return Contest(rows, folds, found, bench.task.per_atom[rows], {candidate: 1.0}, found[candidate])


def _one_by_one(bench: Bench, seed: int) -> Runner:
    return lambda works: ((work, predicted(bench, work, seed)) for work in works)


def _cross_validate(
    found: dict[Candidate, np.ndarray],
    candidates: Sequence[Candidate],
    rows: np.ndarray,
    folds: np.ndarray,
    some: Iterable[int],
    run: Runner,
) -> None:
    """Predict some folds by fits without them, and enter that in ``found``."""
    # The costly ones, last in the portfolio, come first: no process then waits for another for long.
    works = [
        Work(candidate, fold, rows[folds != fold], rows[folds == fold])
        for candidate in reversed(candidates)
        for fold in some
        if (folds == fold).any()
    ]
    for work, values in run(works):
        # A fit that has diverged is as wrong as can be.
        values = np.where(np.isfinite(values), values, _DIVERGED)
        found.setdefault(work.candidate, np.full(len(rows), np.nan))[folds == work.fold] = values


def entrants(bench: Bench, n: int) -> list[Candidate]:
    """Who takes part in a contest on ``n`` labels."""
    if bench.learns_forces:
        # With its forces a structure says far more than a label does.
        n = max(n, MANY)
    return [one for one in bench.candidates() if one.least <= n < one.most]


def require_enough(n: int) -> None:
    """Raise InputError if ``n`` labels are too few for a contest."""
    if n < LEAST:
        raise InputError(
            f"{n} labelled structures are too few for a contest, which needs {LEAST}; name one --recipe, "
            "such as residual or process."
        )


def predicted(bench: Bench, work: Work, seed: int) -> np.ndarray:
    """Fit a candidate without a fold and predict the fold, per atom; NaN where training diverges."""
    try:
        model = bench.fit(work.candidate, work.rest, seed)
    except Diverged:
        return np.full(len(work.held), np.nan)
    return bench.predicted(work.candidate, model, work.held)


def folds_of(rows: np.ndarray, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """Fold of each row; sizes as equal as groups allow, and fewer folds where there are fewer groups."""
    rng = np.random.default_rng([seed, 3])
    if groups is None:
        return rng.permutation(np.arange(len(rows)) % FOLDS)
    names, member = np.unique(groups, return_inverse=True)
    sizes = np.bincount(member)
    fold_of, filled = np.zeros(len(names), dtype=int), np.zeros(FOLDS)
    order = rng.permutation(len(names))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    if len(rows) - filled.max() < LEAST_LABELS:
        raise InputError(
            f"{filled.max():.0f} of {len(rows)} labels would be left out together (the largest group, "
            f"{names[sizes.argmax()]}, has {sizes.max()}): too few are left to learn from. Label more "
            "groups, choose another --group or none, or give a single --recipe with --no-intervals."
        )
    return fold_of[member]


def _starters(everyone: Sequence[Candidate], cheap: dict[Candidate, float]) -> list[Candidate]:
    """Networks that are worth training: from the source whose best cheap candidate is the best of all."""

    def best(source: int | None, residual: bool | None = None) -> float:
        chosen = (
            error
            for one, error in cheap.items()
            if one.source == source and residual in (None, one.reference == "residual")
        )
        return min(chosen, default=np.inf)

    least = min((best(one.source) for one in everyone if one.source is not None), default=np.inf)

    def starts(one: Candidate) -> bool:
        if one.source is None:
            return least > USELESS * best(None)
        of_source = best(one.source)
        of_kind = best(one.source, one.reference == "residual")
        return of_source <= least and of_kind <= BAD * of_source

    return [one for one in everyone if one.kind == "network" and starts(one)]


def _still_racing(
    racing: Sequence[Candidate], cheap: Sequence[Candidate], errors: Callable[[Candidate], np.ndarray]
) -> list[Candidate]:
    """Who is not hopeless, judged on the folds that all have done."""
    done = ~np.isnan(np.sum([errors(one) for one in racing], axis=0)) if racing else np.zeros(0, dtype=bool)
    if not done.any():
        return list(racing)
    judged = {one: errors(one)[done] for one in (*cheap, *racing)}
    best = min(judged.values(), key=np.mean)

    def hopeless(error: np.ndarray) -> bool:
        behind = error - best
        uncertain = behind.std(ddof=1) / np.sqrt(len(behind))
        bound = HOPELESS if len(behind) >= ENOUGH else BAD
        return bool(error.mean() > bound * max(best.mean(), 1e-300) and behind.mean() > uncertain)

    return [one for one in racing if not hopeless(judged[one])]


def _weights(predictions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Convex weights of the candidates: the mean of blends for random halves of the rows, without small ones.

    One blend for all rows, let alone the best candidate, would rest on the luck of a few labels (Caruana,
    Munson and Niculescu-Mizil, Getting the most out of ensemble selection, 2006, sec. 3). Where one candidate
    is best by far, it is so for all halves.
    """
    rng = np.random.default_rng(0)
    weights = np.zeros(len(predictions))
    for _ in range(_BAGS):
        half = rng.integers(0, len(truth), len(truth) // 2)
        weights += _blend(predictions[:, half], truth[half]) / _BAGS
    weights = np.where(weights >= min(_LEAST_WEIGHT, weights.max()), weights, 0.0)
    return weights / weights.sum()


def _left_out(predictions: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Blends of each fold with the weights of the others, shape (n,)."""
    blended = np.empty(len(truth))
    for fold in np.unique(folds):
        held = folds == fold
        blended[held] = _weights(predictions[:, ~held], truth[~held]) @ predictions[:, held]
    return blended


def _blend(predictions: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Convex weights by forward selection with replacement (Caruana et al. 2004)."""
    counts = np.zeros(len(predictions))
    total = np.zeros(len(truth))
    best, kept = np.inf, counts.copy()
    for step in range(1, _STEPS + 1):
        trial = np.abs((total + predictions) / step - truth).mean(axis=1)
        chosen = int(trial.argmin())
        counts[chosen] += 1
        total = total + predictions[chosen]
        if trial[chosen] < best:
            best, kept = float(trial[chosen]), counts / step
    return kept


def outcome(
    bench: Bench, held: Contest, seed: int, models: Mapping[Candidate, Model] | None = None
) -> Predictor:
    """Those that won, fitted to all labels; several as a blend.

    Its card tells the whole contest, and its intervals rest on the predictions of the folds.

    Parameters
    ----------
    models : mapping, optional
        Each winner fitted to all labels, if it is at hand.
    """
    models = models or {candidate: bench.fit(candidate, held.rows, seed) for candidate in held.weights}
    card = {
        "recipe": "auto",
        "n_train": len(held.rows),
        "seed": seed,
        "data_hash": bench.task.data_hash,
        "reference": " + ".join(sorted({str(candidate.reference) for candidate in held.weights})),
        "contest": told(bench, held),
    }
    members = [models[candidate] for candidate in held.weights]
    model = Blend.of(members, list(held.weights.values()), card)
    return model.with_intervals(calibration(bench.task, model, held))


def calibration(task: Task, model: Predictor, held: Contest) -> Intervals:
    """Intervals of a model from the errors of the contest's folds."""
    features = model.features(task.graphs)[held.rows]
    error = np.abs(held.blended - held.truth)
    return calibrated(task.composition[held.rows], features, error, task.label, held.folds)


def told(bench: Bench, held: Contest) -> dict:
    """A contest as plain data: who took part, how wrong, and what was made of it.

    Returns
    -------
    dict
        ``error_per_atom`` of the outcome, and ``candidates``, best first: ``name``, ``words``, ``source``,
        ``error_per_atom`` (in cross-validation), ``folds`` and ``weight``. ``not_begun``, in words: networks
        that cheaper candidates had shown to be hopeless.
    """
    candidates: list[dict] = []
    for one, values in held.predictions.items():
        took_part = len(np.unique(held.folds[~np.isnan(values)]))
        candidates.append(
            {
                "name": one.name,
                "words": one.words,
                "source": None if one.source is None else bench.names[one.source],
                "error_per_atom": held.error(one),
                "folds": took_part,
                "weight": held.weights.get(one, 0.0),
            }
        )
    candidates.sort(key=lambda row: (-row["folds"], row["error_per_atom"]))
    waited = [one for one in entrants(bench, len(held.rows)) if one not in held.predictions]
    began = {one.source for one in held.predictions if one.kind == "network"}
    names = bench.names
    not_begun = [
        one.words if one.source is None or one.source in began else f"all networks from {names[one.source]}"
        for one in waited
    ]
    return {
        "error_per_atom": held.blended_error,
        "candidates": candidates,
        "not_begun": list(dict.fromkeys(not_begun)),
    }
