"""Seconds for one epoch over 50,000 source crystals, by one process or by several; on a GPU if there is one.

::

    OMP_NUM_THREADS=1 python benchmarks/epoch.py
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/epoch.py

The recipe is that of ``matgraft pretrain``: batches of 64, noise on distances, AdamW, averaged weights.
Graphs are built before, and nothing is validated. Wall seconds and CPU seconds of the first process are
given for every epoch: on a busy machine the wall clock counts what others do, the CPU clock does not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from workloads import source_set

from matgraft.graphs import graphs_of
from matgraft.models.files import load_model
from matgraft.models.schnet import Architecture, SchNet
from matgraft.training.distributed import joined
from matgraft.training.loop import Samples, fit
from matgraft.training.recipe import PRETRAIN
from matgraft.training.schemes import SCHEMES

RESULTS = Path(__file__).resolve().parent / "results" / "speed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("::")[0].strip())
    parser.add_argument("--epochs", type=int, default=5, help="the first compiles and does not count")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of epoch.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset, rows, _ = source_set(load_model("mp-schnet").card)
    samples = Samples(graphs_of(dataset, 5.0), dataset.labels["e_form_per_atom"][rows], rows)
    torch.manual_seed(0)
    recipe = PRETRAIN.changed(epochs=arguments.epochs, swa_epochs=0)
    clocks = [(time.perf_counter(), time.process_time())]
    with joined() as workers:
        fit(
            SchNet(Architecture()).to(device), samples, None, recipe, SCHEMES["direct"], workers=workers,
            report=lambda row: clocks.append((time.perf_counter(), time.process_time())),
        )  # fmt: skip
        if workers.rank:
            return
    wall, cpu = np.diff(clocks[1:], axis=0).T
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "epoch.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    processes = os.environ.get("WORLD_SIZE", "1")
    results[processes if device == "cpu" else f"{processes} on a GPU"] = {
        "environment": environment(),
        "crystals": len(rows),
        "wall_seconds": [round(float(s), 2) for s in wall],
        "cpu_seconds_of_the_first": [round(float(s), 2) for s in cpu],
        "median_wall": round(float(np.median(wall)), 2),
        "median_cpu": round(float(np.median(cpu)), 2),
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{processes} processes: {np.median(wall):.1f} s per epoch ({np.median(cpu):.1f} s of CPU time)")


if __name__ == "__main__":
    main()
