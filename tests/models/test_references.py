"""Reference energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers, chemical_symbols

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


def test_recovers_known_energies():
    counts = compositions(np.random.default_rng(0))
    assert References.fit(counts, labels(counts)).as_dict() == pytest.approx(TRUE, abs=0.01)


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


def test_a_sum_says_the_sum_of_what_both_say():
    """Of oxygen both know the energy, of iron the second alone, of silver none."""
    first, second = References.given({"O": -1.0, "Ti": -2.0}), References.given({"O": 1.0, "Fe": 4.0})
    counts = np.zeros((4, 119), dtype=int)
    counts[[0, 1, 2], [8, 26, 47]] = 1
    counts[3, [8, 26, 47]] = 3, 2, 1
    total = first + second
    np.testing.assert_allclose(total.per_atom(counts), first.per_atom(counts) + second.per_atom(counts))
    assert total.per_atom(counts)[:3].tolist() == [0.0, 2.5, 1.0]
    assert set(total.as_dict()) == {"O", "Fe"}


@pytest.mark.parametrize(
    "content", ['{"O": "-4.9"}', '{"Xx": -1.0}', '{"X": -1.0}', '{"O": NaN}', "[1]", "-1", "{", '{"O": null}']
)
def test_files_that_are_none_are_named(tmp_path, content):
    (tmp_path / "energies.json").write_text(content)
    with pytest.raises(InputError, match=r"energies\.json: not a JSON file of reference energies"):
        References.read(tmp_path / "energies.json")


def test_what_rests_on_no_label_is_assumed_through_sums_and_files():
    counts = compositions(np.random.default_rng(6), elements=(8, 22))
    references = References.of_all(np.linspace(-1.0, 1.0, 119), counts)
    assert {8, 22}.isdisjoint(references.missing)
    assert {1, 23, 26, 118} <= set(references.missing)
    assert set(references.as_dict(assumed=False)) == {"O", "Ti"}
    assert len(references.as_dict()) == 118
    shifted = References.given({"O": 1.0, "Fe": 2.0}) + references
    assert shifted.energies[26] == 2.0 + references.energies[26]
    assert 26 in shifted.missing
    again = References.given(shifted.as_dict(), [chemical_symbols[z] for z in shifted.assumed])
    assert again.missing.tolist() == shifted.missing.tolist()
