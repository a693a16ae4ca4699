"""What limits a source model: width, regularisation, number of crystals, geometries, start weights, labels.

    OMP_NUM_THREADS=1 python benchmarks/source_study.py [--only NAME ...] [--out FOLDER]

Trains variants of ``mp-schnet`` on a short schedule, each with the same number of steps and the same 6,154
crystals held out, and takes what is there already. Writes ``results/source_study.json`` and the table in
``docs/source.md``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from environment import environment
from pages import filled
from workloads import source_set

from matgraft.data import Dataset
from matgraft.evaluation.tables import Table
from matgraft.models.files import load_model
from matgraft.models.schnet import Architecture
from matgraft.progress import Progress
from matgraft.training.graft import Task, train_from_scratch
from matgraft.training.recipe import PRETRAIN

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "source_study.json"
PAGE = HERE.parent / "docs" / "source.md"
EPOCHS = 16
LATER = 3
"""Origin of structures whose geometry is not the one that the label belongs to."""
SNAPSHOTS = ("e_form_mp2020", "e_form_megnet2018")


@dataclass(frozen=True)
class Variant:
    """One change to the reference run."""

    arch: Architecture = field(default_factory=Architecture)
    recipe: dict = field(default_factory=dict)
    share: float = 1.0
    pbe_only: bool = False
    seed: int = 0


VARIANTS = {
    "reference: 128 features": Variant(),
    "64 features": Variant(Architecture(features=64, filters=64)),
    "192 features": Variant(Architecture(features=192, filters=192)),
    "no noise on distances": Variant(recipe={"jitter": 0.0}),
    "half of the crystals": Variant(share=0.5),
    "PBE geometries only": Variant(pbe_only=True),
    "other start weights and batches": Variant(seed=1),
}


def trained(name: str, variant: Variant, task: Task, rows: np.ndarray, held: np.ndarray, out: Path) -> dict:
    """Predictions of one variant for the held-out crystals, and its training error."""
    folder = out / name.replace(" ", "-").replace(":", "")
    if not (folder / "held_out.npy").is_file():
        epochs = round(EPOCHS * (len(task.per_atom) - len(held)) / len(rows))
        recipe = PRETRAIN.changed(epochs=epochs, swa_epochs=0, **variant.recipe)
        with Progress(epochs, name, unit="epochs") as progress:
            (model,) = train_from_scratch(
                task, rows, held, arch=variant.arch, recipe=recipe, seed=variant.seed, folder=folder,
                report=partial(_advance, progress),
            )  # fmt: skip
        said = task.predicted_by(model)
        error = np.abs(said - task.per_atom)[rows].mean()
        (folder / "training.json").write_text(json.dumps({"epochs": epochs, "train": float(error)}))
        np.save(folder / "held_out.npy", said[held])
    found = json.loads((folder / "training.json").read_text())
    return {**found, "crystals": len(rows), "said": np.load(folder / "held_out.npy")}


def _advance(progress: Progress, row: dict) -> None:
    progress.step(row["epoch"] - progress.count, loss=row["train_loss"])


def label_noise(dataset: Dataset, rows: np.ndarray) -> dict:
    """How far two snapshots of the Materials Project are apart in the label, by geometry; eV/atom."""
    first, second = (dataset.labels[name][rows] for name in SNAPSHOTS)
    later = dataset.columns["structure_origin"][rows] == LATER
    apart = np.abs(first - second)
    found = {}
    for name, where in (("PBE geometry", ~later), ("later geometry", later)):
        both = where & np.isfinite(apart)
        found[name] = {
            "crystals": int(where.sum()),
            "in_both_snapshots": int(both.sum()),
            "mean_difference": round(float(apart[both].mean()), 4) if both.any() else None,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=HERE / "runs" / "source-study")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset, train, held = source_set(load_model("mp-schnet").card)
    task = Task.of(dataset, "e_form_per_atom", Architecture().cutoff)
    origin = dataset.columns["structure_origin"]
    found = {}
    for name in given.only:
        variant = VARIANTS[name]
        rows = train[: round(len(train) * variant.share)]
        rows = rows[origin[rows] < LATER] if variant.pbe_only else rows
        found[name] = trained(name, variant, task, rows, held, given.out)
    if list(found) != list(VARIANTS):
        return
    truth, later = task.per_atom[held], origin[held] == LATER

    def errors(said: np.ndarray) -> dict:
        error = np.abs(said - truth)
        return {
            "all": float(error.mean()),
            "pbe": float(error[~later].mean()),
            "later": float(error[later].mean()),
            "median": float(np.median(error)),
            "worst_2_percent": float(np.sort(error)[-len(error) // 50 :].sum() / error.sum()),
        }  # fmt: skip

    first, second = (found[name]["said"] for name in (next(iter(VARIANTS)), list(VARIANTS)[-1]))
    report = {
        "environment": environment(),
        "unit": "eV/atom",
        "held_out": {"all": len(held), "pbe": int((~later).sum()), "later": int(later.sum())},
        "variants": {
            name: {
                "crystals": one["crystals"], "epochs": one["epochs"], "train": one["train"],
                **errors(one["said"]),
            }
            for name, one in found.items()
        },
        "mean_of_two_networks": errors((first + second) / 2),
        "two_networks_apart": float(np.abs(first - second).mean()),
        "label_noise": label_noise(dataset, held),
    }  # fmt: skip
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), "study", table(report)))


def table(report: dict) -> str:
    """The variants as Markdown."""

    def row(name: str, one: dict, *run: str) -> list:
        shown = (*(f"{one[part]:.4f}" for part in ("all", "pbe", "later", "median")),)
        return [name, *run, *shown, f"{100 * one['worst_2_percent']:.0f} %"]

    rows = [
        row(name, one, f"{one['crystals']:,}", f"{one['epochs']}", f"{one['train']:.4f}")
        for name, one in report["variants"].items()
    ]
    rows.append(row("mean of the first and the last", report["mean_of_two_networks"], "", "", ""))
    columns = [
        "variant", "crystals", "epochs", "train", "held out, all", "PBE geometry", "later geometry", "median",
        "share of the worst 2 %",
    ]  # fmt: skip
    return Table(columns, rows, caption="mean absolute errors in eV/atom").markdown()


if __name__ == "__main__":
    main()
