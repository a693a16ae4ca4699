"""Inequivalent sites against crystallography, against brute force, and through files."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

from matgraft.data import Dataset
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.jobs.dope import SHOWN, dope
from matgraft.screening.dope import doped, pristine

MGO = bulk("MgO", "rocksalt", a=4.21)
RUTILE = crystal(
    ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
)
PEROVSKITE = crystal(
    ["Sr", "Ti", "O"],
    [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0)],
    spacegroup=221,
    cellpar=[3.905] * 3 + [90] * 3,
)
BADDELEYITE = crystal(
    ["Zr", "O", "O"],
    [(0.275, 0.040, 0.208), (0.070, 0.332, 0.345), (0.449, 0.757, 0.479)],
    spacegroup=14,
    cellpar=[5.150, 5.212, 5.317, 90, 99.23, 90],
)
TRICLINIC = crystal(
    ["V", "V", "O", "O", "O"],
    [(0.11, 0.23, 0.31), (0.5, 0.5, 0.5), (0.40, 0.08, 0.22), (0.05, 0.62, 0.18), (0.71, 0.44, 0.09)],
    spacegroup=2,
    cellpar=[5.1, 5.9, 6.7, 81, 97, 104],
)


def fingerprint(atoms):
    """Numbers that equal crystals share, whatever the order of atoms, the axes and the origin."""
    reach = 7.0
    i, j, d = neighbor_list("ijd", atoms, reach)
    z = atoms.numbers.astype(float)
    found = []
    for width in (1.0, 2.0, 4.0):
        weight = np.exp(-((d / width) ** 2)) * np.cos(np.pi * d / reach / 2) ** 2
        around = np.bincount(i, z[j] * weight, len(atoms))
        found += [(z**p * around**q).sum() for p in (0, 1) for q in (1, 2, 3)]
    return np.asarray(found)


def by_brute_force(atoms, supercell, element):
    """Sizes of the classes of equal cells among all substitutions of an element by gold."""
    perfect = pristine(atoms, supercell)
    classes, sizes = [], []
    for site in np.flatnonzero(perfect.symbols == element):
        changed = perfect.copy()
        changed.symbols[site] = "Au"
        found = fingerprint(changed)
        equal = [k for k, other in enumerate(classes) if np.allclose(found, other, rtol=1e-8)]
        if equal:
            sizes[equal[0]] += 1
        else:
            classes.append(found)
            sizes.append(1)
    return sorted(sizes)


def test_rock_salt_has_one_site_of_each_element():
    found = doped(MGO, (2, 2, 2), {"Mg": ["Fe", "Zn"]}, ["O"])
    assert [one.name for one in found] == ["Fe_Mg(1)", "Zn_Mg(1)", "vac_O(1)"]
    assert [one.multiplicity for one in found] == [8, 8, 8]
    assert [one.atoms.get_chemical_formula() for one in found] == ["FeMg7O8", "Mg7O8Zn", "Mg8O7"]
    assert [(one.removed, one.added) for one in found] == [("Mg", "Fe"), ("Mg", "Zn"), ("O", "")]


def test_only_the_site_changes():
    perfect = pristine(RUTILE, (2, 1, 2))
    (iron,) = doped(RUTILE, (2, 1, 2), {"Ti": ["Fe"]})
    np.testing.assert_array_equal(iron.atoms.positions, perfect.positions)
    assert np.flatnonzero(iron.atoms.numbers != perfect.numbers).tolist() == [iron.site]
    (vacancy,) = doped(RUTILE, (2, 1, 2), vacancies=["O"])
    np.testing.assert_array_equal(vacancy.atoms.positions, np.delete(perfect.positions, vacancy.site, axis=0))
    np.testing.assert_array_equal(vacancy.atoms.cell.array, perfect.cell.array)
    assert perfect.symbols[vacancy.site] == "O"


def test_wyckoff_letters_of_rutile():
    iron, vacancy = doped(RUTILE, (1, 1, 1), {"Ti": ["Fe"]}, ["O"])
    assert (iron.wyckoff, iron.multiplicity) == ("a", 2)
    assert (vacancy.wyckoff, vacancy.multiplicity) == ("f", 4)


@pytest.mark.parametrize(
    ("supercell", "expected"),
    [((1, 1, 1), [3]), ((2, 1, 1), [2, 4]), ((2, 2, 1), [4, 8]), ((3, 2, 1), [6] * 3)],
)
def test_a_supercell_that_is_no_cube_tells_sites_of_a_cubic_crystal_apart(supercell, expected):
    found = doped(PEROVSKITE, supercell, vacancies=["O"])
    assert sorted(one.multiplicity for one in found) == expected
    assert {one.wyckoff for one in found} == {"d"}


@pytest.mark.parametrize("supercell", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize(
    ("atoms", "element"),
    [(MGO, "O"), (RUTILE, "O"), (PEROVSKITE, "O"), (BADDELEYITE, "O"), (TRICLINIC, "V"), (TRICLINIC, "O")],
)
def test_brute_force_finds_the_same_sites(atoms, element, supercell):
    found = doped(atoms, supercell, {element: ["Au"]})
    assert sorted(one.multiplicity for one in found) == by_brute_force(atoms, supercell, element)


@pytest.mark.parametrize("atoms", [MGO, RUTILE, PEROVSKITE, BADDELEYITE, TRICLINIC])
def test_multiplicities_add_up_to_the_sites(atoms):
    elements = sorted(atoms.symbols.species())
    found = doped(atoms, (2, 1, 1), vacancies=elements)
    for element in elements:
        counted = sum(one.multiplicity for one in found if one.removed == element)
        assert counted == 2 * (atoms.symbols == element).sum()
    assert len({one.name for one in found}) == len(found)


@pytest.mark.parametrize("atoms", [RUTILE, PEROVSKITE, BADDELEYITE, TRICLINIC])
def test_axes_order_and_origin_do_not_matter(atoms):
    rng = np.random.default_rng(0)
    turned = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)[rng.permutation(len(atoms))]
    turned.rotate(37.0, rng.normal(size=3), rotate_cell=True)
    turned.translate(rng.normal(size=3))
    turned.wrap()
    turned.positions += rng.integers(-2, 3, (len(turned), 3)) @ turned.cell.array

    def sites(structure):
        found = doped(structure, (1, 2, 1), vacancies=sorted(atoms.symbols.species()))
        return sorted(
            (one.removed, one.multiplicity, tuple(np.round(fingerprint(one.atoms), 4))) for one in found
        )

    mine, theirs = sites(atoms), sites(turned)
    assert [one[:2] for one in mine] == [one[:2] for one in theirs]
    np.testing.assert_allclose([one[2] for one in mine], [one[2] for one in theirs], atol=1e-3)


def test_magnetic_moments_and_small_noise_do_not_matter():
    magnetic = MGO.repeat((1, 1, 2))
    magnetic.set_initial_magnetic_moments([2, 0, -2, 0])
    magnetic.positions += np.random.default_rng(0).uniform(-0.001, 0.001, magnetic.positions.shape)
    (only,) = doped(magnetic, (1, 1, 1), {"Mg": ["Fe"]})
    assert only.multiplicity == 2
    assert not only.atoms.has("initial_magmoms")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 1, 1), {"Ti": ["Fe"]}), "MgO: no Ti in it to take away; there is Mg, O"),
        (((1, 1, 1), {"Mg": ["Xx"]}), "'Xx' is no element"),
        (((1, 1, 1), {"Mg": ["X"]}), "'X' is no element"),
        (((1, 1, 1), {"Mg": ["Mg"]}), "Mg in place of Mg changes nothing"),
        (((1, 1, 1),), "neither a substitution nor a vacancy"),
        (((1, 1, 1), {"Mg": []}), "neither a substitution nor a vacancy"),
        (((1, 1), {"Mg": ["Fe"]}), "1 x 1 cannot be made.*three whole numbers"),
        (((1, 0, 1), {"Mg": ["Fe"]}), "three whole numbers"),
        (((1, 1.5, 1), {"Mg": ["Fe"]}), "three whole numbers"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, message):
    with pytest.raises(InputError, match=message):
        doped(MGO, *arguments)


def test_what_is_no_crystal_is_refused():
    with pytest.raises(InputError, match="water: not a crystal"):
        doped(Atoms("OH2", np.eye(3)), (1, 1, 1), vacancies=["O"], name="water")
    with pytest.raises(InputError, match="only atom"):
        doped(bulk("Fe"), (1, 1, 1), vacancies=["Fe"])
    assert len(doped(bulk("Fe"), (2, 1, 1), vacancies=["Fe"])) == 1


@pytest.mark.parametrize("failure", ["none", "raised"])
def test_symmetry_that_cannot_be_found_names_the_structure(monkeypatch, failure):
    """Releases of spglib up to 2.8 return None, later ones raise an error."""

    def fail(*_, **__):
        if failure == "raised":
            raise RuntimeError("too close distance between atoms")

    monkeypatch.setattr(spglib, "get_symmetry_dataset", fail)
    with pytest.raises(InputError, match=r"odd: its symmetry cannot be found \(.*atoms"):
        doped(MGO, (1, 1, 1), vacancies=["O"], name="odd")


# ------------------------------------------------------------------------------------------------- files


@pytest.fixture
def oxides(tmp_path):
    path = tmp_path / "oxides.extxyz"
    structures = [MGO, RUTILE, BADDELEYITE]
    write(Dataset.from_atoms(structures, ["mgo", "rutile", "zro2"], {"energy": [-1.0, -2.0, -3.0]}), path)
    return path


@pytest.mark.parametrize("name", ["out.extxyz", "out.db", "out"])
def test_file_of_pristine_and_doped_cells(oxides, tmp_path, name):
    done = dope(oxides, tmp_path / name, substitute={"Ti": ["Fe"]}, vacancies=["O"], supercell=(2, 1, 1))
    found = Dataset.read(tmp_path / name)
    assert found.ids.tolist() == [
        "mgo/pristine", "mgo/vac_O(1)", "rutile/pristine", "rutile/Fe_Ti(1)", "rutile/vac_O(1)",
        "zro2/pristine", "zro2/vac_O(1)", "zro2/vac_O(2)",
    ]  # fmt: skip
    assert (done.n_pristine, done.n_doped) == (3, 5)
    columns = {key: found.columns[key].tolist() for key in ("pristine", "removed", "added")}
    assert columns["pristine"] == [
        "",
        "mgo/pristine",
        "",
        *["rutile/pristine"] * 2,
        "",
        *["zro2/pristine"] * 2,
    ]
    assert columns["removed"] == ["-", "O", "-", "Ti", "O", "-", "O", "O"]
    assert columns["added"] == ["-", "-", "-", "Fe", "-", "-", "-", "-"]
    np.testing.assert_array_equal(found.columns["multiplicity"], [np.nan, 2, np.nan, 4, 8, np.nan, 8, 8])
    sites = found.columns["site"]
    assert np.isnan(sites[[0, 2, 5]]).all()
    assert found.atoms(2).symbols[int(sites[3])] == "Ti"
    assert found.natoms.tolist() == [4, 3, 12, 12, 11, 24, 23, 23]
    assert not found.labels
    assert [row[0] for row in done.table.rows] == found.ids.tolist()


@pytest.mark.parametrize("name", ["out.extxyz", "out.db"])
@pytest.mark.parametrize(("removed", "added"), [("O", "F"), ("Mg", "Na")])
def test_elements_that_look_like_truth_values_and_blanks_survive(oxides, tmp_path, name, removed, added):
    dope(Dataset.read(oxides)[:1], tmp_path / name, substitute={removed: [added]})
    found = Dataset.read(tmp_path / name)
    assert found.columns["added"].tolist() == ["-", added]
    assert found.columns["removed"].tolist() == ["-", removed]


def test_a_long_table_is_cut(tmp_path):
    many = Dataset.from_atoms([MGO] * SHOWN)
    table = dope(many, tmp_path / "out.extxyz", vacancies=["O"]).table
    assert len(table.rows) == SHOWN
    assert table.caption == f"{SHOWN} more in {tmp_path / 'out.extxyz'}"


def test_one_structure_without_any_of_the_elements(oxides, tmp_path):
    with pytest.raises(InputError, match="structure mgo has no Ti or Zr, only Mg, O"):
        dope(oxides, tmp_path / "new" / "out.extxyz", substitute={"Ti": ["Fe"]}, vacancies=["Zr"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--substitute", "Cr:Fe", "--vacancy", "O"), "no Cr in any structure"),
        (("--substitute", "Ti"), "such as Ti:Fe,V"),
        (("--substitute", "O:Qq", "--supercell", "2x2x1"), "structure mgo: 'Qq' is no element"),
        (("--vacancy", "O", "--supercell", "big"), "three whole numbers"),
        (("--vacancy", "O", "--supercell", "999x999x999"), "atoms, more than 100,000. Take a smaller one"),
        ((), "neither a substitution nor a vacancy"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_nothing(oxides, tmp_path, options, message):
    result = run("dope", oxides, *options, "--out", tmp_path / "new" / "out.extxyz")
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "new").exists()


def test_command_line(oxides, tmp_path):
    options = ("--substitute", "Ti:Fe,V", "--substitute", "Zr:Hf", "--vacancy", "O", "--supercell", "1x1x2")
    result = run("dope", oxides, *options, "--out", tmp_path / "out.db")
    assert result.returncode == 0, result.stderr
    assert "V_Ti(1)" in result.stdout
    assert "7 doped cells of 3 crystals" in result.stdout
    assert len(Dataset.read(tmp_path / "out.db")) == 10


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "matgraft", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
