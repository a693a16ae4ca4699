"""Reference energies with a prior from the periodic table."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers

from matgraft.models.elements import places
from matgraft.models.references import References
from matgraft.training import elements as module
from matgraft.training.elements import fit_elements

METALS = ("Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Sr", "Y", "Zr", "Nb", "Mo")
NUMBERS = np.array([atomic_numbers[symbol] for symbol in METALS])


def oxides(n: int, seed: int, metals=NUMBERS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = np.zeros((n, 119), dtype=int)
    for row in counts:
        row[rng.choice(metals, 2, replace=False)] = rng.integers(1, 4, 2)
        row[8] = rng.integers(2, 8)
    return counts


def per_atom(counts: np.ndarray, energies: np.ndarray) -> np.ndarray:
    return counts @ energies / counts.sum(axis=1)


@pytest.fixture
def trend() -> np.ndarray:
    """Energies that follow groups and periods."""
    group, period = places().T
    return -3.0 - 5.0 * np.exp(-(((group - 6) / 4) ** 2)) - 0.3 * period


@pytest.fixture
def without_trend() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 300, 119)


def test_an_element_without_labels_is_drawn_from_its_neighbours(trend):
    counts = oxides(40, 0, np.setdiff1d(NUMBERS, [22, 26]))
    noisy = per_atom(counts, trend) + np.random.default_rng(1).normal(0, 0.05, 40)
    fitted = fit_elements(counts, noisy)
    plain = References.fit(counts, noisy)
    for z in (22, 26):
        assert z in fitted.missing
        assert abs(fitted.energies[z] - trend[z]) < 0.5 * abs(plain.fallback - trend[z])


def test_an_element_without_labels_is_never_silently_zero():
    """All labels are far below zero and elements alike in nothing: then it lies among the others."""
    energies = np.random.default_rng(0).normal(-800, 50, 119)
    counts = oxides(60, 0, NUMBERS[:-1])
    fitted = fit_elements(counts, per_atom(counts, energies))
    assert fitted.energies[NUMBERS[-1]] == pytest.approx(-800, abs=150)


def test_few_labels_tell_more_where_energies_follow_the_table(trend):
    test = oxides(300, 99)
    ratio = []
    for seed in range(5):
        counts = oxides(25, seed)
        noisy = per_atom(counts, trend) + np.random.default_rng(seed).normal(0, 0.3, 25)
        errors = [
            np.abs(fit(counts, noisy).per_atom(test) - per_atom(test, trend)).mean()
            for fit in (fit_elements, References.fit)
        ]
        ratio.append(errors[0] / errors[1])
    assert np.mean(ratio) < 0.6


def test_energies_of_another_code_that_follow_nothing_are_fitted_exactly(without_trend):
    counts = oxides(60, 0)
    fitted = fit_elements(counts, per_atom(counts, without_trend))
    np.testing.assert_allclose(fitted.energies[NUMBERS], without_trend[NUMBERS], atol=0.05)


def test_known_means_are_taken_where_they_help_and_not_where_they_do_not(without_trend):
    counts = oxides(14, 0, NUMBERS[:12])
    labels = per_atom(counts, without_trend) + np.random.default_rng(0).normal(0, 0.05, 14)
    fitted = fit_elements(counts, labels, [without_trend])
    np.testing.assert_allclose(fitted.energies[NUMBERS], without_trend[NUMBERS], atol=0.3)
    many = oxides(80, 1)
    wrong = np.random.default_rng(4).normal(0, 300, 119)
    labels = per_atom(many, without_trend)
    error = fit_elements(many, labels, [wrong]).per_atom(many) - labels
    assert np.abs(error).max() < 0.05


def test_a_few_wild_labels_do_no_harm(trend):
    counts = oxides(80, 0)
    labels = per_atom(counts, trend) + np.random.default_rng(0).normal(0, 0.02, 80)
    labels[::20] += 30.0
    assert np.abs(fit_elements(counts, labels).per_atom(counts) - per_atom(counts, trend)).mean() < 0.02


def test_leaving_one_out_is_what_it_says(monkeypatch):
    monkeypatch.setattr(module, "_ITERATIONS", (1, 1))
    rng = np.random.default_rng(0)
    fractions, values = rng.dirichlet(np.ones(6), 12), rng.normal(size=12)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T + np.eye(6)
    energies, left_out = module._posterior(covariance, fractions, values)
    # The dual form: weights of the labels, whose noise is 1.
    gram = fractions @ covariance @ fractions.T + np.eye(12)
    np.testing.assert_allclose(energies, covariance @ fractions.T @ np.linalg.solve(gram, values))
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        weights = np.linalg.solve(gram[np.ix_(rest, rest)], values[rest])
        assert left_out[i] == pytest.approx(values[i] - gram[i, rest] @ weights)


def test_elements_that_are_free_may_have_any_energy(trend):
    counts = oxides(40, 0)
    shift = np.zeros(119)
    shift[26] = 50.0
    noisy = per_atom(counts, shift) + np.random.default_rng(0).normal(0, 0.01, 40)
    fitted = fit_elements(counts, noisy, free=[26])
    assert fitted.energies[26] == pytest.approx(50, abs=1)
    assert np.abs(fitted.energies[np.setdiff1d(NUMBERS, [26])]).max() < 0.5
