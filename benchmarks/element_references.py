"""What a prior from the periodic table is worth to reference energies from few labels.

    python benchmarks/element_references.py

Two fits of one energy per element, on the labels and on what a source leaves of them, trained on N structures
and judged on up to 2000 others: least squares with a ridge of 1e-6, made robust by Huber weights; and the
same with the prior (:mod:`matgraft.training.elements`). And the Gaussian process on frozen features, whose
elements are alike by the same kernel. Seeds start at 100, apart from those of all other results. No network
is trained. Writes ``results/element_references.json``, errors in eV per atom: of all test structures, and of
those that hold an element with fewer than three labels, and with none.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from matgraft import Dataset, load_model
from matgraft.models.references import HUBER, References
from matgraft.training.elements import fit_elements
from matgraft.training.graft import Task
from matgraft.training.process import fit_process

CASES = (
    ("tmo-oxides-fetiv", "energy", ("mp-schnet", "mp-schnet-total-energy")),
    ("tmo-oxides", "energy", ("mp-schnet", "mp-schnet-total-energy")),
    ("jarvis-oxides", "e_total_per_atom", ("mp-schnet", "mp-schnet-total-energy")),
    ("jarvis-oxides", "e_form_per_atom", ("mp-schnet",)),
    ("tio2-qe-pbe", "energy", ("mp-schnet", "mp-schnet-total-energy")),
    ("mp-properties", "log10_K_VRH_GPa", ()),
)
SIZES, SEEDS, MOST = (50, 100), range(100, 112), 2000
RARE = 3


def by_element(composition: np.ndarray, per_atom: np.ndarray) -> References:
    """Without a prior."""
    present = composition.any(axis=0)
    fractions = (composition / composition.sum(axis=1, keepdims=True))[:, present]
    centre = float(np.median(per_atom))
    weights = np.ones(len(per_atom))
    for _ in range(30):
        weighted = fractions * weights[:, None]
        normal = weighted.T @ fractions + 1e-6 * np.eye(present.sum())
        shift = np.linalg.solve(normal, weighted.T @ (per_atom - centre))
        size = np.abs(per_atom - centre - fractions @ shift)
        width = max(HUBER * 1.4826 * np.median(size), 1e-9)
        weights = np.minimum(1.0, width / np.maximum(size, width))
    energies = np.full(len(present), np.nan)
    energies[present] = centre + shift
    return References(energies, centre)


def main() -> None:
    report = []
    for name, target, sources in CASES:
        dataset = Dataset.read(name, target=target, missing="drop")
        for source in (None, *sources):
            model = load_model(source or "mp-schnet")
            task = Task.of(dataset, target, model.cutoff)
            base = np.zeros(len(dataset)) if source is None else task.predicted_by(model)
            features = model.features(task.graphs) if source is None else None
            for size in SIZES:
                row = {"data": name, "target": target, "source": source, "n": size}
                row["errors"] = compared(task, task.per_atom - base, features, size)
                report.append(row)
                means = {k: round(float(np.mean([e[0] for e in v])), 4) for k, v in row["errors"].items()}
                print(name, target, source, size, means, flush=True)
    out = Path(__file__).parent / "results" / "element_references.json"
    out.write_text(json.dumps({"seeds": list(SEEDS), "cases": report}) + "\n")


def compared(task: Task, values: np.ndarray, features: np.ndarray | None, size: int) -> dict[str, list]:
    """Errors of each fit by seed: all, with a rare element, with one that no label holds (null if none)."""
    errors: dict[str, list] = {}
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(values))
        train, test = np.sort(order[:size]), np.sort(order[size : size + MOST])
        composition = task.composition
        counts = (composition[train] > 0).sum(axis=0)
        rarest = np.where(composition[test] > 0, counts, size).min(axis=1)
        fits = {"no prior": by_element, "prior": fit_elements}
        predicted = {
            label: fit(composition[train], values[train]).per_atom(composition[test])
            for label, fit in fits.items()
        }
        if features is not None:
            references, process = fit_process(composition[train], values[train], features[train])
            predicted["process"] = references.per_atom(composition[test]) + process(features[test])
        for label, values_there in predicted.items():
            error = np.abs(values_there - values[test])
            parts = (error, error[rarest < RARE], error[rarest == 0])
            errors.setdefault(label, []).append(
                [round(float(part.mean()), 5) if len(part) else None for part in parts]
            )
    return errors


if __name__ == "__main__":
    main()
