"""SchNet here against SchNetPack's, with the same weights on the same crystals.

SchNetPack computes the energies with its own modules, fed by ASE's neighbour list; the weights are copied
from here. Both run in float32. Before the comparison::

    git clone https://github.com/atomistic-machine-learning/schnetpack
    pip install matgraft sympy fasteners dirsync vesin matscipy
    python benchmarks/schnetpack_agreement.py --schnetpack schnetpack
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import ase
import numpy as np
import torch
from ase import Atoms
from peers import SEED, SchNetPack, seeded

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.models.schnet import ARCHITECTURES, Architecture, SchNet

NETWORKS = {
    "arch1 compact": ARCHITECTURES["arch1"],
    "arch2 compact": ARCHITECTURES["arch2"],
    "arch2 published": Architecture(interactions=4, features=30, filters=30, radial="published"),
}
KERNELS = {
    "exact, merged": (None, True),
    "exact, unmerged": (None, False),
    "spacing 0.01, merged": (0.01, True),
    "spacing 0.01, unmerged": (0.01, False),
    "spacing 0.02, merged": (0.02, True),
}
TINY_CELLS = 5


def skewed_tiny_cells(rng: np.random.Generator) -> list[Atoms]:
    """Two to three atoms in very oblique cells, so that many images lie within the cutoff."""
    cells = []
    for metal in ("Ti", "V", "Cr", "Mn", "Fe")[:TINY_CELLS]:
        n_oxygen = int(rng.integers(1, 3))
        compact = np.diag([2.7, 2.8, 2.2 * n_oxygen]) + rng.uniform(-0.3, 0.3, (3, 3))
        scaled = np.linspace([0, 0, 0], [0.5 * n_oxygen, 0.5 * n_oxygen, 1], n_oxygen + 1, endpoint=False)
        shear = np.eye(3)
        shear[1, 0], shear[2, 0], shear[2, 1] = rng.integers(1, 4, 3) * rng.choice([-1, 1], 3)
        atoms = Atoms(f"{metal}O{n_oxygen}", cell=compact, scaled_positions=scaled, pbc=True)
        atoms.rattle(0.05, rng=rng)
        atoms.set_cell(shear @ compact)
        cells.append(atoms)
    return cells


def crystals(count: int) -> list[Atoms]:
    """Shipped oxides, evenly spread over all sizes, and the tiny cells."""
    oxides = Dataset.read("tmo-oxides")
    by_size = np.argsort(oxides.natoms, kind="stable")
    rows = by_size[np.linspace(0, len(oxides) - 1, count).round().astype(int)]
    return [*oxides[rows], *skewed_tiny_cells(np.random.default_rng(SEED))]


def energies(model: SchNet, structures: list[Atoms], spacing: float | None, merge: bool) -> np.ndarray:
    graphs = build_graphs(Dataset.from_atoms(structures), model.arch.cutoff, merge)
    model.spacing = spacing
    with torch.no_grad():
        return np.concatenate(
            [
                model(graphs.batch(rows)).double().numpy()
                for rows in graphs.batches(np.arange(len(structures)), batch_size=8, max_pairs=20_000)
            ]
        )


def compared(values: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    difference = np.abs(values - reference)
    return {"max": float(f"{difference.max():.3g}"), "mean": float(f"{difference.mean():.3g}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schnetpack", type=Path, required=True, help="a git checkout of SchNetPack")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "schnetpack_agreement.json"
    )
    parser.add_argument("--structures", type=int, default=40, help="how many of the shipped oxides")
    arguments = parser.parse_args()

    peer = SchNetPack(arguments.schnetpack)
    structures = crystals(arguments.structures)
    results: dict[str, dict] = {}
    for name, arch in NETWORKS.items():
        model = seeded(arch)
        reference = peer.energies(model, structures, torch.float32)
        double = peer.energies(model, structures, torch.float64)
        results[name] = {
            "energy_eV_per_atom": {
                "min": round(float(reference.min()), 3),
                "max": round(float(reference.max()), 3),
            },
            "abs_difference_eV_per_atom": {
                kernel: compared(energies(model, structures, *how), reference)
                for kernel, how in KERNELS.items()
            },
            "schnetpack_float32_against_its_float64": compared(reference, double),
        }
        for kernel, difference in results[name]["abs_difference_eV_per_atom"].items():
            print(f"{name:16} {kernel:22} max {difference['max']:.1e}  mean {difference['mean']:.1e}")
        rounding = results[name]["schnetpack_float32_against_its_float64"]
        print(f"{name:16} {'(its own rounding)':22} max {rounding['max']:.1e}  mean {rounding['mean']:.1e}")
    sizes = [len(atoms) for atoms in structures]
    report = {
        "versions": {
            "matgraft": version("matgraft"),
            "schnetpack": peer.version,
            "schnetpack_commit": peer.commit,
            "torch": torch.__version__,
            "ase": ase.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "settings": {
            "oxides": arguments.structures,
            "skewed_tiny_cells": len(structures) - arguments.structures,
            "atoms": {"min": min(sizes), "max": max(sizes), "total": sum(sizes)},
            "weights": f"fresh, biases normal with deviation 0.1, seed {SEED}",
            "cutoff_angstrom": ARCHITECTURES["arch1"].cutoff,
            "dtype": "float32",
            "pooling": "mean",
        },
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
