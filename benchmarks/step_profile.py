"""Where a training step spends its time: each kernel alone, on real batches, beside the step as a whole.

::

    OMP_NUM_THREADS=1 python benchmarks/step_profile.py

Kernels are timed by themselves, with data that are warm; what they leave of the step is calls in Python,
small sums, and data that are not warm.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from environment import environment
from peers import Matgraft, seeded
from quantities.setup import BATCH, batches
from quantities.training import Trainee
from timing import Timed
from workloads import mp_crystals, rattled_prototypes

from matgraft.graphs import Batch
from matgraft.models.cfconv import Pairs, convolution, convolution_backward
from matgraft.models.dense import dense, packed, summed_products
from matgraft.models.fused import basis_at, filter_backward, filter_forward
from matgraft.models.schnet import Architecture
from matgraft.models.table import combine, combine_backward
from matgraft.training.recipe import PAPER

RESULT = Path(__file__).resolve().parent / "results" / "speed" / "step_profile.json"
ROUNDS = 8


def main() -> None:
    torch.set_num_threads(1)
    found = {w.name: _profile(w) for w in (mp_crystals(500), rattled_prototypes(512))}
    RESULT.write_text(json.dumps({"environment": environment(), "workloads": found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _profile(workload) -> dict:
    side = Matgraft(seeded(Architecture()), workload.dataset, PAPER.spacing)
    trainee = Trainee(side, len(workload.dataset))
    rounds = [_round(side, trainee, rows) for rows in batches(len(workload.dataset), ROUNDS)]
    mean = {name: float(np.mean([each[name] for each in rounds])) for name in rounds[0]}
    layers, width = side.network.arch.interactions, side.network.arch.filters
    # Three dense layers forward and three for the gradient of their input; the first sees species alone.
    products = (3 * layers - 1) * (2 * mean["dense_ms"] + mean["weight_gradient_ms"])
    convolutions = layers * (mean["convolution_ms"] + mean["convolution_gradient_ms"])
    filters = layers * (mean["filter_ms"] + mean["filter_gradient_ms"])
    flops = 2 * mean["nodes"] * width**2
    known = products + convolutions + filters + mean["optimizer_ms"] + mean["collate_ms"]
    return {
        "batch": BATCH,
        **{name: round(value, 4) for name, value in mean.items()},
        "dense_gflops_per_second": round(flops / mean["dense_ms"] / 1e6, 1),
        "dense_layers_of_a_step_ms": round(products, 2),
        "convolutions_of_a_step_ms": round(convolutions, 2),
        "filters_of_a_step_ms": round(filters, 2),
        "rest_of_a_step_ms": round(mean["step_ms"] - known, 2),
    }


def _round(side: Matgraft, trainee: Trainee, rows: np.ndarray) -> dict[str, float]:
    batch = side.batch(rows)
    table = side.network.filters(batch)[0]
    pairs = Pairs.of(batch, table.knots)
    coefficients = table.coefficients.detach().numpy()
    width = side.network.arch.filters
    x, out, gradient = (torch.randn(len(batch.species), width).numpy() for _ in range(3))
    weight, bias = torch.randn(width, width).numpy(), torch.zeros(width).numpy()
    blocks = packed(weight)
    table_gradient = torch.zeros(coefficients.shape).numpy()
    forward, backward = _filter_work(side, batch, table_gradient)
    works = {
        "step_ms": lambda: trainee.step(rows),
        "dense_ms": lambda: dense(x, blocks, bias, out),
        "weight_gradient_ms": lambda: summed_products(x, out, weight),
        "convolution_ms": lambda: convolution(x, coefficients, pairs.by_cell, out),
        "convolution_gradient_ms": lambda: convolution_backward(
            x, out, coefficients, pairs.by_cell, gradient, table_gradient
        ),
        "filter_ms": forward,
        "filter_gradient_ms": backward,
        "optimizer_ms": trainee.optimizer.step,
        "collate_ms": lambda: side.batch(rows),
    }
    found = {"nodes": len(batch.species), "pairs": len(batch.first)}
    for name, work in works.items():
        timed = Timed(lambda _, work=work: work())
        timed.warm_up(None)
        found[name] = 1e3 * timed(None)["cpu"]
    return found


def _filter_work(side: Matgraft, batch: Batch, table_gradient: np.ndarray) -> tuple[Callable, Callable]:
    """The filter of one layer and its table, and the gradients of both."""
    knots = side.network.knots(batch)
    first, last = side.network.interactions[0].filter.dense[::2]
    weights = [p.detach().numpy() for p in (first.weight, first.bias, last.weight, last.bias)]
    radial, envelope = basis_at(knots, side.network.basis, side.network.arch.cutoff)
    inner, slope, values = (np.zeros((len(radial), len(weights[1])), np.float32) for _ in range(3))
    table = np.zeros_like(table_gradient)
    found = [np.zeros_like(weight) for weight in weights]

    def forward() -> None:
        filter_forward(radial, envelope, *weights, inner, slope, values)
        combine(values, table)

    def backward() -> None:
        combine_backward(table_gradient, values)
        filter_backward(values, radial, envelope, weights[2], inner, slope, *found)

    return forward, backward


if __name__ == "__main__":
    main()
