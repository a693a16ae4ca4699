"""Energies of defects by our own DFT, and by grafts that never saw one.

    python benchmarks/dft/defects.py label [--workers 2]
    python benchmarks/dft/defects.py judge

`label` puts the four other metals in the place of one, and takes an oxygen away, in supercells of two
oxides, and labels all as `tmo-qe-pbe` was. `judge` grafts on `tmo-qe-pbe`, which holds the perfect crystals
but no defect and next to no two of these metals together, and compares doped minus pristine with DFT; then
again with the defects of the other host among the labels. What a model is off by does not depend on chemical
potentials: none are given.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from matgraft.data import Dataset
from matgraft.data.writers import write
from matgraft.dft.engine import find
from matgraft.dft.protocols import protocol
from matgraft.evaluation.tables import Table
from matgraft.jobs.dope import dope
from matgraft.jobs.finetune import run_finetune
from matgraft.jobs.folder import versions, write_json
from matgraft.jobs.formation import DFT, Exchange, formation_energies
from matgraft.jobs.label import label
from matgraft.jobs.labels import export
from matgraft.models.files import load_source
from matgraft.training.graft import Task, fit_references

METALS = ("Ti", "V", "Cr", "Mn", "Fe")
HOSTS = {"mp-2657": ("Ti", (1, 1, 2)), "mp-1232659": ("Mn", (1, 1, 2))}
"""Rutile and an orthorhombic MnO: the metal to replace, and a supercell of 12 and of 8 atoms."""
LABELS, TARGET, SETTINGS = "tmo-qe-pbe", "free_energy", "fast"
REFERENCES = "references alone"
METHODS = ("direct", "tl1", "auto")
UNSEEN, OTHERS = "no defect", "defects of the other host"


def doped(folder: Path) -> Dataset:
    """Pristine and defective supercells of all hosts."""
    known, files = Dataset.read(LABELS), []
    for host, (metal, supercell) in HOSTS.items():
        files.append(folder / f"{host}.extxyz")
        dope(
            known[np.flatnonzero(known.ids == host)],
            files[-1],
            substitute={metal: [other for other in METALS if other != metal]},
            vacancies=["O"],
            supercell=supercell,
        )
    return Dataset.read(files)


def hosts(ids: np.ndarray) -> np.ndarray:
    return np.array([name.partition("/")[0] for name in ids.tolist()])


def energies(labels: Dataset, cells: Dataset, judged: Dataset, store: str, folder: Path) -> dict[str, list]:
    """Energies of defects in eV, without chemical potentials: by DFT, and by all methods from some labels."""
    folder.mkdir()
    write(judged, folder / "judged.extxyz")
    models = {
        method: run_finetune(
            labels, TARGET, folder / method, recipe=method, val=str(folder / "judged.extxyz"), intervals=False
        ).model
        for method in METHODS
    }
    report = formation_energies(cells, folder / "energies.csv", models=models, store=store, protocol=SETTINGS)
    task = Task.of(labels, TARGET, load_source("mp-schnet").cutoff)
    alone = fit_references(task, np.arange(len(labels)), "labels", None, None)
    composition = cells.composition()
    total = alone.per_atom(composition) * cells.natoms
    found = Exchange.of(cells).energies(total, np.zeros(composition.shape[1]))
    return {REFERENCES: found.tolist(), **{name: report.columns[name] for name in (*METHODS, DFT)}}


def apart(host: str, labelled: Dataset, known: Dataset) -> float:
    """Free energy of a pristine supercell less that of its primitive cells in eV."""
    (one,), (many,) = np.flatnonzero(known.ids == host), np.flatnonzero(labelled.ids == f"{host}/pristine")
    copies = np.prod(HOSTS[host][1])
    return float(labelled.values(TARGET)[many] - copies * known.values(TARGET)[one])


def judge(store: str) -> dict:
    known = Dataset.read(LABELS, target=TARGET)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cells = doped(folder)
        labelled, _ = export(store, folder / "defects.extxyz")
        rows = {host: np.flatnonzero(hosts(cells.ids) == host) for host in HOSTS}
        unseen = energies(known, cells, labelled, store, folder / "unseen")
        parts = []
        for host in HOSTS:
            own = hosts(labelled.ids) == host
            labels = Dataset.concatenate([known, labelled[np.flatnonzero(~own)]])
            judged = labelled[np.flatnonzero(own)]
            parts.append(energies(labels, cells[rows[host]], judged, store, folder / host))
        names = cells.ids[Exchange.of(cells).defect].tolist()
    others = {method: [value for part in parts for value in part[method]] for method in unseen}
    return {
        "protocol": str(protocol(SETTINGS)),
        "labels": len(known),
        "pristine_less_primitive_ev": {host: apart(host, labelled, known) for host in HOSTS},
        "defects": names,
        "energies_ev": {UNSEEN: unseen, OTHERS: others},
        "versions": versions(),
    }


def errors(found: dict) -> Table:
    """Mean absolute differences from DFT of substitutions and of vacancies."""
    vacancy = np.array(["/vac_" in name for name in found["defects"]])
    rows = []
    for method in (REFERENCES, *METHODS):
        cells = []
        for said in found["energies_ev"].values():
            off = np.abs(np.array(said[method]) - np.array(said[DFT]))
            cells += [f"{off[~vacancy].mean():.2f}", f"{off[vacancy].mean():.2f}"]
        rows.append((method, *cells))
    gaps = " and ".join(f"{gap:+.2f}" for gap in found["pristine_less_primitive_ev"].values())
    heads = (f"{kind}, {case}" for case in found["energies_ev"] for kind in ("substitutions", "vacancies"))
    caption = (
        f"mean absolute differences from DFT in eV, {(~vacancy).sum()} substitutions and {vacancy.sum()} "
        f"vacancies of {len(HOSTS)} oxides; trained on {found['labels']} labels with {UNSEEN} among them, "
        f"and with the {OTHERS} besides; by DFT itself, pristine supercells are {gaps} eV from their "
        "primitive cells"
    )
    return Table(("method", *heads), rows, caption=caption)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("label", "judge"))
    parser.add_argument("--store", default="results/dft/defects.db")
    parser.add_argument("--out", type=Path, default=Path("results/dft/defects.json"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.what == "label":
        with tempfile.TemporaryDirectory() as folder:
            label(doped(Path(folder)), options.store, protocol(SETTINGS), find(), workers=options.workers)
        return
    found = judge(options.store)
    write_json(options.out, found)
    print(errors(found).markdown())


if __name__ == "__main__":
    main()
