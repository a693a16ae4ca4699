"""Density and potentials: their equations, their places in a crystal, their files, and the program."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import command
import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from ase.io.cube import read_cube
from ase.units import Bohr, Hartree
from pictures import boxes, is_picture, overlapping, words

from matgraft.data import Dataset
from matgraft.dft.calculation import LADDER, Calculation
from matgraft.dft.engine import Engine
from matgraft.dft.fields import GRIDS, Fields, calculate, checks, hartree_potential, read_plot
from matgraft.dft.output import NOT_CONVERGED, OUT_OF_TIME, Failure, Result
from matgraft.dft.planes import REACH, conventional, miller, nearby, on_plane, plane
from matgraft.dft.protocols import PROTOCOLS, Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.errors import InputError
from matgraft.jobs import fields as job
from matgraft.paper.drawings import rutile

COULOMB = Hartree * Bohr
"""e^2 in eV Angstrom."""
SILICON = bulk("Si", a=5.43)
SHEARED = np.array([[3.0, 0.2, 0.0], [0.5, 4.0, 0.3], [-0.4, 0.6, 5.0]])


def wave(cell, shape, integers, phase=0.0):
    """A cosine that the cell repeats, and the square of its wave vector."""
    places = np.stack(np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"), axis=-1)
    vector = 2 * np.pi * np.linalg.inv(cell) @ integers
    return np.cos(2 * np.pi * places @ integers + phase), vector @ vector


def synthetic(atoms=SILICON, electrons=8.0, shape=(12, 10, 8), depth=20.0) -> Fields:
    """Fields that fulfil all equations: electrons in one wave on a constant background."""
    cell = atoms.cell.array
    cosine, square = wave(cell, shape, np.array([1, -1, 2]))
    background = electrons / atoms.cell.volume
    v_hartree = 4 * np.pi * COULOMB * 0.5 * background * cosine / square
    v_ext, v_xc = -depth * (1 + cosine) ** 4, -5 - cosine
    return Fields(
        atoms.copy(),
        electrons,
        background * (1 + 0.5 * cosine),
        v_ext,
        v_hartree,
        v_xc,
        v_ext + v_hartree + v_xc,
    )


def test_poisson_has_the_known_solution_for_waves():
    shape = (15, 16, 18)
    first, g1 = wave(SHEARED, shape, np.array([1, 2, -1]), 0.3)
    second, g2 = wave(SHEARED, shape, np.array([0, -3, 2]), 1.1)
    found = hartree_potential(0.7 + 0.2 * first + 0.1 * second, SHEARED)
    expected = 4 * np.pi * COULOMB * (0.2 * first / g1 + 0.1 * second / g2)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert abs(found.mean()) < 1e-12


def test_poisson_agrees_with_the_laplacian_in_a_box():
    """By finite differences, which know nothing of waves."""
    n, edge = 48, 6.0
    x = np.linspace(0, edge, n, endpoint=False) - edge / 2
    square = sum(axis**2 for axis in np.meshgrid(x, x, x, indexing="ij"))
    density = np.exp(-square / 1.0)
    potential = hartree_potential(density, np.eye(3) * edge)
    neighbours = sum(np.roll(potential, step, axis) for axis in range(3) for step in (-1, 1))
    laplacian = (neighbours - 6 * potential) / (edge / n) ** 2
    expected = -4 * np.pi * COULOMB * (density - density.mean())
    assert np.abs(laplacian - expected).max() < 0.02 * np.abs(expected).max()


def test_checks_pass_for_what_is_right_and_fail_for_what_is_not():
    fields = synthetic()
    assert all(one.passed for one in checks(fields))
    passed = [
        [one.passed for one in checks(replace(fields, **changes))]
        for changes in (
            {"electrons": 8.01},
            {"v_hartree": fields.v_hartree * 1.01, "v_eff": fields.v_eff + 0.01 * fields.v_hartree},
            {"v_xc": fields.v_xc + 1e-5},
        )
    ]
    assert passed == [[False, True, True], [True, False, True], [True, True, False]]


@pytest.mark.parametrize("free", [True, False])
def test_plots_of_the_program_are_read_without_their_padding(tmp_path, free):
    values = np.random.default_rng(0).normal(size=(4, 5, 6)) * 1e2
    padded = np.full((5, 5, 6), 9.0)
    padded[:4] = values
    head = ["title", "5 5 6 4 5 6 2 1", ("0" if free else "2") + " 7.25 0 0 0 0 0"]
    head += ["0 1 1", "1 0 1", "1 1 0"] if free else []
    head += ["99.0 4.0 25.0 0", " 1 Si 4.00", " 1 0.0 0.0 0.0 1", " 2 0.25 0.25 0.25 1"]
    numbers = padded.ravel(order="F").reshape(-1, 5)
    body = ["".join(f"{value:17.9E}" for value in row) for row in numbers]
    path = tmp_path / "plot"
    path.write_text("\n".join(head + body) + "\n")
    np.testing.assert_allclose(read_plot(path), values, rtol=1e-9)


def test_fields_are_kept_whole(tmp_path):
    fields = synthetic()
    fields.save(tmp_path / "fields.npz")
    again = Fields.load(tmp_path / "fields.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["fields.npz"]
    assert again.atoms == fields.atoms
    assert again.electrons == 8
    for name in GRIDS:
        np.testing.assert_array_equal(getattr(again, name), getattr(fields, name))
    with np.load(tmp_path / "fields.npz", allow_pickle=False) as held:
        assert json.loads(str(held["units"]))["density"] == "electrons/Angstrom^3"


# ----------------------------------------------------------------------------------------------- planes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("110", (1, 1, 0)),
        ("1-10", (1, -1, 0)),
        ("-1-1-1", (-1, -1, -1)),
        ("1,-10, 3", (1, -10, 3)),
        ("0 0 1", (0, 0, 1)),
    ],
)
def test_miller_indices(text, expected):
    assert miller(text) == expected


@pytest.mark.parametrize("text", ["", "11", "1100", "000", "0,0,0", "a10", "1,1", "1.5,0,0"])
def test_no_miller_indices(text):
    with pytest.raises(InputError, match="three Miller indices"):
        miller(text)


@pytest.mark.parametrize("atoms", [SILICON, bulk("Si", a=5.43, cubic=True), SILICON.repeat((2, 1, 1))])
def test_plane_110_of_silicon_holds_both_atoms_of_the_primitive_cell(atoms):
    """Whatever the cell, it is the plane of the zigzag chains of bonds."""
    where = plane(atoms, (1, 1, 0))
    np.testing.assert_allclose(np.abs(where.normal), [0.5**0.5, 0.5**0.5, 0], atol=1e-9)
    indices, places = nearby(atoms, where, 0.01)
    sublattices = (
        np.round(4 * np.linalg.solve(SILICON.cell.array.T, atoms.positions[indices].T).T).astype(int) % 4
    )
    assert {tuple(one) for one in sublattices} == {(0, 0, 0), (1, 1, 1)}
    lengths = np.linalg.norm(places[:, None] - places, axis=-1)
    assert lengths[lengths > 0.1].min() == pytest.approx(5.43 * 3**0.5 / 4)
    assert [0, 0, 0] in places.round(9).tolist()


@pytest.mark.parametrize("indices", [(1, 1, 0), (1, 0, 0), (1, 1, 1), (3, 1, -2), (0, 2, -1)])
@pytest.mark.parametrize("atoms", [SILICON, rutile(), bulk("Ti")], ids=["Si2", "TiO2", "Ti2"])
def test_planes_are_lattice_planes(atoms, indices):
    where = plane(atoms, indices)
    axes = np.array([where.right, where.up, where.normal])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    h, k, l = indices  # noqa: E741
    for integers in ((k, -h, 0), (0, l, -k), (l, 0, -h)):
        assert abs(integers @ conventional(atoms) @ where.normal) < 1e-8
    assert min(where.width, where.height) >= REACH
    left, right, bottom, top = where.extent
    corners = where.coordinates(where.points()[[0, -1], [0, -1]])
    np.testing.assert_allclose(corners, [[left, bottom, 0], [right, top, 0]], atol=1e-9)


def test_planes_extend_over_one_and_a_half_periods():
    where = plane(SILICON, (1, 1, 0))
    np.testing.assert_allclose(where.right, [0.5**0.5, -(0.5**0.5), 0], atol=1e-9)
    assert (where.width, where.height) == (REACH, pytest.approx(1.5 * 5.43))
    where = plane(rutile(), (1, 1, 0))
    np.testing.assert_allclose(where.right, [0, 0, 1], atol=1e-9)
    assert (where.width, where.height) == (REACH, pytest.approx(1.5 * 4.594 * 2**0.5))
    assert plane(SILICON.repeat(3), (1, 1, 0)).width == pytest.approx(1.5 * 3 * 5.43 / 2**0.5)


def test_nearby_atoms_are_all_images_in_the_frame():
    atoms = bulk("NaCl", "rocksalt", a=4.0, cubic=True)
    where = plane(atoms, (0, 0, 1))
    indices, places = nearby(atoms, where, 0.1)
    assert len(indices) == 25
    assert set(atoms.symbols[indices]) == {"Na", "Cl"}
    assert np.abs(places[:, :2]).max() == pytest.approx(4)
    # Atoms a whole cell away from where they are expected change nothing.
    moved = atoms.copy()
    moved.positions[3] += 5 * atoms.cell[1] - 7 * atoms.cell[2]
    assert len(nearby(moved, where, 0.1)[0]) == 25


def test_miller_indices_refer_to_the_conventional_cell():
    np.testing.assert_allclose(np.abs(conventional(SILICON)), 5.43 * np.eye(3), atol=1e-6)
    turned = SILICON.copy()
    turned.rotate(35, (1, 2, 3), rotate_cell=True)
    np.testing.assert_allclose(conventional(turned) @ conventional(turned).T, 5.43**2 * np.eye(3), atol=1e-6)
    # A cell that is conventional already stays, whatever the order of its axes.
    odd = rutile()
    odd.set_cell(odd.cell.array[[2, 0, 1]])
    np.testing.assert_array_equal(conventional(odd), odd.cell.array)


def test_values_on_a_plane_are_those_of_the_field():
    integers = np.array([1, -1, 1])
    field, _ = wave(SILICON.cell.array, (24, 20, 22), integers, 0.4)
    where = plane(SILICON, (1, 1, 0))
    phase = 2 * np.pi * where.points() @ np.linalg.inv(SILICON.cell.array) @ integers + 0.4
    np.testing.assert_allclose(on_plane(field, SILICON.cell.array, where), np.cos(phase), atol=2e-4)


def test_values_on_a_plane_repeat_with_the_crystal():
    field = np.random.default_rng(1).normal(size=(9, 10, 11))
    where = plane(SILICON, (1, 1, 0))
    here = on_plane(field, SILICON.cell.array, where)
    for integers in ((1, 0, 0), (0, -2, 1), (5, 7, -3)):
        there = replace(where, centre=where.centre + integers @ SILICON.cell.array)
        np.testing.assert_allclose(on_plane(field, SILICON.cell.array, there), here, atol=1e-9)
    at_points = replace(
        where, centre=np.array([2 / 9, 3 / 10, 4 / 11]) @ SILICON.cell.array, width=0.2, height=0.2
    )
    middle = on_plane(field, SILICON.cell.array, at_points)
    assert middle[2, 2] == pytest.approx(field[2, 3, 4])


# -------------------------------------------------------------------------------------------- the verb


class Scripted(Engine):
    """An engine that answers from a list, and remembers the steps of the ladder."""

    def __init__(self, *answers):
        super().__init__(("pw.x",), "test")
        object.__setattr__(self, "answers", list(answers))
        object.__setattr__(self, "rungs", [])

    def run(self, calculation, rung=0, max_seconds=None, scratch=None, after=None):
        self.rungs.append(rung)
        return self.answers.pop(0)


def silicon_by(protocol):
    return Calculation.of(SILICON, protocol, library())


def test_what_does_not_converge_is_tried_again_and_then_told():
    calculation = silicon_by(PROTOCOLS["fast"])
    engine = Scripted(*[Failure(NOT_CONVERGED, "estimated accuracy 1 eV")] * len(LADDER))
    with pytest.raises(InputError, match=r"Si2: no density, not converged .*protocol"):
        calculate(calculation, engine)
    assert engine.rungs == list(range(len(LADDER)))
    engine = Scripted(Failure(OUT_OF_TIME, "late"))
    with pytest.raises(InputError, match="out of time"):
        calculate(calculation, engine)
    assert engine.rungs == [0]


def test_a_command_without_pw_x_is_refused_before_anything_runs():
    with pytest.raises(InputError, match=r"no pw\.x at its end"):
        calculate(silicon_by(PROTOCOLS["fast"]), Engine(("ls",), "test"))


RESULT = Result(-230.0, -230.0, 0.0, 6.0, None, None, 8, 3, 8.0, 1.0, 1.0, "7.2")


@pytest.fixture
def calculated(monkeypatch):
    """Fields that cost nothing; how often they were asked for."""
    asked = []

    def instead(calculation, engine, max_seconds=None):
        asked.append(calculation)
        return synthetic(calculation.atoms, calculation.electrons, shape=(40, 40, 40)), RESULT

    monkeypatch.setattr(job, "calculate", instead)
    return asked


def one(*atoms, ids=None):
    return Dataset.from_atoms(atoms, ids, source="crystals.extxyz")


def test_the_folder_holds_arrays_cubes_and_a_picture(tmp_path, calculated, drawn):
    out = tmp_path / "si"
    done = job.fields(one(SILICON), out, PROTOCOLS["fast"], Scripted(), (1, 1, 0))
    assert all(check.passed for check in done.checks)
    assert "passed" in done.table.text()
    assert {path.name for path in out.iterdir()} == {
        *("settings.json", "checks.json", "fields.npz", "fields.png"), *(f"{name}.cube" for name in GRIDS),
    }  # fmt: skip
    assert is_picture(out / "fields.png")
    for name in GRIDS:
        with open(out / f"{name}.cube") as handle:
            assert ("electrons/Bohr^3" if name == "density" else "Hartree") in handle.readline()
            handle.seek(0)
            cube = read_cube(handle)
        factor = Bohr**3 if name == "density" else 1 / Hartree
        expected = getattr(Fields.load(out / "fields.npz"), name) * factor
        np.testing.assert_allclose(cube["data"], expected, rtol=1e-5, atol=1e-6)
        assert cube["atoms"].cell.volume == pytest.approx(SILICON.cell.volume, rel=1e-4)
    kept = json.loads((out / "checks.json").read_text())
    assert kept["calculation"]["version"] == "7.2"
    assert [check["passed"] for check in kept["checks"]] == [True] * 3


def test_another_plane_is_only_another_picture(tmp_path, calculated, drawn):
    data, out = one(SILICON, rutile(), ids=["si", "rutile"]), tmp_path / "si"
    for indices in ((1, 1, 0), (1, 1, 1)):
        job.fields(data, out, PROTOCOLS["fast"], Scripted(), indices, name="si")
    assert len(calculated) == 1
    assert "plane (111)" in words(drawn[-1])
    with pytest.raises(InputError, match=r"other settings \(key, protocol differ\)"):
        job.fields(data, out, PROTOCOLS["moderate"], Scripted(), (1, 1, 0), name="si")
    with pytest.raises(InputError, match=r"other settings \(key, structure differ\)"):
        job.fields(data, out, PROTOCOLS["fast"], Scripted(), (1, 1, 0), name="rutile")


@pytest.mark.parametrize("indices", [(1, 1, 0), (1, 1, 1), (3, 1, -2)])
@pytest.mark.parametrize("atoms", [SILICON, rutile()], ids=["Si2", "TiO2"])
def test_the_picture_says_what_it_shows(tmp_path, drawn, atoms, indices):
    fields = synthetic(atoms, shape=(30, 30, 30), depth=40.0)
    # One core that would take all colours.
    fields.v_ext[0, 0, 0] = -5000.0
    job.draw(tmp_path / "f.png", fields, indices)
    (figure,) = drawn
    said = words(figure)
    assert said.count("eV") >= 4
    for word in ("electrons/Å³", "x (Å)", "y (Å)", "density", "first atom", "Colours stop short"):
        assert word in said
    assert not overlapping(figure)
    for text, place in boxes(figure):
        assert figure.bbox.x0 <= place.x0 < place.x1 <= figure.bbox.x1 + 1, text


def test_a_failed_check_is_named_with_its_remedy():
    fields = replace(synthetic(), electrons=8.0015)
    for smearing, remedy in (("cold", "gaussian"), ("gaussian", "--command")):
        protocol = Protocol(ecutwfc=40, kspacing=1, smearing=smearing)
        told = job.Written(checks(fields), protocol, Path("si")).complaint
        assert told.startswith("si: integral of the density: off by 0.0015 electrons")
        assert remedy in told
    assert not job.Written(checks(synthetic()), PROTOCOLS["fast"], Path()).complaint


def test_the_structure_is_named_or_the_only_one():
    data = one(SILICON, rutile(), ids=["si", "rutile"])
    assert job.chosen(data[:1], None)[0] == "si"
    name, atoms = job.chosen(data, "rutile")
    assert (name, len(atoms)) == ("rutile", 6)
    with pytest.raises(
        InputError, match=r"crystals\.extxyz: 2 structures; choose one with --id, such as si, rutile"
    ):
        job.chosen(data, None)
    with pytest.raises(InputError, match="no structure 'rutil'; there is rutile"):
        job.chosen(data, "rutil")


def test_a_structure_without_pseudopotential_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="structure 0: no pseudopotential for Na"):
        job.fields(one(bulk("Na")), tmp_path / "out", PROTOCOLS["fast"], Scripted(), (1, 1, 0))
    assert not (tmp_path / "out").exists()


def test_a_failed_check_ends_with_exit_code_2_and_all_files(tmp_path, monkeypatch):
    """Written before by a program that found another Fermi level; drawn anew from another plane."""
    wrong = replace(synthetic(), density=synthetic().density * 1.001)
    monkeypatch.setattr(job, "calculate", lambda *_, **__: (wrong, RESULT))
    write(tmp_path / "si.extxyz", SILICON)
    protocol = PROTOCOLS["fast"]
    job.fields(Dataset.read(tmp_path / "si.extxyz"), tmp_path / "out", protocol, Scripted(), (1, 1, 0))
    (tmp_path / "out" / "fields.png").unlink()
    asked = ("fields", "si.extxyz", "--plane", "111", "--protocol", "fast", "--out", "out")
    told = command.run(*asked, "--command", "true", folder=tmp_path)
    assert told.returncode == 2
    assert "integral of the density" in told.stdout
    assert "error: out: integral of the density: off by 0.008 electrons" in told.stderr
    assert "--command" in told.stderr
    assert is_picture(tmp_path / "out" / "fields.png")


# ----------------------------------------------------------------------------------------- the program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("atoms", "kspacing", "electrons"),
    [(SILICON, 0.8, 8), (bulk("MnO", "rocksalt", a=4.44), 1.5, 21)],
    ids=["Si2", "MnO"],
)
def test_fields_of_a_crystal(program, atoms, kspacing, electrons):
    """MnO is spin-polarised: its density is that of both spins together."""
    # Cold smearing may end with a Fermi level that is a hundredth of an electron off.
    settings = Protocol(ecutwfc=40, kspacing=kspacing, smearing="gaussian", conv_thr=1e-5)
    fields, result = calculate(Calculation.of(atoms, settings, library()), program)
    assert (fields.electrons, result.electrons) == (electrons, electrons)
    electron_count, poisson, total = (one.value for one in checks(fields))
    assert electron_count < 1e-6
    assert poisson < 1e-5
    assert total < 1e-9
    assert fields.density.shape == fields.v_eff.shape
    assert (fields.v_xc < 0).all()
    assert abs(fields.v_hartree.mean()) < 1e-8
    # Point (0, 0, 0) is the first atom; the valence density of silicon has its maximum in the bond.
    assert fields.v_ext[0, 0, 0] == fields.v_ext.min()
    if electrons == 8:
        n = fields.density.shape[0]
        assert fields.density[n // 8, n // 8, n // 8] > 5 * fields.density[0, 0, 0]
