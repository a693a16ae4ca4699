"""Forces and stress: against autograd through positions, finite differences, and what symmetry demands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from ase.stress import voigt_6_to_full_3x3_stress
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs import Batch
from matgraft.models import forces as forces_module
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet

SPECIES = frozenset({"O", "Ti", "V", "Fe", "H"})


def model_of(spacing: float | None = None, dtype: torch.dtype = torch.float64, **label) -> Model:
    torch.manual_seed(0)
    network = SchNet(SMALL)
    network.spacing = spacing
    references = References.given(dict.fromkeys(SPECIES, -5.0))
    return Model(network.to(dtype), Label(**{"name": "energy", **label}), references, 20.0, SPECIES)


def rattled(atoms: Atoms, seed: int = 0, by: float = 0.1) -> Atoms:
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, by, atoms.positions.shape)
    return atoms


def rock_salt() -> Atoms:
    return rattled(bulk("TiO", "rocksalt", a=4.2).repeat((2, 1, 1)))


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


STRUCTURES = {
    "crystal": rock_salt(),
    # Thinner than the cutoff and skewed: atoms see many images of themselves.
    "one atom": Atoms("Fe", cell=[[1.9, 0.1, 0], [0.9, 1.7, 0.2], [0.3, 2.9, 2.1]], pbc=True),
    "two atoms": Atoms(
        "VO", [[0, 0, 0], [7.0, -3.1, 1.2]], cell=[[2.1, 0, 0], [3.9, 2.0, 0], [0.5, -1.4, 2.4]], pbc=True
    ),
    "left-handed": Atoms(
        "TiO", [[0, 0, 0], [1.9, 0.2, 0.1]], cell=[[0, 3, 0.2], [3.1, 0, 0], [0, 0.3, 4]], pbc=1
    ),
    "slab": Atoms("TiO", [[0, 0, 0], [0.2, 0.1, 1.9]], cell=[2.7, 2.9, 0], pbc=[True, True, False]),
    "wire": Atoms("TiO", [[0, 0, 0], [0.2, 1.7, 0.4]], cell=[0, 0, 2.5], pbc=[False, False, True]),
    "molecule": rattled(molecule("H2O")),
}


def through_positions(model: Model, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and strain derivative: directed edges of ASE, differentiated through the positions."""
    i, j, shift = neighbor_list("ijS", atoms, model.cutoff)
    first, second = torch.from_numpy(i), torch.from_numpy(j)
    positions = torch.tensor(atoms.positions, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    vectors = positions[second] + torch.from_numpy(shift @ atoms.cell.array) - positions[first]
    ones = torch.ones(len(i), dtype=torch.float64)
    batch = Batch(
        species=torch.from_numpy(atoms.numbers).long(),
        multiplicity=torch.ones(len(atoms), dtype=torch.float64),
        structure=torch.zeros(len(atoms), dtype=torch.long),
        natoms=torch.tensor([len(atoms)], dtype=torch.float64),
        first=first,
        second=second,
        distance=(vectors + vectors @ strain).norm(dim=1),
        into_first=ones,
        into_second=0 * ones,
    )
    energy = len(atoms) * (model.scale * model.network(batch)[0] - 5.0)
    by_position, by_strain = torch.autograd.grad(energy, (positions, strain))
    symmetric = (by_strain + by_strain.T) / 2
    return energy.item(), -by_position.numpy(), symmetric.numpy()


@pytest.mark.parametrize("spacing", [None, 0.01])
@pytest.mark.parametrize("name", STRUCTURES)
def test_agrees_with_differentiation_through_positions(name, spacing):
    model, atoms = model_of(spacing), STRUCTURES[name]
    energy, forces, strain = through_positions(model, atoms)
    found = model.forces(atoms)
    assert found.energies[0] == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(found.forces[0], forces, atol=1e-11 * max(1.0, np.abs(forces).max()))
    if atoms.pbc.all():
        stress = voigt_6_to_full_3x3_stress(found.stresses[0])
        np.testing.assert_allclose(stress * atoms.get_volume(), strain, atol=1e-10 * np.abs(strain).max())
        assert np.abs(strain).max() > 0.1
    else:
        assert np.isnan(found.stresses).all()


@pytest.mark.parametrize("spacing", [None, 0.01])
@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_are_slopes_of_the_energy(name, spacing):
    model, atoms, step = model_of(spacing), STRUCTURES[name], 1e-4
    moved = []
    for k in range(atoms.positions.size):
        for sign in (1, -1):
            moved.append(atoms.copy())
            moved[-1].positions.flat[k] += sign * step
    energies = model.forces(moved).energies
    slopes = -(energies[::2] - energies[1::2]) / (2 * step)
    forces = model.forces(atoms).forces[0]
    np.testing.assert_allclose(forces.ravel(), slopes, atol=1e-5 * max(1.0, np.abs(forces).max()))


def test_forces_are_slopes_of_the_energy_where_outputs_are_damped():
    free = model_of()
    model = replace(free, span=(-1e-3, 1e-3))
    atoms, step = STRUCTURES["crystal"], 1e-4
    moved = [atoms.copy() for _ in range(2)]
    for one, sign in zip(moved, (1, -1), strict=True):
        one.positions[1, 2] += sign * step
    up, down = model.forces(moved).energies
    found = model.forces(atoms)
    assert found.forces[0][1, 2] == pytest.approx(-(up - down) / (2 * step), rel=1e-5)
    assert abs(found.forces[0][1, 2]) < 0.5 * abs(free.forces(atoms).forces[0][1, 2])
    assert found.energies == pytest.approx(model.predict(atoms).values, abs=1e-5)


@pytest.mark.parametrize("spacing", [None, 0.01])
@pytest.mark.parametrize("name", [name for name, atoms in STRUCTURES.items() if atoms.pbc.all()])
def test_stress_is_the_slope_with_strain(name, spacing):
    model, atoms, step = model_of(spacing), STRUCTURES[name], 1e-5
    stress = model.forces(atoms).stresses[0]
    for k, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        strain = np.zeros((3, 3))
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        up, down = model.forces([strained(atoms, strain), strained(atoms, -strain)]).energies
        slope = (up - down) / (2 * step) / atoms.get_volume()
        assert stress[k] == pytest.approx(slope, abs=1e-5 * np.abs(stress).max())


@pytest.mark.parametrize("kind", ["cell", "atom"])
def test_energy_is_the_prediction_of_the_cell(crystals, kind):
    unit = {"cell": "eV", "atom": "eV/atom"}[kind]
    model = model_of(0.01, torch.float32, kind=kind, unit=unit)
    predicted = model.predict(crystals).per_atom * crystals.natoms
    np.testing.assert_allclose(model.forces(crystals).energies, predicted, rtol=3e-6)


def test_a_label_per_atom_has_the_forces_of_the_cell():
    cell, atom = model_of(), model_of(kind="atom", unit="eV/atom")
    np.testing.assert_array_equal(cell.forces(rock_salt()).forces[0], atom.forces(rock_salt()).forces[0])


def test_table_and_single_precision_agree_with_the_exact_forces(crystals):
    exact = model_of().forces(crystals)
    for model, tolerance in (
        (model_of(None, torch.float32), 1e-5),
        (model_of(0.01), 2e-4),
        (model_of(0.01, torch.float32), 2e-4),
    ):
        found = model.forces(crystals)
        for values, reference in (
            (np.concatenate(found.forces), np.concatenate(exact.forces)),
            (found.stresses, exact.stresses),
        ):
            assert np.abs(values - reference).max() < tolerance * np.abs(reference).max()


def test_forces_of_the_table_do_not_jump_at_its_grid_points():
    model = model_of(0.01)
    dimer = [Atoms("TiO", [[0, 0, 0], [2.0 + side * 1e-9, 0, 0]]) for side in (-1, 1)]
    below, above = (forces[1, 0] for forces in model.forces(dimer).forces)
    assert abs(below) > 0.01
    assert below == pytest.approx(above, rel=1e-6)


def test_many_structures_at_once_are_as_one_by_one(monkeypatch):
    model, structures = model_of(), list(STRUCTURES.values())
    whole = model.forces(structures)
    monkeypatch.setattr(forces_module, "MAX_PAIRS", 100)
    in_batches = model.forces(structures)
    for k, atoms in enumerate(structures):
        alone = model.forces(atoms)
        for found in (whole, in_batches):
            assert found.energies[k] == pytest.approx(alone.energies[0], rel=1e-12)
            np.testing.assert_allclose(found.forces[k], alone.forces[0], atol=1e-11)
            np.testing.assert_allclose(found.stresses[k], alone.stresses[0], atol=1e-11)


def test_forces_turn_with_the_crystal_and_permute_with_its_atoms():
    model, atoms = model_of(), rock_salt()
    found = model.forces(atoms)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    order = np.random.default_rng(2).permutation(len(atoms))
    turned = atoms[order]
    turned.set_cell(atoms.cell @ rotation)
    turned.positions = atoms.positions[order] @ rotation
    after = model.forces(turned)
    assert after.energies[0] == pytest.approx(found.energies[0], rel=1e-12)
    np.testing.assert_allclose(after.forces[0], found.forces[0][order] @ rotation, atol=1e-11)
    stress = voigt_6_to_full_3x3_stress(found.stresses[0])
    np.testing.assert_allclose(
        voigt_6_to_full_3x3_stress(after.stresses[0]), rotation.T @ stress @ rotation, atol=1e-12
    )


def test_no_net_force_and_none_from_shifting_the_crystal_or_its_atoms_by_lattice_vectors():
    model, atoms = model_of(), rock_salt()
    forces = model.forces(atoms).forces[0]
    assert np.abs(forces).max() > 0.05
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-12)
    shifted = atoms.copy()
    shifted.positions += [0.3, -7.0, 11.0]
    shifted.positions[1] += [2, -1, 5] @ atoms.cell.array
    np.testing.assert_allclose(model.forces(shifted).forces[0], forces, atol=1e-11)


@pytest.mark.parametrize("name", ["crystal", "one atom", "two atoms"])
def test_a_supercell_has_the_same_forces_and_stress(name):
    model, atoms = model_of(), STRUCTURES[name]
    small, large = model.forces(atoms), model.forces(atoms.repeat((2, 1, 2)))
    assert large.energies[0] == pytest.approx(4 * small.energies[0], rel=1e-12)
    np.testing.assert_allclose(large.forces[0], np.tile(small.forces[0], (4, 1)), atol=1e-11)
    np.testing.assert_allclose(large.stresses, small.stresses, atol=1e-12)


@pytest.mark.parametrize("spacing", [None, 0.01])
def test_forces_fade_out_at_the_cutoff(spacing):
    model = model_of(spacing)
    gaps = [3.0, model.cutoff - 1e-2, model.cutoff - 1e-4, model.cutoff + 1e-9]
    found = model.forces([Atoms("TiO", [[0, 0, 0], [0, 0, gap]]) for gap in gaps])
    middle, near, nearer, beyond = (forces[0, 2] for forces in found.forces)
    assert abs(nearer) < abs(near) / 50 < abs(middle) / 1000
    assert beyond == 0.0


def test_structures_without_neighbours_and_no_structures_at_all(crystals):
    for dtype in (torch.float32, torch.float64):
        for spacing in (None, 0.01):
            model = model_of(spacing, dtype)
            found = model.forces(Atoms("Ti", cell=[9, 9, 9], pbc=True))
            assert np.isfinite(found.energies).all()
            np.testing.assert_array_equal(found.forces[0], np.zeros((1, 3)))
            np.testing.assert_array_equal(found.stresses, np.zeros((1, 6)))
    none = model.forces(crystals[:0])
    assert (none.energies.shape, none.forces, none.stresses.shape, none.unseen) == ((0,), [], (0, 6), [])


def test_atoms_in_the_same_place_have_finite_forces():
    found = model_of().forces(Atoms("TiO", [[0, 0, 0], [0, 0, 0]], cell=[4, 4, 4], pbc=True))
    assert np.isfinite(found.forces[0]).all()


def test_weights_are_left_alone():
    model = model_of()
    with torch.no_grad():
        model.forces(rock_salt())
    assert all(p.requires_grad and p.grad is None for p in model.network.parameters())


def test_marks_unseen_species():
    assert model_of().forces([rock_salt(), bulk("AgO", "rocksalt", a=4.6)]).unseen == [(), ("Ag",)]


@pytest.mark.parametrize(
    "label",
    [
        Label("band_gap_pbe", "eV", "intensive"),
        Label("volume", "A^3", "cell"),
        Label("formation_energy_per_atom", "", "atom"),
    ],
)
def test_only_energies_have_forces(label):
    model = replace(model_of(), label=label)
    with pytest.raises(InputError, match=f"'{label.name}'.*not an energy"):
        model.forces(rock_salt())


def test_names_the_structure_with_a_coordinate_that_is_not_finite(crystals):
    positions = crystals.positions.copy()
    positions[crystals.offsets[7]] = np.nan
    with pytest.raises(InputError, match=r"salts\.extxyz: structure salt-7: .*NaN"):
        model_of().forces(replace(crystals, positions=positions))


def test_refuses_a_flat_periodic_cell():
    flat = Atoms("Ti", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True)
    with pytest.raises(InputError, match=r"structure 1 .*no volume"):
        model_of().forces(Dataset.from_atoms([rock_salt(), flat]))
