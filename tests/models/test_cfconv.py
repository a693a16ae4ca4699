"""The continuous-filter convolution: every kernel against the plain sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matgraft.graphs import Batch
from matgraft.models.cfconv import cfconv, convolve
from matgraft.models.radial import GaussianBasis, cosine_cutoff
from matgraft.models.schnet import FilterNetwork
from matgraft.models.table import Knots, Table

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


class Filter(torch.nn.Module):
    """A filter network as a function of the distance."""

    def __init__(self, radial: str, filters: int):
        super().__init__()
        self.basis = GaussianBasis.published() if radial == "published" else GaussianBasis.compact(CUTOFF)
        self.network = FilterNetwork(len(self.basis), filters)

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        return self.network(self.basis(distance), cosine_cutoff(distance, CUTOFF)[:, None])


def filter_network(radial: str, filters: int, dtype: torch.dtype = torch.float32) -> Filter:
    torch.manual_seed(4)
    module = Filter(radial, filters)
    for layer in (module.network.dense[0], module.network.dense[2]):
        torch.nn.init.xavier_uniform_(layer.weight)
        torch.nn.init.normal_(layer.bias, std=0.1)
    return module.to(dtype)


def table_of(filter_of, spacing: float, like: torch.Tensor, shortest: float = 0.0) -> Table:
    knots = Knots.between(shortest, CUTOFF, spacing)
    return Table.through(filter_of(knots.distances(like)), knots)


def convolved(x: torch.Tensor, graph: Batch, filter_of, spacing: float | None) -> torch.Tensor:
    if spacing is None:
        return cfconv(x, graph, filter_of(graph.distance))
    return cfconv(x, graph, table_of(filter_of, spacing, x))


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
    torch.testing.assert_close(convolved(x, graph, network, None), expected)


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
        out = convolved(x, none, filter_network("compact", 4), spacing)
        assert (out == 0).all()
        out.sum().backward()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    coefficients=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    distances=st.lists(st.floats(1.3, CUTOFF), min_size=1, max_size=5),
    shortest=st.floats(0, 1.3),
)
def test_spline_is_exact_for_cubics(coefficients, distances, shortest):
    def cubic(x):
        return sum(c * x**k for k, c in enumerate(coefficients))

    x = torch.tensor(distances, dtype=torch.float64)
    table = table_of(lambda d: cubic(d)[:, None], 0.3, x, shortest)
    torch.testing.assert_close(table(x)[:, 0], cubic(x), rtol=1e-10, atol=1e-9)


def test_spline_has_two_continuous_derivatives():
    network = filter_network("compact", 3, torch.float64)
    table = table_of(network, 0.25, torch.zeros(1, dtype=torch.float64))
    knot = torch.arange(1, 20, dtype=torch.float64) * table.knots.step
    sides = []
    for shift in (-1e-9, 1e-9):
        x = (knot + shift).requires_grad_()
        value = table(x)[:, 0]
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        sides.append((value.detach(), slope.detach(), curvature))
    for left, right in zip(*sides, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("radial", ["compact", "published"])
def test_spline_converges_with_the_fourth_power(radial):
    network = filter_network(radial, 16, torch.float64)
    distance = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * CUTOFF
    errors = [
        (table_of(network, step, distance)(distance) - network(distance)).abs().max().item()
        for step in (0.01, 0.005, 0.0025)
    ]
    assert 11 < errors[0] / errors[1] < 30  # between the knots, the error falls faster still
    assert 11 < errors[1] / errors[2] < 24


@pytest.mark.parametrize("shortest", [0.0, 0.37, 1.9999999, 4.99])
def test_knots_reach_the_shortest_distance_and_the_cutoff(shortest):
    knots = Knots.between(shortest, CUTOFF, 0.03)
    assert knots.step <= 0.03
    assert shortest - 3 * knots.step < knots.start <= shortest
    assert knots.start + knots.cells * knots.step == pytest.approx(CUTOFF)
    at = knots.distances(torch.zeros(1, dtype=torch.float64))
    apart = 3 * knots.step  # three cells from one knot to the next
    torch.testing.assert_close(at.diff(), torch.full_like(at[1:], apart))
    assert at[0] < knots.start - 6 * apart
    assert at[-1] > CUTOFF + 6 * apart


@pytest.mark.parametrize(("spacing", "bound"), [(0.0125, 3e-6), (0.01, 1e-6)])
@pytest.mark.parametrize("radial", ["compact", "published"])
@pytest.mark.parametrize("filters", [30, 128])
def test_spaced_filters_are_close_to_exact_ones(spacing, bound, radial, filters):
    graph = random_graph(1, nodes=10, pairs=300)
    network, x = filter_network(radial, filters), features_of(graph, filters)
    exact = convolved(x, graph, network, None)
    assert relative(convolved(x, graph, network, spacing), exact) < bound


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
        out = convolved(x, here, net, spacing)
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
        torch.autograd.grad(convolved(x, graph, network, 0.02), x, grad_outputs=g)[0]
        for g in (weights.contiguous(), weights)
    )
    assert torch.equal(straight, strided)


@pytest.mark.parametrize("filters", [8, 30, 128])
def test_distance_gradient_of_the_compiled_kernel(filters):
    graph = random_graph(6)
    network = filter_network("compact", filters)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        here, net = graph.to(dtype=dtype), network.to(dtype)
        distance = here.distance.clone().requires_grad_()
        moved = Batch(**{**vars(here), "distance": distance})
        x = features_of(here, filters)
        out = cfconv(x, moved, table_of(net, 0.01, x))
        gradients.append(torch.autograd.grad(out.square().sum(), distance)[0])
    assert relative(gradients[0].double(), gradients[1]) < 1e-4
    exact = graph.to(dtype=torch.float64)
    distance = exact.distance.clone().requires_grad_()
    out = convolve(features_of(exact, filters), network(distance), exact)
    assert relative(gradients[1], torch.autograd.grad(out.square().sum(), distance)[0]) < 1e-3


@pytest.mark.parametrize(
    ("member", "value", "error"),
    [
        ("first", torch.full((60,), 7), IndexError),
        ("second", torch.full((60,), -1), IndexError),
        ("first", torch.zeros(60, dtype=torch.int32), TypeError),
        ("distance", torch.ones(60, dtype=torch.float64), TypeError),
        ("distance", torch.ones(60, dtype=torch.bfloat16), TypeError),
        ("into_first", torch.ones(59), TypeError),
    ],
)
def test_arrays_that_would_lead_the_kernel_astray_are_refused(member, value, error):
    graph = Batch(**{**vars(random_graph(0)), member: value})
    x = torch.randn(7, 16)
    with pytest.raises(error, match=member if member != "distance" else "."):
        cfconv(x, graph, table_of(filter_network("compact", 16), 0.02, x))


def test_gradients_of_the_plain_path():
    graph = random_graph(3, nodes=4, pairs=9, dtype=torch.float64)
    x = features_of(graph, 3).requires_grad_()
    coefficients = torch.randn(23, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    distance = graph.distance.clone().requires_grad_()

    def run(x, coefficients, distance):
        return convolve(x, Table(coefficients, Knots(0.0, 0.25, len(coefficients) - 3))(distance), graph)

    assert torch.autograd.gradcheck(run, (x, coefficients, distance))


def test_gradients_through_the_filter_network():
    graph = random_graph(3, nodes=3, pairs=6, dtype=torch.float64)
    network = filter_network("compact", 2, torch.float64)
    x = features_of(graph, 2).requires_grad_()
    parameters = list(network.parameters())

    def run(x, *values):
        names = [name for name, _ in network.named_parameters()]

        def filter_of(d):
            return torch.func.functional_call(network, dict(zip(names, values, strict=True)), d)

        return convolved(x, graph, filter_of, 0.1)

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("radial", ["compact", "published"])
@pytest.mark.parametrize("filters", [30, 128])
def test_gradient_of_spaced_filters_is_close_to_the_exact_one(radial, filters):
    graph = random_graph(7, nodes=10, pairs=400)
    network = filter_network(radial, filters)
    seed = torch.randn(10, filters, generator=torch.Generator().manual_seed(8))
    gradients = []
    for spacing in (None, 0.0125):
        x = features_of(graph, filters).requires_grad_()
        loss = (convolved(x, graph, network, spacing) * seed).sum()
        gradients.append(torch.autograd.grad(loss, [x, *network.parameters()]))
    for spaced, exact in zip(gradients[1], gradients[0], strict=True):
        assert relative(spaced, exact) < 1e-4
