"""Convergence of the protocols: cutoff, k-points, and the protocols themselves.

    python benchmarks/dft/convergence.py [--out results/dft/convergence.json] [--store FILE]

Small oxides, metals among them. The cutoff is scanned on a coarse grid of k-points and the grid at a low
cutoff, for the two errors hardly know of each other; the protocols are then compared as they are. The store
keeps what is finished, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase.build import bulk

from matgraft.data import Dataset
from matgraft.dft.calculation import Calculation
from matgraft.dft.engine import find
from matgraft.dft.protocols import PROTOCOLS, Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import Store
from matgraft.evaluation.style import figure, legend, log_axis, marks, nth_colour
from matgraft.jobs.folder import versions, write_json
from matgraft.jobs.label import label
from matgraft.jobs.labels import write_traces

# Lattice constants measured at room temperature, rounded; those of fluorite TiO2 and SiO2 are calculated ones
# (Bosoni et al., 2024). VO was taken out: its ferromagnetic state does not converge on coarse grids.
CRYSTALS = {
    "TiO": bulk("TiO", "rocksalt", a=4.18),
    "CrO": bulk("CrO", "rocksalt", a=4.16),
    "MnO": bulk("MnO", "rocksalt", a=4.44),
    "FeO": bulk("FeO", "rocksalt", a=4.33),
    "TiO2": bulk("TiO2", "fluorite", a=4.83),
    "SiO2": bulk("SiO2", "fluorite", a=4.58),
}
CUTOFFS = (60, 70, 84, 96, 108, 120, 140)
SPACINGS = (0.7, 0.5, 0.35, 0.25, 0.2)
COARSE, LOW = 0.5, 70


def wanted() -> list[Protocol]:
    base = PROTOCOLS["precise"]
    cutoffs = [base.changed(name=f"cutoff {e}", ecutwfc=e, kspacing=COARSE) for e in CUTOFFS]
    spacings = [base.changed(name=f"spacing {k}", ecutwfc=LOW, kspacing=k) for k in SPACINGS]
    return [*PROTOCOLS.values(), *cutoffs, *spacings]


def draw(path: Path, content: dict) -> None:
    with figure(path, 7.2, 3.4) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        scans = ((CUTOFFS, "cutoff {}", "cutoff of wave functions (Ry)"),)
        scans += ((SPACINGS, "spacing {}", "spacing of k-points (1/Å)"),)
        for ax, (values, name, title) in zip(axes, scans, strict=True):
            for i, (crystal, found) in enumerate(content["crystals"].items()):
                finest = found[name.format(values[-1])]["free_energy_ev_per_atom"]
                heights = [
                    1e3 * abs(found[name.format(value)]["free_energy_ev_per_atom"] - finest)
                    for value in values[:-1]
                ]
                ax.plot(values[:-1], heights, color=nth_colour(i), label=crystal, **marks(i))
            ax.axhline(5, color="0.6", lw=0.8, ls=":")
            ax.set_yscale("log")
            log_axis(ax.yaxis, *ax.get_ylim())
            ax.set_xlabel(title)
        axes[1].invert_xaxis()
        axes[0].set_ylabel("distance from the finest (meV/atom)")
        legend(fig, list(content["crystals"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="results/dft/convergence.json")
    parser.add_argument("--store", default="results/dft/convergence.db")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    dataset = Dataset.from_atoms(list(CRYSTALS.values()), list(CRYSTALS))
    engine, known = find(), library()
    for protocol in wanted():
        label(dataset, options.store, protocol, engine, workers=options.workers)
    store, content = Store(options.store), {}
    for name, atoms in CRYSTALS.items():
        rows = content[name] = {}
        for protocol in wanted():
            calculation = Calculation.of(atoms, protocol, known)
            result = store.get(calculation.key).result
            rows[protocol.name] = {
                "settings": str(protocol),
                "kpoints": list(calculation.kpoints),
                "free_energy_ev_per_atom": result.free_energy / len(atoms),
                "magnetization": result.magnetization,
                "cpu_seconds": result.cpu_seconds,
                "version": result.version,
            }
        gap = {
            protocol: 1e3 * (rows[protocol]["free_energy_ev_per_atom"]
                             - rows["precise"]["free_energy_ev_per_atom"])
            for protocol in ("fast", "moderate")
        }  # fmt: skip
        print(f"{name:5} fast {gap['fast']:+9.2f}  moderate {gap['moderate']:+.2f} meV/atom from precise")
    out = Path(options.out)
    write_json(out, {"crystals": content, "versions": versions()})
    draw(out.with_suffix(".png"), {"crystals": content})
    write_traces(dataset, options.store, PROTOCOLS["moderate"], out.parent / "loops")


if __name__ == "__main__":
    main()
