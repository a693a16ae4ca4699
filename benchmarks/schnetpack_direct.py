"""Direct training here and in SchNetPack: same splits, same published recipe, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/schnetpack_direct.py --schnetpack PATH [--sizes 100,400] [--seeds 3]

SchNetPack's modules start from weights of their own and are trained by torch's Adam and plateau schedule, fed
by its own neighbour list; element references and the inner split are ours. Each fit is written to
``results/paper/schnetpack.json`` at once, and what is there already is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from peers import SchNetPack

from matgraft.data import Dataset
from matgraft.evaluation.metrics import errors
from matgraft.evaluation.protocol import Subset, learning_curve_subsets
from matgraft.jobs.folder import write_json
from matgraft.models.schnet import Architecture, SchNet
from matgraft.paper.results import WITNESS
from matgraft.progress import Progress
from matgraft.training.graft import Task, finetune, fit_references, inner_split
from matgraft.training.recipe import PAPER

RESULT = Path(__file__).resolve().parent.parent / "results" / "paper" / WITNESS
DATA, TARGET, VALIDATION = "tmo-oxides-fetiv", "energy", 117


def ours(task: Task, subset: Subset) -> tuple[np.ndarray, int]:
    """Per-atom predictions for the validation set, and epochs."""
    model = finetune(None, task, rows=subset.train, scheme="direct", recipe=PAPER, seed=subset.seed)
    return task.predicted_by(model)[subset.validation], model.card["epochs"]


def theirs(peer: SchNetPack, structures: list, task: Task, subset: Subset) -> tuple[np.ndarray, int]:
    """The same by SchNetPack's network."""
    references = fit_references(task, subset.train, "labels", None, None)
    residual = task.per_atom - references.per_atom(task.composition)
    scale = float(residual[subset.train].std())
    target = torch.from_numpy(residual / scale).float()
    torch.manual_seed(subset.seed)
    side = peer.side(SchNet(Architecture()), structures)
    train, held = inner_split(subset.train, PAPER.validation, subset.seed)
    optimizer = torch.optim.Adam(side.network.parameters(), PAPER.rate, weight_decay=PAPER.l2)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=PAPER.plateau_factor, patience=PAPER.plateau_patience, threshold=0.0,
        min_lr=PAPER.rate_min,
    )  # fmt: skip
    rng = np.random.default_rng(subset.seed)

    def predicted(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parts = [side.energies(side.batch(rows[i : i + 32])) for i in range(0, len(rows), 32)]
        return torch.cat(parts).double().numpy()

    best, best_epoch, weights, epoch = np.inf, 0, None, 0
    with Progress(PAPER.epochs, f"SchNetPack {subset.name}", unit="epochs") as progress:
        for epoch in range(1, PAPER.epochs + 1):
            total = 0.0
            order = rng.permutation(train)
            for start in range(0, len(order), PAPER.batch_size):
                rows = order[start : start + PAPER.batch_size]
                loss = torch.nn.functional.mse_loss(side.energies(side.batch(rows)), target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(rows)
            schedule.step(total / len(train))
            error = float(np.abs(predicted(held) - target[held].numpy()).mean())
            if error < best:
                best, best_epoch, weights = error, epoch, copy.deepcopy(side.network.state_dict())
            progress.step(validation=error * scale)
            if epoch - best_epoch >= PAPER.patience:
                break
    side.network.load_state_dict(weights)
    rows = subset.validation
    return scale * predicted(rows) + references.per_atom(task.composition)[rows], epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schnetpack", type=Path, required=True)
    parser.add_argument("--sizes", default="400")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    peer = SchNetPack(options.schnetpack)
    dataset = Dataset.read(DATA, target=TARGET)
    task = Task.of(dataset, TARGET, Architecture().cutoff)
    structures = list(dataset)
    # As in the study's Table 2, of each size the first part.
    sizes = [100, 200, 400]
    wanted = [int(size) for size in options.sizes.split(",")]
    report = json.loads(RESULT.read_text()) if RESULT.is_file() else {"fits": []}
    done = {(fit["who"], fit["seed"], fit["size"]) for fit in report["fits"]}
    for subset in learning_curve_subsets(dataset, sizes, VALIDATION, options.seeds):
        if subset.part or subset.size not in wanted:
            continue
        for who, train in (("matgraft", ours), ("SchNetPack", theirs)):
            if (who, subset.seed, subset.size) in done:
                continue
            cpu = time.process_time()
            more = () if who == "matgraft" else (peer, structures)
            per_atom, epochs = train(*more, task, subset)
            seconds = time.process_time() - cpu
            rows, natoms = subset.validation, task.natoms[subset.validation]
            label = task.label
            truth, said = (label.from_per_atom(v, natoms) for v in (task.per_atom[rows], per_atom))
            report["fits"].append(
                {
                    "who": who, "seed": subset.seed, "size": subset.size, "epochs": epochs,
                    "cpu_seconds": seconds, **errors(label, truth, said, natoms),
                }
            )  # fmt: skip
            peer_version = {"version": peer.version, "commit": peer.commit}
            report |= {"recipe": PAPER.model_dump(), "environment": environment(peer_version)}
            write_json(RESULT, report)


if __name__ == "__main__":
    main()
