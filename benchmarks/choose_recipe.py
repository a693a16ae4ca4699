"""How the fine-tuning recipe was chosen: on inner splits of the training sets.

For each of five seeds the 400 training oxides of the random benchmark are split again, 320 to train on and
80 to compare recipes on. The 117 oxides that this seed holds out are not looked at; other seeds hold out
others, so that over all seeds the sets overlap. Writes ``results/choose_recipe.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from matgraft import Dataset, load_model
from matgraft.data.splits import random_split
from matgraft.training.baselines import source_baselines
from matgraft.training.graft import Task, finetune
from matgraft.training.recipe import FINETUNE

CANDIDATES = {
    "10 epochs, MAE": {},
    "10 epochs, Huber": {"loss": "huber"},
    "30 epochs, Huber": {"loss": "huber", "epochs": 30},
}
SEEDS = 5


def main() -> None:
    source = load_model("mp-schnet")
    task = Task.of(Dataset.read("tmo-oxides-fetiv", target="energy"), "energy", source.cutoff)
    zero_shot = task.predicted_by(source)
    errors: dict[str, list[list[float]]] = {}

    def note(name: str, per_atom: np.ndarray, rows: np.ndarray) -> None:
        error = np.abs(per_atom - task.per_atom)[rows]
        errors.setdefault(name, []).append([float((error * task.natoms[rows]).mean()), float(error.mean())])

    for seed in range(SEEDS):
        train, _ = random_split(len(task.per_atom), 117, seed)
        order = np.random.default_rng([seed, 9]).permutation(train)
        inner, held = np.sort(order[80:]), np.sort(order[:80])
        untrained = source_baselines(task, inner, source, zero_shot)
        note("source + references", untrained["source_plus_references"], held)
        for name, changes in CANDIDATES.items():
            recipe = FINETUNE.changed(**changes)
            model = finetune(source, task, rows=inner, recipe=recipe, seed=seed, zero_shot=zero_shot)
            note(name, task.predicted_by(model), held)
            print(seed, name, errors[name][-1], flush=True)
    report = {
        name: {
            "mae_ev": [cell for cell, _ in values],
            "mae_ev_per_atom": [atom for _, atom in values],
            "mean_mae_ev": float(np.mean(values, axis=0)[0]),
            "mean_mae_ev_per_atom": float(np.mean(values, axis=0)[1]),
        }
        for name, values in errors.items()
    }
    out = Path(__file__).parent / "results" / "choose_recipe.json"
    out.write_text(json.dumps({"fine_tuning": FINETUNE.model_dump(), "errors": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
