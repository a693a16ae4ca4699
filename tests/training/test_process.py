"""Fitting a Gaussian process: what it finds, and that leaving one out means leaving one out."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers

from matgraft.training import process as module
from matgraft.training.process import fit_process


@pytest.fixture
def problem():
    """Labels of known element energies plus a smooth function of two of eight features."""
    rng = np.random.default_rng(0)
    composition = np.zeros((120, 119))
    for symbol in ("O", "Ti", "V"):
        composition[:, atomic_numbers[symbol]] = rng.integers(1, 5, 120)
    features = rng.normal(size=(120, 8))
    smooth = np.sin(features[:, 0]) + 0.5 * features[:, 1]
    fractions = composition / composition.sum(axis=1, keepdims=True)
    energies = np.zeros(119)
    energies[[atomic_numbers[symbol] for symbol in ("O", "Ti", "V")]] = -400.0, -1600.0, -2000.0
    return composition, fractions @ energies + smooth, features


def predicted(posterior, composition, features):
    references, process = posterior
    return references.per_atom(composition) + process(features)


def test_finds_elements_and_a_smooth_function(problem):
    composition, values, features = problem
    posterior = fit_process(composition[:90], values[:90], features[:90])
    error = np.abs(predicted(posterior, composition[90:], features[90:]) - values[90:]).mean()
    assert error < 0.35
    assert np.abs(values[90:] - values[:90].mean()).mean() > 100
    assert set(posterior[0].as_dict(assumed=False)) == {"O", "Ti", "V"}
    # Zirconium is known by titanium, its neighbour, only.
    assert posterior[0].energies[40] == pytest.approx(-1600, abs=400)
    assert 40 in posterior[0].missing


def test_a_few_wrong_labels_do_no_harm(problem):
    composition, values, features = problem
    wrong = values[:90].copy()
    wrong[::15] += 30.0
    posterior = fit_process(composition[:90], wrong, features[:90])
    error = np.abs(predicted(posterior, composition[90:], features[90:]) - values[90:])
    assert np.median(error) < 1.0


def test_leaving_one_out_is_what_it_says():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(15, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    covariance, values = 3 * np.exp(-(distance**2)), rng.normal(size=15)
    weights, left_out = module._robust(covariance, values)
    # The noise that the robust weights stand for, from the posterior itself: K w + D w = y.
    noise = (values - covariance @ weights) / weights
    for i in range(15):
        rest = np.delete(np.arange(15), i)
        solved = np.linalg.solve(covariance[np.ix_(rest, rest)] + np.diag(noise[rest]), values[rest])
        assert left_out[i] == pytest.approx(values[i] - covariance[i, rest] @ solved)


def test_equal_features_are_no_trouble(problem):
    composition, values, features = problem
    posterior = fit_process(composition, values, np.ones_like(features))
    assert np.isfinite(predicted(posterior, composition, np.ones_like(features))).all()


def test_known_energies_of_elements_are_taken_where_they_help(problem):
    """Of zirconium no label says anything: what is known of it is all there is."""
    composition, values, features = problem
    known = np.zeros(119)
    known[[8, 22, 23, 40]] = -410.0, -1620.0, -2010.0, -3000.0
    fits = {
        sign: fit_process(composition[:60], values[:60], features[:60], [sign * known]) for sign in (0, 1, -1)
    }
    assert fits[1][0].filled[40] == pytest.approx(-3000, abs=100)
    assert fits[0][0].filled[40] == pytest.approx(-1600, abs=400)
    for sign in (0, -1):
        np.testing.assert_allclose(
            predicted(fits[sign], composition, features), values, atol=1.0, err_msg=f"sign {sign}"
        )
