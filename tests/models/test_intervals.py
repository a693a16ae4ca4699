"""Intervals: they hold what they promise, follow the difficulty, and are saved."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.regression import CrossConformalRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from small import SMALL, seeded

from matgraft.data import Label
from matgraft.errors import InputError
from matgraft.models.blend import Blend
from matgraft.models.compiled import CompiledSchNet
from matgraft.models.files import load_model
from matgraft.models.intervals import LACKING, Intervals, conformal_quantile, signals_of
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.training import intervals as calibration
from matgraft.training.intervals import calibrated

SPECIES = frozenset({"O", "Ti", "V", "Fe"})


def problem(n: int, seed: int, spread: float = 30.0):
    """Structures whose errors grow along one feature, up to ``spread``-fold."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3))
    composition = np.zeros((n, 119))
    composition[:, 8], composition[:, 22] = rng.integers(1, 9, n), rng.integers(1, 5, n)
    size = 0.05 * spread ** np.clip((features[:, 0] + 2) / 4, 0, 1)
    per_atom = np.abs(rng.normal(0, size))
    return composition, features, per_atom * composition.sum(axis=1), per_atom


def fitted(sample) -> Intervals:
    composition, features, _, per_atom = sample
    return calibrated(composition, features, per_atom, Label("energy"))


@pytest.fixture(scope="module")
def intervals() -> Intervals:
    return fitted(problem(300, 0))


def test_they_hold_what_they_promise():
    held = []
    for seed in range(12):
        composition, features, errors, _ = problem(400, 100 + seed)
        found = fitted(problem(200, seed))
        held.append((errors <= found.half_width(composition, features, 0.9)).mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.025)


def test_they_are_narrower_than_equal_ones_and_wide_where_errors_are(intervals):
    composition, features, errors, _ = problem(1000, 1)
    half_width = intervals.half_width(composition, features)
    assert half_width.mean() < 0.85 * np.quantile(errors, 0.9)
    hard, easy = features[:, 0] > 1, features[:, 0] < -1
    assert half_width[hard].mean() > 2 * half_width[easy].mean()


def test_they_widen_with_the_distance_from_all_labels_and_stay_finite(intervals):
    composition, features, *_ = problem(50, 2)
    found = [intervals.difficulty(composition, scale * features) for scale in (1e2, 1e4, 1e6)]
    assert (found[0] > intervals.difficulty(composition, features)).all()
    for near, far in pairwise(found):
        np.testing.assert_allclose(far / near, 1e2 ** (0.5 * max(intervals.power, 1)), rtol=0.05)
    # However little the difficulty told among the labels.
    flat = replace(intervals, power=0.0)
    inside = flat.difficulty(composition, features)
    np.testing.assert_allclose(inside, 1.0)
    found = [flat.difficulty(composition, scale * features) for scale in (1e4, 1e6)]
    np.testing.assert_allclose(found[1] / found[0], 10.0, rtol=0.05)
    other = composition.copy()
    other[:, 22], other[:, 26] = 0, composition[:, 22]
    assert np.isfinite(intervals.difficulty(other, features)).all()


@given(st.integers(1, 60), st.floats(0.05, 0.95))
@settings(max_examples=50, deadline=None)
def test_the_quantile_is_that_of_conformal_prediction(n, coverage):
    scores = np.sort(np.random.default_rng(n).random(n))
    found = conformal_quantile(scores, coverage)
    rank = np.ceil((n + 1) * coverage)
    assert np.isinf(found) if rank > n else (scores <= found).sum() == rank


def test_equal_intervals_are_those_of_mapie():
    """Errors of five folds and a model fitted to everything: the method that MAPIE calls base."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(83, 4))
    y = x @ [1.0, -2.0, 0.5, 0.0] + rng.standard_t(3, 83)
    folds = KFold(5)
    theirs = CrossConformalRegressor(Ridge(), confidence_level=0.9, method="base", cv=folds)
    theirs.fit_conformalize(x, y)
    _, ends = theirs.predict_interval(x[:7])
    errors = np.abs(y - cross_val_predict(Ridge(), x, y, cv=folds))
    expected = conformal_quantile(np.sort(errors), 0.9)
    np.testing.assert_allclose((ends[:, 1, 0] - ends[:, 0, 0]) / 2, expected, rtol=1e-6)


def test_without_structure_in_the_errors_all_are_equally_wide():
    composition, features, *_ = problem(60, 3)
    same = calibrated(composition, features, np.full(60, 0.3), Label("band_gap", "eV", "intensive"))
    np.testing.assert_allclose(same.half_width(composition, features), 0.3, rtol=1e-6)


@pytest.fixture
def model(crystals):
    plain = Model(
        seeded(SMALL, 0), Label("energy"), References.given(dict.fromkeys(SPECIES, -5.0)), 0.5, SPECIES
    )
    per_atom = np.abs(np.random.default_rng(0).normal(0, 0.1, len(crystals)))
    features = plain.features(plain.graphs(crystals))
    found = calibrated(crystals.composition(), features, per_atom, Label("energy"))
    return plain.with_intervals(found)


def test_saved_and_loaded(model, crystals, tmp_path):
    for predictor in (model, Blend((model, model), (0.5, 0.5), {}, model.intervals)):
        loaded = load_model(predictor.save(tmp_path / type(predictor).__name__))
        before, after = predictor.predict(crystals, coverage=0.8), loaded.predict(crystals, coverage=0.8)
        np.testing.assert_array_equal(after.half_width, before.half_width)
        assert (before.half_width < predictor.predict(crystals, coverage=0.95).half_width).all()
    replace(model, intervals=None).save(tmp_path / "Model")
    assert load_model(tmp_path / "Model").predict(crystals).half_width is None


def test_those_saved_before_they_had_slopes_and_lacking_elements(intervals):
    later = ("slopes", "lacking")
    loaded = Intervals.from_tensors({k: v for k, v in intervals.tensors().items() if k not in later})
    expected = replace(intervals, slopes=np.zeros(4), lacking=LACKING)
    for name, tensor in loaded.tensors().items():
        assert torch.equal(tensor, expected.tensors()[name]), name
    assert intervals.slopes.any()


@pytest.mark.parametrize("networks", [(0,), (0, 0), (0, 1)])
def test_value_and_interval_come_from_one_run_of_each_network(model, crystals, monkeypatch, networks):
    members = tuple(replace(model, network=seeded(SMALL, seed)) for seed in networks)
    predictor = Blend(members, (0.4, 0.6), {}, model.intervals) if len(members) > 1 else model
    plain = replace(predictor, intervals=None).predict(crystals)
    runs = []

    def counted(*arguments, original=CompiledSchNet._run):
        runs.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(CompiledSchNet, "_run", counted)
    prediction = predictor.predict(crystals)
    assert len(runs) == len(set(networks))
    np.testing.assert_array_equal(prediction.per_atom, plain.per_atom)
    half_width = model.intervals.half_width(
        crystals.composition(), predictor.features(predictor.graphs(crystals)), 0.9
    )
    np.testing.assert_array_equal(prediction.half_width, half_width)


def test_a_structure_gets_the_same_interval_alone_and_among_others(model, crystals):
    together = model.predict(crystals).half_width
    alone = [model.predict(crystals.atoms(k)).half_width[0] for k in range(0, 60, 9)]
    np.testing.assert_array_equal(together[::9], alone)


def test_an_element_in_no_label_has_a_wide_interval():
    """Structures with an element that their fit had not seen are ten times as far off as the others."""
    rng = np.random.default_rng(0)
    n = 120
    composition, features = np.zeros((n, 119)), rng.normal(size=(n, 3))
    composition[:, 8] = 2
    metals = np.where(np.arange(n) < 100, 22, 30 + np.arange(n) // 2)
    composition[np.arange(n), metals] = 1
    folds = np.arange(n) // 2 % 5
    per_atom = np.abs(rng.normal(0, np.where(metals == 22, 0.1, 1.0)))
    found = calibrated(composition, features, per_atom, Label("energy"), folds)
    assert found.lacking > 1
    new = np.zeros((2, 119))
    new[:, 8], new[0, 22], new[1, 47] = 2, 1, 1
    usual, wide = found.half_width(new, np.zeros((2, 3)))
    assert usual < 3 * 0.3 * 2
    assert wide > 3 * 1.0


def test_an_atom_without_neighbours_is_infinitely_strange(model):
    apart = Atoms("OTi", [[0, 0, 0], [0, 0, 30]])
    for predictor in (model, Blend((model, model), (0.5, 0.5), {}, model.intervals)):
        assert np.isinf(predictor.predict([apart, bulk("TiO", "rocksalt", a=4.2)]).strangeness).tolist() == [
            True, False,
        ]  # fmt: skip


@pytest.mark.parametrize("most", [50, 4000])
def test_equal_errors_per_atom_make_intervals_that_grow_with_the_cell(monkeypatch, most):
    """However few of the labels they rest on."""
    monkeypatch.setattr(calibration, "_MOST", most)
    composition, features, *_ = problem(200, 5)
    found = calibrated(composition, features, np.full(200, 0.1), Label("energy"))
    assert len(found.features) == len(found.errors) == min(most, 200)
    np.testing.assert_allclose(found.errors, 0.1)
    np.testing.assert_array_equal(found.counts, (composition > 0).sum(axis=0))
    ratio = found.half_width(composition, features) / (0.1 * composition.sum(axis=1))
    np.testing.assert_allclose(np.quantile(ratio, [0.05, 0.5, 0.95]), 1.0, atol=0.15)


def test_no_error_of_a_neighbour_counts_for_more_than_the_ninth_decile():
    composition, features, _, per_atom = problem(101, 6)
    per_atom[7] = 1e3
    ninth = np.sort(per_atom)[90]
    errors = fitted((composition, features, None, per_atom)).errors
    np.testing.assert_allclose(errors, np.minimum(per_atom, ninth))


def test_signals_by_hand():
    """Two labels, 1 and 4 away, with errors of 0.1 and 0.3; silver is in no label, oxygen in 7."""
    composition, counts = np.zeros((2, 119)), np.zeros(119)
    composition[0, [8, 22]], composition[1, [8, 47]] = (2, 1), (6, 2)
    counts[[8, 22]] = 7, 4
    distances = np.array([[1.0, 4.0], [np.inf, 4.0]])
    found = signals_of(distances, np.array([0.1, 0.3]), composition, counts)
    near = np.log((0.1 + 0.3 + 5 * 0.2) / 7)
    np.testing.assert_allclose(found[0], [np.log(2.5), near, np.log(3), np.log(1 / 4)])
    np.testing.assert_allclose(found[1], [np.inf, near, np.log(8), np.log(1 / 0.5)])


def test_damaged(model, tmp_path):
    folder = model.save(tmp_path / "model")
    (folder / "intervals.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"intervals\.safetensors: damaged"):
        load_model(folder)


def test_strange_is_what_is_far_from_all_labels(intervals):
    _, features, *_ = problem(500, 4)
    inside = intervals.strangeness(features)
    assert (inside > 1).mean() == pytest.approx(1 / 8, abs=0.05)
    far = intervals.strangeness(features + 20)
    assert (far > 1).all()
    assert np.median(far) > 5 * np.median(inside)
