"""The contest: folds, who is dropped, what is blended, and that it finds the better way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL, seeded

from matgraft.data import Label
from matgraft.errors import InputError
from matgraft.models.blend import Blend
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.training import contest as module
from matgraft.training import portfolio
from matgraft.training.contest import Contest, Work, contest, entrants, outcome, single, told
from matgraft.training.graft import LEAST_LABELS, Task
from matgraft.training.intervals import calibrated
from matgraft.training.loop import Diverged
from matgraft.training.portfolio import CHEAP, HOT, PORTFOLIO, Bench


@pytest.fixture(scope="module")
def bench(crystals):
    """A source that says the label but for a constant, and so leaves nothing to learn but references."""
    task = Task.of(crystals, "energy", 5.0)
    species = frozenset({"O", "Ti", "V", "Fe"})
    source = Model(
        seeded(SMALL, 0), Label("energy"), References.given(dict.fromkeys(species, 0.0)), 0.3, species
    )
    said = task.predicted_by(source)
    return Bench(replace(task, per_atom=said - 7.0), (source,), SMALL, CHEAP)


@given(st.integers(10, 60), st.integers(0, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_folds_are_even_and_keep_groups_together(n, seed, grouped):
    rows = np.arange(n)
    groups = np.random.default_rng(seed).integers(0, 9, n) if grouped else None
    if grouped and n - np.bincount(groups).max() < LEAST_LABELS:
        with pytest.raises(InputError, match="left out together"):
            module.folds_of(rows, seed, groups)
        return
    try:
        folds = module.folds_of(rows, seed, groups)
    except InputError:
        # Small groups that share a fold hold a third of all at the most: too many of fewer than 15 alone.
        assert grouped
        assert n < 15
        return
    assert len(folds) == n
    if groups is None:
        assert np.ptp(np.bincount(folds, minlength=module.FOLDS)) <= 1
    else:
        assert all(len(set(folds[groups == group])) == 1 for group in set(groups))


def test_finds_that_the_source_needs_references_only(bench):
    held = contest(bench, np.arange(48), 0)
    best = min(held.predictions, key=held.error)
    assert best.reference == "residual"
    assert held.error(best) < 1e-3
    model = outcome(bench, held, 0)
    error = np.abs(bench.task.predicted_by(model) - bench.task.per_atom)[48:]
    assert error.max() < 0.02
    story = told(bench, held)
    assert story["candidates"][0]["error_per_atom"] == pytest.approx(held.error(best))
    assert sum(one["weight"] for one in story["candidates"]) == pytest.approx(1)


def test_every_prediction_comes_from_a_fit_without_that_structure(bench):
    seen = []

    def run(works):
        for work in works:
            seen.append(work)
            yield work, np.zeros(len(work.held))

    held = contest(bench, np.arange(48), 0, run=run)
    for work in seen:
        assert not set(work.rest) & set(work.held)
        assert set(work.rest) | set(work.held) == set(range(48))
    assert all(np.isfinite(values).all() for values in held.predictions.values())


def test_a_bench_predicts_what_the_model_does_where_outputs_are_damped_too(bench):
    narrow = replace(bench.sources[0], span=(-1e-3, 1e-3))
    task = replace(bench.task, per_atom=bench.task.per_atom + np.random.default_rng(0).normal(0, 0.1, 60))
    damping = replace(bench, task=task, sources=(narrow,), portfolio=PORTFOLIO)
    rows = np.arange(60)
    for one in damping.candidates():
        if one.recipe is not None:
            one = replace(one, recipe=one.recipe.changed(epochs=1, min_steps=0))
        model = damping.fit(one, rows[:40], 0)
        if one.source is not None:
            assert model.span is not None
        model = replace(model, span=model.span and narrow.span)
        np.testing.assert_allclose(
            damping.predicted(one, model, rows), task.predicted_by(model), atol=1e-5, err_msg=one.name
        )


def test_labels_of_a_fold_have_no_part_in_what_is_predicted_for_it(bench):
    noisy = bench.task.per_atom + np.random.default_rng(0).normal(0, 0.1, 60)
    far = noisy + 100.0 * (np.arange(60) >= 48)
    for one in bench.candidates():
        work = Work(one, 0, np.arange(48), np.arange(48, 60))
        before, after = (
            module.predicted(replace(bench, task=replace(bench.task, per_atom=values)), work, 0)
            for values in (noisy, far)
        )
        np.testing.assert_array_equal(before, after, err_msg=one.name)


def test_intervals_rest_on_the_folds(bench, crystals):
    """Each metal has a fold of its own, so that what is said of it rests on no label with it."""
    rows = np.arange(60)
    held = contest(replace(bench, portfolio=CHEAP[:1]), rows, 0, groups=crystals.formulas)
    error = np.abs(np.random.default_rng(0).normal(0, 1, 60)) + 1.0
    found = outcome(bench, replace(held, blended=held.truth + error), 0).intervals
    arguments = bench.task.composition, bench.features[0], error, bench.task.label
    expected, alone = calibrated(*arguments, held.folds), calibrated(*arguments)
    np.testing.assert_allclose(found.scores, expected.scores)
    assert found.lacking == pytest.approx(expected.lacking)
    assert expected.lacking != alone.lacking


def test_hopeless_candidates_are_dropped_and_rivals_go_on():
    rng = np.random.default_rng(0)
    truth = np.zeros(60)
    good, rival, bad = [one for one in PORTFOLIO if one.kind == "network"][:3]
    errors = rng.normal(0, 1, 60)
    found = {good: errors, rival: 1.05 * rng.permutation(errors), bad: rng.normal(0, 3, 60)}
    left = module._still_racing([good, rival, bad], [], lambda one: np.abs(found[one] - truth))
    assert left == [good, rival]


@pytest.mark.parametrize(
    ("n", "factor", "stays"), [(39, 1.35, True), (39, 1.45, False), (40, 1.05, True), (40, 1.15, False)]
)
def test_fewer_than_forty_rows_drop_only_what_is_far_behind(n, factor, stays):
    best, other = PORTFOLIO[-2:]
    errors = {best: np.full(60, np.nan), other: np.full(60, np.nan)}
    errors[best][:n], errors[other][:n] = 1.0, factor
    assert module._still_racing([best, other], [], errors.__getitem__) == [best, *[other] * stays]


def test_cheap_candidates_are_rivals():
    cheap, network = CHEAP[0], PORTFOLIO[-1]
    errors = {cheap: np.full(60, 1.0), network: np.full(60, 2.0)}
    assert module._still_racing([network], [cheap], errors.__getitem__) == []
    assert module._still_racing([network], [], errors.__getitem__) == [network]


def test_one_outlier_drops_nobody():
    """Better on all rows but one, of which the mean is worse by two thirds: within a standard error."""
    best, other = PORTFOLIO[-2:]
    errors = {best: np.full(50, 1.0), other: np.full(50, 0.9)}
    errors[other][7] = 41.0
    assert errors[other].mean() > 1.6
    assert module._still_racing([best, other], [], errors.__getitem__) == [best, other]


def test_networks_of_a_hopeless_source_or_reference_do_not_start():
    everyone = [replace(one, source=k) for one in PORTFOLIO for k in (0, 1)]
    cheap = {one: 1.0 for one in everyone if one.kind != "network"}
    for one in cheap:
        if one.source == 1:
            cheap[one] = 1.5
        elif one.reference == "residual":
            cheap[one] = 2.0
    starters = module._starters(everyone, cheap)
    assert {one.source for one in starters} == {0}
    assert {one.reference for one in starters} == {"labels"}


def test_a_contest_tells_which_networks_did_not_begin(bench):
    two = replace(
        bench, sources=tuple(replace(bench.sources[0], card={"name": k}) for k in "ab"), portfolio=PORTFOLIO
    )
    began = [one for one in entrants(two, 48) if one.source == 0 and one.reference == "residual"]
    cheap = [one for one in entrants(two, 48) if one.kind != "network"]
    zero = np.zeros(48)
    held = Contest(np.arange(48), zero, {one: zero for one in [*cheap, *began]}, np.ones(48), {}, zero)
    words = {one.name: one.words for one in PORTFOLIO}
    assert told(two, held)["not_begun"] == [
        "all networks from b", words["tl1-labels-hot"], words["direct"]
    ]  # fmt: skip


def test_gentle_training_is_for_few_labels_and_long_training_for_many(bench, monkeypatch):
    everyone = replace(bench, portfolio=PORTFOLIO)
    names = {one.name for one in PORTFOLIO}
    monkeypatch.setattr(
        module, "_starters", lambda everyone, cheap: [one for one in everyone if one not in cheap]
    )

    def nothing(works):
        return ((work, np.zeros(len(work.held))) for work in works)

    held = contest(everyone, np.arange(48), 0, run=nothing)
    assert not told(everyone, held)["not_begun"]
    took_part = held.predictions
    assert {one.name for one in took_part} == {one.name for one in entrants(everyone, 48)}
    by_name = {"tl1-residual-hot", "tl1-labels-long"}
    too_large = {"process", "process-residual"}
    assert names - {one.name for one in entrants(everyone, 10**6)} == by_name | {"tl1-residual"} | too_large
    with pytest.raises(InputError, match="too many for a Gaussian process"):
        everyone.fit(PORTFOLIO[2], np.zeros(10_000, dtype=int), 0)
    few = {one.name for one in entrants(everyone, 159)}
    assert names - few == by_name | {"tl1-residual-long", "staged-residual"}


@pytest.mark.parametrize(("with_source", "starts"), [(0.7, False), (0.9, True), (1.1, True)])
def test_direct_training_starts_where_no_source_helps(with_source, starts):
    everyone = [replace(one, source=0) if one.needs_source else one for one in PORTFOLIO]
    cheap = {one: 1.0 if one.source is None else with_source for one in everyone if one.kind != "network"}
    assert ("direct" in {one.name for one in module._starters(everyone, cheap)}) == starts
    without = [one for one in everyone if one.source is None]
    assert [one.name for one in module._starters(without, {without[0]: 1.0})] == ["direct"]


def test_networks_learn_what_is_no_energy_without_references(bench):
    label = Label("bulk_modulus", "GPa", "intensive")
    intensive = replace(bench, task=replace(bench.task, label=label), portfolio=PORTFOLIO)
    networks = [one for one in intensive.candidates() if one.kind == "network"]
    assert {one.reference for one in networks} == {"none", "residual"}
    cheap = {one: 1.0 for one in intensive.candidates() if one.kind != "network"}
    assert {one.reference for one in module._starters(intensive.candidates(), cheap)} == {"none", "residual"}


def test_blends_where_errors_cancel_and_not_where_one_is_best():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    noise = rng.normal(0, 0.5, (3, 200))
    weights = module._weights(truth + noise, truth)
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0.1).all()
    assert np.abs(weights @ noise).mean() < 0.7 * np.abs(noise).mean(axis=1).min()
    noise[0] *= 0.01
    np.testing.assert_allclose(module._weights(truth + noise, truth), [1, 0, 0])


def test_each_of_five_equals_keeps_a_share():
    noise = np.random.default_rng(0).normal(0, 0.5, (5, 400))
    weights = module._weights(noise, np.zeros(400))
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0.1).all()


def test_labels_of_a_fold_do_not_weigh_what_is_predicted_for_it():
    rng = np.random.default_rng(0)
    predictions, folds = rng.normal(size=(8, 40)), np.arange(40) % 5
    blended = module._left_out(predictions, np.zeros(40), folds)
    other = module._left_out(predictions, np.where(folds == 2, 1e3, 0.0), folds)
    np.testing.assert_array_equal(blended[folds == 2], other[folds == 2])
    # Of candidates that know nothing, the weights of all labels find a flattering mixture.
    flattered = module._weights(predictions, np.zeros(40)) @ predictions
    assert np.abs(flattered).mean() < 0.9 * np.abs(blended).mean()


def test_few_labels_do_not_choose_between_equals():
    """Of two that are equally good, the luck of 20 labels favours one; the other keeps a part."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.5, (2, 40, 20))
    weights = np.array([module._weights(one, np.zeros(20)) for one in noise.transpose(1, 0, 2)])
    assert (weights.min(axis=1) > 0.1).mean() > 0.9
    assert np.ptp(weights.mean(axis=0)) < 0.1


def test_outcome_of_several_is_a_blend(bench):
    first, second = (replace(one, source=0) for one in CHEAP[:2])
    rows = np.arange(48)
    held = module.Contest(
        rows, rows % 5, dict.fromkeys((first, second), rows * 0.0), rows * 0.0, {first: 0.4, second: 0.6},
        rows * 0.0,
    )  # fmt: skip
    model = outcome(bench, held, 0)
    assert isinstance(model, Blend)
    parts = [bench.task.predicted_by(member) for member in model.members]
    np.testing.assert_allclose(bench.task.predicted_by(model), 0.4 * parts[0] + 0.6 * parts[1])


def test_references_alone_have_the_features_of_a_source_or_of_the_seed(bench):
    (alone,) = [one for one in CHEAP if not one.needs_source]
    bare = replace(bench, sources=())
    hashes = {bare.fit(alone, np.arange(48), seed).content_hash() for seed in (0, 0, 1)}
    assert len(hashes) == 2
    assert bench.fit(alone, np.arange(48), 0).network is bench.sources[0].network


def test_one_candidate_alone_keeps_groups_together(bench):
    rows, groups = np.arange(6, 54), np.arange(60) // 4
    held = single(bench, replace(CHEAP[1], source=0), rows, 0, groups=groups)
    assert len(set(held.folds)) == module.FOLDS
    assert all(len(set(held.folds[groups[rows] == one])) == 1 for one in set(groups[rows]))


def test_few_groups_make_few_folds(bench):
    rows = np.arange(48)
    works = []

    def noted(some):
        works.extend(some)
        return module._one_by_one(bench, 0)(some)

    held = contest(bench, rows, 0, run=noted, groups=rows % 2)
    assert {work.fold for work in works} == {0, 1}
    assert {one["folds"] for one in told(bench, held)["candidates"]} == {2}


def test_suggested_energies_reach_the_process_unless_the_source_says_the_label(bench, monkeypatch):
    prior, seen = References.given({"O": -4.0, "Ti": -7.0, "V": -8.0, "Fe": -6.0, "Zr": -9.0}), []

    def noted(composition, values, features, means=(), real=portfolio.fit_process):
        seen.append([mean.tolist() for mean in means])
        return real(composition, values, features, means)

    monkeypatch.setattr(portfolio, "fit_process", noted)
    for task in (replace(bench.task, prior=prior), bench.task):
        for name in ("process", "process-residual"):
            candidate = next(replace(one, source=0) for one in CHEAP if one.name == name)
            replace(bench, task=task).fit(candidate, np.arange(40), 0)
    assert seen == [[prior.filled.tolist()], [], [], []]


def test_sources_of_one_name_are_told_apart(bench):
    source = bench.sources[0]
    named = source.with_card(name="mine")
    assert replace(bench, sources=(named, named, source)).names == ["mine (1)", "mine (2)", "your own"]


def test_a_fit_that_diverged_takes_no_part(bench):
    truth = bench.task.per_atom

    def run(works):
        for work in works:
            lost = work.candidate.kind == "network"
            yield work, np.full(len(work.held), np.nan) if lost else truth[work.held] + 0.1

    wild = HOT.changed(epochs=1, rate=1e30)
    candidate = replace(next(one for one in PORTFOLIO if one.name == "direct"), recipe=wild)
    work = Work(candidate, 0, np.arange(40), np.arange(40, 48))
    assert np.isnan(module.predicted(bench, work, 0)).all()
    with pytest.raises(Diverged, match=r"training diverged in epoch 1: .* no number"):
        bench.fit(candidate, np.arange(40), 0)
    held = contest(replace(bench, portfolio=PORTFOLIO), np.arange(48), 0, run=run)
    assert all(one.kind != "network" for one in held.weights)
    assert held.blended_error == pytest.approx(0.1)
