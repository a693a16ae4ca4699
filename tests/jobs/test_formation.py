"""Formation energies against arithmetic done by hand."""

from __future__ import annotations

import csv
import json
import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from command import run
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.data.writers import write
from matgraft.dft.protocols import PROTOCOLS
from matgraft.errors import InputError
from matgraft.jobs.dope import dope
from matgraft.jobs.formation import formation_energies, read_potentials
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet
from matgraft.training.intervals import calibrated

ENERGIES = {"O": -4.0, "Ti": -7.0, "Fe": -6.0}
TOTAL, PER_ATOM = Label("energy"), Label("energy_per_atom", "eV/atom", "atom")


def model_of(label=TOTAL, scale=0.0, energies=ENERGIES):
    """With a scale of zero the energy is the sum over the atoms of ``energies``."""
    torch.manual_seed(0)
    return Model(SchNet(SMALL), label, References.given(energies), scale, frozenset(energies), {})


@pytest.fixture(scope="module")
def doped(tmp_path_factory):
    """Two rock salts of 4 and 4 atoms, each with iron on titanium and without an oxygen."""
    folder = tmp_path_factory.mktemp("doped")
    salts = Dataset.from_atoms([bulk("TiO", "rocksalt", a=a) for a in (4.2, 4.4)], ["tight", "wide"])
    dope(salts, folder / "doped.extxyz", substitute={"Ti": ["Fe"]}, vacancies=["O"], supercell=(2, 1, 1))
    return folder / "doped.extxyz"


@pytest.fixture
def store(monkeypatch):
    """A store of DFT labels: energies by id, and none for what it does not know."""
    labels = {}

    def energies_of(place, dataset, protocol, pseudopotentials):
        assert (place, protocol, pseudopotentials) == ("labels.db", PROTOCOLS["moderate"], None)
        return np.asarray([labels.get(name, np.nan) for name in dataset.ids.tolist()])

    monkeypatch.setitem(sys.modules, "matgraft.dft.store", SimpleNamespace(energies_of=energies_of))
    return labels


def lines(path):
    with open(path) as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("label", [TOTAL, PER_ATOM])
def test_plain_difference(doped, tmp_path, label):
    done = formation_energies(doped, tmp_path / "new" / "f.csv", models={"graft": model_of(label)})
    rows = lines(tmp_path / "new" / "f.csv")
    assert [row["id"] for row in rows] == [
        f"{a}/{b}" for a in ("tight", "wide") for b in ("Fe_Ti(1)", "vac_O(1)")
    ]
    assert [row["pristine"] for row in rows] == ["tight/pristine"] * 2 + ["wide/pristine"] * 2
    assert [(row["removed"], row["added"], row["atoms"]) for row in rows] == [
        ("Ti", "Fe", "4"),
        ("O", "-", "3"),
    ] * 2
    # Iron for titanium costs 7 - 6, an oxygen 4.
    np.testing.assert_allclose([float(row["graft"]) for row in rows], [1.0, 4.0] * 2, atol=1e-9)
    assert {row["unit"] for row in rows} == {"eV"}
    assert not any("half_width" in name or "dft" in name for name in rows[0])
    assert (done.n, done.without_dft, done.mae, done.picture) == (4, [], {}, None)


def test_chemical_potentials(doped, tmp_path):
    potentials = {"O": -4.5, "Ti": -8.0, "Fe": -6.5, "Xe": 0.0}
    done = formation_energies(
        doped, tmp_path / "f.csv", models={"graft": model_of()}, chemical_potentials=potentials
    )
    # 1.0 - 8.0 + 6.5 and 4.0 - 4.5.
    np.testing.assert_allclose(done.columns["graft"], [-0.5, -0.5] * 2, atol=1e-9)


def test_a_network_is_asked_for_both_cells(doped, tmp_path):
    model, dataset = model_of(PER_ATOM, scale=0.5), Dataset.read(doped)
    done = formation_energies(doped, tmp_path / "f.csv", models={"graft": model})
    total = [len(atoms) * model.predict(atoms).values[0] for atoms in dataset]
    expected = [total[1] - total[0], total[2] - total[0], total[4] - total[3], total[5] - total[3]]
    np.testing.assert_allclose(done.columns["graft"], expected, atol=1e-9)
    assert abs(expected[0] - expected[2]) > 1e-3


def test_any_pair_of_cells_will_do(tmp_path):
    """Two defects in one cell, one that exchanges nothing, and a pristine cell that names itself."""
    cell = bulk("TiO", "rocksalt", a=4.2).repeat((2, 2, 1))
    twice, moved = cell.copy(), cell.copy()
    twice.symbols[[0, 2]] = "Fe"
    del twice[[1]]
    moved.positions[0] += 0.3
    data = Dataset.from_atoms([twice, cell, moved], ["a", "b", "c"], columns={"pristine": ["b", "b", "b"]})
    done = formation_energies(data, tmp_path / "f.csv", models={"graft": model_of()})
    assert done.columns["removed"] == ["O Ti2", "-"]
    assert done.columns["added"] == ["Fe2", "-"]
    np.testing.assert_allclose(done.columns["graft"], [4.0 + 2 * 1.0, 0.0], atol=1e-9)
    # Ids may be numbers, and the perfect crystal's entry blank.
    for atoms, info in zip((twice, cell, moved), ({"pristine": 2}, {}, {"pristine": 2}), strict=True):
        atoms.info = info
    for k, atoms in enumerate((twice, cell, moved), 1):
        atoms.info["id"] = k
    ase.io.write(tmp_path / "numbered.extxyz", [twice, cell, moved])
    again = formation_energies(tmp_path / "numbered.extxyz", tmp_path / "n.csv", models={"graft": model_of()})
    np.testing.assert_allclose(again.columns["graft"], done.columns["graft"], atol=1e-9)


def test_models_and_dft_side_by_side(doped, store, tmp_path, caplog):
    store |= {
        "tight/pristine": -22.0, "tight/Fe_Ti(1)": -20.75, "tight/vac_O(1)": -17.5,
        "wide/vac_O(1)": -17.0,
    }  # fmt: skip
    other = model_of(PER_ATOM, energies={"O": -5.0, "Ti": -7.0, "Fe": -7.0})
    with caplog.at_level(logging.WARNING):
        done = formation_energies(
            doped, tmp_path / "f.csv", models={"a": model_of(), "b": other}, store="labels.db"
        )
    rows = lines(tmp_path / "f.csv")
    assert [row["dft"] for row in rows] == ["1.25", "4.5", "", ""]
    assert [row["a_minus_dft"] for row in rows][2:] == ["", ""]
    np.testing.assert_allclose([float(row["a_minus_dft"]) for row in rows[:2]], [-0.25, -0.5], atol=1e-9)
    np.testing.assert_allclose([float(row["b_minus_dft"]) for row in rows[:2]], [-1.25, 0.5], atol=1e-9)
    assert done.mae == pytest.approx({"a": 0.375, "b": 0.875})
    assert done.without_dft == ["wide/Fe_Ti(1)", "wide/vac_O(1)"]
    assert (
        "2 of 4 defects have no DFT label of these settings, or their pristine cell has none: wide"
        in caplog.text
    )
    assert done.picture == tmp_path / "f.png"
    assert done.picture.is_file()
    assert done.table.rows[2][3:] == ("1.000", "0.000", None, None, None)


def test_dft_alone_and_without_any_label(doped, store, tmp_path):
    done = formation_energies(doped, tmp_path / "f.csv", store="labels.db")
    assert done.columns["dft"] == [None] * 4
    assert len(done.without_dft) == 4
    assert done.picture is None
    store |= {"wide/pristine": 1.0, "wide/Fe_Ti(1)": 3.0}
    assert formation_energies(doped, tmp_path / "f.csv", store="labels.db").columns["dft"] == [
        None,
        None,
        2.0,
        None,
    ]


def test_pseudopotentials_reach_the_store(doped, tmp_path, monkeypatch):
    def energies_of(place, dataset, protocol, pseudopotentials):
        assert pseudopotentials == "own"
        return np.arange(len(dataset), dtype=float)

    monkeypatch.setitem(sys.modules, "matgraft.dft.store", SimpleNamespace(energies_of=energies_of))
    done = formation_energies(doped, tmp_path / "f.csv", store="labels.db", pseudopotentials="own")
    assert done.columns["dft"] == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize("label", [TOTAL, PER_ATOM])
def test_half_widths_in_quadrature(crystals, doped, tmp_path, label):
    model = model_of(label, scale=0.3, energies={**ENERGIES, "V": -8.0})
    features = model.features(model.graphs(crystals))
    per_atom = np.linspace(0.01, 0.2, len(crystals))
    found = calibrated(crystals.composition(), features, per_atom, label)
    model = model.with_intervals(found)
    done = formation_energies(doped, tmp_path / "f.csv", models={"graft": model})
    dataset = Dataset.read(doped)
    found = model.predict(dataset)
    width = found.half_width * (1 if label is TOTAL else dataset.natoms)
    expected = [np.sqrt(width[i] ** 2 + width[k] ** 2) for i, k in ((1, 0), (2, 0), (4, 3), (5, 3))]
    np.testing.assert_allclose(done.columns["graft_half_width"], expected)
    assert done.columns["graft_strangeness"][1] == max(found.strangeness[0], found.strangeness[2])


def test_unseen_species_are_flagged(doped, tmp_path):
    model = model_of(energies={"O": -4.0, "Ti": -7.0})
    done = formation_energies(doped, tmp_path / "f.csv", models={"graft": model, "wise": model_of()})
    assert done.columns["graft_unseen_species"] == ["Fe", ""] * 2
    assert done.columns["graft_unreferenced_species"] == ["Fe", ""] * 2
    assert done.columns["wise_unseen_species"] == [""] * 4
    assert done.table.columns[-1] == "unseen species"


FORMED = Label("e_form_per_atom", "eV/atom", "atom")


def test_energies_from_the_elements_are_not_mixed_with_total_energies(doped, store, tmp_path):
    """They differ by the energy of the exchanged atoms in the pure elements, which nobody told us."""
    alone = formation_energies(doped, tmp_path / "f.csv", models={"formed": model_of(FORMED)})
    np.testing.assert_allclose(alone.columns["formed"], [1.0, 4.0] * 2, atol=1e-9)
    for options in ({"models": {"formed": model_of(FORMED), "total": model_of()}}, {"store": "labels.db"}):
        models = {"models": {"formed": model_of(FORMED)}} | options
        with pytest.raises(InputError, match=r"model formed: .*another zero"):
            formation_energies(doped, tmp_path / "g.csv", **models)
    assert not (tmp_path / "g.csv").exists()


def test_levels_of_theory_that_differ_are_warned_about(doped, store, tmp_path, caplog):
    models = {name: model_of(replace(TOTAL, level_of_theory=name)) for name in ("PBE", "SCAN")}
    with caplog.at_level(logging.WARNING):
        formation_energies(doped, tmp_path / "f.csv", models=models)
    assert "different levels of theory (PBE; SCAN)" in caplog.text
    caplog.clear()
    models = {"graft": model_of(replace(TOTAL, level_of_theory="PBE+U (Materials Project)"))}
    formation_energies(doped, tmp_path / "f.csv", models=models, store="labels.db")
    assert "different levels of theory (PBE+U (Materials Project); PBE, 96 Ry" in caplog.text
    caplog.clear()
    models = {"graft": model_of(replace(TOTAL, level_of_theory=str(PROTOCOLS["moderate"])))}
    formation_energies(doped, tmp_path / "f.csv", models=models, store="labels.db")
    assert "levels of theory" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither a model nor a store"),
        ({"models": {"gap": model_of(Label("gap", "eV", "intensive"))}}, "gap.*is not an energy in eV"),
        ({"models": {"ha": model_of(Label("energy", "Ha"))}}, "model ha: .*is not an energy in eV"),
        ({"models": {"hull": model_of(Label("e_above_hull", "eV/atom", "atom"))}}, "with a fixed zero"),
        ({"models": {"dft": model_of()}}, "cannot be called 'dft'"),
        ({"models": ["mp-schnet", "mp-schnet"]}, "one is named twice"),
        ({"models": ["nowhere"]}, "nowhere: no model here"),
        (
            {"models": {"graft": model_of()}, "chemical_potentials": {"O": -4.5}},
            r"no chemical potential of Ti, Fe, which tight/Fe_Ti\(1\), wide/Fe_Ti\(1\) exchange",
        ),
        (
            {"models": {"graft": model_of()}, "chemical_potentials": {"Oo": -4.5}},
            "'Oo': -4.5 is not an element",
        ),
        ({"models": {"graft": model_of()}, "chemical_potentials": {"O": np.nan}}, "finite energy"),
    ],
)
def test_what_cannot_be_done_is_said(doped, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        formation_energies(doped, tmp_path / "new" / "f.csv", **options)
    assert not (tmp_path / "new").exists()


def test_files_without_pairs_are_refused(crystals, doped, tmp_path):
    models, dataset = {"graft": model_of()}, Dataset.read(doped)
    with pytest.raises(InputError, match=r"salts.extxyz: no column 'pristine'.*matgraft dope"):
        formation_energies(crystals, tmp_path / "f.csv", models=models)
    with pytest.raises(InputError, match=r"pristine cell of wide/Fe_Ti\(1\), wide/vac_O\(1\) is missing"):
        formation_energies(dataset[[0, 1, 2, 4, 5]], tmp_path / "f.csv", models=models)
    with pytest.raises(InputError, match="no defects"):
        formation_energies(dataset[[0, 3]], tmp_path / "f.csv", models=models)
    with pytest.raises(InputError, match="in the way"):
        formation_energies(dataset, tmp_path, models=models)
    with pytest.raises(InputError, match=r"a picture beside it. Name it with \.csv"):
        formation_energies(dataset, tmp_path / "f.png", models=models)


def test_chemical_potentials_from_words_and_files(tmp_path):
    (tmp_path / "mu.json").write_text('{"O": -4.0, "Ti": -7}')
    words = [str(tmp_path / "mu.json"), "O=-4.95,Fe=-8"]
    assert read_potentials(words) == {"O": -4.95, "Ti": -7.0, "Fe": -8.0}
    (tmp_path / "bad.json").write_text("[1]")
    for word in ("O=much", "O", str(tmp_path / "bad.json")):
        with pytest.raises(InputError, match=r"neither a word such as O=-4\.95"):
            read_potentials([word])


def test_command_line(doped, tmp_path):
    model_of().save(tmp_path / "graft")
    potentials = ("--chemical-potential", "O=-4.5", "--chemical-potential", "mu.json")
    (tmp_path / "mu.json").write_text('{"Ti": -8, "Fe": -6.5}')
    result = run("formation-energy", doped, "--model", "graft", *potentials, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "-0.500" in result.stdout
    assert [float(row["graft"]) for row in lines(tmp_path / "formation.csv")] == pytest.approx([-0.5] * 4)
    result = run("formation-energy", doped, "--model", "graft", "--json", folder=tmp_path)
    assert json.loads(result.stdout) == {
        "n": 4, "without_dft": [], "mae": {}, "out": "formation.csv", "picture": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "mp-schnet-multi:band_gap_pbe"), "is not an energy in eV"),
        (
            ("--model", "mp-schnet-total-energy", "--chemical-potential", "O=-4"),
            "no chemical potential of Ti",
        ),
        ((), "--model or --store"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_nothing(doped, tmp_path, options, message):
    result = run("formation-energy", doped, *options, folder=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_written_labels_are_no_energies_of_defects(tmp_path):
    """Labels of the parent do not follow into other cells."""
    data = Dataset.from_atoms([bulk("TiO", "rocksalt", a=4.2)], ["a"], {"energy": [-1.0]})
    write(data, tmp_path / "a.extxyz")
    dope(tmp_path / "a.extxyz", tmp_path / "b.extxyz", vacancies=["O"])
    assert not Dataset.read(tmp_path / "b.extxyz").labels
