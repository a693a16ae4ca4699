"""Reference energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers

from matgraft.errors import InputError
from matgraft.models.references import References


def compositions(rng, n=80, elements=(8, 22, 23, 26)):
    counts = np.zeros((n, 119), dtype=int)
    counts[:, list(elements)] = rng.integers(0, 5, (n, len(elements)))
    counts[:, 8] += 1
    return counts


TRUE = {"O": -4.9, "Ti": -7.8, "V": -9.0, "Fe": -8.3}


def labels(counts):
    energies = np.zeros(119)
    for symbol, energy in TRUE.items():
        energies[atomic_numbers[symbol]] = energy
    return counts @ energies / counts.sum(axis=1)


@pytest.mark.parametrize("robust", [True, False])
def test_recovers_known_energies(robust):
    counts = compositions(np.random.default_rng(0))
    fitted = References.fit(counts, labels(counts), robust).as_dict()
    assert fitted == pytest.approx(TRUE, abs=0.01)


def test_robust_fit_shrugs_off_wild_labels_where_least_squares_does_not():
    rng = np.random.default_rng(1)
    counts = compositions(rng)
    per_atom = labels(counts) + rng.normal(0, 0.01, len(counts))
    per_atom[::10] += 30.0
    robust = References.fit(counts, per_atom).as_dict()
    plain = References.fit(counts, per_atom, robust=False).as_dict()
    assert robust == pytest.approx(TRUE, abs=0.1)
    assert max(abs(plain[s] - TRUE[s]) for s in TRUE) > 0.5


def test_references_a_thousand_electronvolts_apart_are_not_pulled_together():
    rng = np.random.default_rng(3)
    counts = np.zeros((50, 119), dtype=int)
    counts[:, 22], counts[:, 8] = rng.integers(9, 12, 50), rng.integers(18, 21, 50)
    energies = np.zeros(119)
    energies[[22, 8]] = -1600.0, -430.0
    per_atom = counts @ energies / counts.sum(axis=1)
    references = References.fit(counts, per_atom)
    assert np.abs(references.per_atom(counts) - per_atom).max() < 0.02


def test_unfitted_elements_are_named_and_fall_back():
    counts = compositions(np.random.default_rng(2))
    references = References.fit(counts, labels(counts))
    assert set(references.as_dict()) == set(TRUE)
    silver = np.zeros((1, 119), dtype=int)
    silver[0, 47] = 2
    assert references.per_atom(silver)[0] == references.fallback


def test_sum_and_given_and_none():
    given = References.given({"O": -1.0, "Ti": -2.0})
    total = References.none() + given
    assert total.as_dict() == given.as_dict()
    oxide = np.zeros((1, 119), dtype=int)
    oxide[0, [8, 22]] = 2, 1
    assert given.per_atom(oxide)[0] == pytest.approx(-4 / 3)
    assert References.none().per_atom(oxide)[0] == 0
    with pytest.raises(InputError, match="Xx"):
        References.given({"Xx": -1.0})
    with pytest.raises(InputError, match="finite"):
        References.given({"O": float("nan")})


def test_pull_to_zero_holds_what_few_labels_cannot_tell():
    rng = np.random.default_rng(4)
    counts = compositions(rng, 12)
    noisy = rng.normal(0, 0.3, len(counts))
    known = np.array([8, 22, 23, 26])
    free = References.fit(counts, noisy, robust=False)
    held = References.fit(counts, noisy, robust=False, pull=10.0, pulled=known)
    assert np.abs(held.energies[known]).max() < 0.3 * np.abs(free.energies[known]).max()
    # The closed form: (F'F + pull) e = F'y.
    fractions = (counts / counts.sum(axis=1, keepdims=True))[:, known]
    expected = np.linalg.solve(fractions.T @ fractions + 10.0 * np.eye(4), fractions.T @ noisy)
    np.testing.assert_allclose(held.energies[known], expected, atol=1e-10)


def test_elements_without_a_prior_are_not_drawn_to_zero():
    counts = compositions(np.random.default_rng(5))
    fitted = References.fit(counts, labels(counts), pull=1e3, pulled=np.array([8])).as_dict()
    assert abs(fitted["O"]) < 0.1
    assert max(fitted["Ti"], fitted["V"], fitted["Fe"]) < -5


def test_elements_known_by_the_prior_alone_are_assumed():
    counts = compositions(np.random.default_rng(6), elements=(8, 22))
    references = References.fit(counts, labels(counts), pull=1.0, pulled=np.array([8, 22, 26]))
    assert references.energies[26] == 0.0
    assert np.isnan(references.energies[23])
    assert {8, 22}.isdisjoint(references.missing)
    assert {23, 26} <= set(references.missing)
    shifted = References.given({"O": 1.0, "Fe": 2.0}) + references
    assert shifted.energies[26] == 2.0
    assert 26 in shifted.missing
    again = References.given(shifted.as_dict(), ["Fe"])
    assert again.missing.tolist() == shifted.missing.tolist()
