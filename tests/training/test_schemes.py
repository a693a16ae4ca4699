"""Schemes as data."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from matgraft.errors import InputError
from matgraft.training.graft import named_scheme
from matgraft.training.recipe import DIRECT, PAPER, Recipe
from matgraft.training.schemes import SCHEMES, Rate, Scheme


def test_longest_name_wins_and_uncovered_is_frozen():
    scheme = Scheme(
        name="x", rates=(Rate(parameters="interactions", factor=0.5), Rate(parameters="interactions.1"))
    )
    assert scheme.rate("interactions.0.atomwise_in.weight").factor == 0.5
    assert scheme.rate("interactions.1.atomwise_in.weight").factor == 1.0
    assert scheme.rate("interactions.10.atomwise_in.weight").factor == 0.5
    assert scheme.rate("embedding.weight").factor == 0.0


def test_published_schemes():
    assert SCHEMES["direct"].start == "random"
    assert SCHEMES["tl2"].rate("embedding.weight").factor == 0
    assert SCHEMES["tl3"].rate("interactions.5.filter.dense.0.weight").factor == 0
    assert SCHEMES["tl3"].rate("output.0.weight").factor == 1


def test_unknown_scheme_lists_the_names():
    with pytest.raises(InputError, match="direct, tl1, tl2, tl3"):
        named_scheme("tl4")


def test_a_misspelt_parameter_is_refused():
    """It would freeze what it means, silently."""
    names = ["embedding.weight", "interactions.0.atomwise_in.weight", "output.0.weight"]
    for scheme in SCHEMES.values():
        scheme.require_known(names)
    wrong = Scheme(name="mine", rates=(Rate(parameters="output"), Rate(parameters="interactions.7")))
    with pytest.raises(InputError, match=r"scheme mine: .*'interactions.7'; there are embedding"):
        wrong.require_known(names)


def test_unknown_setting_is_refused():
    with pytest.raises(ValidationError, match="learning_rate"):
        Recipe(epochs=1, batch_size=1, rate=1e-3, learning_rate=1e-3)


def test_paper_recipe_is_the_published_one():
    assert (PAPER.optimizer, PAPER.rate, PAPER.rate_min, PAPER.l2) == ("adam", 1e-4, 1e-6, 1e-3)
    assert (PAPER.schedule, PAPER.plateau_patience, PAPER.plateau_factor) == ("plateau", 25, 0.8)
    assert PAPER.loss == "mse"


def test_small_sets_get_more_epochs():
    recipe = DIRECT.model_copy(update={"epochs": 10, "batch_size": 16, "min_steps": 1000})
    assert recipe.for_size(100).epochs == 143
    assert recipe.for_size(10_000).epochs == 10


def test_changed_settings_are_checked():
    assert DIRECT.changed(epochs=7).epochs == 7
    for settings in ({"epochs": 0}, {"epoch": 5}, {"swa_epochs": 100}, {"rate": 1e-9}):
        with pytest.raises(InputError, match="training settings"):
            DIRECT.changed(**settings)
