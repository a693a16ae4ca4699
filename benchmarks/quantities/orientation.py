"""Other networks, for orientation: CHGNet and MACE predict other things at another accuracy.

They run in a process of their own and take turns with the contenders here, round by round.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from peers import seeded
from timing import Comparison, Timer, agree
from workloads import Workload

from matgraft.data import Dataset
from matgraft.models.schnet import Architecture
from quantities.inference import energies_with
from quantities.latency import about_twenty_atoms, contenders, one_by_one
from quantities.setup import ENERGY_TOLERANCE, OURS, Setup, batches

ROUNDS = 4
SINGLE, STRUCTURES = 10, 64
SCRIPT = Path(__file__).resolve().parent.parent / "orientation_models.py"


class Others:
    """The process of the other networks, with these structures."""

    def __init__(self, python: Path, structures: Sequence[Atoms]):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "structures.extxyz"
            ase.io.write(file, structures)
            self.process = subprocess.Popen(
                [str(python), str(SCRIPT), str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            started = self._answer()
        self.models, self.about = started["models"], started["about"]

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{SCRIPT.name} stopped with exit code {self.process.wait()}.")
        return json.loads(line)

    def timers(self, work: str) -> dict[str, Timer]:
        """One per network."""
        return {name: _Remote(self, name, work) for name in self.models}

    def ask(self, **request: object) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def __enter__(self) -> Others:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class _Remote(Timer):
    def __init__(self, others: Others, model: str, work: str):
        self.others, self.model, self.kind = others, model, work

    def warm_up(self, item: np.ndarray) -> None:
        self(item)

    def __call__(self, item: np.ndarray) -> dict[str, float]:
        return self.others.ask(model=self.model, work=self.kind, rows=item.tolist())


def measure(setup: Setup) -> list[Comparison]:
    assert setup.orientation
    return [_latency(setup, setup.orientation), _inference(setup, setup.orientation)]


def _latency(setup: Setup, python: Path) -> Comparison:
    workload, network = setup.crystals(), seeded(Architecture())
    structures = about_twenty_atoms(workload)[:SINGLE]
    sample = Workload(workload.name, Dataset.from_atoms(structures))
    energy_of = contenders(setup, network)
    works = {who: partial(one_by_one, energy, structures) for who, energy in energy_of.items()}
    rounds = [np.arange(len(structures))] * setup.at_most(ROUNDS)
    return _against_others(setup, python, "latency", "single", sample, works, rounds)


def _inference(setup: Setup, python: Path) -> Comparison:
    workload, network = setup.crystals(STRUCTURES), seeded(Architecture())
    works = {
        who: energies_with(setup.side(who, network, workload, network.spacing))
        for who in (OURS, setup.baseline)
    }
    rounds = batches(len(workload.dataset), setup.at_most(ROUNDS))
    return _against_others(setup, python, "inference", "batch", workload, works, rounds)


def _against_others(
    setup: Setup,
    python: Path,
    title: str,
    work: str,
    workload: Workload,
    works: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    rounds: list[np.ndarray],
) -> Comparison:
    name = f"{title}, {workload.name}, other networks for orientation"
    energies = {who: own(rounds[0]) for who, own in works.items()}
    agreement = {"energy_eV_per_atom": agree(name, energies, setup.baseline, ENERGY_TOLERANCE)}
    with Others(python, workload.atoms) as others:
        return setup.compared(
            name, works, rounds, workload.describe(), agreement,
            others=others.timers(work), notes=others.about,
        )  # fmt: skip
