"""Compiled inference against the network itself in float64 with exact filters."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from small import SMALL, seeded

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.models.compiled import TABLE_ERROR, CompiledSchNet
from matgraft.models.schnet import ARCHITECTURES, Architecture, SchNet

ARCHITECTURES_TO_TRY = {
    "small": SMALL,
    "arch2, published basis": Architecture(4, 30, 30, radial="published"),
    "sum, three outputs": Architecture(2, 24, 40, pooling="sum", outputs=3),
    "arch1": ARCHITECTURES["arch1"],
}


def network_of(arch: Architecture) -> SchNet:
    network = seeded(arch, seed=3)
    for interaction in network.interactions:
        interaction.atomwise_in.weight.data *= 0.3
    return network


@pytest.fixture(scope="module")
def crystals() -> Dataset:
    return Dataset.read("tmo-oxides")[np.arange(0, 660, 22)]


def exact(network: SchNet, graphs) -> np.ndarray:
    double = copy.deepcopy(network).double()
    double.spacing = None
    with torch.no_grad():
        out = double(graphs.batch(np.arange(len(graphs))).to(dtype=torch.float64)).numpy()
    return out.reshape(len(graphs), -1)


@pytest.mark.parametrize("name", ARCHITECTURES_TO_TRY)
def test_same_numbers_as_the_network(name, crystals):
    network = network_of(ARCHITECTURES_TO_TRY[name])
    graphs = build_graphs(crystals, network.arch.cutoff)
    compiled = CompiledSchNet.of(network)
    assert compiled.table_error <= TABLE_ERROR
    expected = exact(network, graphs)
    got = compiled.outputs(graphs, np.arange(len(graphs)))
    np.testing.assert_allclose(got, expected, rtol=5e-6, atol=5e-6 * np.abs(expected).max())
    some = np.array([7, 3, 3, 20])
    assert np.array_equal(compiled.outputs(graphs, some), got[some])
    assert compiled.outputs(graphs, some[:0]).shape == (0, network.arch.outputs)


def test_company_does_not_change_a_bit(crystals):
    compiled = CompiledSchNet.of(network_of(ARCHITECTURES["arch1"]))
    graphs = build_graphs(crystals, 5.0)
    together = compiled.outputs(graphs, np.arange(len(graphs)))
    alone = np.concatenate([compiled.outputs(graphs, np.array([row])) for row in range(len(graphs))])
    assert np.array_equal(together, alone)


def test_tables_are_refined_until_they_are_accurate(crystals):
    network = network_of(SMALL)
    network.spacing = 0.1
    compiled = CompiledSchNet.of(network)
    assert compiled.spacing < 0.1
    assert compiled.table_error <= TABLE_ERROR
    graphs = build_graphs(crystals, SMALL.cutoff)
    expected = exact(network, graphs)
    got = compiled.outputs(graphs, np.arange(len(graphs)))
    np.testing.assert_allclose(got, expected, atol=5e-6 * np.abs(expected).max())


def test_filters_too_sharp_for_any_table_are_reported(caplog):
    network = network_of(SMALL)
    network.basis.gamma = 1e6
    with caplog.at_level(logging.WARNING):
        compiled = CompiledSchNet.of(network)
    assert compiled.table_error > TABLE_ERROR
    assert "spacing = None" in caplog.text
