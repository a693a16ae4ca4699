"""From CIF files to energies."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from peers import SchNetPack, seeded
from timing import Comparison, agree
from workloads import CUTOFF

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.models.model import Model
from matgraft.models.schnet import Architecture, SchNet
from quantities.setup import BATCH, ENERGY_TOLERANCE, OURS, REFERENCE, SCHNETPACK, Setup, predictor

ROUNDS = 5
FILES = 200

Energies = Callable[[Sequence[Path]], np.ndarray]


def measure(setup: Setup) -> list[Comparison]:
    workload, network = setup.crystals(FILES), seeded(Architecture())
    name = f"CIF files to energies, {workload.name}"
    works = {OURS: ours(predictor(network))}
    if setup.peer:
        works[SCHNETPACK] = schnetpack(setup.peer, network)
    else:
        works[REFERENCE] = reference(seeded(network.arch))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i:04}.cif" for i in range(len(workload.dataset))]
        for file, atoms in zip(files, workload.dataset, strict=True):
            ase.io.write(file, atoms, format="cif")
        energies = {who: work(files) for who, work in works.items()}
        agreement = {"energy_eV_per_atom": agree(name, energies, setup.baseline, ENERGY_TOLERANCE)}
        rounds = [files] * setup.at_most(ROUNDS)
        return [setup.compared(name, works, rounds, workload.describe(), agreement)]


def with_ase(files: Sequence[Path]) -> list[Atoms]:
    return [atoms for file in files for atoms in ase.io.iread(file, index=-1)]


def ours(model: Model) -> Energies:
    return lambda files: model.predict(Dataset.read(files)).per_atom


def reference(network: SchNet) -> Energies:
    """ASE's reader, then the reference kernel on atoms that are not merged."""
    network.spacing = None

    def energies(files: Sequence[Path]) -> np.ndarray:
        dataset = Dataset.from_atoms(with_ase(files))
        graphs = build_graphs(dataset, CUTOFF, merge_equivalent=False)
        with torch.no_grad():
            return np.concatenate(
                [network(graphs.batch(rows)).numpy() for rows in graphs.batches(np.arange(len(files)), BATCH)]
            )

    return energies


def schnetpack(peer: SchNetPack, network: SchNet) -> Energies:
    """ASE's reader, then SchNetPack's converter and network, in batches."""
    converter, module = peer.converter(CUTOFF), peer.network(network)

    def energies(files: Sequence[Path]) -> np.ndarray:
        with torch.no_grad():
            return np.concatenate(
                [
                    module(converter(with_ase(files[k : k + BATCH])))["energy"].numpy()
                    for k in range(0, len(files), BATCH)
                ]
            )

    return energies
