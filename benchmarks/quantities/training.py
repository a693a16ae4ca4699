"""Training steps: collate, forward, backward, Adam; neighbour lists are at hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from peers import Side, seeded
from timing import Comparison, agree
from torch.nn import functional
from workloads import Workload

from matgraft.models.schnet import Architecture
from matgraft.training.recipe import PAPER
from quantities.setup import ENERGY_TOLERANCE, Setup, batches

ROUNDS = 16
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
"""Relative; the gradient by its norm over all parameters."""


class Trainee:
    """A side with its optimiser: the loss is the mean square, the targets are fixed random numbers."""

    def __init__(self, side: Side, n: int):
        self.side = side
        self.optimizer = torch.optim.Adam(side.network.parameters(), lr=PAPER.rate, fused=True)
        targets = torch.from_numpy(np.random.default_rng(1).normal(size=n).astype(np.float32))
        self.targets = targets.to(next(side.network.parameters()).device)

    def step(self, rows: np.ndarray) -> float:
        loss = functional.mse_loss(self.side.energies(self.side.batch(rows)), self.targets[rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def gradient_norm(self) -> float:
        gradients = [p.grad for p in self.side.network.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([g.double().norm() for g in gradients])))


def measure(setup: Setup) -> list[Comparison]:
    crystals, prototypes = setup.crystals(), setup.prototypes()
    cases = [
        (crystals.name, crystals, Architecture()),
        (prototypes.name, prototypes, Architecture()),
    ]
    if setup.peer:
        published = Architecture(radial="published")
        cases.append((f"{prototypes.name}, 300 Gaussians", prototypes, published))
    return [_compare(setup, f"training, {name}", workload, arch) for name, workload, arch in cases]


def _compare(setup: Setup, name: str, workload: Workload, arch: Architecture) -> Comparison:
    model, n = seeded(arch), len(workload.dataset)
    trainees = {
        who: Trainee(setup.side(who, model, workload, PAPER.spacing), n) for who in setup.contenders(workload)
    }
    rounds = batches(n, setup.at_most(ROUNDS))
    with torch.no_grad():
        energies = {
            who: trainee.side.energies(trainee.side.batch(rounds[0])).numpy()
            for who, trainee in trainees.items()
        }
    losses = {who: trainee.step(rounds[0]) for who, trainee in trainees.items()}
    gradients = {who: trainee.gradient_norm() for who, trainee in trainees.items()}
    within = partial(agree, reference=setup.baseline)
    agreement = {
        "energy_eV_per_atom": within(f"{name}, energies", energies, tolerance=ENERGY_TOLERANCE),
        "first_loss_relative": within(f"{name}, loss", losses, tolerance=LOSS_TOLERANCE, relative=True),
        "first_gradient_norm_relative": within(
            f"{name}, gradient", gradients, tolerance=GRADIENT_TOLERANCE, relative=True
        ),
    }
    steps = {who: trainee.step for who, trainee in trainees.items()}
    return setup.compared(name, steps, rounds, workload.describe(), agreement)
