from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.spacegroup import Spacegroup, crystal

from matgraft.data import Dataset
from matgraft.data.formats.pymatgen import atoms_from_dict
from matgraft.data.readers import read
from matgraft.data.writers import write
from matgraft.errors import InputError


def refused(path, *words: str, **options) -> None:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    for word in words:
        assert word in str(caught.value)


def same_crystal(a: Atoms, b: Atoms, tolerance: float = 1e-4) -> bool:
    """Whether two cells hold the same atoms, in any order and modulo lattice translations."""
    if len(a) != len(b) or not np.allclose(a.cell, b.cell, atol=tolerance):
        return False
    difference = a.get_scaled_positions()[:, None] - b.get_scaled_positions()[None]
    distance = np.linalg.norm((difference - np.round(difference)) @ a.cell.array, axis=-1)
    match = (distance < tolerance) & (a.numbers[:, None] == b.numbers[None])
    return bool((match.sum(axis=0) == 1).all() and (match.sum(axis=1) == 1).all())


def as_dict(atoms: Atoms) -> dict:
    """What pymatgen's ``Structure.as_dict`` gives."""
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "lattice": {"matrix": atoms.cell.tolist(), "pbc": [True, True, True]},
        "sites": [
            {"species": [{"element": symbol, "occu": 1}], "abc": abc.tolist(), "label": symbol}
            for symbol, abc in zip(atoms.symbols, atoms.get_scaled_positions(wrap=False), strict=True)
        ],
    }


# ------------------------------------------------------------------ extended XYZ


def test_extended_xyz_as_ase_writes_it(salts, tmp_path):
    for i, atoms in enumerate(salts):
        atoms.calc = SinglePointCalculator(atoms, energy=-i - 1, forces=np.zeros((len(atoms), 3)))
        atoms.info = {"gap": 0.5 * i, "step": i, "spin": i == 1, "origin": f"run {i}", "stress": np.zeros(6)}
        atoms.info["virial"] = np.eye(3)
    ase.io.write(tmp_path / "train.xyz", salts)
    ds = read(tmp_path / "train.xyz", target="energy")
    assert ds.ids.tolist() == ["train-0", "train-1", "train-2"]
    assert ds.labels["energy"].tolist() == [-1, -2, -3]
    assert ds.labels["gap"].tolist() == [0, 0.5, 1]
    assert ds.columns["step"].tolist() == [0, 1, 2]
    assert ds.columns["spin"].tolist() == [False, True, False]
    assert ds.columns["origin"].tolist() == ["run 0", "run 1", "run 2"]
    assert set(ds.labels) == {"energy", "gap"}
    assert set(ds.columns) == {"step", "spin", "origin"}
    for own, atoms in zip(ds, salts, strict=True):
        assert np.allclose(own.positions, atoms.positions)
        assert np.allclose(own.cell, atoms.cell)
        assert (own.pbc == atoms.pbc).all()
        assert (own.numbers == atoms.numbers).all()


@pytest.mark.parametrize("key", ["id", "material_id"])
def test_ids_stay_text(tmp_path, key):
    (tmp_path / "a.xyz").write_text(f'1\nLattice="3 0 0 0 3 0 0 0 3" {key}=0012 energy=-1\nFe 0 0 0\n\n')
    ds = read(tmp_path / "a.xyz", target="energy")
    assert ds.ids.tolist() == ["0012"]
    assert key not in ds.columns
    assert ds.labels["energy"].tolist() == [-1]


def test_text_stays_text_whatever_it_looks_like(tmp_path):
    """T and F are also boolean, Na is also a blank, 0012 also a number, and 1 2 3 also an array."""
    columns = {
        "anion": ["F", "F"],
        "cation": ["Na", "Na"],
        "either": ["F", "T"],
        "code": ["0012", "7"],
        "path": ["1 2 3", "4 5 6"],
        "none": ["None", "nan"],
    }
    ds = Dataset.from_atoms([bulk("Fe"), bulk("Cu")], labels={"energy": [-1.0, -2.0]}, columns=columns)
    write(ds, tmp_path / "own.xyz")
    again = read(tmp_path / "own.xyz", target="energy")
    assert {name: column.tolist() for name, column in again.columns.items()} == columns
    assert again.labels["energy"].tolist() == [-1, -2]


def test_quotes_of_other_programs(tmp_path):
    """Text in quotes is text, while numbers and arrays in quotes are numbers and arrays."""
    frame = (
        '1\nLattice="3 0 0 0 3 0 0 0 3" energy="-1.5" gap="" step="4" anion="F" cation="Na" clean=F metal=Na '
        'stress="1 2 3"\nFe 0 0 0\n'
    )
    (tmp_path / "a.xyz").write_text(2 * frame)
    ds = read(tmp_path / "a.xyz", target="energy")
    assert ds.labels["energy"].tolist() == [-1.5, -1.5]
    assert np.isnan(ds.labels["gap"]).all()
    assert {name: column.tolist() for name, column in ds.columns.items()} == {
        "step": [4, 4],
        "anion": ["F", "F"],
        "cation": ["Na", "Na"],
        "clean": [False, False],
        "metal": ["Na", "Na"],
    }


def test_columns_of_an_atom_line_in_any_order(tmp_path):
    (tmp_path / "a.xyz").write_text(
        '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=forces:R:3:Z:I:1:pos:R:3 pbc="T T F"\n9 9 9 26 1 2 2.5\n'
    )
    atoms = read(tmp_path / "a.xyz").atoms(0)
    assert atoms.numbers.tolist() == [26]
    assert atoms.positions.tolist() == [[1, 2, 2.5]]
    assert atoms.pbc.tolist() == [True, True, False]


def test_a_lattice_is_periodic_unless_the_file_says_otherwise(tmp_path):
    for comment, periodic in (('Lattice="3 0 0 0 3 0 0 0 3"', True), ("", False)):
        (tmp_path / "a.xyz").write_text(f"1\n{comment}\nFe 0 0 0\n")
        assert read(tmp_path / "a.xyz").pbc.tolist() == [[periodic] * 3]


def test_moments_to_start_from_go_before_those_of_a_calculation(tmp_path):
    columns = "species:S:1:pos:R:3:magmoms:R:1:initial_magmoms:R:1"
    (tmp_path / "a.xyz").write_text(f"1\nProperties={columns}\nFe 0 0 0 1.5 4\n")
    assert read(tmp_path / "a.xyz").moments.tolist() == [4.0]


def test_plain_xyz_and_gzip(tmp_path):
    with gzip.open(tmp_path / "water.xyz.gz", "wt") as file:
        file.write("3\nwater, relaxed\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n")
    ds = read(tmp_path / "water.xyz.gz")
    assert ds.ids.tolist() == ["water-0"]
    assert not ds.pbc.any()
    assert not ds.labels


def test_isotopes_are_their_element(tmp_path):
    water = "3\n\nO 3 3 3\nD 3.76 3.59 3\nT 2.24 3.59 3\n"
    (tmp_path / "heavy.xyz").write_text(water)
    assert read(tmp_path / "heavy.xyz").numbers.tolist() == [8, 1, 1]


def test_atomic_numbers_are_not_cut_to_a_byte(tmp_path):
    (tmp_path / "odd.xyz").write_text("2\nProperties=Z:I:1:pos:R:3\n11 0 0 0\n273 2 2 2\n")
    refused(tmp_path / "odd.xyz", "structure odd-0", "unknown species (atomic number 273)")
    with pytest.raises(InputError, match="structure 1: unknown species"):
        Dataset.from_atoms([Atoms("H"), Atoms(numbers=[1, 119])])


FRAME = '2\nLattice="4 0 0 0 4 0 0 0 4" energy=-3.0\nFe 0 0 0\nO 2 0 0\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FRAME + FRAME[:-8], ("frame 2 (line 5)", "truncated")),
        (FRAME[:-5], ("frame 1", "instead of 4")),
        (FRAME.replace("Fe", "Xx"), ("frame 1", "unknown species 'Xx'")),
        (FRAME + "hello\n", ("frame 2", "'hello'")),
        (FRAME.replace("4 0 0 0 4", "4 0 0 4"), ("frame 1", "8 numbers")),
        ("0\n\n", ("frame 1", "0 atoms")),
        (
            FRAME
            + FRAME.replace("en", "Properties=species:S:1:pos:R:3:force:R:1 en").replace(" 0\n", " 0 1\n"),
            ("frame 2 (line 5)", "forces have 1 components"),
        ),
    ],
)
def test_broken_extended_xyz(tmp_path, text, words):
    (tmp_path / "a.xyz").write_text(text)
    refused(tmp_path / "a.xyz", "a.xyz", *words)


# --------------------------------------------------------------------------- CIF

CELL = """data_rutile
_cell_length_a 4.6(1)
_cell_length_b 4.6
_cell_length_c 2.95
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Ti1 Ti4+ 0 0 0 1
O1 O2- 0.305(2) 0.305 0 .
"""


def operations(number: int) -> str:
    lines = []
    for rotation, shift in Spacegroup(number).get_symop():
        parts = []
        for row, t in zip(rotation, shift, strict=True):
            terms = "".join(f"{'+' if c > 0 else '-'}{x}" for c, x in zip(row, "xyz", strict=True) if c)
            parts.append(f"{terms}{t:+.6f}" if t else terms)
        lines.append(f"'{','.join(parts)}'")
    return "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(lines) + "\n"


RUTILE = crystal(
    ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.95, 90, 90, 90]
)


def test_cif_as_ase_writes_it(salts, tmp_path):
    for i, atoms in enumerate([*salts, RUTILE, bulk("Ti", "hcp", 2.95, 4.68)]):
        ase.io.write(tmp_path / f"{i}.cif", atoms)
        ds = read(tmp_path / f"{i}.cif")
        assert ds.ids.tolist() == [str(i)]
        assert same_crystal(ds.atoms(0), ase.io.read(tmp_path / f"{i}.cif"))


@pytest.mark.parametrize(("symbol", "setting"), [("S", 1), ("Z", 2)])
def test_icsd_says_the_origin_by_a_letter(tmp_path, symbol, setting):
    """As ASE expands it, eight atoms of silicon from the first origin and sixteen from the second."""
    cell = CELL.replace("4.6(1)", "5.43").replace("4.6", "5.43").replace("2.95", "5.43")
    name = f"_symmetry_space_group_name_H-M 'F d -3 m {symbol}'\n"
    sites = (
        "".join(SITES.splitlines(keepends=True)[:-2]).replace("_atom_site_occupancy\n", "") + "Si1 Si 0 0 0\n"
    )
    (tmp_path / "si.cif").write_text(cell + name + sites)
    expected = crystal(["Si"], [(0, 0, 0)], spacegroup=227, setting=setting, cellpar=[5.43] * 3 + [90] * 3)
    assert same_crystal(read(tmp_path / "si.cif").atoms(0), expected)


@pytest.mark.parametrize(
    "symmetry",
    [
        operations(136),
        "_symmetry_space_group_name_H-M 'P 42/m n m'\n",
        "_symmetry_Int_Tables_number 136\n",
        operations(136) + "_symmetry_space_group_name_H-M 'P 42/m n m'\n",
    ],
)
def test_symmetry_is_expanded(tmp_path, symmetry):
    (tmp_path / "rutile.cif").write_text(CELL + symmetry + SITES)
    assert same_crystal(read(tmp_path / "rutile.cif").atoms(0), RUTILE)


def test_symmetry_agrees_with_ase(tmp_path):
    cells = {
        225: "_cell_length_a 5\n_cell_length_b 5\n_cell_length_c 5\n",
        194: "_cell_length_a 3\n_cell_length_b 3\n",
    }
    cells[194] += "_cell_length_c 5.2\n"
    for number, lengths in cells.items():
        gamma = 120 if number == 194 else 90
        angles = f"_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma {gamma}\n"
        # Thirds with four digits lie off their special position by a thousandth of an Angstrom.
        sites = [*SITES.splitlines()[:-3], "Ti1 Ti 0.3333 0.6667 0.25", "O1 O 0.0 0.0 0.0"]
        if number == 225:
            sites[-2] = "Ti1 Ti 0.25 0.25 0.25"
        path = tmp_path / f"{number}.cif"
        path.write_text(
            f"data_{number}\n{lengths}{angles}_symmetry_Int_Tables_number {number}\n" + "\n".join(sites)
        )
        own = read(path).atoms(0)
        assert len(own) == {225: 12, 194: 4}[number]
        assert same_crystal(own, ase.io.read(path), tolerance=2e-3)


@pytest.mark.parametrize("formula", ["?", "'Ti1 O1'", "'Ti2. O2.0'", "'rutile, natural'"])
def test_formula_that_is_right_or_says_nothing(tmp_path, formula):
    (tmp_path / "a.cif").write_text(f"{CELL}_chemical_formula_sum {formula}\n{SITES}")
    assert len(read(tmp_path / "a.cif")) == 1


def test_several_blocks(tmp_path):
    second = (CELL + SITES).replace("data_rutile", "data_other")
    (tmp_path / "two.cif").write_text("data_global\n_publ_contact_author_name x\n" + CELL + SITES + second)
    assert read(tmp_path / "two.cif").ids.tolist() == ["rutile", "other"]


@pytest.mark.parametrize(("x", "atoms"), [(0.06, 2), (0.016, 1)])
def test_images_of_a_site_are_one_atom_where_only_rounding_parts_them(tmp_path, x, atoms):
    """Either side of a mirror plane, 0.55 Angstrom apart, or 0.15."""
    mirror = "loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-x,y,z\n"
    (tmp_path / "a.cif").write_text(CELL + mirror + SITES.replace("Ti4+ 0 0 0", f"Ti4+ {x} 0 0.5"))
    assert (read(tmp_path / "a.cif").numbers == 22).sum() == atoms


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CELL + SITES.replace("0 0 0 1", "0 0 0 0.95"), ("rutile", "site Ti1", "occupancy 0.95")),
        (CELL + SITES.replace("0 0 0 1", "0 0 0 0.5"), ("rutile", "site Ti1", "occupancy 0.5")),
        (CELL + SITES.replace("Ti4+", "Xx"), ("rutile", "unknown species 'Xx'")),
        (CELL + SITES[:-3], ("cannot be read as CIF", "complete")),
        (CELL, ("no data block with _atom_site_fract_x",)),
        (SITES.replace("loop_", "data_x\nloop_", 1), ("x", "no unit cell")),
        (
            CELL + "_symmetry_space_group_name_H-M 'P foo'\n" + SITES,
            ("rutile", "unknown space group 'P foo'"),
        ),
        (CELL + "_chemical_formula_sum 'Ti O2'\n" + SITES, ("rutile", "do not add up", "Ti O2")),
        (
            CELL + "_chemical_formula_sum 'Ti3'\n" + SITES.replace("O1 O2-", "Ti2 Ti"),
            ("do not add up", "Ti3"),
        ),
        (CELL + "_symmetry_space_group_name_H-M 'F d -3 m'\n" + SITES, ("rutile", "two choices of origin")),
        (CELL + "_symmetry_Int_Tables_number 227\n" + SITES, ("rutile", "two choices of origin")),
        (CELL + SITES.replace("0.305(2)", "?"), ("NaN or infinite",)),
        (CELL.replace("2.95", "0") + SITES, ("singular cell",)),
    ],
)
def test_broken_cif(tmp_path, text, words):
    (tmp_path / "a.cif").write_text(text)
    refused(tmp_path / "a.cif", "a.cif", *words)


# -------------------------------------------------------- POSCAR, ASE database, JSON


@pytest.mark.parametrize(
    ("name", "expected"),
    [("POSCAR", "iron"), ("CONTCAR", "iron"), ("fe.vasp", "fe"), ("POSCAR_7", "POSCAR_7")],
)
def test_poscar(tmp_path, name, expected):
    path = tmp_path / "iron" / name
    path.parent.mkdir()
    ase.io.write(path, bulk("Fe"), format="vasp")
    ds = read(path)
    assert ds.ids.tolist() == [expected]
    assert same_crystal(ds.atoms(0), bulk("Fe"))


@pytest.mark.parametrize("change", [lambda text: text[:-70], lambda text: text.replace("Fe", "Xx")])
def test_broken_poscar(tmp_path, change):
    ase.io.write(tmp_path / "POSCAR", bulk("Fe", cubic=True), format="vasp")
    (tmp_path / "POSCAR").write_text(change((tmp_path / "POSCAR").read_text()))
    refused(tmp_path / "POSCAR", "POSCAR: cannot be read as POSCAR")


def test_a_database_of_others_is_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("CREATE TABLE notes (words TEXT)")
    before = (tmp_path / "app.db").read_bytes()
    refused(tmp_path / "app.db", "app.db: a database of other things than crystals")
    assert (tmp_path / "app.db").read_bytes() == before


@pytest.mark.parametrize("name", ["set.db", "set.json"])
def test_ase_database(salts, tmp_path, name):
    with ase.db.connect(tmp_path / name) as database:
        for i, atoms in enumerate(salts):
            atoms.calc = SinglePointCalculator(atoms, energy=-i - 0.5, free_energy=-i - 0.6)
            database.write(atoms, gap=1.5 * i, step=i, origin="a")
    ds = read(tmp_path / name, target="energy")
    assert ds.ids.tolist() == ["set-1", "set-2", "set-3"]
    assert ds.labels["energy"].tolist() == [-0.5, -1.5, -2.5]
    assert ds.labels["free_energy"].tolist() == [-0.6, -1.6, -2.6]
    assert ds.labels["gap"].tolist() == [0, 1.5, 3]
    assert ds.columns["step"].tolist() == [0, 1, 2]
    assert set(ds.columns["origin"]) == {"a"}
    assert all(same_crystal(own, atoms) for own, atoms in zip(ds, salts, strict=True))


def test_truncated_database(dataset, tmp_path):
    write(dataset, tmp_path / "a.db")
    (tmp_path / "a.db").write_bytes((tmp_path / "a.db").read_bytes()[:3000])
    refused(tmp_path / "a.db", "a.db: cannot be read as ASE database")


def test_moments_of_pymatgen(salts, tmp_path):
    """Numbers, its own objects, and objects with a direction."""
    given = ([2.0, {"@class": "Magmom", "moment": -2.0}], [None, 1.5], [1.0, {"moment": [0.0, 1.0, 0.0]}])
    structures = []
    for moments in given:
        structures.append(as_dict(salts[2]))
        for site, moment in zip(structures[-1]["sites"], moments, strict=True):
            site["properties"] = {"magmom": moment}
    (tmp_path / "set.json").write_text(json.dumps(structures))
    assert read(tmp_path / "set.json").moments.tolist() == [2.0, -2.0, 0.0, 1.5, 0.0, 0.0]


def test_a_moment_without_direction_among_others_points_along_z(salts):
    structure = as_dict(salts[2])
    for site, moment in zip(structure["sites"], [2.0, {"moment": [0.0, 1.0, 0.0]}], strict=True):
        site["properties"] = {"magmom": moment}
    moments = atoms_from_dict(structure).get_initial_magnetic_moments()
    assert moments.tolist() == [[0.0, 0.0, 2.0], [0.0, 1.0, 0.0]]


def test_periodic_directions_of_pymatgen(salts, tmp_path):
    slab = as_dict(salts[0])
    slab["lattice"]["pbc"] = [True, True, False]
    without = as_dict(salts[0])
    del without["lattice"]["pbc"]
    (tmp_path / "set.json").write_text(json.dumps([slab, without]))
    assert read(tmp_path / "set.json").pbc.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(
    ("arrange", "ids"),
    [
        (lambda items: items[0], ["set"]),
        (lambda items: items, ["set-0", "set-1", "set-2"]),
        (lambda items: dict(zip("abc", items, strict=True)), ["a", "b", "c"]),
        (
            lambda items: [
                {"material_id": f"mp-{i}", "structure": s, "energy": -i} for i, s in enumerate(items)
            ],
            ["mp-0", "mp-1", "mp-2"],
        ),
        (lambda items: {"x": {"structure": items[0], "energy": 0, "tag": "t"}}, ["x"]),
        (
            lambda items: {
                "index": [5, 7, 8],
                "columns": ["energy", "structure"],
                "data": [[-i, s] for i, s in enumerate(items)],
            },
            ["set-5", "set-7", "set-8"],
        ),
    ],
)
@pytest.mark.parametrize("name", ["set.json", "set.json.gz"])
def test_pymatgen_json(salts, tmp_path, arrange, ids, name):
    content = json.dumps(arrange([as_dict(atoms) for atoms in salts])).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    ds = read(tmp_path / name)
    assert ds.ids.tolist() == ids
    assert all(same_crystal(own, atoms) for own, atoms in zip(ds, salts, strict=False))
    if "energy" in ds.labels:
        assert ds.labels["energy"].tolist() == [-i for i in range(len(ds))]


def test_broken_pymatgen_json(salts, tmp_path):
    path = tmp_path / "a.json"
    good = as_dict(salts[0])
    for change, words in [
        (lambda s: s["sites"][0]["species"][0].update(occu=0.5), ("structure a", "disordered")),
        (lambda s: s["sites"][0]["species"][0].update(element="Xx"), ("structure a", "unknown species 'Xx'")),
        (lambda s: s["lattice"].pop("matrix"), ("structure a", "no 'matrix'")),
        (lambda s: s.update(sites=[]), ("structure a", "no atoms")),
    ]:
        bad = json.loads(json.dumps(good))
        change(bad)
        path.write_text(json.dumps(bad))
        refused(path, "a.json", *words)
    path.write_text(json.dumps(good)[:-20])
    refused(path, "a.json: not complete JSON")
    path.write_text('{"a": 1}')
    refused(path, "a.json", "structure a")


@pytest.mark.parametrize(
    ("index", "change", "words"),
    [
        ([0, 1], lambda rows: rows[1].pop(), "row 1 does not have a value for each of the 2 columns"),
        ([0], lambda rows: None, "1 entries in its index and 2 rows"),
        ([0, 1], lambda rows: rows[1].__setitem__(0, None), "structure a-1: it holds no structure"),
    ],
)
def test_broken_tables_of_pandas(salts, tmp_path, index, change, words):
    path, rows = tmp_path / "a.json", [[as_dict(atoms), 1.0] for atoms in salts[:2]]
    change(rows)
    path.write_text(json.dumps({"index": index, "columns": ["structure", "energy"], "data": rows}))
    refused(path, "a.json", words)


@pytest.mark.parametrize(("index", "more"), [(["mp-1", "mp-2"], []), ([0, 1], ["mp-1", "mp-2"])])
def test_ids_of_tables_of_pandas(salts, tmp_path, index, more):
    columns, rows = ["structure"], [[as_dict(atoms)] for atoms in salts[:2]]
    if more:
        columns.append("material_id")
        rows = [[*row, name] for row, name in zip(rows, more, strict=True)]
    (tmp_path / "a.json").write_text(json.dumps({"index": index, "columns": columns, "data": rows}))
    assert read(tmp_path / "a.json").ids.tolist() == ["mp-1", "mp-2"]


# --------------------------------------------------------------------- CSV with CIF


@pytest.fixture
def table(salts, tmp_path) -> Path:
    for name, atoms in zip(("001", "b", "c"), salts, strict=True):
        ase.io.write(tmp_path / f"{name}.cif", atoms)
    path = tmp_path / "labels.csv"
    path.write_text("id,energy,gap,origin\nb,-2.5,,exp\n001,-1,3,dft\nc,-4,0,dft\n")
    return path


def test_csv_that_holds_the_structures(tmp_path):
    """As CDVAE publishes its sets: an index by pandas, ids, CIF files as text, labels."""
    rows = [("7", "b", CELL + operations(136) + SITES, "1.5"), ("3", "a", CELL + SITES, "")]
    with open(tmp_path / "set.csv", "w", newline="") as file:
        csv.writer(file).writerows([("", "material_id", "cif", "gap"), *rows])
    ds = read(tmp_path / "set.csv")
    assert (ds.ids.tolist(), ds.natoms.tolist(), set(ds.columns)) == (["b", "a"], [6, 2], set())
    assert same_crystal(ds.atoms(0), RUTILE)
    np.testing.assert_array_equal(ds.labels["gap"], [1.5, np.nan])
    text = (tmp_path / "set.csv").read_text()
    (tmp_path / "set.csv").write_text(text.replace("_atom_site_fract_x", "_atom_site_x"))
    refused(tmp_path / "set.csv", "set.csv", "structure b", "no data block")


def test_lines_of_a_csv_without_ids_are_numbered(tmp_path):
    for header, row in (("energy,cif", ["-1.5", CELL + SITES]), ("cif,energy", [CELL + SITES, "-1.5"])):
        with open(tmp_path / "set.csv", "w", newline="") as file:
            csv.writer(file).writerows([header.split(","), row])
        ds = read(tmp_path / "set.csv")
        assert (ds.ids.tolist(), ds.labels["energy"].tolist()) == (["0"], [-1.5])


def test_a_cif_of_any_length_in_a_csv(tmp_path):
    with open(tmp_path / "set.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "cif"), ("a", CELL + SITES + "# " + "x" * 200_000 + "\n")])
    assert read(tmp_path / "set.csv").natoms.tolist() == [2]


def test_csv_with_header(table):
    ds = read(table, target="energy")
    assert ds.ids.tolist() == ["b", "001", "c"]
    assert ds.labels["energy"].tolist() == [-2.5, -1, -4]
    assert np.array_equal(ds.labels["gap"], [np.nan, 3, 0], equal_nan=True)
    assert ds.columns["origin"].tolist() == ["exp", "dft", "dft"]
    for name, own in zip(ds.ids, ds, strict=True):
        assert same_crystal(own, ase.io.read(table.with_name(f"{name}.cif")))


@pytest.mark.parametrize("folder", ["cifs", "structures"])
def test_headerless_id_prop_in_a_folder(table, folder):
    (table.parent / folder).mkdir()
    for path in table.parent.glob("*.cif"):
        path.rename(table.parent / folder / path.name)
    table.rename(table.parent / "id_prop.csv").write_text("c,1.5\nb,2\n001,3\n")
    for path in (table.parent, table.parent / "id_prop.csv"):
        assert read(path, target="target").labels["target"].tolist() == [1.5, 2, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,energy\n001,1\nb,2\nc,3\nd,4\ne,5\n", ("no CIF file for 2 of 5 ids: d, e", "<id>.cif")),
        ("id,energy\n001,1\n", ("2 CIF files have no line in the table: b, c",)),
        ("id,energy\n001,1\nb,2\nc,3\nb,2\n", ("more than once: b",)),
        ("id,energy\n001,1\nb\n", ("structure b", "truncated")),
        ("id,energy\n", ("no lines of data",)),
        ("001,1,2\nb,2,3\n", ("no header",)),
        ("id,energy,energy\n001,1,2\n", ("same name",)),
        ("hello\nworld\n", ("id,value",)),
    ],
)
def test_broken_tables(table, text, words):
    table.write_text(text)
    refused(table, "labels.csv", *words)


def test_two_structures_for_one_line(table):
    (table.parent / "b.cif").write_text(CELL + SITES + (CELL + SITES).replace("data_rutile", "data_other"))
    refused(table, "several structures in the CIF of b")


def test_text_among_the_values_of_the_target(table):
    table.write_text(table.read_text().replace("-4", "four"))
    refused(table, "'energy' cannot be a label", target="energy")


# ------------------------------------------------------------- npz, folders, lists


@pytest.fixture
def arrays(salts) -> dict[str, np.ndarray]:
    return {
        "material_id": np.array(["a", "b", "c"]),
        "formula": np.array(["NaCl", "MgO", "Fe"]),
        "natoms": np.array([len(atoms) for atoms in salts], dtype=np.uint16),
        "numbers": np.concatenate([atoms.numbers for atoms in salts]).astype(np.uint8),
        "frac": np.concatenate([atoms.get_scaled_positions() for atoms in salts]).astype(np.float32),
        "lattice": np.stack([atoms.cell.array for atoms in salts]).astype(np.float32),
        "energy": np.array([-1.0, np.nan, -3.0]),
        "e_form_spread": np.zeros(3, dtype=np.float32),
        "structure_origin": np.array([0, 1, 3], dtype=np.uint8),
        "clean": np.array([True, False, True]),
        "forces": np.arange(36, dtype=np.float32).reshape(12, 3),
    }


def test_npz(arrays, salts, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    ds = read(tmp_path / "a.npz")
    assert ds.ids.tolist() == ["a", "b", "c"]
    assert ds.pbc.all()
    assert ds.positions.dtype == np.float64
    assert set(ds.labels) == {"energy"}
    assert set(ds.columns) == {"e_form_spread", "structure_origin", "clean"}
    assert ds[[2]].forces.tolist() == arrays["forces"][-len(salts[2]) :].tolist()
    assert all(same_crystal(own, atoms) for own, atoms in zip(ds, salts, strict=True))


def test_broken_npz(arrays, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{**arrays, "natoms": arrays["natoms"] + 1})
    refused(path, "a.npz", "different sets")
    np.savez(path, **{**arrays, "numbers": arrays["numbers"].astype(int) + 110})
    refused(path, "a.npz", "structure a", "unknown species, atomic number 121")
    np.savez(path, **{name: values for name, values in arrays.items() if name != "lattice"})
    refused(path, "a.npz", "no array lattice")
    path.write_bytes(path.read_bytes()[:400])
    refused(path, "a.npz: cannot be read as npz arrays")


def test_saved_folder(dataset, tmp_path):
    dataset.save(tmp_path / "set")
    assert read(tmp_path / "set", target="energy").ids.tolist() == dataset.ids.tolist()
    (tmp_path / "set" / "cells.npy").write_bytes((tmp_path / "set" / "cells.npy").read_bytes()[:150])
    refused(tmp_path / "set", "not a readable matgraft data set folder")


def test_folder_and_list_of_files(salts, tmp_path, caplog):
    for name, atoms in zip("ab", salts, strict=False):
        ase.io.write(tmp_path / f"{name}.cif", atoms)
    (tmp_path / "README").write_text("notes")
    assert read(tmp_path).ids.tolist() == ["a", "b"]
    assert not caplog.text
    (tmp_path / "labels.csv").write_text("id,energy\na,1\n")
    assert read(tmp_path).ids.tolist() == ["a", "b"]
    assert "left out, to be read by name alone: labels.csv" in caplog.text
    assert read([tmp_path / "b.cif", str(tmp_path / "a.cif")]).ids.tolist() == ["b", "a"]


def test_folder_without_structures(tmp_path):
    refused(tmp_path, str(tmp_path), "in this folder")


def test_nothing_to_read():
    refused([], "no files")


def test_same_id_in_two_files(salts, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "a.cif", salts[0])
    refused([tmp_path / "x", tmp_path / "y"], "more than once: a")


# ----------------------------------------------------------------------- bad files

NAMES = ["a.xyz", "a.cif", "POSCAR", "a.db", "a.json", "a.csv", "a.npz", "a.json.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_empty(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path / name, f"{name}: the file is empty")


@pytest.mark.parametrize("name", NAMES)
def test_binary_noise(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(4000))
    words = {
        "a.db": "cannot be read as ASE",
        "a.npz": "cannot be read as npz",
        "a.json.gz": "Not a gzipped file",
    }
    refused(tmp_path / name, f"{name}: ", words.get(name, "binary data"))


@pytest.mark.parametrize("name", ["a.xyz", "a.csv", "a.json"])
def test_text_of_another_encoding(tmp_path, name):
    (tmp_path / name).write_bytes("Größe\n".encode("latin-1"))
    refused(tmp_path / name, f"{name}: not a text file")


@pytest.mark.parametrize("name", NAMES)
def test_no_such_file(tmp_path, name):
    refused(tmp_path / name, name, "no such file")


def test_no_such_file_offers_the_nearest(salts, tmp_path):
    ase.io.write(tmp_path / "oxides.xyz", salts)
    refused(tmp_path / "oxide.xyz", "Did you mean oxides.xyz")


def test_truncated_gzip(tmp_path):
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress(FRAME.encode())[:-12])
    refused(tmp_path / "a.xyz.gz", "a.xyz.gz: cannot be read", "Copy it again")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("a.xyz", "a.cif"), ("a.cif", "a.xyz"), ("a.db", "a.npz"), ("a.npz", "a.db"), ("a.json", "a.xyz")],
)
def test_wrong_extension(salts, arrays, tmp_path, right, wrong):
    if right == "a.npz":
        np.savez(tmp_path / right, **arrays)
    elif right == "a.json":
        (tmp_path / right).write_text(json.dumps(as_dict(salts[0])))
    else:
        ase.io.write(tmp_path / right, salts[0])
    (tmp_path / right).rename(tmp_path / wrong)
    refused(tmp_path / wrong, f"{wrong}: does not hold what its name says", f"rename it to {right}")


@pytest.mark.parametrize("name", ["a.foo", "a", "a.db.gz"])
def test_unknown_extension(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"hello") if name.endswith("gz") else b"hello")
    refused(tmp_path / name, f"{name}: unknown file extension", ".extxyz", ".cif")


# --------------------------------------------------------------------- the target


def test_missing_label_lists_those_that_exist(dataset, tmp_path):
    write(dataset, tmp_path / "a.xyz")
    refused(tmp_path / "a.xyz", "no label named 'volume'", "Labels here: energy, gap", target="volume")


def test_structures_without_the_target(dataset, tmp_path, caplog):
    write(dataset, tmp_path / "a.xyz")
    refused(tmp_path / "a.xyz", "1 of 3 structures have no 'gap': mp 7", "--missing drop", target="gap")
    assert len(read(tmp_path / "a.xyz", target="gap", missing="drop")) == 2
    assert "1 of 3 structures have no 'gap': mp 7. They are left out" in caplog.text


def test_whole_numbers_can_be_the_target(dataset, tmp_path):
    write(dataset, tmp_path / "a.xyz")
    ds = read(tmp_path / "a.xyz", target="rank")
    assert ds.labels["rank"].tolist() == [3, 1, 2]
    assert "rank" not in ds.columns


def test_meaning_of_the_target(dataset, tmp_path):
    write(dataset, tmp_path / "a.xyz")
    spec = read(tmp_path / "a.xyz", target="energy", kind="atom").specs["energy"]
    assert (spec.kind, spec.unit) == ("atom", "eV/atom")
    intensive = read(tmp_path / "a.xyz", target="energy", kind="intensive")
    assert intensive.specs["energy"].unit == "eV"
    write(read(tmp_path / "a.xyz", target="energy", kind="atom"), tmp_path / "b.xyz")
    for kind, unit in (("intensive", "eV"), ("cell", "eV"), ("atom", "eV/atom")):
        spec = read(tmp_path / "b.xyz", target="energy", kind=kind).specs["energy"]
        assert (spec.kind, spec.unit) == (kind, unit)
    spec = read(tmp_path / "a.xyz", target="energy", unit="Ry").specs["energy"]
    assert (spec.kind, spec.unit) == ("cell", "Ry")
    refused(tmp_path / "a.xyz", "'molar'", "cell, atom, intensive", target="energy", kind="molar")
    refused(tmp_path / "a.xyz", "without a target", kind="atom")


def test_checks_can_be_left_out(tmp_path):
    bad = Dataset.from_atoms(
        [Atoms("Fe2", [[0, 0, 0], [0.1, 0, 0]], cell=[4, 4, 4], pbc=True)], labels={"x": [np.inf]}
    )
    write(bad, tmp_path / "a.xyz")
    refused(tmp_path / "a.xyz", "overlap")
    assert len(read(tmp_path / "a.xyz", target="x", check=False)) == 1
    good = Dataset.from_atoms([bulk("Fe")], labels={"x": [np.inf]})
    write(good, tmp_path / "a.xyz")
    refused(tmp_path / "a.xyz", "infinite", target="x")
    refused(tmp_path / "a.xyz", "infinite", target="x", label_check=False)


def test_kind_is_checked_on_reading(tmp_path):
    ds = read("tmo-oxides")
    write(ds.with_label("energy", ds.values("energy") / ds.natoms)[:80], tmp_path / "a.db")
    refused(tmp_path / "a.db", "looks like a value per atom", "--label-kind", target="energy")
    assert len(read(tmp_path / "a.db", target="energy", label_check=False)) == 80
    assert len(read(tmp_path / "a.db", target="energy", kind="atom")) == 80
