"""Batched inference: collate and forward; neighbour lists are at hand. Ours is that of ``Model.predict``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from peers import Matgraft, Side, seeded
from timing import Comparison, agree
from workloads import Workload

from matgraft.models.compiled import CompiledSchNet
from matgraft.models.schnet import Architecture
from quantities.setup import ENERGY_TOLERANCE, Setup, batches

ROUNDS = 16


def measure(setup: Setup) -> list[Comparison]:
    return [_compare(setup, workload) for workload in (setup.crystals(), setup.prototypes())]


Energies = Callable[[np.ndarray], np.ndarray]


def energies_with(side: Side) -> Energies:
    if isinstance(side, Matgraft) and side.network.spacing is not None:
        compiled = CompiledSchNet.of(side.network)
        return lambda rows: compiled.outputs(side.graphs, rows)[:, 0]
    return partial(without_gradient, side)


def without_gradient(side: Side, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return side.energies(side.batch(rows)).cpu().numpy()


def _compare(setup: Setup, workload: Workload) -> Comparison:
    name, model = f"inference, {workload.name}", seeded(Architecture())
    works = {
        who: energies_with(setup.side(who, model, workload, model.spacing))
        for who in setup.contenders(workload)
    }
    rounds = batches(len(workload.dataset), setup.at_most(ROUNDS))
    energies = {who: np.concatenate([work(rows) for rows in rounds]) for who, work in works.items()}
    agreement = {"energy_eV_per_atom": agree(name, energies, setup.baseline, ENERGY_TOLERANCE)}
    return setup.compared(name, works, rounds, workload.describe(), agreement)
