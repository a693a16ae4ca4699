"""The tabulated continuous-filter convolution as Triton kernels, for GPUs.

Every sum has a fixed order, so that equal input gives equal bits: the convolution and its gradient gather per
node, the gradient of the table gathers per cell of the table. No kernel adds atomically, and nothing is kept
per pair and filter.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

from matgraft.graphs import Batch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for the CPU comes without it
    triton = None

EDGES = 16
"""Edges, or pairs, that a program handles at a time."""

PARTS = 4
"""Programs that share the pairs of one cell: distances of crystals crowd into few cells."""


def available(device: torch.device | str) -> bool:
    """Whether the kernels run on a device: a GPU, or any with Triton's interpreter (TRITON_INTERPRET=1)."""
    if triton is None:
        return False
    interpreted = not isinstance(_gather, triton.JITFunction)
    return interpreted or torch.device(device).type == "cuda"


def triton_cfconv(
    features: torch.Tensor, coefficients: torch.Tensor, graph: Batch, start: float, step: float
) -> torch.Tensor:
    """Continuous-filter convolution ``sum_j x_j * W(d_ij)``, eq. (15), with ``W`` as a cubic B-spline.

    Gradients reach the features, the coefficients and ``graph.distance``; second derivatives do not exist.

    The pairs are checked and sorted when a batch is first seen, which waits for the device; further calls
    with the same ``Batch`` object and grid use that order again, so a batch must not be changed in place.

    For a capture as a CUDA graph, run the call and its gradient once before: the check cannot be captured.
    The batch must outlive the graph. The order of its pairs, all shapes (nodes, pairs, cells, width),
    ``start`` and ``step`` are baked in; features and coefficients may be refilled in place.

    Parameters
    ----------
    features : Tensor of float32, shape (n_nodes, n_filters)
    coefficients : Tensor of float32, shape (n_cells + 3, n_filters)
        ``W(start + (g + t) step) = sum_s B_s(t) coefficients[g + s]``, ``s = 0 ... 3``, ``t`` in [0, 1].
    graph : Batch
        Distances beyond the table are extrapolated from its first or last cell.
    start, step : float
        Where the first cell begins, and the length of each, in Angstrom.

    Returns
    -------
    Tensor of float32, shape (n_nodes, n_filters)

    Raises
    ------
    TypeError
        If a tensor is not of the type above, or ``first`` and ``second`` are not int64.
    ValueError
        If shapes or devices do not agree, or a pair names a node that does not exist.
    RuntimeError
        If the kernels do not run on the device of the features.
    """
    if not available(features.device):
        raise RuntimeError(f"Triton kernels do not run on {features.device}: a GPU with Triton is needed")
    _check(graph, features, coefficients, step)
    order = _order_of(graph, len(features), len(coefficients) - 3, float(start), float(step))
    return _Convolution.apply(features.contiguous(), coefficients.contiguous(), graph.distance, order)


def _check(graph: Batch, features: torch.Tensor, coefficients: torch.Tensor, step: float) -> None:
    """The kernels take addresses: a wrong type or shape would let them read and write anywhere."""
    pairs = (len(graph.first),)
    for name, tensor, kind, shape in (
        ("features", features, torch.float32, (len(features), features.shape[-1])),
        ("coefficients", coefficients, torch.float32, (len(coefficients), features.shape[-1])),
        ("Batch.first", graph.first, torch.int64, pairs),
        ("Batch.second", graph.second, torch.int64, pairs),
        ("Batch.distance", graph.distance, torch.float32, pairs),
        ("Batch.into_first", graph.into_first, torch.float32, pairs),
        ("Batch.into_second", graph.into_second, torch.float32, pairs),
    ):
        if tensor.dtype != kind:
            raise TypeError(f"{name}: {kind} needed, not {tensor.dtype}")
        if tensor.shape != shape:
            raise ValueError(f"{name}: shape {shape} needed, not {tuple(tensor.shape)}")
        if tensor.device != features.device:
            raise ValueError(f"{name} is on {tensor.device}, the features are on {features.device}")
    if len(coefficients) < 4 or not step > 0:
        raise ValueError(f"coefficients: {len(coefficients)} rows, step {step}; 4 rows make one cell")


class _Edges(NamedTuple):
    """Directed edges, sorted by the node they lead to; those into ``v`` are ``offsets[v]:offsets[v + 1]``."""

    offsets: torch.Tensor
    neighbour: torch.Tensor
    cell: torch.Tensor
    position: torch.Tensor
    inward: torch.Tensor
    outward: torch.Tensor


class _Pairs(NamedTuple):
    """Pairs, sorted by the cell of their distance; those in ``g`` are ``offsets[g]:offsets[g + 1]``."""

    offsets: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    position: torch.Tensor
    into_first: torch.Tensor
    into_second: torch.Tensor
    place: torch.Tensor


class _Order:
    """The pairs of a batch in the two orders in which the kernels walk through them."""

    def __init__(self, graph: Batch, nodes: int, cells: int, start: float, step: float):
        self.first, self.second = graph.first, graph.second
        self.into_first, self.into_second = graph.into_first.detach(), graph.into_second.detach()
        self.nodes, self.cells, self.step = nodes, cells, step
        if len(self.first):
            lowest, highest = torch.aminmax(torch.stack([self.first, self.second]))
            if not 0 <= int(lowest) <= int(highest) < nodes:
                raise ValueError(f"Batch.first, Batch.second: a node outside 0 to {nodes - 1}")
        scaled = (graph.distance.detach() - start) / step
        # Clamped again as integers: a distance that is not a number must not become an address.
        self.cell = scaled.clamp(0, cells - 1).long().clamp_(0, cells - 1)
        self.position = scaled - self.cell

    @cached_property
    def edges(self) -> _Edges:
        """Each pair both ways, but that of a node with itself once: the other half goes past all nodes."""
        own = self.first == self.second
        both = self.into_first + self.into_second
        into_first = torch.where(own, both, self.into_first)
        into_second = torch.where(own, both, self.into_second)
        target = torch.cat([self.first, self.second.masked_fill(own, self.nodes)])
        offsets, order = _sorted(target, self.nodes)
        return _Edges(
            offsets,
            torch.cat([self.second, self.first])[order],
            self.cell.repeat(2)[order],
            self.position.repeat(2)[order],
            torch.cat([into_first, into_second])[order],
            torch.cat([into_second, into_first])[order],
        )

    @cached_property
    def pairs(self) -> _Pairs:
        offsets, order = _sorted(self.cell, self.cells)
        return _Pairs(
            offsets,
            self.first[order],
            self.second[order],
            self.position[order],
            self.into_first[order],
            self.into_second[order],
            order,
        )


def _sorted(keys: torch.Tensor, bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each of the bins begins and ends once sorted, and the order that sorts."""
    ordered, order = torch.sort(keys, stable=True)
    return torch.searchsorted(ordered, torch.arange(bins + 1, device=keys.device)), order


_orders = WeakIdKeyDictionary()


def _order_of(graph: Batch, nodes: int, cells: int, start: float, step: float) -> _Order:
    """The order for a batch, kept for as long as the batch lives: all layers use it, both ways."""
    key = nodes, cells, start, step
    known = _orders.get(graph)
    if known is None or known[0] != key:
        known = _orders[graph] = key, _Order(graph, *key)
    return known[1]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, coefficients, distance, order):
        ctx.order = order
        ctx.save_for_backward(features, coefficients)
        return _gathered(features, coefficients, order.edges, order.edges.inward)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, coefficients = ctx.saved_tensors
        into_features, into_coefficients, into_distance, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        grad_features = grad_coefficients = grad_distance = None
        if into_features:
            edges = ctx.order.edges
            grad_features = _gathered(grad, coefficients, edges, edges.outward)
        if into_coefficients or into_distance:
            grad_coefficients, grad_distance = _correlated(
                features, grad, coefficients, ctx.order, into_coefficients, into_distance
            )
        return grad_features, grad_coefficients, grad_distance, None


def _gathered(features, coefficients, edges, weight):
    nodes, width = features.shape
    out = torch.empty_like(features)
    if out.numel():
        with torch.cuda.device_of(features):
            _gather[(nodes,)](
                features,
                coefficients,
                edges.offsets,
                edges.neighbour,
                edges.cell,
                edges.position,
                weight,
                out,
                width,
                EDGES=EDGES,
                WIDTH=triton.next_power_of_2(width),
            )
    return out


def _correlated(features, grad, coefficients, order, into_coefficients, into_distance):
    rows, width = coefficients.shape
    parts = features.new_zeros((PARTS, 4, rows, width) if into_coefficients else 0)
    grad_distance = features.new_zeros(len(order.first) if into_distance else 0)
    if features.numel():
        with torch.cuda.device_of(features):
            _correlate[(order.cells, PARTS)](
                features,
                grad,
                coefficients,
                *order.pairs,
                parts,
                grad_distance,
                rows,
                width,
                1.0 / order.step,
                COEFFICIENTS=into_coefficients,
                DISTANCE=into_distance,
                PARTS=PARTS,
                EDGES=EDGES,
                WIDTH=triton.next_power_of_2(width),
            )
    return (
        parts.sum((0, 1)) if into_coefficients else None,
        grad_distance if into_distance else None,
    )


def _kernel(function):
    return function if triton is None else triton.jit(function)


@_kernel
def _weights(t):
    """The four cubic B-splines that overlap a cell."""
    u = 1.0 - t
    return (
        u * u * u / 6.0,
        ((3.0 * t - 6.0) * t * t + 4.0) / 6.0,
        ((3.0 * u - 6.0) * u * u + 4.0) / 6.0,
        t * t * t / 6.0,
    )


@_kernel
def _slopes(t):
    """Their derivatives with respect to ``t``."""
    u = 1.0 - t
    return -0.5 * u * u, 0.5 * (3.0 * t - 4.0) * t, 0.5 * (4.0 - 3.0 * u) * u, 0.5 * t * t


@_kernel
def _gather(
    features,
    coefficients,
    offsets,
    neighbour,
    cell,
    position,
    weight,
    out,
    width,
    EDGES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One node per program: ``out[v] = sum over edges into v of weight * W * features[neighbour]``."""
    node = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    inside = lane < width
    stop = tl.load(offsets + node + 1)
    total = tl.zeros((EDGES, WIDTH), dtype=tl.float32)
    for begin in range(tl.load(offsets + node), stop, EDGES):
        edge = begin + tl.arange(0, EDGES)
        here = edge < stop
        both = here[:, None] & inside[None, :]
        u = tl.load(neighbour + edge, mask=here, other=0)
        g = tl.load(cell + edge, mask=here, other=0)
        b0, b1, b2, b3 = _weights(tl.load(position + edge, mask=here, other=0.0))
        row = coefficients + g[:, None] * width + lane[None, :]
        w = b0[:, None] * tl.load(row, mask=both, other=0.0)
        w += b1[:, None] * tl.load(row + width, mask=both, other=0.0)
        w += b2[:, None] * tl.load(row + 2 * width, mask=both, other=0.0)
        w += b3[:, None] * tl.load(row + 3 * width, mask=both, other=0.0)
        x = tl.load(features + u[:, None] * width + lane[None, :], mask=both, other=0.0)
        total += tl.load(weight + edge, mask=here, other=0.0)[:, None] * w * x
    tl.store(out + node * width + lane, tl.sum(total, axis=0), mask=inside)


@_kernel
def _correlate(
    features,
    grad,
    coefficients,
    offsets,
    first,
    second,
    position,
    into_first,
    into_second,
    place,
    parts,
    grad_distance,
    rows,
    width,
    inverse_step,
    COEFFICIENTS: tl.constexpr,
    DISTANCE: tl.constexpr,
    PARTS: tl.constexpr,
    EDGES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Every ``PARTS``-th run of a cell's pairs per program: what they add to ``dL/dW`` and ``dL/dd``."""
    cell = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    lane = tl.arange(0, WIDTH)
    inside = lane < width
    if DISTANCE:
        row = coefficients + cell * width + lane
        c0 = tl.load(row, mask=inside, other=0.0)[None, :]
        c1 = tl.load(row + width, mask=inside, other=0.0)[None, :]
        c2 = tl.load(row + 2 * width, mask=inside, other=0.0)[None, :]
        c3 = tl.load(row + 3 * width, mask=inside, other=0.0)[None, :]
    if COEFFICIENTS:
        total0 = tl.zeros((EDGES, WIDTH), dtype=tl.float32)
        total1 = tl.zeros((EDGES, WIDTH), dtype=tl.float32)
        total2 = tl.zeros((EDGES, WIDTH), dtype=tl.float32)
        total3 = tl.zeros((EDGES, WIDTH), dtype=tl.float32)
    stop = tl.load(offsets + cell + 1)
    for begin in range(tl.load(offsets + cell) + part * EDGES, stop, PARTS * EDGES):
        pair = begin + tl.arange(0, EDGES)
        here = pair < stop
        both = here[:, None] & inside[None, :]
        a = tl.load(first + pair, mask=here, other=0)[:, None] * width + lane[None, :]
        b = tl.load(second + pair, mask=here, other=0)[:, None] * width + lane[None, :]
        m = tl.load(into_first + pair, mask=here, other=0.0)[:, None]
        n = tl.load(into_second + pair, mask=here, other=0.0)[:, None]
        t = tl.load(position + pair, mask=here, other=0.0)
        q = m * tl.load(features + b, mask=both, other=0.0) * tl.load(grad + a, mask=both, other=0.0)
        q += n * tl.load(features + a, mask=both, other=0.0) * tl.load(grad + b, mask=both, other=0.0)
        if COEFFICIENTS:
            b0, b1, b2, b3 = _weights(t)
            total0 += b0[:, None] * q
            total1 += b1[:, None] * q
            total2 += b2[:, None] * q
            total3 += b3[:, None] * q
        if DISTANCE:
            s0, s1, s2, s3 = _slopes(t)
            w = s0[:, None] * c0 + s1[:, None] * c1 + s2[:, None] * c2 + s3[:, None] * c3
            target = grad_distance + tl.load(place + pair, mask=here, other=0)
            tl.store(target, tl.sum(q * w, axis=1) * inverse_step, mask=here)
    if COEFFICIENTS:
        size = rows.to(tl.int64) * width
        out = parts + 4 * part * size + cell * width + lane
        tl.store(out, tl.sum(total0, axis=0), mask=inside)
        tl.store(out + size + width, tl.sum(total1, axis=0), mask=inside)
        tl.store(out + 2 * (size + width), tl.sum(total2, axis=0), mask=inside)
        tl.store(out + 3 * (size + width), tl.sum(total3, axis=0), mask=inside)
