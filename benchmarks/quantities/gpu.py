"""Training steps and inference on a GPU, in batches of 32 and 256, made on the processor and moved."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from peers import Side, seeded
from timing import Comparison, agree

from matgraft.errors import InputError
from matgraft.models.schnet import Architecture
from matgraft.training.recipe import PAPER
from quantities.inference import energies_with, without_gradient
from quantities.setup import ENERGY_TOLERANCE, OURS, Setup, batches
from quantities.training import GRADIENT_TOLERANCE, LOSS_TOLERANCE, Trainee

ROUNDS = 16
SIZES = (32, 256)
PROCESSOR = "matgraft, one core of the processor"


class OnGPU:
    """A :class:`Side` whose network and batches are on the GPU."""

    def __init__(self, side: Side):
        self.network, self.side = side.network.to("cuda"), side

    def batch(self, rows: np.ndarray) -> Any:
        batch = self.side.batch(rows)
        if isinstance(batch, Mapping):
            return {key: tensor.to("cuda") for key, tensor in batch.items()}
        return batch.to("cuda")

    def energies(self, batch: Any) -> torch.Tensor:
        return self.side.energies(batch)


def measure(setup: Setup) -> list[Comparison]:
    if not torch.cuda.is_available():
        raise InputError("quantity gpu: no GPU here that torch can use.")
    return [work(setup, size) for size in SIZES for work in (_training, _inference)]


def _sides(setup: Setup, spacing: float | None) -> tuple[dict[str, Side], int, dict]:
    workload, model = setup.crystals(1024), seeded(Architecture())
    sides: dict[str, Side] = {
        who: OnGPU(setup.side(who, model, workload, spacing)) for who in setup.contenders(workload)
    }
    sides[PROCESSOR] = setup.side(OURS, model, workload, spacing)
    return sides, len(workload.dataset), workload.describe()


def _training(setup: Setup, size: int) -> Comparison:
    name = f"training on a GPU, MP, batches of {size}"
    sides, n, work = _sides(setup, PAPER.spacing)
    trainees = {who: Trainee(side, n) for who, side in sides.items()}
    rounds = batches(n, setup.at_most(ROUNDS), size)
    losses = {who: trainee.step(rounds[0]) for who, trainee in trainees.items()}
    gradients = {who: trainee.gradient_norm() for who, trainee in trainees.items()}
    within = partial(agree, reference=setup.baseline, relative=True)
    agreement = {
        "first_loss_relative": within(f"{name}, loss", losses, tolerance=LOSS_TOLERANCE),
        "first_gradient_norm_relative": within(f"{name}, gradient", gradients, tolerance=GRADIENT_TOLERANCE),
    }
    steps = {who: trainee.step for who, trainee in trainees.items()}
    return setup.compared(name, steps, rounds, work, agreement)


def _inference(setup: Setup, size: int) -> Comparison:
    name = f"inference on a GPU, MP, batches of {size}"
    sides, n, work = _sides(setup, seeded(Architecture()).spacing)
    works = {who: partial(without_gradient, side) for who, side in sides.items()}
    works[PROCESSOR] = energies_with(sides[PROCESSOR])
    rounds = batches(n, setup.at_most(ROUNDS), size)
    energies = {who: work(rounds[0]) for who, work in works.items()}
    agreement = {"energy_eV_per_atom": agree(name, energies, setup.baseline, ENERGY_TOLERANCE)}
    return setup.compared(name, works, rounds, work, agreement)
