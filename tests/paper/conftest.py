"""A study whose every number is known, without training anything."""

from __future__ import annotations

import numpy as np
import pytest

from matgraft.data import Label
from matgraft.evaluation.metrics import errors
from matgraft.jobs.benchmark import REPORT, summarise
from matgraft.jobs.folder import write_json
from matgraft.paper.experiments import EXPERIMENTS

SEEDS = 3
# Errors in eV per atom at the fewest labels; they fall with the square root of the number of labels.
WIDTH = {
    "references_alone": 0.4,
    "composition_forest": 0.3,
    "zero_shot_source": 0.11,
    "source_plus_references": 0.15,
    "direct": 0.2,
    "tl1": 0.1,
    "tl2": 0.1,
    "tl3": 0.24,
    "process": 0.12,
    "auto": 0.09,
}


def made_up(experiment) -> dict:
    """What a benchmark would have written."""
    rng = np.random.default_rng(0)
    n = experiment.val_size
    natoms = rng.integers(2, 30, n)
    label = (
        Label(experiment.target)
        if experiment.data.startswith(("tmo", "tio2"))
        else Label.guess(experiment.target)
    )
    target = rng.normal(-7, 1, n) * natoms
    untrained = ["references_alone", "composition_forest"]
    source = experiment.source and experiment.source.partition(",")[0]
    if source:
        untrained += ["zero_shot_source", "source_plus_references"]
    results = []
    for seed in range(SEEDS):
        for size in experiment.sizes:
            for part in range(max(experiment.sizes) // size):
                for method in ("baselines", *experiment.schemes):
                    if method in experiment.costly and size < max(experiment.sizes):
                        continue
                    said = {}
                    for name in untrained if method == "baselines" else [method]:
                        width = WIDTH[name.partition("/")[0]] * (min(experiment.sizes) / size) ** 0.5
                        said[name] = rng.normal(0, width, n) * natoms
                    results.append(
                        {
                            "method": method, "seed": seed, "size": size, "part": part,
                            "seconds": 1.0, "cpu_seconds": 2.0, "reference": "labels", "epochs": 3,
                            "scores": {k: errors(label, target, target + e, natoms) for k, e in said.items()},
                            "errors": {k: e.tolist() for k, e in said.items()},
                        }
                    )  # fmt: skip
    return {
        "settings": {
            "data": experiment.data, "target": experiment.target, "label": vars(label),
            "source": source, "sizes": list(experiment.sizes), "val_size": n, "seeds": SEEDS,
            "group": experiment.group, "recipes": {"direct": {"epochs": 3}, "source": {"epochs": 3}},
        },
        "versions": {"torch": "2"},
        "validation": {
            str(seed): {"ids": list(map(str, range(n))), "natoms": natoms.tolist(), "target": target.tolist()}
            for seed in range(SEEDS)
        },
        "summary": summarise(results),
        "results": results,
    }  # fmt: skip


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """A folder as a full run leaves it."""
    folder = tmp_path_factory.mktemp("study")
    for experiment in EXPERIMENTS:
        (folder / experiment.name).mkdir(parents=True)
        write_json(folder / experiment.name / REPORT, made_up(experiment))
    return folder
