"""The ASE calculator: what ASE's own optimisers, filters, dynamics and finite differences make of it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.models.files import load_model
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet

ENERGY = Label("energy")


def model_of(
    spacing: float | None = None, dtype: torch.dtype = torch.float64, label: Label = ENERGY
) -> Model:
    torch.manual_seed(0)
    network = SchNet(SMALL)
    network.spacing = spacing
    return Model(
        network.to(dtype), label, References.given({"O": -4.0, "Ti": -5.0}), 20.0, frozenset({"O", "Ti"})
    )


@pytest.fixture
def atoms() -> Atoms:
    atoms = bulk("TiO", "rocksalt", a=4.2).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=0)
    return atoms


def test_gives_what_the_model_gives(atoms):
    model = model_of()
    found = model.forces(atoms)
    atoms.calc = model.calculator()
    assert (
        atoms.get_potential_energy() == atoms.get_potential_energy(force_consistent=True) == found.energies[0]
    )
    np.testing.assert_array_equal(atoms.get_forces(), found.forces[0])
    np.testing.assert_array_equal(atoms.get_stress(), found.stresses[0])


def test_agrees_with_finite_differences_of_ase(atoms):
    differences = pytest.importorskip("ase.calculators.fd")
    atoms.calc = model_of().calculator()
    forces, stress = atoms.get_forces(), atoms.get_stress()
    np.testing.assert_allclose(
        differences.calculate_numerical_forces(atoms, eps=1e-4), forces, atol=1e-5 * np.abs(forces).max()
    )
    np.testing.assert_allclose(
        differences.calculate_numerical_stress(atoms, eps=1e-5), stress, atol=1e-5 * np.abs(stress).max()
    )


def test_one_evaluation_per_geometry(atoms, monkeypatch):
    evaluated = []
    forces = Model.forces
    monkeypatch.setattr(Model, "forces", lambda *args: evaluated.append(1) or forces(*args))
    atoms.calc = model_of().calculator()
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    atoms.get_forces()
    assert len(evaluated) == 1
    atoms.positions[0, 0] += 0.01
    atoms.get_forces(), atoms.get_stress()
    assert len(evaluated) == 2


@pytest.mark.parametrize("pbc", [False, (True, True, False)])
def test_stress_needs_three_periodic_directions(atoms, pbc):
    atoms.pbc = pbc
    atoms.calc = model_of().calculator()
    assert np.isfinite(atoms.get_forces()).all()
    for _ in range(2):
        with pytest.raises(PropertyNotImplementedError, match="stress"):
            atoms.get_stress()
        atoms.rattle(0.01, seed=1)


def fluctuations(atoms: Atoms, timestep: float, time: float = 25.0) -> tuple[float, float]:
    """Spread of potential and of total energy in ``time`` fs at constant energy, from 600 K."""
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_velocities(velocities * np.sqrt(600 * units.kB / atoms.get_masses())[:, None])
    potential, total = [], []

    def record():
        potential.append(atoms.get_potential_energy())
        total.append(atoms.get_total_energy())

    dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
    dynamics.attach(record)
    dynamics.run(round(time / timestep))
    return np.ptp(potential), np.ptp(total)


@pytest.mark.parametrize(
    ("spacing", "dtype"), [(None, torch.float64), (0.01, torch.float64), (0.01, torch.float32)]
)
def test_dynamics_conserves_energy_to_second_order_in_the_time_step(atoms, spacing, dtype):
    calculator, spreads = model_of(spacing, dtype).calculator(), []
    for timestep in (0.5, 0.25):
        moving = atoms.copy()
        moving.calc = calculator
        potential, total = fluctuations(moving, timestep)
        assert potential > 1.0
        spreads.append(total)
    assert spreads[1] < 0.002 * potential
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
def test_relaxes_a_shipped_oxide(optimizer):
    oxides = Dataset.read("tmo-oxides-clean")
    atoms = oxides.atoms(int(np.flatnonzero(oxides.ids == "mp-25433")[0]))
    atoms.rattle(0.08, seed=0)
    atoms.calc = load_model("mp-schnet").calculator()
    energy, force = atoms.get_potential_energy(), np.abs(atoms.get_forces()).max()
    assert optimizer(atoms, logfile=None).run(fmax=0.05, steps=60)
    assert atoms.get_potential_energy() < energy - 0.01
    assert np.abs(atoms.get_forces()).max() < force / 5


def test_relaxes_a_cell():
    atoms = bulk("TiO", "rocksalt", a=4.2 * 1.03)
    atoms.calc = load_model("mp-schnet").calculator()
    energy, stress = atoms.get_potential_energy(), np.abs(atoms.get_stress()).max()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=60)
    assert atoms.get_potential_energy() < energy - 0.01
    assert np.abs(atoms.get_stress()).max() < stress / 5


def test_warns_once_of_each_unseen_element(caplog):
    silver, gold = bulk("AgO", "rocksalt", a=4.6), bulk("AuAg", "rocksalt", a=4.9)
    calculator = model_of().calculator()
    with caplog.at_level(logging.WARNING):
        for atoms in (silver, silver.repeat((2, 1, 1)), gold, silver):
            atoms.calc = calculator
            atoms.get_potential_energy()
    assert ["Ag" in r.message for r in caplog.records] == [True, False]
    assert ["Au" in r.message for r in caplog.records] == [False, True]


def test_refuses_a_model_that_has_no_forces_before_any_structure():
    with pytest.raises(InputError, match=r"'band_gap'.*not an energy"):
        model_of(label=Label("band_gap", "eV", "intensive")).calculator()


def test_says_when_dynamics_blew_up(atoms):
    atoms.calc = model_of().calculator()
    atoms.positions[0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        atoms.get_forces()
