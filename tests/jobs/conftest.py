"""A small source model on disk, and quick recipes."""

from __future__ import annotations

import pytest

from matgraft.jobs.pretrain import pretrain
from matgraft.models.schnet import Architecture
from matgraft.training import recipe as recipes

QUICK = recipes.Recipe(epochs=4, batch_size=8, rate=3e-3, average=0.9)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few epochs, whatever the preset."""
    monkeypatch.setitem(recipes.PRESETS, "default", (QUICK, QUICK))


@pytest.fixture(scope="session")
def source(crystals, tmp_path_factory):
    """A source model grown on the same crystals with another label: 4 eV/atom higher."""
    out = tmp_path_factory.mktemp("models") / "source"
    shifted = crystals.with_label("energy", crystals.values("energy") + 4.0 * crystals.natoms)
    recipe = QUICK.model_copy(update={"epochs": 20})
    pretrain(
        shifted, "energy", out, val_size=12, arch=Architecture(2, 16, 16), recipe=recipe, name="salt-source"
    )
    return out
