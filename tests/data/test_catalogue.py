from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from matgraft.data import catalogue
from matgraft.data.readers import read
from matgraft.errors import InputError


@pytest.mark.parametrize("known", catalogue.ENTRIES.values(), ids=lambda known: known.name)
def test_entries_say_whose_the_data_are(known):
    assert known.description
    assert known.size
    assert known.licence
    assert known.attribution
    assert known.citation
    assert len(known.sha256) == 64


@pytest.mark.parametrize("name", ["tmo-oxides", "tmo-qe-pbe"])
def test_shipped_file_is_the_one_listed(name):
    path = catalogue.shipped(name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == catalogue.entry(name).sha256
    assert path.name in (path.parent / "LICENSE.txt").read_text()
    assert "Materials Project" in (path.parent / "LICENSE.txt").read_text()


def test_not_shipped():
    with pytest.raises(InputError, match=r"does not come with the package. These do: tmo-oxides, "):
        catalogue.shipped("mp-source")


@pytest.mark.parametrize(
    ("name", "size"), [("tmo-oxides", 663), ("tmo-oxides-fetiv", 517), ("tmo-oxides-clean", 251)]
)
def test_shipped_sets_by_name(name, size, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ds = read(name, target="energy")
    assert len(ds) == size == catalogue.entry(name).size
    assert ds.source == name
    spec = ds.specs["energy"]
    assert (spec.unit, spec.kind, spec.level_of_theory) == ("eV", "cell", "PBE/PBE+U (Materials Project)")
    assert ds.specs["e_form_per_atom"].kind == "atom"
    assert ds.specs["band_gap_pbe"].kind == "intensive"


def test_own_labels_and_their_card():
    ds, known = read("tmo-qe-pbe", target="free_energy"), catalogue.entry("tmo-qe-pbe")
    assert len(ds) == known.size
    assert {name: (spec.unit, spec.kind) for name, spec in ds.specs.items()} == {
        name: (spec.unit, spec.kind) for name, spec in known.labels.items()
    }
    card = json.loads(catalogue.shipped("tmo-qe-pbe").with_suffix(".json").read_text())
    assert card["n"] == len(ds)
    assert card["protocol"]["name"] == "fast"
    assert all(failure["reason"] for failure in card["failures"].values())
    # F = E - TS, and Gaussian smearing only lowers it.
    assert (ds.values("free_energy") <= ds.values("internal_energy") + 1e-9).all()


def test_selection():
    ds = catalogue.load("tmo-oxides-clean")
    assert ds.columns["clean"].all()
    assert len(ds) == 251


def test_unknown_name_offers_the_nearest():
    with pytest.raises(InputError, match="tmo-oxides"):
        catalogue.load("tmo-oxide")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine that has no data sets but the shipped ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(catalogue.FOLDER_VARIABLE, str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_absent_file_says_where_to_put_it(nowhere):
    with pytest.raises(InputError) as caught:
        catalogue.load("mp-source")
    for word in ("mp_source.npz", "MATGRAFT_DATA", "~/.cache/matgraft", "Materials Project", "c141e87bf937"):
        assert word in str(caught.value)


def test_wrong_checksum_is_refused(nowhere):
    (nowhere / "mp_source.npz").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"mp_source.npz: its SHA-256"):
        catalogue.load("mp-source")


def test_a_file_goes_before_a_known_name(nowhere, monkeypatch):
    from ase.build import bulk
    from ase.io import write

    monkeypatch.chdir(nowhere)
    (nowhere / "tmo-oxides").mkdir()
    write(nowhere / "tmo-oxides" / "fe.cif", bulk("Fe"))
    assert read("tmo-oxides").ids.tolist() == ["fe"]


@pytest.mark.parametrize("name", ["tmo-unlabelled", "tio2-qe-pbe", "jarvis-oxides"])
def test_large_sets(name, shared):
    ds = read(name)
    assert len(ds) == catalogue.entry(name).size
    assert set(ds.specs) == set(catalogue.entry(name).labels)


def test_labels_joined_to_structures_of_another_set(shared, caplog):
    ds = catalogue.load("mp-properties")
    assert "17 of 10845 ids have no structure" in caplog.text
    assert len(ds) == catalogue.entry("mp-properties").size
    assert set(ds.specs) == set(catalogue.entry("mp-properties").labels)
    row = ds.ids.tolist().index("mp-2")
    assert ds.labels["log10_K_VRH_GPa"][row] == pytest.approx(2.2041199826559246)
    assert ds.formulas[row] == "Pd"
    assert np.isnan(ds.labels["eps_total"][row])
