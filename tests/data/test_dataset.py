"""What a data set holds, saves and joins."""

from __future__ import annotations

import dataclasses
import gzip

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.db import connect

from matgraft.data import Dataset, Label
from matgraft.data.readers import _with_target
from matgraft.data.splits import keep_where
from matgraft.data.writers import write
from matgraft.errors import InputError


@pytest.fixture(scope="module")
def oxides() -> Dataset:
    return Dataset.read("tmo-oxides-clean", target="energy")[:8]


def test_saving_into_the_folder_that_was_loaded_keeps_the_data(oxides, tmp_path):
    oxides.save(tmp_path / "set")
    loaded = Dataset.load(tmp_path / "set")
    loaded.with_label("twice", 2 * loaded.values("energy")).save(tmp_path / "set")
    again = Dataset.load(tmp_path / "set")
    np.testing.assert_array_equal(again.values("twice"), 2 * oxides.values("energy"))
    np.testing.assert_array_equal(again.positions, oxides.positions)


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        ("REF_energy", "cell", "eV"), ("E_DFT", "cell", "eV"), ("energy_pbe", "cell", "eV"),
        ("total energy", "cell", "eV"), ("e_per_cell", "cell", "eV"), ("formation_energy", "atom", "eV/atom"),
        ("formation_energy_per_atom", "atom", "eV/atom"), ("energy_above_hull", "atom", "eV/atom"),
        ("mag_per_atom", "atom", ""), ("surface_energy", "intensive", ""), ("energy_gap", "intensive", "eV"),
        ("formation_energy_per_cell", "cell", "eV"), ("energy_ha", "cell", "Ha"),
        ("total energy (Ry)", "cell", "Ry"), ("energy_rydberg", "cell", "Ry"),
        ("energy_mev_per_atom", "atom", "meV/atom"),
        ("energy (eV/atom)", "atom", "eV/atom"), ("Energy per atom", "atom", "eV/atom"),
        ("E (eV/atom)", "atom", "eV/atom"), ("energy_atom", "atom", "eV/atom"), ("n_atoms", "intensive", ""),
        ("energy (J)", "cell", "J"), ("vacancy_formation_energy", "intensive", ""),
        ("formation_energy_per_fu", "intensive", ""), ("atomization_energy", "atom", "eV/atom"),
        ("e_form", "atom", "eV/atom"), ("e_11", "intensive", ""), ("poisson", "intensive", ""),
    ],
)  # fmt: skip
def test_meaning_that_a_name_suggests(name, kind, unit):
    assert Label.guess(name) == Label(name, unit, kind)


@pytest.mark.parametrize(
    ("unit", "kind", "energy"),
    [
        ("eV", "cell", True),
        ("eV/atom", "atom", True),
        ("eV", "intensive", False),
        ("meV/atom", "atom", False),
        ("eV/A^3", "cell", False),
    ],
)
def test_energies_are_in_electronvolts_and_grow_with_the_cell(unit, kind, energy):
    assert Label("e", unit, kind).is_energy == energy


def test_whole_numbers_join_the_label_of_another_part(oxides):
    first = oxides[:2].with_label("y", np.array([0.5, 1.5]))
    second = dataclasses.replace(oxides[2:4], columns={**oxides[2:4].columns, "y": np.array([0, 2])})
    for parts in ([first, second], [second, first]):
        joined = Dataset.concatenate(parts)
        assert sorted(joined.values("y")) == [0.0, 0.5, 1.5, 2.0]
        assert "y" not in joined.columns


@pytest.mark.parametrize(
    ("unit", "other"),
    [("Ha", "Ha"), ("Ry/atom", "Ry"), ("meV/atom", "meV"), ("eV", None), ("eV/atom", None), ("GPa", None)],
)
def test_energies_in_another_unit_than_the_sources_are_known(unit, other):
    assert Label("energy", unit).other_energy_unit == other


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Label("energy", "Ha"), "per cell (eV) in .* but per cell (Ha)"),
        (Label("energy", "eV/atom", "atom"), "per cell (eV) in .* but per atom (eV/atom)"),
        (Label("energy", level_of_theory="SCAN"), "by PBE in .* but by SCAN"),
    ],
)
def test_labels_of_another_meaning_do_not_join(oxides, other, words):
    values = oxides.values("energy")
    first = oxides.with_label("energy", values, Label("energy", level_of_theory="PBE"))
    match = words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=match):
        Dataset.concatenate([first, oxides.with_label("energy", values, other)])
    alike = oxides.with_label("energy", values, Label("energy"))
    assert len(Dataset.concatenate([first, alike])) == 2 * len(oxides)


def test_the_hash_changes_with_all_that_decides(oxides):
    slab, moved, shifted = oxides.pbc.copy(), oxides.positions.copy(), oxides.values("energy").copy()
    slab[0, 2], moved[0, 0], shifted[0] = False, moved[0, 0] + 1e-9, shifted[0] + 1e-9
    values = oxides.values("energy")
    others = [
        dataclasses.replace(oxides, pbc=slab),
        dataclasses.replace(oxides, positions=moved),
        dataclasses.replace(oxides, cells=1.001 * oxides.cells),
        dataclasses.replace(oxides, numbers=oxides.numbers + 1),
        oxides.with_label("energy", shifted, oxides.specs["energy"]),
        oxides.with_label("energy", values, Label("energy", "Ha")),
        oxides.with_label("energy", values, Label("energy", "eV/atom", "atom")),
    ]
    hashes = {one.content_hash("energy") for one in [oxides, *others]}
    assert len(hashes) == 1 + len(others)
    named = dataclasses.replace(oxides, ids=oxides.ids[::-1], source="elsewhere")
    assert named.content_hash("energy") == oxides.content_hash("energy")


def test_id_columns_beside_an_id_of_our_own_come_back(oxides, tmp_path):
    named = dataclasses.replace(
        oxides[:3], columns={"material_id": np.array(["a", "b", "c"]), "name": np.array(["x", "x", "x"])}
    )
    for file in ("set.db", "set.extxyz"):
        write(named, tmp_path / file)
        again = Dataset.read(tmp_path / file)
        assert again.ids.tolist() == named.ids.tolist()
        assert {name: values.tolist() for name, values in again.columns.items()} == {
            name: values.tolist() for name, values in named.columns.items()
        }


def test_numbered_poscars_are_told_apart(tmp_path):
    for name in ("POSCAR.1", "POSCAR.2", "fe.vasp"):
        ase.io.write(tmp_path / name, bulk("Fe"), format="vasp")
    ase.io.write(tmp_path / "POSCAR_mp-1.cif", bulk("Fe"), format="cif")
    (tmp_path / "v.vasp.GZ").write_bytes(gzip.compress((tmp_path / "fe.vasp").read_bytes()))
    write(Dataset.from_atoms([bulk("V")], ["x"]), tmp_path / "x.xyz")
    (tmp_path / "X.xyz.GZ").write_bytes(gzip.compress((tmp_path / "x.xyz").read_bytes()))
    (tmp_path / "x.xyz").unlink()
    found = sorted(Dataset.read(tmp_path).ids)
    assert found == ["POSCAR.1", "POSCAR.2", "POSCAR_mp-1", "fe", "v", "x"]
    (tmp_path / "gone.cif").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"gone\.cif: cannot be read"):
        Dataset.read(tmp_path)


def test_names_that_rows_share_do_not_name_them(tmp_path):
    database = connect(tmp_path / "a.db")
    for name, a in (("TiO", 4.1), ("TiO", 4.2), ("FeO", 4.3)):
        database.write(bulk(name, "rocksalt", a=a), name=name)
    read = Dataset.read(tmp_path / "a.db")
    assert read.ids.tolist() == ["a-1", "a-2", "a-3"]
    assert read.columns["name"].tolist() == ["TiO", "TiO", "FeO"]
    database = connect(tmp_path / "b.db")
    for k in range(3):
        database.write(bulk("TiO", "rocksalt", a=4.1 + k), material_id="mp-1", uid=f"u{k}")
    assert Dataset.read(tmp_path / "b.db").ids.tolist() == ["u0", "u1", "u2"]


def test_columns_of_numbers_can_be_the_target(oxides):
    for values in (np.arange(8.0), np.arange(8.0).astype(str), np.arange(8)):
        columns = dataclasses.replace(oxides, columns={"y": values})
        assert _with_target(columns, "y", None, None).values("y").tolist() == list(range(8))


def test_conditions_on_names_with_spaces_and_on_whole_numbers(oxides):
    named = dataclasses.replace(oxides, columns={"bulk modulus (GPa)": np.arange(8.0), "rank": np.arange(8)})
    assert keep_where(named, ["bulk modulus (GPa) < 3"]).sum() == 3
    assert keep_where(named, ["rank>=2.5", "bulk modulus (GPa)<=6"]).sum() == 4


def test_conditions_on_flags(oxides):
    flagged = dataclasses.replace(oxides, columns={"good": np.arange(8) < 3})
    for condition, kept in (("good==True", 3), ("good==false", 5), ("good==0", 5), ("good==1", 3)):
        assert keep_where(flagged, [condition]).sum() == kept
    with pytest.raises(InputError, match="'maybe' is not a value of good"):
        keep_where(flagged, ["good==maybe"])


@pytest.mark.parametrize("pbc", ["1 1 0", "[True, True, False]", ".true. .true. .false.", "t T F"])
def test_spellings_of_periodic_directions(tmp_path, pbc):
    (tmp_path / "a.xyz").write_text(f'1\nLattice="3 0 0 0 3 0 0 0 3" pbc="{pbc}"\nFe 0 0 0\n')
    assert Dataset.read(tmp_path / "a.xyz").pbc[0].tolist() == [True, True, False]


@pytest.mark.parametrize("pbc", ["T T", "x y z", ""])
def test_periodic_directions_that_are_none(tmp_path, pbc):
    (tmp_path / "a.xyz").write_text(f'1\nLattice="3 0 0 0 3 0 0 0 3" pbc="{pbc}"\nFe 0 0 0\n')
    with pytest.raises(InputError, match=r"a\.xyz.*pbc is .*three of T and F"):
        Dataset.read(tmp_path / "a.xyz")


def test_a_line_separator_in_a_comment_ends_no_line(tmp_path):
    (tmp_path / "a.xyz").write_text('1\nid="a\u2028b"\nFe 0 0 0\n', encoding="utf-8")
    assert Dataset.read(tmp_path / "a.xyz").ids.tolist() == ["a\u2028b"]


def test_the_value_that_is_no_number_is_named(tmp_path):
    frames = "".join(f"1\nid=s{k} energy={'-1,5' if k == 2 else -1.5}\nFe 0 0 0\n" for k in range(4))
    (tmp_path / "a.xyz").write_text(frames)
    with pytest.raises(InputError, match="structure s2 has '-1,5'"):
        Dataset.read(tmp_path / "a.xyz", "energy")


def test_capital_extensions_of_cif_files(tmp_path):
    ase.io.write(tmp_path / "m0.CIF", bulk("Fe", cubic=True), format="cif")
    (tmp_path / "id_prop.csv").write_text("m0,1.5\n")
    assert Dataset.read(tmp_path).ids.tolist() == ["m0"]
