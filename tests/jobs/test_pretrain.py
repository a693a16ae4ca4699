"""Growing a source model."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from small import SMALL

from matgraft.data import Label
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.jobs.pretrain import keep_where, pretrain
from matgraft.models.model import load_model
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
