"""Learning from forces: against second derivatives by autograd, and on a potential that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.models.schnet import SchNet
from matgraft.training import forces as forces_module
from matgraft.training.contest import contest, entrants
from matgraft.training.forces import Pulls, force_error
from matgraft.training.graft import Task, finetune
from matgraft.training.portfolio import Bench
from matgraft.training.recipe import DIRECT

RECIPE = DIRECT.changed(epochs=30, min_steps=0, batch_size=4)
BOTH = RECIPE.changed(forces=0.2)


def shaken(seed: int) -> Atoms:
    """An alloy of copper and gold out of equilibrium, and what the effective medium theory says of it."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.8 + 0.2 * rng.random())
    atoms.numbers[rng.permutation(4)[: rng.integers(1, 3)]] = 79
    atoms.rattle(0.15, seed=seed)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture(scope="module")
def alloys() -> Dataset:
    atoms = [shaken(seed) for seed in range(40)]
    energies = [one.get_potential_energy() for one in atoms]
    return Dataset.from_atoms(atoms, labels={"energy": energies}, specs={"energy": Label("energy")})


@pytest.fixture(scope="module")
def varied(alloys) -> Dataset:
    """Cells of several sizes, one of them of an atom that sees but its own images, one without forces."""
    pair = alloys.atoms(0).repeat((2, 1, 1))
    pair.calc = SinglePointCalculator(pair, forces=np.random.default_rng(0).normal(size=(8, 3)))
    alone = bulk("Cu", a=3.6)
    alone.calc = SinglePointCalculator(alone, forces=np.ones((1, 3)))
    return Dataset.concatenate([alloys[:2], Dataset.from_atoms([pair, alone, alloys.atoms(2)], list("pax"))])


def network_of(spacing: float | None, dtype: torch.dtype) -> SchNet:
    torch.manual_seed(0)
    network = SchNet(SMALL)
    network.spacing = spacing
    return network.to(dtype)


def gradients(network: SchNet, pulls: Pulls, rows: np.ndarray) -> tuple[float, torch.Tensor]:
    graph, direction = pulls.batch(rows)
    graph = graph.to(dtype=network.embedding.weight.dtype)
    graph.distance.requires_grad_()
    error = force_error(network, pulls, rows, graph, direction, network(graph))
    return error.item(), flat(error, network)


def flat(error: torch.Tensor, network: SchNet) -> torch.Tensor:
    """All gradients in one row; no force depends on the last bias."""
    parts = torch.autograd.grad(error, list(network.parameters()), materialize_grads=True)
    return torch.cat([part.flatten().double() for part in parts])


def exact(network: SchNet, pulls: Pulls, rows: np.ndarray) -> tuple[float, torch.Tensor]:
    """The same with second derivatives by autograd."""
    graph, direction = pulls.batch(rows)
    graph.distance.requires_grad_()
    energy = (graph.natoms * network(graph)).sum()
    (slope,) = torch.autograd.grad(energy, graph.distance, create_graph=True)
    pull = slope[:, None] * torch.from_numpy(direction)
    forces = torch.zeros(len(graph.species), 3, dtype=torch.float64)
    forces = forces.index_add(0, graph.first, pull).index_add(0, graph.second, -pull)
    known = torch.from_numpy(pulls.known(rows))
    off = torch.where(known.isnan(), 0.0, forces - known.nan_to_num())
    length = (off.square().sum(dim=1) + 1e-30).sqrt()
    error = (length / graph.natoms[graph.structure]).sum() / len(rows)
    return error.item(), flat(error, network)


def test_gradients_are_those_of_second_derivatives(varied, monkeypatch):
    pulls, network = Pulls.of(varied, SMALL.cutoff), network_of(None, torch.float64)
    rows = np.array([4, 2, 0, 3])
    error, expected = exact(network, pulls, rows)
    away = {}
    for step in (0.003, 0.0003):
        monkeypatch.setattr(forces_module, "STEP", step)
        found, gradient = gradients(network, pulls, rows)
        assert found == pytest.approx(error, rel=1e-9)
        away[step] = float((gradient - expected).norm() / expected.norm())
    assert away[0.003] < 1e-3
    # To second order in the step.
    assert away[0.0003] < 0.02 * away[0.003]


def test_compiled_kernels_give_the_same_gradients(varied):
    pulls, rows = Pulls.of(varied, SMALL.cutoff), np.arange(len(varied))
    error, expected = exact(network_of(None, torch.float64), pulls, rows)
    found, gradient = gradients(network_of(0.01, torch.float32), pulls, rows)
    assert found == pytest.approx(error, rel=1e-4)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-3


def test_structures_without_forces_teach_none(varied):
    pulls, network = Pulls.of(varied, SMALL.cutoff), network_of(None, torch.float64)
    error, gradient = gradients(network, pulls, np.array([4]))
    assert error == 0.0
    assert gradient.abs().max() < 1e-12
    with pytest.raises(InputError, match="no forces to learn from"):
        Pulls.of(varied[[4]], SMALL.cutoff)


def test_infinite_forces_are_unknown_ones_and_batches_are_cut_by_what_they_hold(varied):
    forces = varied.forces.copy()
    forces[0, 0] = np.inf
    odd = replace(varied, forces=forces)
    pulls = Pulls.of(odd, SMALL.cutoff)
    assert odd.has_forces.tolist() == [False, True, True, True, False]
    assert np.isnan(pulls.known(np.array([0]))).all()
    moved = pulls.displaced(np.arange(5), [np.zeros((n, 3)) for n in varied.natoms])
    assert pulls.pairs.sum() == 3 * len(moved.distance)


def test_pairs_that_leave_the_cutoff_fall_silent(varied):
    """Displaced beyond the last cell of a table, they must not be looked up there."""
    pulls = Pulls.of(varied, SMALL.cutoff)
    far = [np.random.default_rng(0).normal(0, 0.3, (n, 3)) for n in varied.natoms]
    moved = pulls.displaced(np.arange(len(varied)), far)
    assert moved.distance.max() == SMALL.cutoff
    assert (moved.distance < SMALL.cutoff).any()


def test_forces_are_learnt_and_help_the_energy(alloys):
    train, test = alloys[:16], alloys[16:]
    truth, known = test.labels["energy"], test.forces

    def errors(recipe) -> tuple[float, float]:
        model = finetune(None, train, "energy", scheme="direct", arch=SMALL, recipe=recipe)
        predicted = model.forces(test)
        off = np.abs(np.concatenate(predicted.forces) - known).mean()
        return float(np.abs(predicted.energies - truth).mean()), float(off)

    energies_alone, with_forces = errors(RECIPE), errors(BOTH)
    assert with_forces[1] < 0.5 * np.abs(known).mean()
    assert with_forces[1] < 0.5 * energies_alone[1]
    assert with_forces[0] < energies_alone[0]


def test_an_interrupted_run_ends_with_the_same_weights(alloys, tmp_path):
    def run(data: Dataset, folder=None, stop_at: int | None = None):
        def report(row: dict) -> None:
            if row["epoch"] == stop_at:
                raise KeyboardInterrupt

        options = dict(recipe=BOTH.changed(epochs=6), arch=SMALL, folder=folder, report=report)
        return finetune(None, data, "energy", scheme="direct", **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matgraft.training.loop.CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run(alloys[:12], tmp_path, stop_at=4)
        continued = run(alloys[:12], tmp_path)
    assert continued.network.weights() == run(alloys[:12]).network.weights()
    # Other forces are another run.
    changed = replace(alloys, forces=alloys.forces + 0.1)
    with pytest.raises(InputError, match="other data or settings"):
        run(changed[:12], tmp_path)


@pytest.mark.parametrize("scheme", ["tl1", "tl2", "tl3"])
def test_schemes_move_what_they_say(alloys, scheme):
    """Output layers alone, whose input is kept otherwise, learn from forces too."""
    source = finetune(None, alloys[:12], "energy", scheme="direct", arch=SMALL, recipe=RECIPE)
    recipe = BOTH.changed(epochs=4, rate=1e-3)
    model = finetune(source, alloys[12:24], "energy", scheme=scheme, reference="residual", recipe=recipe)
    moved = {
        name.split(".")[0]
        for name, weights in model.network.named_parameters()
        if not torch.equal(weights, source.network.get_parameter(name))
    }
    below = {"tl1": {"embedding", "interactions"}, "tl2": {"interactions"}, "tl3": set()}
    assert moved == {"output", *below[scheme]}
    known = alloys[12:24].forces

    def off(model) -> float:
        return np.abs(np.concatenate(model.forces(alloys[12:24]).forces) - known).mean()

    assert off(model) < off(source)


def test_a_contest_blends_what_has_learnt_from_forces(alloys):
    """Though a Gaussian process, which knows energies alone, errs least here."""
    source = finetune(None, alloys[:12], "energy", scheme="direct", arch=SMALL, recipe=RECIPE)

    def held(forces: bool, network_error: float):
        task = Task.of(alloys, "energy", SMALL.cutoff, forces=forces)
        bench = Bench(task, (source,), SMALL)

        def run(works):
            for work in works:
                error = {"process": 0.01, "network": network_error}.get(work.candidate.kind, 0.1)
                yield work, task.per_atom[work.held] + error * (-1.0) ** np.arange(len(work.held))

        return {one.kind for one in contest(bench, np.arange(40), 0, run=run).weights}, bench

    kinds, bench = held(forces=True, network_error=0.0105)
    assert kinds == {"network"}
    assert {one.name for one in entrants(bench, 40)} >= {"tl1-residual-long", "staged-residual"}
    assert held(forces=True, network_error=9.0)[0] == {"network"}
    assert held(forces=False, network_error=0.0105)[0] == {"process"}


def test_forces_belong_to_energies(alloys):
    gaps = replace(alloys, specs={"energy": Label("energy", "eV", "intensive")})
    with pytest.raises(InputError, match="forces are no derivative of it"):
        Task.of(gaps, "energy", SMALL.cutoff, forces=True)
    with pytest.raises(InputError, match="no forces to learn from"):
        finetune(None, replace(alloys, forces=None), "energy", scheme="direct", recipe=BOTH)
    with pytest.raises(InputError, match="jitter"):
        RECIPE.changed(jitter=0.03, forces=0.1)
    unprepared = Task.of(alloys, "energy", SMALL.cutoff)
    with pytest.raises(InputError, match="forces"):
        finetune(None, unprepared, scheme="direct", recipe=BOTH)
