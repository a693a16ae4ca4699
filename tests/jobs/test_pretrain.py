"""Growing a source model."""

from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
from small import SMALL

from matgraft.data import Label
from matgraft.data.splits import keep_where
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.jobs import pretrain as pretrain_job
from matgraft.jobs.pretrain import pretrain
from matgraft.models.files import load_model
from matgraft.training.graft import train_from_scratch
from matgraft.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=8, rate=3e-3)


def test_exclusions_reach_the_model_and_the_card(crystals, tmp_path):
    vanadium = crystals[crystals.formulas == "OV"]
    write(vanadium, tmp_path / "target.extxyz")
    out = tmp_path / "source"
    pretrain(
        crystals,
        "energy",
        out,
        exclude_formulas_of=tmp_path / "target.extxyz",
        exclude_elements=["Fe"],
        val_size=5,
        arch=SMALL,
        recipe=RECIPE,
        name="small",
        licence="CC0",
    )
    model = load_model(out)
    assert model.species == {"Ti", "O"}
    card = model.card
    assert card["structures"] == {
        "total": 60, "same_formula": 20, "element": 20, "kept": 20, "kept_after_conditions": 20
    }  # fmt: skip
    assert (card["name"], card["licence"], card["n_train"], card["n_val"]) == ("small", "CC0", 15, 5)
    assert len(card["history"]) == 2
    metrics = json.loads((out / "metrics.json").read_text())
    error = np.abs(model.predict(crystals).per_atom - crystals.values("energy") / crystals.natoms)
    assert 0 < metrics["validation"]["mae_ev_per_atom"] < 10 * error.max()
    assert (out / "training.png").exists()


def test_conditions(crystals):
    assert keep_where(crystals, ["natoms<=2"]).sum() == 30
    assert keep_where(crystals, ["natoms > 2", "energy<0"]).sum() == 30
    with pytest.raises(InputError, match="natoms"):
        keep_where(crystals, ["volume<3"])
    with pytest.raises(InputError, match="not a value"):
        keep_where(crystals, ["natoms<many"])


def test_several_properties_share_a_network(crystals, tmp_path):
    gaps = np.where(np.arange(len(crystals)) % 3 == 0, np.nan, crystals.natoms * 0.5)
    both = dataclasses.replace(
        crystals,
        labels={**crystals.labels, "gap": gaps},
        specs={**crystals.specs, "gap": Label("gap", "eV", "intensive")},
    )
    model = pretrain(both, "energy", tmp_path, further=["gap"], val_size=5, arch=SMALL, recipe=RECIPE)
    first, energy, gap = (load_model(f"{tmp_path}{name}") for name in ("", ":energy", ":gap"))
    assert (first.label.name, gap.label.name, gap.label.kind) == ("energy", "gap", "intensive")
    wanted = model.predict(crystals).values
    np.testing.assert_array_equal(first.predict(crystals).values, wanted)
    np.testing.assert_array_equal(energy.predict(crystals).values, wanted)
    shared, own = (dict(one.network.named_parameters()) for one in (energy, gap))
    assert {name for name in shared if not shared[name].equal(own[name])} == {
        "output.2.weight",
        "output.2.bias",
    }
    assert model.card["metrics"]["further"]["gap"]["train"]["n"] < model.card["metrics"]["train"]["n"]
    with pytest.raises(InputError, match="there is energy, gap"):
        load_model(f"{tmp_path}:volume")


def test_pupil_learns_from_teachers_and_unlabelled_structures(crystals, tmp_path, monkeypatch):
    settings = {"arch": SMALL, "recipe": RECIPE, "val_size": 5, "exclude_elements": ["Fe"]}
    labelled, unlabelled = crystals[:48], dataclasses.replace(crystals[48:], labels={}, specs={})
    teachers = [tmp_path / "a", tmp_path / "b"]
    for seed, out in enumerate(teachers):
        # Different start weights, but the same structures held out.
        pretrain(labelled, "energy", out, **settings | {"recipe": RECIPE.changed(epochs=2 + seed)})
    seen = {}
    monkeypatch.setattr(
        "matgraft.jobs.pretrain.train_from_scratch",
        lambda task, rows, held, **more: (
            seen.update(task=task, rows=rows, held=held) or train_from_scratch(task, rows, held, **more)
        ),
    )
    monkeypatch.setattr("matgraft.jobs.pretrain.AGREE", np.inf)
    out = tmp_path / "pupil"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretrain(labelled, "energy", out, teachers=teachers, unlabelled=unlabelled, **settings)
    kept = labelled[np.array(["Fe" not in formula for formula in labelled.formulas])]
    more = unlabelled[np.array(["Fe" not in formula for formula in unlabelled.formulas])]
    n = len(kept)
    said = np.mean([load_model(each).predict(kept).per_atom for each in teachers], axis=0)
    own = kept.values("energy") / kept.natoms
    trained = np.isin(np.arange(n), seen["held"], invert=True)
    # Validation is judged by the labels themselves.
    np.testing.assert_allclose(seen["task"].per_atom[:n], np.where(trained, (own + said) / 2, own))
    said = np.mean([load_model(each).predict(more).per_atom for each in teachers], axis=0)
    np.testing.assert_allclose(seen["task"].per_atom[n:], said)
    assert set(seen["rows"]) == set(range(n + len(more))) - set(seen["held"])
    assert max(seen["held"]) < n
    card = load_model(out).card
    assert (card["n_train"], card["n_val"], card["n_unlabelled"]) == (n - 5, 5, len(more))
    # Errors are stated against the labels, not against what was taught.
    error = np.abs(load_model(out).predict(kept).per_atom - kept.values("energy") / kept.natoms)
    held = json.loads((out / "metrics.json").read_text())["validation"]["mae_ev_per_atom"]
    assert held == pytest.approx(error[seen["held"]].mean())


def test_what_teachers_do_not_know_or_agree_on_is_left_out(crystals, tmp_path):
    teachers = [tmp_path / "a", tmp_path / "b"]
    for seed, out in enumerate(teachers):
        settings = {"arch": SMALL, "recipe": RECIPE, "seed": seed, "val_size": 5}
        pretrain(crystals, "energy", out, exclude_elements=["Fe"], **settings)
    models = [load_model(out) for out in teachers]
    learnable = pretrain_job._learnable(crystals, models, None, [], ["natoms<=2", "energy<1e9"])
    apart = np.ptp([model.predict(crystals).per_atom for model in models], axis=0)
    expected = (apart <= pretrain_job.AGREE) & (crystals.natoms <= 2)
    expected &= np.array(["Fe" not in formula for formula in crystals.formulas])
    assert learnable.ids.tolist() == crystals.ids[expected].tolist()


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_further_label_with_nothing_to_learn_is_refused(crystals, tmp_path, value):
    dull = crystals.with_label("dull", np.full(60, value), Label("dull", "eV", "intensive"))
    with pytest.raises(InputError, match=r"'dull': the structures to train on have no two values"):
        pretrain(dull, "energy", tmp_path / "out", further=["dull"], arch=SMALL, recipe=RECIPE, val_size=5)
    assert not (tmp_path / "out").exists()


def test_teachers_that_do_not_fit(crystals, tmp_path, caplog):
    settings = {"arch": SMALL, "recipe": RECIPE, "val_size": 5}
    pretrain(crystals, "energy", tmp_path / "teacher", **settings)
    with pytest.raises(InputError, match="--teachers"):
        pretrain(crystals, "energy", tmp_path / "a", unlabelled=crystals, **settings)
    gaps = crystals.with_label("gap", np.arange(60.0), Label("gap", "eV", "intensive"))
    with pytest.raises(InputError, match="predicts energy"):
        pretrain(gaps, "gap", tmp_path / "b", teachers=[tmp_path / "teacher"], **settings)
    assert not (tmp_path / "b").exists()
    pretrain(crystals, "energy", tmp_path / "c", teachers=[tmp_path / "teacher"], seed=1, **settings)
    assert "does not say that it held out the same structures" in caplog.text
