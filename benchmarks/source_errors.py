"""Where the error of a source model comes from: labels, geometries, elements.

    python benchmarks/source_errors.py [MODEL]      default mp-schnet

Writes ``results/MODEL/errors.json``: the validation error, of the crystals that the card holds out, by how
many snapshots of the Materials Project give the label, by the geometry's origin, by element, and by how far
they are from what the model learnt from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from workloads import source_set

from matgraft.models.files import load_model
from matgraft.training.graft import Task

SNAPSHOTS = ("e_form_mp2020", "e_form_crysxpp", "e_form_megnet2018")
LEAST = 30
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="mp-schnet")
    name = parser.parse_args().model
    model = load_model(name)
    card = model.card
    dataset, _, held = source_set(card)
    dataset = dataset[held]
    task = Task.of(dataset, card["target"], model.cutoff)
    error = np.abs(task.predicted_by(model) - task.per_atom)
    known = np.array([~np.isnan(dataset.labels[label]) for label in SNAPSHOTS])
    later = dataset.columns["structure_origin"] == 3

    def row(chosen: np.ndarray) -> dict:
        part = np.sort(error[chosen])
        return {
            "n": len(part),
            "mae": round(float(part.mean()), 4),
            "median": round(float(np.median(part)), 4),
            "share_of_all_error": round(float(part.sum() / error.sum()), 3),
        }

    groups = {"all": np.ones(len(error), dtype=bool), "worst 1 %": error >= np.quantile(error, 0.99)}
    for count in (1, 2, 3):
        for geometry, where in (("PBE geometry", ~later), ("later geometry", later)):
            chosen = (known.sum(axis=0) == count) & where
            if chosen.sum() >= LEAST:
                groups[f"label in {count} of 3 snapshots, {geometry}"] = chosen
    only = known[0] & ~known[1] & ~known[2] & later
    groups["label in the 2020 snapshot alone, later geometry"] = only
    present = dataset.composition() > 0
    for symbol in ("Fe", "Mn", "F"):
        has = present[:, chemical_symbols.index(symbol)]
        groups[f"with {symbol}, label in the 2020 snapshot alone, later geometry"] = has & only
        groups[f"with {symbol}, label in 3 of 3 snapshots"] = has & known.all(axis=0)
    strangeness = model.domain.strangeness(model.features(task.graphs))
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0), (1.0, np.inf)):
        groups[f"strangeness {low:g} to {high:g}"] = (low <= strangeness) & (strangeness < high)
    report = {"model": name, "unit": "eV/atom", "groups": {k: row(chosen) for k, chosen in groups.items()}}
    for key, scores in report["groups"].items():
        print(f"{key:58} {scores['n']:5} MAE {scores['mae']:.4f} median {scores['median']:.4f}")
    out = HERE / "results" / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "errors.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
