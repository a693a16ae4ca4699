"""The continuous-filter convolution: every kernel against the plain sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matgraft.graphs import Batch
from matgraft.models.cfconv import cfconv, convolve, interpolate
from matgraft.models.radial import GaussianBasis
from matgraft.models.schnet import FilterNetwork

CUTOFF = 5.0
FLOATS = ("multiplicity", "natoms", "distance", "into_first", "into_second")


def random_graph(seed: int, nodes: int = 7, pairs: int = 60, dtype: torch.dtype = torch.float32) -> Batch:
    """Pairs at random, some of them of a node with itself, some twice."""
    rng = np.random.default_rng(seed)
    first, second = np.sort(rng.integers(0, nodes, (2, pairs)), axis=0)
    into_first = rng.integers(1, 9, pairs).astype(float)
    into_second = np.where(first == second, 0.0, rng.integers(1, 9, pairs))
    distance = rng.uniform(0.9, CUTOFF, pairs)
    distance[:2] = 1e-3, CUTOFF * (1 - 1e-7)
    return Batch(
        species=torch.ones(nodes, dtype=torch.long),
        multiplicity=torch.ones(nodes),
        structure=torch.zeros(nodes, dtype=torch.long),
        natoms=torch.tensor([float(nodes)]),
        first=torch.from_numpy(first),
        second=torch.from_numpy(second),
        distance=torch.from_numpy(distance),
        into_first=torch.from_numpy(into_first),
        into_second=torch.from_numpy(into_second),
    ).to(dtype=dtype)


def filter_network(radial: str, filters: int, dtype: torch.dtype = torch.float32) -> FilterNetwork:
    torch.manual_seed(4)
    basis = GaussianBasis.published() if radial == "published" else GaussianBasis.compact(CUTOFF)
    network = FilterNetwork(basis, filters, CUTOFF)
    for layer in (network.dense[0], network.dense[2]):
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.normal_(layer.bias, std=0.1)
    return network.to(dtype)


def features_of(graph: Batch, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(len(graph.species), width, generator=generator).to(graph.distance.dtype)


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).norm() / reference.norm()).item()


def test_convolution_is_the_sum_over_neighbours():
    graph = random_graph(0, dtype=torch.float64)
    network = filter_network("compact", 5, torch.float64)
    x = features_of(graph, 5)
    expected = torch.zeros_like(x)
    for p, (a, b) in enumerate(zip(graph.first.tolist(), graph.second.tolist(), strict=True)):
        w = network(graph.distance[p : p + 1])[0]
        expected[a] += graph.into_first[p] * x[b] * w
        expected[b] += graph.into_second[p] * x[a] * w
    torch.testing.assert_close(cfconv(x, graph, network, CUTOFF, None), expected)


def test_no_pairs_give_zero():
    graph = random_graph(0, pairs=2)
    none = Batch(
        **{
            name: value[:0] if name in ("first", "second", "distance", "into_first", "into_second") else value
            for name, value in vars(graph).items()
        }
    )
    x = features_of(none, 4).requires_grad_()
    for spacing in (None, 0.02):
        out = cfconv(x, none, filter_network("compact", 4), CUTOFF, spacing)
        assert (out == 0).all()
        out.sum().backward()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    coefficients=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    scaled=st.lists(st.floats(0, 12), min_size=1, max_size=5),
)
def test_interpolation_is_exact_for_cubics(coefficients, scaled):
    def cubic(x):
        return sum(c * x**k for k, c in enumerate(coefficients))

    table = cubic(torch.arange(-1, 14, dtype=torch.float64))[:, None]
    x = torch.tensor(scaled, dtype=torch.float64)
    torch.testing.assert_close(interpolate(table, x)[:, 0], cubic(x), rtol=1e-10, atol=1e-9)


def test_interpolation_uses_the_four_nearest_points():
    """On quartics, the error is the polynomial that vanishes at those four."""
    table = torch.arange(-1, 14, dtype=torch.float64)[:, None] ** 4
    x = torch.linspace(0, 12, 97, dtype=torch.float64)
    t = x - x.floor()
    expected = x**4 - (t + 1) * t * (t - 1) * (t - 2)
    torch.testing.assert_close(interpolate(table, x)[:, 0], expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("radial", ["compact", "published"])
def test_interpolation_converges_with_the_fourth_power(radial):
    network = filter_network(radial, 16, torch.float64)
    distance = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * CUTOFF
    errors = []
    for step in (0.04, 0.02, 0.01):
        table = network(torch.arange(-1, round(CUTOFF / step) + 2, dtype=torch.float64) * step)
        errors.append((interpolate(table, distance / step) - network(distance)).abs().max().item())
    assert 11 < errors[0] / errors[1] < 21
    assert 11 < errors[1] / errors[2] < 21


@pytest.mark.parametrize(("spacing", "bound"), [(0.02, 1e-4), (0.01, 1e-5)])
@pytest.mark.parametrize("radial", ["compact", "published"])
@pytest.mark.parametrize("filters", [30, 128])
def test_spaced_filters_are_close_to_exact_ones(spacing, bound, radial, filters):
    graph = random_graph(1, nodes=10, pairs=300)
    network, x = filter_network(radial, filters), features_of(graph, filters)
    exact = cfconv(x, graph, network, CUTOFF, None)
    assert relative(cfconv(x, graph, network, CUTOFF, spacing), exact) < bound


@pytest.mark.parametrize("spacing", [0.02, 0.03])  # 0.03 does not divide the cutoff
@pytest.mark.parametrize("filters", [1, 30, 128])
def test_compiled_kernel_agrees_with_plain_torch(spacing, filters):
    graph = random_graph(2, nodes=9, pairs=200)
    network = filter_network("compact", filters)
    seed = torch.randn(9, filters, generator=torch.Generator().manual_seed(3))
    results = []
    for dtype in (torch.float32, torch.float64):  # float64 takes the plain path
        here, net = graph.to(dtype=dtype), network.to(dtype)
        x = features_of(graph, filters).to(dtype).requires_grad_()
        out = cfconv(x, here, net, CUTOFF, spacing)
        gradients = torch.autograd.grad((out * seed.to(dtype)).sum(), [x, *net.parameters()])
        results.append([out.detach(), *gradients])
    for compiled, plain in zip(*results, strict=True):
        assert compiled.dtype == torch.float32
        assert relative(compiled.double(), plain) < 3e-6


def test_compiled_kernel_reads_a_gradient_that_is_not_contiguous():
    graph = random_graph(2)
    network = filter_network("compact", 6)
    x = features_of(graph, 6).requires_grad_()
    weights = torch.randn(6, 7, generator=torch.Generator().manual_seed(5)).T
    straight, strided = (
        torch.autograd.grad(cfconv(x, graph, network, CUTOFF, 0.02), x, grad_outputs=g)[0]
        for g in (weights.contiguous(), weights)
    )
    assert torch.equal(straight, strided)


def test_float32_distances_that_need_a_gradient_get_one():
    graph = random_graph(6)
    network, x = filter_network("compact", 8), features_of(graph, 8)
    gradients = []
    for spacing in (None, 0.01):
        distance = graph.distance.clone().requires_grad_()
        moved = Batch(**{**vars(graph), "distance": distance})
        out = cfconv(x, moved, network, CUTOFF, spacing)
        gradients.append(torch.autograd.grad(out.square().sum(), distance)[0])
    assert relative(gradients[1], gradients[0]) < 1e-3


def test_gradients_of_the_plain_path():
    graph = random_graph(3, nodes=4, pairs=9, dtype=torch.float64)
    # Away from the table's points, where the third derivative of the interpolant jumps.
    step = 0.25
    cells = (graph.distance / step).floor().clamp(1, 18)
    scaled = (cells + torch.linspace(0.2, 0.8, 9, dtype=torch.float64)).requires_grad_()
    x = features_of(graph, 3).requires_grad_()
    table = torch.randn(23, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()

    def run(x, table, scaled):
        return convolve(x, interpolate(table, scaled), graph)

    assert torch.autograd.gradcheck(run, (x, table, scaled))


def test_gradients_through_the_filter_network():
    graph = random_graph(3, nodes=3, pairs=6, dtype=torch.float64)
    network = filter_network("compact", 2, torch.float64)
    x = features_of(graph, 2).requires_grad_()
    parameters = list(network.parameters())

    def run(x, *values):
        names = [name for name, _ in network.named_parameters()]

        def filter_of(d):
            return torch.func.functional_call(network, dict(zip(names, values, strict=True)), d)

        return cfconv(x, graph, filter_of, CUTOFF, 0.1)

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("radial", ["compact", "published"])
@pytest.mark.parametrize("filters", [30, 128])
def test_gradient_of_spaced_filters_is_close_to_the_exact_one(radial, filters):
    graph = random_graph(7, nodes=10, pairs=400)
    network = filter_network(radial, filters)
    seed = torch.randn(10, filters, generator=torch.Generator().manual_seed(8))
    gradients = []
    for spacing in (None, 0.02):
        x = features_of(graph, filters).requires_grad_()
        loss = (cfconv(x, graph, network, CUTOFF, spacing) * seed).sum()
        gradients.append(torch.autograd.grad(loss, [x, *network.parameters()]))
    for spaced, exact in zip(gradients[1], gradients[0], strict=True):
        assert relative(spaced, exact) < 1e-4
