"""One label by DFT and by the network: rock-salt TiO, the study's example (87 s and 4.6 ms there).

    python benchmarks/dft/titanium_oxide.py [--out results/dft/titanium_oxide.json]

DFT: pw.x on one core by the protocols `fast` and `moderate`. Network: the shipped source, loaded once; the
graph is built anew each time, as for a structure that comes from outside.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from ase.build import bulk

from matgraft import load_model
from matgraft.dft.calculation import Calculation
from matgraft.dft.engine import find
from matgraft.dft.output import Failure
from matgraft.dft.protocols import protocol
from matgraft.dft.pseudopotentials import library
from matgraft.jobs.folder import versions, write_json

REPEATS = 200
SOURCE = "mp-schnet-total-energy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/dft/titanium_oxide.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    atoms, engine = bulk("TiO", "rocksalt", a=4.18), find()
    content: dict = {
        "structure": "TiO, rock salt, a = 4.18 Angstrom",
        "published": {"dft": 87.0, "network": 4.6e-3},
    }
    for name in ("fast", "moderate"):
        calculation = Calculation.of(atoms, protocol(name), library())
        result = engine.run(calculation)
        if isinstance(result, Failure):
            raise SystemExit(f"{name}: {result.reason}: {result.message}")
        content[name] = {
            "settings": str(calculation.protocol),
            "kpoints": list(calculation.kpoints),
            "cpu_seconds": result.cpu_seconds,
            "wall_seconds": result.wall_seconds,
            "free_energy_ev": result.free_energy,
            "magnetization": result.magnetization,
            "version": result.version,
        }
        print(f"{name:10} {result.cpu_seconds:8.1f} s", flush=True)
    model = load_model(SOURCE)
    model.predict(atoms)
    times: dict[str, list[float]] = {"cpu": [], "wall": []}
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        model.predict(atoms)
        times["cpu"].append(time.process_time() - cpu)
        times["wall"].append(time.perf_counter() - wall)
    content["network"] = {
        "source": SOURCE,
        "repeats": REPEATS,
        **{f"median_{kind}_seconds": median(values) for kind, values in times.items()},
    }
    content["ratio"] = content["moderate"]["cpu_seconds"] / content["network"]["median_cpu_seconds"]
    print(
        f"network    {1e3 * content['network']['median_cpu_seconds']:8.2f} ms; {content['ratio']:,.0f} times"
    )
    write_json(options.out, {**content, "versions": versions()})


if __name__ == "__main__":
    main()
