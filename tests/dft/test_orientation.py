"""How a crystal lies must not matter: neither for its symmetry in pw.x, nor for energy, forces and fields."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from itertools import permutations, product

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.io.espresso import read_espresso_in
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

from matgraft.dft.calculation import Calculation
from matgraft.dft.fields import calculate
from matgraft.dft.output import Result
from matgraft.dft.planes import on_plane, plane
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.paper.drawings import rutile

TOY = Protocol(name="toy", ecutwfc=20, kspacing=1.0, conv_thr=1e-8, order="none", forces=True)
SILICON = bulk("Si", a=5.43)


def centred(symbols, basis, group, cell) -> Atoms:
    return crystal(symbols, basis, spacegroup=group, cellpar=cell, primitive_cell=True)


CRYSTALS = {
    "face-centred cubic": bulk("TiO", "rocksalt", a=4.24),
    "diamond": SILICON,
    "body-centred cubic": bulk("Cr"),
    "hexagonal": bulk("Ti"),
    "rhombohedral": centred(
        ["Ti", "O"], [(0, 0, 0.345), (0.312, 0, 0.25)], 167, [5.157, 5.157, 13.61, 90, 90, 120]
    ),
    "tetragonal": rutile(),
    "body-centred tetragonal": centred(
        ["Ti", "O"], [(0, 0, 0), (0, 0, 0.2081)], 141, [3.785, 3.785, 9.514, 90, 90, 90]
    ),
    "base-centred orthorhombic": centred(
        ["Ti", "O"], [(0, 0.09, 0.25), (0, 0.37, 0.25)], 63, [3.1, 9.2, 4.3, 90, 90, 90]
    ),
    "base-centred monoclinic": centred(
        ["Ti", "O"], [(0.1, 0, 0.3), (0.4, 0, 0.2)], 12, [9.1, 3.2, 5.4, 90, 107, 90]
    ),
}


def turned(atoms: Atoms, seed: int) -> tuple[Atoms, np.ndarray]:
    """The crystal in another orientation, and the rotation."""
    rotation = Rotation.random(random_state=seed).as_matrix()
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ rotation.T, scale_atoms=True)
    return other, rotation


def by(atoms: Atoms, protocol: Protocol = TOY) -> Calculation:
    return Calculation.of(atoms, protocol, library())


def written(one: Calculation) -> Atoms:
    """The crystal in the input file."""
    return read_espresso_in(StringIO(one.deck()))


def known_to_pw() -> np.ndarray:
    """The proper rotations of an upright cube and of an upright hexagonal prism."""
    cube = [
        np.diag(signs)[list(order)]
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    prism = []
    for k in range(6):
        c, s = np.cos(k * np.pi / 3), np.sin(k * np.pi / 3)
        prism += [np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([[c, s, 0], [s, -c, 0], [0, 0, -1]])]
    return np.array([matrix for matrix in (*cube, *prism) if np.linalg.det(matrix) > 0])


def unknown(atoms: Atoms) -> int:
    """Operations of a crystal that pw.x would not find as it lies."""
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.get_symmetry(cell, symprec=1e-5)["rotations"]
    to_cell, rotations = atoms.cell.array.T, known_to_pw()
    missing = 0
    for one in found:
        matrix = to_cell @ one @ np.linalg.inv(to_cell)
        missing += np.abs(rotations - np.linalg.det(matrix) * matrix).max(axis=(1, 2)).min() > 1e-7
    return int(missing)


@pytest.mark.parametrize("atoms", CRYSTALS.values(), ids=CRYSTALS)
def test_every_operation_is_one_that_pw_x_looks_for(atoms):
    assert len(known_to_pw()) == 36
    for seed in range(3):
        other, _ = turned(atoms, seed)
        assert unknown(other)
        assert unknown(written(by(other))) == 0


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 1, 1), (1, 1, 0)])
def test_what_symmetry_an_almost_cubic_crystal_has_is_found_whole(direction):
    along = np.array(direction) / np.linalg.norm(direction)
    atoms = SILICON.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 1e-3 * np.outer(along, along)), scale_atoms=True)
    for seed in range(3):
        assert unknown(written(by(turned(atoms, seed)[0]))) == 0


@pytest.mark.parametrize("atoms", CRYSTALS.values(), ids=CRYSTALS)
def test_a_crystal_is_only_turned_and_always_to_the_same_place(atoms):
    first = written(by(atoms))
    np.testing.assert_allclose(first.cell.cellpar(), atoms.cell.cellpar(), atol=1e-9)
    places = (one.get_scaled_positions(wrap=False) for one in (first, atoms))
    np.testing.assert_allclose(*places, atol=1e-9)
    for seed in range(3):
        other, _ = turned(atoms, seed)
        one = by(other)
        assert one.rotation @ one.rotation.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(one.rotation) == pytest.approx(1)
        np.testing.assert_allclose(written(one).cell.array, first.cell.array, atol=1e-9)
        np.testing.assert_allclose(written(one).positions, first.positions, atol=1e-9)
        assert one.cost == pytest.approx(by(atoms).cost)


def test_a_left_handed_cell_is_not_mirrored():
    atoms = Atoms(SILICON.numbers, SILICON.positions, cell=SILICON.cell.array[[1, 0, 2]], pbc=True)
    one = by(turned(atoms, 0)[0])
    assert np.linalg.det(one.rotation) == pytest.approx(1)
    assert unknown(written(one)) == 0


def test_a_crystal_without_axes_stays_as_it_lies():
    atoms = Atoms(
        "TiO", [(0, 0, 0), (1.1, 1.3, 1.6)], cell=[(4, 0.3, 0.1), (0.7, 5, 0.2), (0.4, 0.9, 6)], pbc=1
    )
    np.testing.assert_array_equal(by(atoms).rotation, np.eye(3))


def test_the_key_is_that_of_the_structure_as_it_is_given():
    """Written down before crystals were turned."""
    assert by(rutile(), Protocol(ecutwfc=20, kspacing=1.0)).key == "c817365bcbe776e9c157f1e8618ee996"


# ----------------------------------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def runs(program):
    """Displaced silicon, upright and turned, with its forces."""
    atoms = SILICON.copy()
    atoms.positions[1] += (0.12, -0.05, 0.03)
    other, rotation = turned(atoms, 4)
    return other, rotation, [finished(program, one) for one in (atoms, other)]


def finished(engine, atoms) -> Result:
    result = engine.run(by(atoms))
    assert isinstance(result, Result)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("atoms", [SILICON, rutile()], ids=["Si2", "TiO2"])
def test_a_turned_crystal_has_as_many_k_points_and_the_same_energy(program, atoms):
    upright, other = finished(program, atoms), finished(program, turned(atoms, 1)[0])
    mesh, _ = spglib.get_ir_reciprocal_mesh(
        by(atoms).kpoints, (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), is_shift=(0, 0, 0)
    )
    assert upright.kpoints == other.kpoints == len(np.unique(mesh))
    assert other.free_energy == pytest.approx(upright.free_energy, abs=1e-5)


@pytest.mark.slow
def test_forces_turn_with_the_crystal(runs):
    _, rotation, (upright, other) = runs
    assert np.abs(upright.forces).max() > 0.3
    np.testing.assert_allclose(other.forces, np.array(upright.forces) @ rotation.T, atol=1e-4)


@pytest.mark.slow
def test_forces_of_a_turned_crystal_are_slopes_of_its_energy(program, runs):
    atoms, _, (_, result) = runs
    step, direction = 0.02, np.array([0.6, 0.0, 0.8])
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0] += sign * step * direction
        energies.append(finished(program, moved).free_energy)
    slope = (energies[0] - energies[1]) / (2 * step)
    assert -slope == pytest.approx(result.forces[0] @ direction, abs=0.01)


@pytest.mark.slow
def test_fields_come_out_as_the_crystal_lies(program):
    other, rotation = turned(SILICON, 2)
    upright, found = (calculate(by(atoms), program)[0] for atoms in (SILICON, other))
    np.testing.assert_allclose(found.atoms.positions, other.positions, atol=1e-9)
    here = plane(SILICON, (1, 1, 0))
    there = replace(here, centre=here.centre @ rotation.T, right=rotation @ here.right, up=rotation @ here.up)
    for name in ("density", "v_eff"):
        expected = on_plane(getattr(upright, name), upright.atoms.cell.array, here)
        np.testing.assert_allclose(
            on_plane(getattr(found, name), found.atoms.cell.array, there), expected, atol=1e-5
        )
