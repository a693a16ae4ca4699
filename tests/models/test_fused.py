"""Layers compiled as one call, against the same layers in plain torch and float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from small import seeded

from matgraft.data import Dataset
from matgraft.graphs import Batch, build_graphs
from matgraft.models import fused, schnet
from matgraft.models.schnet import Architecture, SchNet

ARCHITECTURES = [
    Architecture(interactions=2, features=64, filters=32),
    Architecture(interactions=2, features=32, filters=96, radial="published"),
]


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    structures = [bulk("NaCl", "rocksalt", a=5.6), bulk("Fe", cubic=True) * (2, 2, 2), bulk("Si", cubic=True)]
    for atoms in structures[1:]:
        atoms.rattle(0.1, rng=rng)
    return build_graphs(Dataset.from_atoms(structures), 5.0).batch(np.arange(3))


def derivatives(net: SchNet, batch: Batch) -> dict[str, torch.Tensor]:
    distance = batch.distance.clone().requires_grad_()
    out = net(replace(batch, distance=distance))
    inputs = {"distance": distance, **dict(net.named_parameters())}
    gradients = torch.autograd.grad(out.square().sum(), list(inputs.values()))
    return {"output": out.detach(), **dict(zip(inputs, gradients, strict=True))}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_outputs_and_gradients_are_those_of_plain_torch(arch, batch, monkeypatch):
    calls = []
    for name in ("fused_filter", "fused_interaction"):
        original = getattr(fused, name)
        monkeypatch.setattr(
            schnet, name, lambda *a, _name=name, _f=original, **k: calls.append(_name) or _f(*a, **k)
        )
    net = seeded(arch, seed=1, std=0.1)
    compiled = derivatives(net, batch)
    assert calls.count("fused_filter") == calls.count("fused_interaction") == arch.interactions
    plain = derivatives(net.double(), batch.to(dtype=torch.float64))
    assert len(calls) == 2 * arch.interactions  # float64 takes the plain path
    for name, reference in plain.items():
        error = (compiled[name].double() - reference).norm() / reference.norm()
        assert error < (2e-4 if name == "distance" else 2e-5), name


def test_frozen_parts_get_no_gradient(batch):
    net = seeded(ARCHITECTURES[0], seed=1, std=0.1)
    net.embedding.requires_grad_(False)
    net.interactions[0].filter.requires_grad_(False)
    net(batch).sum().backward()
    assert net.embedding.weight.grad is None
    assert net.interactions[0].filter.dense[0].weight.grad is None
    assert net.interactions[0].atomwise_in.weight.grad.abs().sum() > 0
    assert net.interactions[1].filter.dense[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (torch.zeros(3, dtype=torch.int64), TypeError),
        (torch.zeros(4, dtype=torch.int32), TypeError),
        (torch.tensor([0, 1, 2, 5]), IndexError),
        (torch.tensor([0, 1, 2, -1]), IndexError),
    ],
)
def test_rows_that_would_lead_the_kernel_astray_are_refused(rows, error):
    structures = Dataset.from_atoms([bulk("NaCl", "rocksalt", a=5.6), bulk("CsCl", "cesiumchloride", a=4.1)])
    batch = build_graphs(structures, 5.0).batch(np.arange(2))
    net = seeded(ARCHITECTURES[0], seed=1, std=0.1)
    with pytest.raises(error, match="rows"):
        net.interactions[0](torch.randn(5, 64), batch, net.filters(batch)[0], rows=rows)
