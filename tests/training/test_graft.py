"""The graft: reference modes, and the choice between them inside the training set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs.closest import closest
from matgraft.models.domain import Domain, sample
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet
from matgraft.training import graft as module
from matgraft.training.graft import (
    Task,
    cross_validated_references,
    finetune,
    fit_references,
    inner_split,
    residual_shift,
    train_from_scratch,
)
from matgraft.training.portfolio import CHEAP, Bench
from matgraft.training.recipe import Recipe
from matgraft.training.schemes import SCHEMES

QUICK = Recipe(epochs=2, batch_size=16, rate=1e-4)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(3)
    network = SchNet(SMALL)
    references = References.given({"O": 0.5, "Ti": 0.0, "V": -0.5, "Fe": 1.0})
    species = frozenset({"O", "Ti", "V", "Fe"})
    return Model(network, Label("e", "eV/atom", "atom"), references, 2.0, species, {"name": "s"})


def labelled(crystals: Dataset, source: Model, noise: float) -> Dataset:
    """Labels that are the source's prediction, shifted per element, with noise."""
    shift = np.zeros(119)
    shift[[8, 22, 23, 26]] = -4.0, -7.0, -8.0, -6.0
    counts = crystals.composition()
    rng = np.random.default_rng(0)
    per_atom = source.predict(crystals).per_atom + counts @ shift / crystals.natoms
    return crystals.with_label("energy", (per_atom + rng.normal(0, noise, len(crystals))) * crystals.natoms)


def test_residual_references_recover_the_shift_exactly(crystals, source):
    task = Task.of(labelled(crystals, source, 0.0), "energy", SMALL.cutoff)
    rows = np.arange(40)
    references = fit_references(task, rows, "residual", source, task.predicted_by(source))
    prediction = references.per_atom(task.composition) - source.references.per_atom(task.composition)
    prediction += task.predicted_by(source)
    np.testing.assert_allclose(prediction, task.per_atom, atol=2e-3)


def test_few_labels_of_the_source_s_own_level_leave_its_references_alone(crystals, source):
    """The true shift is zero, labels are noisy: the fit should be nearer to it than without prior."""
    held, free = [], []
    zero_shot = source.predict(crystals).per_atom
    for seed in range(10):
        noisy = zero_shot + np.random.default_rng(seed).normal(0, 0.5, len(crystals))
        task = Task.of(crystals.with_label("energy", noisy * crystals.natoms), "energy", SMALL.cutoff)
        rows = np.random.default_rng(seed).choice(60, 15, replace=False)
        residual = (task.per_atom - zero_shot)[rows]
        plain = References.fit(task.composition[rows], residual)
        free.append(np.abs(plain.per_atom(task.composition)).mean())
        shift = residual_shift(task, rows, source, zero_shot)
        held.append(np.abs(shift.per_atom(task.composition)).mean())
    assert np.mean(held) < 0.6 * np.mean(free)


def test_elements_that_the_source_never_saw_are_fitted_freely(crystals, source):
    narrow = replace(source, species=frozenset({"O", "Ti", "V"}))
    per_atom = source.predict(crystals).per_atom + 50.0 * (crystals.composition()[:, 26] > 0)
    task = Task.of(crystals.with_label("energy", per_atom * crystals.natoms), "energy", SMALL.cutoff)
    shift = residual_shift(task, np.arange(40), narrow, task.predicted_by(narrow))
    assert shift.energies[26] > 20
    assert np.abs(shift.energies[[22, 23]]).max() < 20


def test_the_prior_s_weight_is_part_of_what_cross_validation_judges(crystals, source):
    """A shift of hundreds of eV, as from another code, must be recovered as if there were no prior."""
    dataset = labelled(crystals, source, 0.0)
    far = dataset.values("energy") - 800.0 * dataset.composition()[:, 22]
    task = Task.of(dataset.with_label("energy", far), "energy", SMALL.cutoff)
    shift = residual_shift(task, np.arange(40), source, task.predicted_by(source))
    error = shift.per_atom(task.composition) + task.predicted_by(source) - task.per_atom
    assert np.abs(error).max() < 0.05


def test_auto_takes_the_residual_where_the_source_knows_and_labels_where_it_does_not(crystals, source):
    rows = np.arange(40)
    inside = Task.of(labelled(crystals, source, 0.001), "energy", SMALL.cutoff)
    assert finetune(source, inside, rows=rows, recipe=QUICK).card["reference"] == "residual"
    wild = Model(source.network, source.label, source.references, 500.0, source.species)
    outside = Task.of(crystals, "energy", SMALL.cutoff)
    assert finetune(wild, outside, rows=rows, recipe=QUICK).card["reference"] == "labels"


@pytest.mark.parametrize("n", range(10, 15))
def test_auto_works_with_the_fewest_labels(crystals, source, n):
    # Here neither mode wins by far, so that with more labels both would be fine-tuned to decide.
    model = finetune(source, labelled(crystals, source, 10.0), "energy", rows=np.arange(n), recipe=QUICK)
    assert model.card["reference"] in ("labels", "residual")


def test_cross_validation_sees_the_training_rows_only(crystals, source):
    dataset = labelled(crystals, source, 0.01)
    task = Task.of(dataset, "energy", SMALL.cutoff)
    rows = np.arange(40)
    before = cross_validated_references(task, rows, source, task.predicted_by(source), 0)
    spoiled = dataset.values("energy").copy()
    spoiled[40:] = 1e6
    task = Task.of(dataset.with_label("energy", spoiled), "energy", SMALL.cutoff)
    assert cross_validated_references(task, rows, source, task.predicted_by(source), 0) == before


def test_a_fold_has_no_part_in_the_references_that_it_judges(crystals, source, monkeypatch):
    task, seen = Task.of(crystals, "energy", SMALL.cutoff), []

    def noted(real):
        return lambda task, rows, *rest: seen.append(len(rows)) or real(task, rows, *rest)

    monkeypatch.setattr(module, "fit_references", noted(fit_references))
    monkeypatch.setattr(module, "residual_shift", noted(residual_shift))
    cross_validated_references(task, np.arange(40), source, task.predicted_by(source), 0)
    assert seen == [32] * 10


def test_a_fold_has_no_part_in_the_training_that_it_judges(crystals, source, monkeypatch):
    task, rows, seen = Task.of(crystals, "energy", SMALL.cutoff), np.arange(40), []

    def noted(*args, real=module.finetune, **options):
        seen.append(options["rows"].tolist())
        return real(*args, **options)

    monkeypatch.setattr(module, "finetune", noted)
    zero_shot = task.predicted_by(source)
    found = module._cross_validated_training(task, rows, source, zero_shot, QUICK, SCHEMES["tl1"], 0)
    assert seen == [inner_split(rows, 0.2, 0)[0].tolist()] * 2
    assert set(found) == {"labels", "residual"}


def test_the_scale_is_the_source_s_for_a_residual_and_the_spread_of_the_labels_without_it(crystals, source):
    task, rows = Task.of(crystals, "energy", SMALL.cutoff), np.arange(40)
    model = finetune(source, task, rows=rows, reference="labels", recipe=QUICK)
    left = task.per_atom - model.references.per_atom(task.composition)
    assert model.scale == pytest.approx(left[rows].std())
    assert finetune(source, task, rows=rows, reference="residual", recipe=QUICK).scale == source.scale


def test_the_mean_that_stands_for_references_is_that_of_the_rows_alone(crystals):
    task = Task.of(crystals, "energy", SMALL.cutoff)
    far = np.where(np.arange(60) < 40, task.per_atom, 1e3)
    found = fit_references(replace(task, per_atom=far), np.arange(40), "none", None, None)
    assert found.energies[8] == pytest.approx(task.per_atom[:40].mean())


def test_a_graft_knows_the_elements_and_distances_of_its_source_and_of_its_labels_alone(crystals, source):
    """Titanium is in no label. The source had oxygen far apart, and titanium near to it."""
    known = np.full((119, 119), np.inf, dtype=np.float32)
    known[8, 8], known[22, 8], known[8, 22] = 9.0, 0.5, 0.5
    one = replace(source, closest=known, species=frozenset({"O", "Ti"}))
    task = Task.of(crystals, "energy", SMALL.cutoff)
    rows = np.flatnonzero(task.composition[:, 22] == 0)
    bench = Bench(task, (one,), SMALL, CHEAP)
    models = {"tl1": finetune(one, task, rows=rows, recipe=QUICK)}
    models |= {candidate.name: bench.fit(candidate, rows, 0) for candidate in bench.candidates()}
    here = closest(task.graphs, rows)
    assert here[8, 8] < 9
    for name, model in models.items():
        alone = name == "references"
        assert model.species == ({"O", "V", "Fe"} if alone else {"O", "Ti", "V", "Fe"}), name
        assert model.closest[8, 8] == here[8, 8], name
        assert model.closest[22, 8] == (np.inf if alone else 0.5), name
        assert np.isinf(model.closest[22, 22]), name


def test_a_zero_rate_graft_is_the_source_with_new_references(crystals, source):
    dataset = labelled(crystals, source, 0.0)
    still = QUICK.model_copy(update={"rate": 1e-12, "rate_min": 0.0})
    model = finetune(source, dataset, "energy", reference="residual", recipe=still)
    np.testing.assert_allclose(model.predict(dataset).values, dataset.values("energy"), atol=0.02)


@pytest.mark.parametrize("mode", ["labels", "residual", "none"])
def test_every_mode_trains_and_predicts_finite_values(crystals, source, mode):
    model = finetune(source, crystals, "energy", reference=mode, recipe=QUICK)
    assert np.isfinite(model.predict(crystals).values).all()
    assert model.card["reference"] == mode


def test_a_graft_s_span_holds_its_source_s_and_its_outputs_in_training(crystals, source):
    known = replace(source, span=(-9.0, 0.0))
    direct = finetune(None, crystals, "energy", scheme="direct", recipe=QUICK, arch=SMALL)
    outputs = direct.run(direct.graphs(crystals), features=False)[0]
    assert direct.span == pytest.approx((outputs.min(), outputs.max()), abs=1e-4)
    model = finetune(known, crystals, "energy", recipe=QUICK)
    outputs = model.run(model.graphs(crystals), features=False)[0]
    assert model.span == pytest.approx((-9.0, max(0.0, outputs.max())), abs=1e-4)
    assert finetune(source, crystals, "energy", recipe=QUICK).span is None


def test_given_references_are_kept(crystals, source):
    given = References.given({"O": -4.0, "Ti": -5.0, "V": -5.0, "Fe": -5.0})
    assert finetune(source, crystals, "energy", reference=given, recipe=QUICK).references == given


def test_inner_split_never_uses_other_rows(crystals, source):
    rows = np.arange(0, 60, 2)
    recipe = QUICK.model_copy(update={"validation": 0.2})
    values = crystals.values("energy").copy()
    first = finetune(source, crystals, "energy", rows=rows, recipe=recipe)
    values[1::2] = 1e5
    second = finetune(source, crystals.with_label("energy", values), "energy", rows=rows, recipe=recipe)
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_other_rows_or_settings_is_another_run(crystals, source):
    task, rows = Task.of(crystals, "energy", SMALL.cutoff), np.arange(40)
    choice = module.ReferenceChoice("labels", fit_references(task, rows, "labels", None, None), {})
    first = (task, rows, QUICK, SCHEMES["tl1"], choice, 0, source, SMALL)
    shifted = replace(choice, references=choice.references + References.given({"O": 1.0}))
    changes = {
        1: rows + 1, 2: QUICK.changed(rate=2e-4), 3: SCHEMES["tl2"], 4: shifted, 5: 1,
        6: replace(source, scale=3.0), 7: replace(SMALL, filters=8),
    }  # fmt: skip
    others = [(*first[:k], changed, *first[k + 1 :]) for k, changed in changes.items()]
    assert len({module._fingerprint(*one) for one in (first, *others)}) == 1 + len(changes)
    assert module._fingerprint(*first) == module._fingerprint(*first)


def test_a_source_of_two_properties_judges_by_the_first_and_spans_what_it_trained_on(crystals):
    """The second property is a thousand times the first."""
    large = crystals.with_label("other", 1e3 * crystals.values("energy"), Label("other"))
    tasks = [Task.of(large, name, SMALL.cutoff) for name in ("energy", "other")]
    train, held = np.arange(16, 60), np.arange(16)
    first, second = train_from_scratch(
        tasks[0], train, held, arch=SMALL, recipe=QUICK.changed(epochs=1), seed=0, folder=None,
        further=tasks[1:],
    )  # fmt: skip
    error = np.abs(tasks[0].predicted_by(first) - tasks[0].per_atom)[held].mean()
    assert first.card["history"][0]["validation_mae"] == pytest.approx(error, rel=1e-4)
    assert second.scale == pytest.approx(1e3 * first.scale, rel=1e-3)
    features = first.features(tasks[0].graphs)
    expected = Domain.of(features[sample(train, 0)], features[held])
    assert set(sample(train, 0)) == set(train)
    assert first.domain.reach == pytest.approx(expected.reach, rel=1e-3)
    assert first.domain.landmarks.shape[1] == len(train)


def test_refusals(crystals, source):
    with pytest.raises(InputError, match="needs a source"):
        finetune(None, crystals, "energy")
    with pytest.raises(InputError, match="needs a source"):
        finetune(source, crystals, "energy", scheme="direct", reference="residual")
    with pytest.raises(InputError, match="too few"):
        finetune(source, crystals[:5], "energy")
    with pytest.raises(InputError, match="which label"):
        finetune(source, crystals.with_label("other", crystals.values("energy")))


def test_labels_that_are_no_numbers_are_an_error(crystals):
    values = crystals.values("energy").copy()
    values[3] = np.nan
    with pytest.raises(InputError, match="1 of 60 structures have no energy"):
        finetune(None, crystals.with_label("energy", values), "energy", scheme="direct", arch=SMALL)
