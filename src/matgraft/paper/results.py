"""What the experiments have found, as the tables and figures ask for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from matgraft.data import Label
from matgraft.errors import InputError
from matgraft.evaluation.significance import paired_p
from matgraft.jobs.benchmark import REPORT
from matgraft.models.files import load_model
from matgraft.paper.experiments import EXPERIMENTS, Experiment

UNTRAINED = ("references_alone", "composition_forest", "source_plus_references")
"""Baselines that train no network."""
WITNESS = "schnetpack.json"


@dataclass(frozen=True)
class Finding:
    """One experiment and its ``benchmark.json``."""

    experiment: Experiment
    report: dict

    @property
    def settings(self) -> dict:
        return self.report["settings"]

    @property
    def sizes(self) -> list[int]:
        return self.settings["sizes"]

    @property
    def unit(self) -> str:
        return self.settings["label"]["unit"]

    @property
    def is_energy(self) -> bool:
        return Label(**self.settings["label"]).is_energy

    @property
    def measure(self) -> str:
        """The mean absolute error in the label's own unit."""
        return "mae_ev" if self.is_energy else "mae"

    @cached_property
    def schemes(self) -> dict[str, str]:
        """Method of each scheme that was run: with ``tl1/labels`` the scheme is ``tl1``."""
        run = self.report["summary"]
        return {name.partition("/")[0]: name for name in self.experiment.schemes if name in run}

    def over_seeds(self, method: str, size: int, measure: str = "") -> np.ndarray:
        """One value per seed; a scheme stands for its method."""
        name = self.schemes.get(method, method)
        return np.array(self.report["summary"][name][str(size)][measure or self.measure])

    def mean(self, method: str, size: int, measure: str = "") -> float:
        return float(self.over_seeds(method, size, measure).mean())

    def has(self, method: str, size: int | None = None) -> bool:
        """Whether a method was run, at some size or at that one."""
        run = self.report["summary"].get(self.schemes.get(method, method), {})
        return bool(run) if size is None else str(size) in run

    def sizes_of(self, method: str) -> list[int]:
        return [size for size in self.sizes if self.has(method, size)]

    def against(self, method: str, other: str, size: int, baseline: Finding | None = None) -> float:
        """p-value of one method against another, of this experiment or of one with the same splits."""
        first, second = self.over_seeds(method, size), (baseline or self).over_seeds(other, size)
        return paired_p(first, second, size, self.settings["val_size"])

    def errors(self, method: str, size: int) -> np.ndarray:
        """Signed errors of all seeds and parts, in the label's unit."""
        name = self.schemes.get(method, method)
        rows = [row for row in self.report["results"] if row["size"] == size and name in row["errors"]]
        return np.concatenate([row["errors"][name] for row in rows])

    def seconds(self, method: str, size: int) -> np.ndarray:
        """Processor time of each fit."""
        name = self.schemes.get(method, method)
        rows = [row for row in self.report["results"] if row["size"] == size and row["method"] == name]
        return np.array([row["cpu_seconds"] for row in rows])

    @property
    def source_seconds(self) -> float:
        """How long the source model that the schemes start from trained, by its card."""
        history = load_model(self.settings["source"]).card["history"]
        return float(sum(row["seconds"] for row in history))


@dataclass(frozen=True)
class Results:
    """All findings in a folder.

    Attributes
    ----------
    witness : list of dict
        Fits of ``benchmarks/schnetpack_direct.py``, if it has left its output beside the findings.
    """

    folder: Path
    findings: dict[str, Finding]
    witness: list[dict]

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """Every finished experiment in ``folder``.

        Raises
        ------
        InputError
            No such folder, or one cannot be read.
        """
        folder, findings = Path(folder), {}
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder. Run `matgraft paper run` first.")
        for experiment in EXPERIMENTS:
            path = folder / experiment.name / REPORT
            if path.is_file():
                findings[experiment.name] = Finding(experiment, _read(path))
        path = folder / WITNESS
        return cls(folder, findings, _read(path)["fits"] if path.is_file() else [])

    def get(self, name: str) -> Finding | None:
        return self.findings.get(name)

    @property
    def beyond(self) -> list[Finding]:
        return [one for name, one in self.findings.items() if name.startswith("beyond/")]


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not readable ({error}). Delete it and run again.") from error
