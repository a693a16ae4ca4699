"""The network compiled as one call, against the same network in plain torch and float64."""

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
    Architecture(interactions=1, features=32, filters=32, pooling="sum"),
    Architecture(interactions=3, features=32, filters=32, outputs=3),
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
    monkeypatch.setattr(schnet, "fused_schnet", lambda *a: calls.append(a) or fused.fused_schnet(*a))
    net = seeded(arch, seed=1, std=0.1)
    compiled = derivatives(net, batch)
    assert len(calls) == 1
    plain = derivatives(net.double(), batch.to(dtype=torch.float64))
    assert len(calls) == 1  # float64 takes the plain path
    for name, reference in plain.items():
        error = (compiled[name].double() - reference).norm() / reference.norm()
        assert error < (2e-4 if name == "distance" else 2e-5), name


def test_exact_filters_take_the_plain_path(batch):
    net = seeded(ARCHITECTURES[0], seed=1, std=0.1)
    assert fused.fusible(net, batch)
    net.spacing = None
    assert not fused.fusible(net, batch)


FREE = {
    "all": lambda name: True,
    "output layers": lambda name: name.startswith("output."),
    "one filter": lambda name: name.startswith("interactions.1.filter."),
    "embedding": lambda name: name.startswith("embedding."),
    "none": lambda name: False,
}


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("with_distance", [True, False])
def test_frozen_parts_get_no_gradient_and_the_rest_the_same(batch, free, with_distance):
    net = seeded(ARCHITECTURES[0], seed=1, std=0.1)
    expected = derivatives(net, batch)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(FREE[free](name))
    distance = batch.distance.clone().requires_grad_(with_distance)
    out = net(replace(batch, distance=distance))
    assert out.requires_grad == (with_distance or free != "none")
    if out.requires_grad:
        out.square().sum().backward()
    for name, tensor in {"distance": distance, **dict(net.named_parameters())}.items():
        if tensor.requires_grad:
            torch.testing.assert_close(tensor.grad, expected[name])
        else:
            assert tensor.grad is None, name


def test_gradients_of_two_batches_add_up(batch):
    net = seeded(ARCHITECTURES[0], seed=1, std=0.1)
    net(batch).sum().backward()
    once = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    net(batch).sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"species": torch.zeros(3, dtype=torch.int64)}, TypeError),
        ({"species": torch.zeros(26, dtype=torch.int32)}, TypeError),
        ({"species": torch.full((26,), 119)}, IndexError),
        ({"species": torch.full((26,), -1)}, IndexError),
        ({"structure": torch.full((26,), 3)}, IndexError),
        ({"second": torch.full((1,), 99)}, TypeError),
    ],
)
def test_indices_that_would_lead_the_kernels_astray_are_refused(batch, wrong, error):
    net = seeded(ARCHITECTURES[0], seed=1, std=0.1)
    assert len(batch.species) == 26
    with pytest.raises(error, match=next(iter(wrong))):
        net(replace(batch, **wrong))
