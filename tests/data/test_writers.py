from __future__ import annotations

from dataclasses import replace

import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from matgraft.data import Dataset, Label, catalogue
from matgraft.data.readers import read
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.jobs.data import info

NAMES = ["out.xyz", "out.extxyz", "out.db", "out.dataset", "out"]


def assert_equal(a: Dataset, b: Dataset) -> None:
    assert a.ids.tolist() == b.ids.tolist()
    assert a.labels.keys() == b.labels.keys()
    assert a.columns.keys() == b.columns.keys()
    for name in a.labels:
        assert np.array_equal(a.labels[name], b.labels[name], equal_nan=True), name
        assert a.specs[name] == b.specs[name]
    for name, column in a.columns.items():
        assert column.tolist() == b.columns[name].tolist()
        assert column.dtype.kind.replace("u", "i") == b.columns[name].dtype.kind.replace("u", "i")
    assert a.content_hash(*a.labels) == b.content_hash(*b.labels)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(dataset, tmp_path, name):
    dataset = dataset.with_label(
        "e/odd name", [1.0, 2.5, np.nan], Label("e/odd name", "GPa", "intensive", "PBE", "x")
    )
    write(dataset, tmp_path / name)
    assert_equal(read(tmp_path / name), dataset)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.xyz", "out.db"])
def test_round_trip_of_real_data(tmp_path, name):
    ds = catalogue.load("tmo-oxides")[:60]
    write(ds, tmp_path / name)
    assert_equal(read(tmp_path / name, target="energy"), ds)


@pytest.mark.parametrize("name", ["out.xyz", "out.db"])
def test_partial_periodicity_survives(dataset, tmp_path, name):
    atoms = dataset.atoms(1)
    atoms.pbc = (True, False, True)
    lone = dataset.atoms(0)
    lone.cell, lone.pbc = None, False
    ds = Dataset.from_atoms([atoms, lone])
    write(ds, tmp_path / name)
    assert_equal(read(tmp_path / name), ds)


@pytest.mark.parametrize("name", NAMES)
def test_magnetic_moments_survive(dataset, tmp_path, name):
    up_and_down = dataset.atoms(2)
    up_and_down.set_initial_magnetic_moments([2.5, -2.5])
    ds = Dataset.concatenate([dataset[:2], Dataset.from_atoms([up_and_down], ["both ways"])])[[2, 0]]
    assert ds.atoms(0).get_initial_magnetic_moments().tolist() == [2.5, -2.5]
    assert not ds.atoms(1).has("initial_magmoms")
    write(ds, tmp_path / name)
    again = read(tmp_path / name)
    assert again.moments.tolist() == ds.moments.tolist()
    assert again[[1]].content_hash() == dataset[[0]].content_hash()
    if name.endswith("xyz"):
        foreign = ase.io.read(tmp_path / name, index=0)
        assert foreign.get_initial_magnetic_moments().tolist() == [2.5, -2.5]
        ase.io.write(tmp_path / "foreign.extxyz", foreign)
        assert read(tmp_path / "foreign.extxyz").moments.tolist() == [2.5, -2.5]


def test_moments_with_a_direction_are_left_out_with_a_word(dataset, caplog):
    atoms = dataset.atoms(0)
    atoms.set_initial_magnetic_moments([[0, 0, 1], [0, 1, 0]])
    assert Dataset.from_atoms([atoms, dataset.atoms(1)], ["tilted", "plain"]).moments is None
    assert "1 structures, first tilted, have a direction" in caplog.text


def test_ase_reads_the_extended_xyz(dataset, tmp_path):
    write(dataset, tmp_path / "out.xyz")
    frames = ase.io.read(tmp_path / "out.xyz", index=":")
    assert [atoms.get_potential_energy() for atoms in frames] == dataset.labels["energy"].tolist()
    for atoms, own in zip(frames, dataset, strict=True):
        assert np.allclose(atoms.cell, own.cell)
        assert np.allclose(atoms.positions, own.positions)
        assert (atoms.pbc == own.pbc).all()
        assert (atoms.numbers == own.numbers).all()


def test_ase_queries_the_database(dataset, tmp_path):
    write(dataset, tmp_path / "out.db")
    (row,) = ase.db.connect(tmp_path / "out.db").select("gap>1")
    assert row.energy == dataset.labels["energy"][0]


@pytest.mark.parametrize("name", ["out.xyz", "out.db"])
def test_ase_reads_the_forces(dataset, tmp_path, name):
    ds = replace(dataset, forces=np.random.default_rng(0).normal(size=dataset.positions.shape))
    write(ds, tmp_path / name)
    frames = ase.io.read(tmp_path / name, index=":")
    assert np.array_equal(np.concatenate([atoms.get_forces() for atoms in frames]), ds.forces)
    assert [atoms.get_potential_energy() for atoms in frames] == dataset.labels["energy"].tolist()
    # What ASE writes of its own is read, too.
    for other in ("foreign.extxyz", "foreign.db"):
        ase.io.write(tmp_path / other, frames)
        np.testing.assert_allclose(read(tmp_path / other).forces, ds.forces, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_forces_of_some_structures(dataset, tmp_path, name):
    """Structures without, among others with forces, stay without; parts and selections carry them."""
    atoms = dataset.atoms(0)
    atoms.calc = SinglePointCalculator(atoms, forces=np.arange(3.0 * len(atoms)).reshape(-1, 3))
    bare = dataset.atoms(1)
    moved = atoms.copy()
    moved.calc = SinglePointCalculator(atoms, forces=np.zeros((len(atoms), 3)))
    moved.rattle(0.1)
    ds = Dataset.from_atoms([bare, atoms, moved], ["bare", "known", "stale"])
    write(Dataset.concatenate([ds[:1], ds[1:]]), tmp_path / name)
    again = read(tmp_path / name)[[1, 0, 2]]
    first, *_ = np.split(again.forces, again.offsets[1:-1])
    assert np.array_equal(first, atoms.get_forces())
    assert np.isnan(again.forces[again.offsets[1] :]).all()
    assert read(tmp_path / name)[:1].forces.shape == (len(bare), 3)
    assert info(tmp_path / name)["with_forces"] == 1
    assert read(tmp_path / name).has_forces.tolist() == [False, True, False]
    write(dataset, tmp_path / name)
    assert read(tmp_path / name).forces is None


@pytest.mark.parametrize("name", NAMES)
def test_writing_again_replaces(dataset, tmp_path, name):
    write(dataset, tmp_path / name)
    write(dataset[:1], tmp_path / name)
    assert len(read(tmp_path / name)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.xyz", "out.db", "out"])
def test_failure_leaves_what_was_there(dataset, tmp_path, name, monkeypatch):
    write(dataset, tmp_path / name)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("matgraft.data.writers._values", fail)
    monkeypatch.setattr("json.dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        write(dataset[:1], tmp_path / name)
    monkeypatch.undo()
    assert_equal(read(tmp_path / name), dataset)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_unknown_extension(dataset, tmp_path):
    with pytest.raises(InputError, match=r"out.foo: cannot write .foo files. Use .xyz"):
        write(dataset, tmp_path / "out.foo")


def test_foreign_folder_is_not_replaced(dataset, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match="in the way"):
        write(dataset, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").exists()
