"""What sources and a graft say of squeezed crystals, with and without damping, against DFT.

    python benchmarks/dft/squeezed_crystals.py [--store squeezed.db]

No crystal that the source learnt from is squeezed to six tenths of its lengths: there it knows nothing, and
:mod:`matgraft.models.damping` limits what it says. Energies per atom above that of the same crystal at its
own lattice constant; labels by the protocol `fast`, which is exact enough for tens of eV. The graft has 400
labels of oxides near their lowest energy; do its intervals and flags tell?
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from matgraft.data import Dataset
from matgraft.dft.calculation import Calculation
from matgraft.dft.engine import find
from matgraft.dft.protocols import protocol
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import Store
from matgraft.evaluation.tables import Table, number
from matgraft.jobs.finetune import run_finetune
from matgraft.jobs.folder import versions, write_json
from matgraft.jobs.label import label
from matgraft.models.files import load_source

SOURCES = ("mp-schnet", "mp-schnet-total-energy")
CRYSTALS = {
    "Si-diamond": 5.469,
    "Cr-bcc": 2.85,
    "TiO-rocksalt": 4.29,
    "VO-rocksalt": 4.19,
    "MnO-rocksalt": 4.44,
    "TiO2-fluorite": 4.83,
    "SiO2-fluorite": 4.62,
}
"""Lattice constants in Angstrom."""
OXIDES = [k for k, name in enumerate(CRYSTALS) if name.startswith(("TiO", "VO"))]
"""Those like the graft's labels."""
SCALES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)


def crystal(name: str, scale: float) -> Atoms:
    formula, structure = name.split("-")
    return bulk(formula, structure, a=scale * CRYSTALS[name])


def relative(values: np.ndarray) -> np.ndarray:
    """Of each crystal, to the last of its scales; shape (n_crystals, n_scales)."""
    table = values.reshape(len(CRYSTALS), -1)
    return table - table[:, -1:]


def errors(found: dict) -> Table:
    """How far sources and graft are off, by length."""
    above = {who: np.array(values) for who, values in found["above_ev_per_atom"].items()}
    off = {who: np.abs(values - above["DFT"]) for who, values in above.items()}
    half_width = np.array(found["graft_half_width_ev_per_atom"])
    rows = []
    for k, scale in enumerate(SCALES[:-1]):
        said = (off[who][:, k] for name in SOURCES for who in (f"{name}, not damped", name))
        means = (f"{values.mean():.1f} ({values.max():.0f})" for values in said)
        graft = (f"{values[OXIDES, k].mean():.1f}" for values in (off["graft"], half_width))
        rows.append((f"{scale:.2f}", f"{above['DFT'][:, k].mean():.1f}", *means, *graft))
    heads = (f"{name}{how}" for name in SOURCES for how in (" as it is", ", damped"))
    caption = (
        "mean errors (the largest) in eV/atom, relative to the crystal at its own lattice constant: Si, Cr "
        "and five oxides with the sources; TiO, VO and TiO2 with a graft on 400 oxides"
    )
    return Table(("lengths", "DFT", *heads, "graft", "its half width"), rows, caption=caption)


def strangeness(found: dict) -> Table:
    """The least over all crystals, by length."""
    far = {who: np.array(values) for who, values in found["strangeness"].items()}
    rows = [
        (f"{scale:.2f}", *(number(float(values[:, k].min()), 2) for values in far.values()))
        for k, scale in enumerate(SCALES[:-1])
    ]
    return Table(("lengths", *far), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="squeezed.db")
    parser.add_argument("--out", default="results/dft/squeezed_crystals.json")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    cases = [(name, scale) for name in CRYSTALS for scale in SCALES]
    dataset = Dataset.from_atoms(
        [crystal(*case) for case in cases], [f"{name}-{scale:.2f}" for name, scale in cases]
    )
    settings, known = protocol("fast"), library()
    label(dataset, options.store, settings, find(), workers=options.workers)
    # By what was calculated: in a store of yours the same crystal may have another name.
    store, keys = Store(options.store), [Calculation.of(atoms, settings, known).key for atoms in dataset]
    said = {"DFT": np.array([store.get(key).result.free_energy for key in keys]) / dataset.natoms}
    far = {}
    for name in SOURCES:
        model = load_source(name)
        prediction = model.predict(dataset)
        said[name] = prediction.per_atom
        far[name] = prediction.strangeness.reshape(len(CRYSTALS), -1)
        said[f"{name}, not damped"] = replace(model, span=None).predict(dataset).per_atom
    above = {who: relative(values) for who, values in said.items()}
    with tempfile.TemporaryDirectory() as folder:
        graft = run_finetune(
            "tmo-oxides-fetiv", "energy", Path(folder) / "graft", source=SOURCES[1], recipe="tl3", val="117"
        ).model
    told = graft.predict(dataset)
    above["graft"] = relative(told.per_atom)
    half_width = (told.half_width / dataset.natoms).reshape(len(CRYSTALS), -1)
    far["graft"] = told.strangeness.reshape(len(CRYSTALS), -1)
    found = {
        "protocol": str(settings),
        "ids": dataset.ids.tolist(),
        "above_ev_per_atom": {who: values.round(4).tolist() for who, values in above.items()},
        "graft_half_width_ev_per_atom": half_width.round(4).tolist(),
        "strangeness": {who: values.round(2).tolist() for who, values in far.items()},
        "versions": versions(),
    }
    write_json(Path(options.out), found)
    print(errors(found).markdown(), strangeness(found).markdown(), sep="\n")


if __name__ == "__main__":
    main()
