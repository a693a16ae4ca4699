"""Damping: nothing inside the domain, a bound on nonsense outside, and smooth between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from matgraft.models.damping import damped, spanned
from matgraft.models.files import load_model, shipped_models

number = st.floats(-100, 100)


@given(number, st.floats(1e-3, 100), st.floats(-1, 2))
def test_what_is_within_one_more_width_stays_as_it_is_to_the_last_bit(low, width, at):
    outputs = torch.tensor([low + at * width])
    inside = outputs.clamp(low - width, low + 2 * width)
    assert torch.equal(damped(inside, (low, low + width)), inside)


def test_far_outside_grows_by_the_logarithm():
    outputs = torch.tensor([-1e4, -7.0, 2.0, 11.0, 1e4], dtype=torch.float64)
    expected = [
        -1 - 3 * np.log1p(9999 / 3),
        -1 - 3 * np.log1p(2),
        2,
        8 + 3 * np.log1p(1),
        8 + 3 * np.log1p(9992 / 3),
    ]
    np.testing.assert_allclose(damped(outputs, (2.0, 5.0)).numpy(), expected, rtol=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), number, st.floats(1e-3, 100))
def test_order_is_kept_and_both_sides_are_alike(values, low, width):
    outputs = torch.tensor(sorted(values), dtype=torch.float64)
    found = damped(outputs, (low, low + width))
    assert (found.diff() >= 0).all()
    mirrored = -damped(-outputs, (-low - width, -low))
    np.testing.assert_allclose(found.numpy(), mirrored.numpy(), rtol=1e-9, atol=1e-9)


def test_the_slope_is_one_at_the_border_continuous_and_never_zero():
    outputs = torch.tensor(
        [8 - 1e-9, 8 + 1e-9, -1 - 1e-9, 20.0, 1e5], dtype=torch.float64, requires_grad=True
    )
    (slope,) = torch.autograd.grad(damped(outputs, (2.0, 5.0)).sum(), outputs)
    np.testing.assert_allclose(slope.numpy(), [1, 1, 1, 3 / 15, 3 / (3 + 99992)], rtol=1e-6)


def test_outputs_that_were_all_the_same_leave_numbers():
    assert torch.isfinite(damped(torch.tensor([-3.0, 0.0, 1e6]), (0.0, 0.0))).all()


def test_a_span_grows_by_what_is_met():
    assert spanned(np.array([3.0, -1.0])) == (-1.0, 3.0)
    assert spanned(np.array([3.0, -1.0]), (-2.0, 1.0)) == (-2.0, 3.0)


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_sources_are_untouched_on_crystals_and_bounded_on_what_is_none(name, crystals):
    model = load_model(name)
    free = replace(model, span=None)
    np.testing.assert_array_equal(model.predict(crystals).values, free.predict(crystals).values)
    crushed = bulk("TiO", "rocksalt", a=1.4)
    wild, tame = (one.predict(crushed) for one in (free, model))
    assert tame.too_close[0]
    assert abs(wild.per_atom[0]) > 1000 > 150 > abs(tame.per_atom[0])
