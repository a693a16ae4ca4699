"""Growing a source model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small import SMALL

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
