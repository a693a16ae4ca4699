"""Memory of a training step: what it needs beyond what was resident before.

Each contender has a fresh process. It trains a step on a single structure first, so that code is loaded and
the optimiser's state exists, gives freed memory back to the system (``malloc_trim``), notes its resident
memory, resets the kernel's record of the peak (``/proc/self/clear_refs``), and reads that peak
(``VmHWM``) after a step on a whole batch. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from peers import SchNetPack, seeded
from timing import Comparison, agree
from workloads import Workload

from matgraft.models.schnet import Architecture
from matgraft.progress import Progress
from matgraft.training.recipe import PAPER
from quantities.setup import BATCH, ENERGY_TOLERANCE, SCHNETPACK, Setup, batches

ROUNDS = 3
STRUCTURES = ROUNDS * BATCH


def measure(setup: Setup) -> list[Comparison]:
    works = [setup.prototypes(STRUCTURES)]
    if setup.peer:
        works.append(setup.crystals(STRUCTURES))
    found: dict[str, dict[str, dict]] = {}
    jobs = [(k, work, who) for k, work in enumerate(works) for who in setup.contenders(work)]
    with Progress(len(jobs), "memory", unit="processes") as progress:
        for k, work, who in jobs:
            found.setdefault(work.name, {})[who] = _in_fresh_process(setup, k, who)
            progress.step()
    return [
        Comparison(
            f"memory of a training step, {work.name}",
            setup.baseline,
            {name: {"memory": result["megabytes"]} for name, result in found[work.name].items()},
            work.describe(),
            {
                "energy_eV_per_atom": agree(
                    f"memory, {work.name}",
                    {name: np.array(result["energies"]) for name, result in found[work.name].items()},
                    setup.baseline,
                    ENERGY_TOLERANCE,
                )
            },
        )
        for work in works
    ]


def _in_fresh_process(setup: Setup, which: int, name: str) -> dict:
    job = {
        "schnetpack": str(setup.schnetpack) if setup.schnetpack else None,
        "rounds": setup.rounds,
        "structures": setup.structures,
        "which": which,
        "name": name,
    }
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "quantities.memory", json.dumps(job)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measure_here(job: dict) -> dict:
    from quantities.training import Trainee

    torch.set_num_threads(1)
    checkout = Path(job["schnetpack"]) if job["schnetpack"] else None
    peer = SchNetPack(checkout) if checkout and job["name"] == SCHNETPACK else None
    setup = Setup(checkout, peer, rounds=job["rounds"], structures=job["structures"])
    workload: Workload = (setup.prototypes, setup.crystals)[job["which"]](STRUCTURES)
    side = setup.side(job["name"], seeded(Architecture()), workload, PAPER.spacing)
    trainee, megabytes = Trainee(side, len(workload.dataset)), []
    with torch.no_grad():
        energies = side.energies(side.batch(np.arange(min(BATCH, len(workload.dataset))))).tolist()
    trainee.step(np.array([0]))
    for rows in batches(len(workload.dataset), setup.at_most(ROUNDS)):
        trainee.optimizer.zero_grad()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        trainee.step(rows)
        megabytes.append((_status("VmHWM") - before) / 1024)
    return {"megabytes": megabytes, "energies": energies}


def _status(key: str) -> int:
    """A line of ``/proc/self/status``, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


if __name__ == "__main__":
    print(json.dumps(_measure_here(json.loads(sys.argv[1]))))
