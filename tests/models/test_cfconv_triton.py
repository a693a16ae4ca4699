"""The Triton kernels against plain torch in float64, on a GPU if there is one, else interpreted."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from matgraft.graphs import Batch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

with pytest.MonkeyPatch.context() as patch:
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    # Interpreters before that fail with numpy 2.4.
    pytest.importorskip("triton", minversion="3.7" if DEVICE == "cpu" else None)
    from matgraft.models import cfconv_triton
    from matgraft.models.cfconv_triton import available, triton_cfconv


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Parts of Triton are imported only when a kernel first runs."""
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


START, STEP, CELLS = 0.5, 0.25, 6  # exact in float32, so that a distance can lie exactly on the grid
CUTOFF = START + CELLS * STEP


def graph_of(nodes: int, first, second, distance, own_twice: bool = False) -> Batch:
    """A batch of random whole multiplicities; a pair of a node with itself has the second one zero."""
    first, second = (torch.as_tensor(ends, dtype=torch.long) for ends in (first, second))
    generator = torch.Generator().manual_seed(1)
    into_first, into_second = (torch.randint(1, 9, first.shape, generator=generator).float() for _ in "mn")
    if not own_twice:
        into_second[first == second] = 0.0
    return Batch(
        species=torch.ones(nodes, dtype=torch.long),
        multiplicity=torch.ones(nodes),
        structure=torch.zeros(nodes, dtype=torch.long),
        natoms=torch.tensor([float(nodes)]),
        first=first,
        second=second,
        distance=torch.as_tensor(distance, dtype=torch.float32),
        into_first=into_first,
        into_second=into_second,
    ).to(DEVICE)


def random_graph(nodes: int, pairs: int, lowest: float = START, highest: float = CUTOFF) -> Batch:
    generator = torch.Generator().manual_seed(pairs)
    ends = torch.randint(0, nodes, (2, pairs), generator=generator)
    distance = lowest + (highest - lowest) * torch.rand(pairs, generator=generator)
    return graph_of(nodes, *ends, distance)


def crowded() -> Batch:
    """More pairs in a cell, and edges at a node, than a program handles at a time; the last node has none."""
    graph = random_graph(4, 150, START + 2 * STEP, START + 3.2 * STEP)
    return replace(graph, species=graph.species.new_ones(5))


GRID = torch.linspace(START, CUTOFF, CELLS + 1)
ENDS = [START, START + 1e-7, CUTOFF - 1e-7, CUTOFF]
GRAPHS = {
    "random": lambda: random_graph(7, 40),
    "crowded": crowded,
    "one node": lambda: graph_of(1, [0] * 20, [0] * 20, torch.linspace(START, CUTOFF, 20)),
    "own pairs both ways": lambda: graph_of(2, [0, 1, 1], [0, 1, 0], [0.6, 1.1, 1.9], own_twice=True),
    "on the grid": lambda: graph_of(3, [0, 0, 1, 2, 2, 0, 2], [1, 2, 1, 1, 0, 0, 1], GRID),
    "near the ends": lambda: graph_of(2, [0] * 4, [1] * 4, ENDS),
    "outside": lambda: graph_of(2, [0, 0], [1, 1], [START - 0.1, CUTOFF + 0.1]),
    "one pair": lambda: graph_of(2, [1], [0], [1.3]),
    "no pairs": lambda: graph_of(3, [], [], []),
    "no nodes": lambda: graph_of(0, [], [], []),
}


def plain(features, coefficients, distance, graph: Batch):
    """Pair by pair, as the operation is written down."""
    out = torch.zeros_like(features)
    for p, (a, b) in enumerate(zip(graph.first.tolist(), graph.second.tolist(), strict=True)):
        scaled = (distance[p] - START) / STEP
        g = min(max(int(torch.floor(scaled)), 0), CELLS - 1)
        t = scaled - g
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        w = sum(weight * coefficients[g + s] for s, weight in enumerate(weights))
        out = out.index_add(0, torch.tensor([a]), (graph.into_first[p].double() * w * features[b])[None])
        out = out.index_add(0, torch.tensor([b]), (graph.into_second[p].double() * w * features[a])[None])
    return out


def inputs(graph: Batch, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, coefficients, and the gradient that arrives."""
    generator = torch.Generator().manual_seed(width)
    nodes = len(graph.species)
    shapes = ((nodes, width), (CELLS + 3, width), (nodes, width))
    return tuple(torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)


def kernels(graph: Batch, width: int, wanted=(True, True, True)) -> list[torch.Tensor]:
    """The convolution and the wanted ones of its gradients: features, coefficients, distance."""
    features, coefficients, seed = inputs(graph, width)
    leaves = [
        leaf.clone().requires_grad_(want)
        for leaf, want in zip((features, coefficients, graph.distance), wanted, strict=True)
    ]
    out = triton_cfconv(*leaves[:2], replace(graph, distance=leaves[2]), START, STEP)
    return [out.detach(), *torch.autograd.grad(out, [leaf for leaf in leaves if leaf.requires_grad], seed)]


def expected(graph: Batch, width: int) -> list[torch.Tensor]:
    graph = graph.to("cpu")
    features, coefficients, seed = (tensor.cpu().double() for tensor in inputs(graph, width))
    leaves = [leaf.requires_grad_() for leaf in (features, coefficients, graph.distance.double())]
    out = plain(*leaves, graph) + 0 * sum(leaf.sum() for leaf in leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, seed)]


def assert_close(values: list[torch.Tensor], references: list[torch.Tensor]) -> None:
    for value, reference in zip(values, references, strict=True):
        assert value.dtype == torch.float32
        size = float(reference.detach().abs().max()) if reference.numel() else 0.0
        torch.testing.assert_close(value.cpu().double(), reference, rtol=1e-5, atol=3e-6 * size)


@pytest.mark.parametrize("width", [1, 30, 64])
@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_agree_with_plain_torch(name, width):
    graph = GRAPHS[name]()
    assert_close(kernels(graph, width), expected(graph, width))


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_frozen_parts_change_nothing_for_the_others(wanted):
    graph = random_graph(5, 30)
    reference = expected(graph, 6)
    chosen = [gradient for gradient, want in zip(reference[1:], wanted, strict=True) if want]
    assert_close(kernels(graph, 6, wanted), [reference[0], *chosen])


def test_strided_tensors_are_read_as_they_are():
    graph = random_graph(5, 30)
    features, coefficients, seed = (
        tensor.T.contiguous().T.requires_grad_(k < 2) for k, tensor in enumerate(inputs(graph, 6))
    )
    out = triton_cfconv(features, coefficients, graph, START, STEP)
    reference = expected(graph, 6)
    assert_close([out.detach(), *torch.autograd.grad(out, [features, coefficients], seed)], reference[:3])


def test_equal_input_gives_equal_bits():
    for one, other in zip(kernels(crowded(), 30), kernels(crowded(), 30), strict=True):
        assert torch.equal(one, other)


def test_a_distance_that_is_not_a_number_spoils_its_own_pair_only():
    graph = graph_of(4, [0, 2], [1, 3], [float("nan"), 1.2])
    values = kernels(graph, 4)
    reference = expected(replace(graph, distance=torch.tensor([1.0, 1.2], device=DEVICE)), 4)
    for value in values[:2]:
        assert value[:2].isnan().all()
    assert values[2][:4].isnan().all()  # it counts as one in the first cell
    assert values[3].isnan().tolist() == [True, False]
    assert_close([value[2:] for value in values[:2]], [value[2:] for value in reference[:2]])


def test_a_batch_is_sorted_once_for_all_layers_and_both_ways(monkeypatch):
    sorted_keys, sort = [], cfconv_triton._sorted

    def counted(keys, bins):
        sorted_keys.append(keys)
        return sort(keys, bins)

    monkeypatch.setattr(cfconv_triton, "_sorted", counted)
    graph = random_graph(4, 20)
    x, coefficients, _ = inputs(graph, 4)
    with torch.inference_mode():
        triton_cfconv(x, coefficients, graph, START, STEP)
    assert len(sorted_keys) == 1
    coefficients = coefficients.requires_grad_()
    for _ in range(3):
        x = triton_cfconv(x, coefficients, graph, START, STEP)
    x.sum().backward()
    assert len(sorted_keys) == 2
    triton_cfconv(x.detach(), coefficients, graph, START, 2 * STEP)
    triton_cfconv(x.detach(), coefficients, replace(graph), START, STEP)
    assert len(sorted_keys) == 4


def test_another_grid_or_batch_is_not_served_from_memory():
    graph = random_graph(4, 20)
    kernels(graph, 3)
    moved = replace(graph, distance=graph.distance.flip(0))
    assert_close(kernels(moved, 3), expected(moved, 3))
    x, coefficients, _ = inputs(graph, 3)
    halved = replace(graph, distance=graph.distance / 2)
    torch.testing.assert_close(
        triton_cfconv(x, coefficients, halved, START / 2, STEP / 2),
        triton_cfconv(x, coefficients, graph, START, STEP),
    )


def test_order_goes_with_the_batch():
    gc.collect()
    before = len(cfconv_triton._orders)
    graph = random_graph(4, 20)
    x, coefficients, _ = inputs(graph, 4)
    triton_cfconv(x, coefficients, graph, START, STEP)
    assert len(cfconv_triton._orders) == before + 1
    del graph
    gc.collect()
    assert len(cfconv_triton._orders) == before


@pytest.mark.parametrize(
    ("member", "value", "error"),
    [
        ("first", torch.full((20,), 4), ValueError),
        ("second", torch.full((20,), -1), ValueError),
        ("first", torch.zeros(20, dtype=torch.int32), TypeError),
        ("second", torch.zeros(19, dtype=torch.long), ValueError),
        ("distance", torch.ones(20, dtype=torch.float64), TypeError),
        ("distance", torch.ones(20, dtype=torch.bfloat16), TypeError),
        ("into_first", torch.ones(20, 1), ValueError),
        ("into_second", torch.ones(20, dtype=torch.float16), TypeError),
        ("into_second", torch.ones(20, device="meta"), ValueError),
    ],
)
def test_pairs_that_would_lead_the_kernels_astray_are_refused(member, value, error):
    graph = random_graph(4, 20)
    x, coefficients, _ = inputs(graph, 4)
    if value.device.type != "meta":
        value = value.to(DEVICE)
    with pytest.raises(error, match=rf"Batch\.{member}"):
        triton_cfconv(x, coefficients, replace(graph, **{member: value}), START, STEP)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("features", torch.Tensor.bfloat16, TypeError),
        ("features", torch.Tensor.double, TypeError),
        ("features", lambda x: x[:, 0], ValueError),
        ("coefficients", torch.Tensor.half, TypeError),
        ("coefficients", lambda c: c[:, 1:], ValueError),
        ("coefficients", lambda c: c[:3], ValueError),
        ("coefficients", lambda c: c.to("meta"), ValueError),
        ("step", lambda _: 0.0, ValueError),
        ("step", lambda _: float("nan"), ValueError),
    ],
)
def test_tensors_that_would_lead_the_kernels_astray_are_refused(name, change, error):
    graph = random_graph(4, 20)
    x, coefficients, _ = inputs(graph, 4)
    arguments = {"features": x, "coefficients": coefficients, "graph": graph, "start": START, "step": STEP}
    with pytest.raises(error, match=name):
        triton_cfconv(**(arguments | {name: change(arguments[name])}))


def imported_anew():
    spec = importlib.util.spec_from_file_location("anew", cfconv_triton.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_triton_the_module_imports_and_says_so(monkeypatch):
    assert available(DEVICE)
    monkeypatch.setitem(sys.modules, "triton", None)
    module = imported_anew()
    assert not module.available("cuda")
    assert not module.available("cpu")
    graph = random_graph(4, 20)
    with pytest.raises(RuntimeError, match="Triton"):
        module.triton_cfconv(*inputs(graph, 4)[:2], graph, START, STEP)


def test_processors_are_not_served_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module = imported_anew()
    assert module.available("cuda")
    assert not module.available("cpu")


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from matgraft.models.cfconv_triton import EDGES, PARTS, _correlate, _gather

indices = {"offsets", "neighbour", "cell", "first", "second", "place"}
scalars = {"rows": "i32", "width": "i32", "inverse_step": "fp32"}


def check(kernel, **constants):
    types = {name: scalars.get(name, "*i64" if name in indices else "*fp32") for name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    assert compile(ASTSource(kernel, types, values), target=GPUTarget("cuda", 80, 32)).asm["cubin"]


check(_gather, EDGES=EDGES, WIDTH=32)
check(_correlate, EDGES=EDGES, WIDTH=32, PARTS=PARTS, COEFFICIENTS=True, DISTANCE=True)
"""


def test_kernels_compile_for_gpus(tmp_path):
    """The interpreter takes more than the compiler does, which needs no GPU."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
