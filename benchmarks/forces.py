"""What forces are worth beside energies: grafts on TiO2 of another code, judged on both.

    OMP_NUM_THREADS=1 python benchmarks/forces.py

Each seed has 300 structures held out and training structures of its own. A recipe of the contest,
``tl1-residual-long`` from ``mp-schnet``, learns from energies alone or from forces too; beside it a Gaussian
process on the features of ``mp-schnet``, which knows energies alone. Writes ``results/forces.json`` after
every fit and takes what is there already; ``tables.py`` puts it into ``docs/guide.md``. The weight of forces
was chosen on other splits (seeds 100 to 102).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from matgraft import Dataset, load_model
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import versions, write_json
from matgraft.models.model import Model
from matgraft.training.graft import Task
from matgraft.training.portfolio import PORTFOLIO, Bench

OUT = Path(__file__).parent / "results" / "forces.json"
HELD = 300
METHODS = {
    "source": "source, with robust references",
    "process": "Gaussian process, energies alone",
    "energies": "fine-tuning, energies alone",
    "forces": "fine-tuning, energies and forces",
}
CANDIDATES = {"source": "residual", "process": "process"}


def judged(dataset: Dataset, source: Model, size: int, seed: int, method: str) -> dict:
    """One fit: mean errors of energies (eV/atom) and components of forces (eV/Angstrom), and its time."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    both = dataset[np.concatenate([order[HELD : HELD + size], order[:HELD]])]
    rows, held = np.arange(size), np.arange(size, len(both))
    task = Task.of(both, "energy", source.cutoff, forces=method == "forces")
    bench = Bench(task, (source,))
    name = CANDIDATES.get(method, "tl1-residual-long")
    candidate = replace(next(one for one in PORTFOLIO if one.name == name), source=0)
    bench.prepare([candidate])
    start = time.process_time()
    model = bench.fit(candidate, rows, seed)
    seconds = time.process_time() - start
    part = both[held]
    assert part.forces is not None
    energies = np.abs(task.predicted_by(model)[held] - task.per_atom[held])
    forces = np.abs(model.derivatives(part)[1] - part.forces)
    return {
        "n": size,
        "seed": seed,
        "method": method,
        "energy": float(energies.mean()),
        "force": float(forces.mean()),
        "mean_force": float(np.abs(part.forces).mean()),
        "cpu_seconds": seconds,
    }


def table(report: dict) -> Table:
    """Means and standard deviations over seeds."""
    results = report["results"]
    sizes = sorted({one["n"] for one in results})
    rows = []
    for method, words in METHODS.items():
        row: list[str] = [words]
        for size in sizes:
            some = [one for one in results if (one["n"], one["method"]) == (size, method)]
            energy, force = (1e3 * np.array([one[key] for one in some]) for key in ("energy", "force"))
            row.append(f"{energy.mean():.0f} ± {energy.std(ddof=1):.0f}; {force.mean():.0f}")
        # Of the greatest size.
        rows.append([*row, f"{np.median([one['cpu_seconds'] for one in some]):.0f}"])
    size = 1e3 * np.mean([one["mean_force"] for one in results])
    seeds = len({one["seed"] for one in results})
    return Table(
        ("", *(f"N = {size}" for size in sizes), f"CPU s, N = {sizes[-1]}"),
        rows,
        caption="TiO2 and suboxides of Quantum ESPRESSO, from mp-schnet: mean absolute errors of energies "
        f"in meV/atom (and their standard deviation over {seeds} seeds); of components of forces in meV/Å, "
        f"whose mean size is {size:.0f}; {HELD} structures held out",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200])
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(OUT.read_text()) if OUT.is_file() else {"results": []}
    done = {(one["n"], one["seed"], one["method"]) for one in report["results"]}
    dataset, source = Dataset.read("tio2-qe-pbe", target="energy"), load_model("mp-schnet")
    for seed in range(options.seeds):
        for size in options.sizes:
            for method in METHODS:
                if (size, seed, method) not in done:
                    report["results"].append(judged(dataset, source, size, seed, method))
                    print(report["results"][-1], flush=True)
                    write_json(OUT, {"versions": versions(), **report})
    print(table(report).markdown())


if __name__ == "__main__":
    main()
