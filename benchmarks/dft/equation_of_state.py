"""Volumes of lowest energy against published all-electron ones (PBE, no spin polarisation).

    python benchmarks/dft/equation_of_state.py [--out results/dft/equation_of_state.json]

Cubic crystals at seven volumes from 94 to 106 % by the protocol `moderate`, a Birch-Murnaghan fit, and the
mean of two all-electron programs (FLEUR, WIEN2k): Bosoni et al., How to verify the precision of
density-functional-theory implementations via reproducible and universal workflows, Nature Reviews Physics 6,
45 (2024), doi:10.1038/s42254-023-00655-3; their files
`results-{oxides,unaries}-verification-PBE-v1-AE-average.json`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState

from matgraft.data import Dataset
from matgraft.dft.engine import find
from matgraft.dft.protocols import protocol
from matgraft.dft.store import Store
from matgraft.jobs.folder import versions, write_json
from matgraft.jobs.label import label

# Angstrom^3 per cell and eV/Angstrom^3 (volume and bulk modulus of the all-electron mean).
PUBLISHED = {
    "Si diamond": (40.914946909495136, 0.5524442002451444),
    "Cr bcc": (11.548199339585498, 1.6125791729780838),
    "TiO rock salt": (19.618577422797088, 1.3849819502403218),
    "CrO rock salt": (17.664208258348324, 1.5351966372207473),
    "TiO2 fluorite": (28.180821050777354, 1.5512311191260097),
}
SCALES = np.linspace(0.94, 1.06, 7)


def crystal(name: str, volume: float) -> Atoms:
    formula, structure = name.split(" ", 1)
    structure = structure.replace(" ", "")
    cells = {"diamond": 4, "bcc": 2, "rocksalt": 4, "fluorite": 4}
    return bulk(formula, structure, a=(cells[structure] * volume) ** (1 / 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="results/dft/equation_of_state.json")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    settings = protocol("moderate").changed(order="none")
    names, structures = [], []
    for name, (volume, _) in PUBLISHED.items():
        for scale in SCALES:
            names.append(f"{name} {scale:.2f}")
            structures.append(crystal(name, scale * volume))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "labels.db"
        label(Dataset.from_atoms(structures, names), store, settings, find(), workers=options.workers)
        found = {entry.ids[0]: entry.result for entry in Store(store).entries()}
    for name, (volume, modulus) in PUBLISHED.items():
        results = [found[f"{name} {scale:.2f}"] for scale in SCALES]
        energies = [result.free_energy for result in results]
        v0, _, b0 = EquationOfState(SCALES * volume, energies, eos="birchmurnaghan").fit()
        rows.append(
            {
                "crystal": name,
                "volume": v0,
                "published_volume": volume,
                "difference_percent": 100 * (v0 / volume - 1),
                "bulk_modulus_gpa": b0 * 160.21766208,
                "published_bulk_modulus_gpa": modulus * 160.21766208,
                "volumes": (SCALES * volume).tolist(),
                "free_energies_ev": energies,
                "cpu_seconds": sum(result.cpu_seconds for result in results),
            }
        )
        print(f"{name:15} {v0:8.3f} {volume:8.3f} A^3 {rows[-1]['difference_percent']:+.2f} %", flush=True)
    programs = sorted({result.version for result in found.values()})
    write_json(
        Path(options.out),
        {"protocol": str(settings), "program": programs, "crystals": rows, "versions": versions()},
    )


if __name__ == "__main__":
    main()
