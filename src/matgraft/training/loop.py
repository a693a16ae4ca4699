"""The training loop: one for every scheme, resumable after any interruption."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from matgraft.errors import InputError, LostWorker
from matgraft.graphs import Batch, Graphs
from matgraft.graphs.graphs import in_batches
from matgraft.models.model import run_network
from matgraft.models.schnet import SchNet
from matgraft.training.distributed import ALONE, Workers
from matgraft.training.forces import Pulls, force_error
from matgraft.training.recipe import Recipe
from matgraft.training.schemes import Rate, Scheme
from matgraft.whole import whole

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 5.0

Report = Callable[[dict], None]


@dataclass(frozen=True)
class Samples:
    """Graphs with their targets in the network's units, shape (n,), or (n, outputs) with NaN for unknown.

    ``pulls`` are all structures of the graphs with their forces, for a recipe that learns from forces.
    """

    graphs: Graphs
    targets: np.ndarray
    rows: np.ndarray
    pulls: Pulls | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class _State:
    """What a checkpoint holds beside tensors; with settings and data it determines the rest of the run."""

    epoch: int = 0
    best: float = math.inf
    best_epoch: int = 0
    plateau_best: float = math.inf
    plateau_wait: int = 0
    rate: float = 0.0
    history: list[dict] = field(default_factory=list)
    finished: bool = False


def fit(
    network: SchNet,
    train: Samples,
    validation: Samples | None,
    recipe: Recipe,
    scheme: Scheme,
    *,
    scale: float = 1.0,
    seed: int = 0,
    folder: Path | None = None,
    fingerprint: str = "",
    report: Report | None = None,
    workers: Workers = ALONE,
) -> list[dict]:
    """Train ``network`` in place and leave it with the weights of the best epoch.

    Parameters
    ----------
    network : SchNet
    train : Samples
    validation : Samples or None
        Chooses the best epoch and stops early; part of the training data, never of the test data. None
        keeps the weights of the last epoch.
    recipe : Recipe
    scheme : Scheme
        Which parameters move, how fast, and from which epoch on.
    scale : float
        Label units, per atom, of the network's unit: ``validation_mae`` is in these.
    seed : int
        Order of the batches.
    folder : Path, optional
        Where checkpoints and the log go. A run that finds its own checkpoint there continues it, and ends
        with the same weights as if it had never stopped.
    fingerprint : str
        Names the run (data, settings, start weights); a checkpoint with another one is refused.
    report : callable, optional
        Called with one dict per epoch.
    workers : Workers
        Processes that call this function together, with equal arguments. Batches, steps and decisions are
        those of one process, to round-off; only rank 0 writes.

    Returns
    -------
    list of dict
        One row per epoch: epoch, rate, train_loss, validation_mae, seconds.
    """
    workers.agree("data and settings", fingerprint)
    workers.start_equal(network.parameters())
    run = _Run(network, train, recipe, scheme, seed, workers)
    spacing, network.spacing = network.spacing, recipe.spacing
    state = _State(rate=recipe.rate)
    if folder is not None and (folder / CHECKPOINT).exists():
        state = run.restore(folder / CHECKPOINT, fingerprint)
    workers.agree("checkpoint", str(state.epoch))
    saved = time.monotonic()
    while not state.finished:
        started = time.monotonic()
        loss = run.epoch(state)
        lost = not math.isfinite(loss)
        if lost and not state.best_epoch:
            raise Diverged(
                f"training diverged in epoch {state.epoch + 1}: its loss is no number. Look for labels "
                "that are far off, choose another seed, or a recipe with a lower rate."
            )
        row = {"epoch": state.epoch + 1, "rate": state.rate, "train_loss": loss}
        if validation is not None:
            error = run.validate(validation)
            row["validation_mae"] = error * scale
            if error < state.best:
                state.best, state.best_epoch = error, state.epoch + 1
                run.keep_best()
        row["seconds"] = time.monotonic() - started
        state.history.append(row)
        state.epoch += 1
        run.after_epoch(state, loss)
        waited = state.epoch - state.best_epoch
        state.finished = (
            lost
            or state.epoch == recipe.epochs
            or bool(validation is not None and recipe.patience and waited >= recipe.patience)
        )
        if report is not None:
            report(row)
        if (
            folder is not None
            and workers.rank == 0
            and (state.finished or time.monotonic() - saved > CHECKPOINT_SECONDS)
        ):
            run.save(folder, state, fingerprint)
            saved = time.monotonic()
    run.finish(validation is not None)
    network.spacing = spacing
    return state.history


class Diverged(InputError):
    """A loss that is no number, and no epoch before whose weights were kept."""


class _Run:
    def __init__(
        self, network: SchNet, train: Samples, recipe: Recipe, scheme: Scheme, seed: int, workers: Workers
    ):
        self.network, self.train, self.recipe, self.scheme, self.seed = network, train, recipe, scheme, seed
        self.workers = workers
        self.parameters = dict(network.named_parameters())
        self.device = next(network.parameters()).device
        scheme.require_known(self.parameters)
        self.rates = {name: scheme.rate(name) for name in self.parameters}
        self.moving = [name for name in self.parameters if self.rates[name].factor > 0]
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.moving)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        self.groups: dict[Rate, list[str]] = {}
        for name in self.moving:
            self.groups.setdefault(self.rates[name], []).append(name)
        self.optimizer = kind(
            [{"params": [self.parameters[name] for name in group]} for group in self.groups.values()],
            lr=recipe.rate,
            weight_decay=recipe.l2,
            fused=True,
        )
        self.average = (
            {name: self.parameters[name].detach().clone() for name in self.moving} if recipe.average else {}
        )
        self.best = {name: self.parameters[name].detach().clone() for name in self.moving}
        targets = torch.from_numpy(np.asarray(train.targets, dtype=np.float32))
        self.targets = targets.to(self.device)
        self.where = np.zeros(len(train.graphs), dtype=np.int64)
        self.where[train.rows] = np.arange(len(train.rows))
        self.pairs = np.diff(train.graphs.pair_offsets)
        if recipe.forces:
            assert train.pulls is not None
            self.pairs = train.pulls.pairs
        below = any(not name.startswith("output.") for name in self.moving)
        self.kept: dict[int, torch.Tensor] | None = None if below or recipe.jitter or recipe.forces else {}

    def epoch(self, state: _State) -> float:
        recipe = self.recipe
        order = np.random.default_rng([self.seed, state.epoch]).permutation(self.train.rows)
        batches = list(in_batches(order, self.pairs, recipe.batch_size, recipe.max_pairs))
        frozen = {name for name in self.moving if state.epoch < self.rates[name].from_epoch}
        moving = [self.parameters[name] for name in self.moving]
        values = [parameter.detach() for parameter in moving]
        total = 0.0
        swa_from = recipe.epochs - recipe.swa_epochs
        for k, rows in enumerate(batches):
            if state.epoch >= swa_from:
                state.rate = recipe.swa_rate
                step = (state.epoch - swa_from) * len(batches) + k
                keep = step / (step + 1.0)
            else:
                if recipe.schedule == "cosine":
                    state.rate = self._cosine(state.epoch + k / len(batches), recipe)
                # The average forgets the start faster while it is young.
                step = state.epoch * len(batches) + k + 1
                keep = min(recipe.average, step / (step + 10.0))
            for group, rate in zip(self.optimizer.param_groups, self.groups, strict=True):
                group["lr"] = 0.0 if state.epoch < rate.from_epoch else state.rate * rate.factor
            self.optimizer.zero_grad()
            share = self.workers.share(self.pairs[rows])
            part = self._backward(rows, share, state.epoch, k)
            loss = self.workers.sum_gradients(moving, part)
            for name in frozen:
                self.parameters[name].grad = None
            self.optimizer.step()
            if self.average:
                torch._foreach_lerp_(list(self.average.values()), values, 1.0 - keep)
            total += loss * len(rows)
        return total / len(order)

    def _backward(self, rows: np.ndarray, share: slice, epoch: int, step: int) -> torch.Tensor:
        """Gradients of the part of the batch's mean loss that its structures ``rows[share]`` make up."""
        mine = rows[share]
        if not len(mine):
            return torch.zeros((), device=self.device)
        targets = self.targets[self.where[mine]]
        if self.recipe.forces:
            loss = self._loss_with_forces(mine, targets)
        else:
            graph = self.train.graphs.batch(mine).to(self.device)
            if self.recipe.jitter:
                noise = self._noise(self.pairs[rows], share, epoch, step)
                graph = graph.jittered(self.recipe.jitter * noise, self.network.arch.cutoff)
            loss = self._loss(self._output(graph, mine), targets)
        loss = loss * (len(mine) / len(rows))
        loss.backward()
        return loss.detach()

    def _loss_with_forces(self, rows: np.ndarray, targets: torch.Tensor) -> torch.Tensor:
        pulls = self.train.pulls
        assert pulls is not None
        graph, direction = pulls.batch(rows)
        graph = graph.to(self.device, torch.float32)
        graph.distance.requires_grad_()
        output = self.network(graph)
        error = force_error(self.network, pulls, rows, graph, direction, output)
        return self._loss(output, targets) + self.recipe.forces * error

    def _output(self, graph: Batch, rows: np.ndarray) -> torch.Tensor:
        """The network's output; where only its output layers move, the rest is run once per structure."""
        kept = self.kept
        if kept is None:
            return self.network(graph)
        if not all(row in kept for row in rows):
            with torch.no_grad():
                *_, x = self.network.representations(graph)
            nodes = torch.bincount(graph.structure, minlength=len(rows)).tolist()
            kept.update(zip(rows, x.split(nodes), strict=True))
        return self.network.read_out(torch.cat([kept[row] for row in rows]), graph)

    def _noise(self, pairs: np.ndarray, share: slice, epoch: int, step: int) -> torch.Tensor:
        """Normal random numbers for my pairs: the same in a continued run, and with any number of workers."""
        generator = torch.Generator(self.device).manual_seed(
            int(np.random.SeedSequence([self.seed, epoch, step]).generate_state(1)[0])
        )
        noise = torch.randn(int(pairs.sum()), generator=generator, device=self.device)
        start = int(pairs[: share.start].sum())
        return noise[start : start + int(pairs[share].sum())]

    def _loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known = ~target.isnan()
        output, target = torch.where(known, output, 0.0), torch.where(known, target, 0.0)
        if self.recipe.loss == "mse":
            loss = functional.mse_loss(output, target, reduction="none")
        elif self.recipe.loss == "mae":
            loss = functional.l1_loss(output, target, reduction="none")
        else:
            loss = functional.huber_loss(output, target, delta=self.recipe.huber_delta, reduction="none")
        if loss.ndim == 1:
            return loss.mean()
        return loss[:, 0].mean() + self.recipe.further_weight * loss[:, 1:].mean(0).sum()

    @staticmethod
    def _cosine(epoch: float, recipe: Recipe) -> float:
        if epoch < recipe.warmup:
            return recipe.rate * max(epoch / recipe.warmup, 0.01)
        share = (epoch - recipe.warmup) / max(recipe.epochs - recipe.swa_epochs - recipe.warmup, 1e-9)
        return recipe.rate_min + 0.5 * (recipe.rate - recipe.rate_min) * (
            1 + math.cos(math.pi * min(share, 1.0))
        )

    def after_epoch(self, state: _State, loss: float) -> None:
        if self.recipe.schedule != "plateau":
            return
        if loss < state.plateau_best:
            state.plateau_best, state.plateau_wait = loss, 0
            return
        state.plateau_wait += 1
        if state.plateau_wait > self.recipe.plateau_patience:
            state.rate = max(state.rate * self.recipe.plateau_factor, self.recipe.rate_min)
            state.plateau_wait = 0

    def validate(self, validation: Samples) -> float:
        """Mean absolute error of the averaged weights."""
        share = self.workers.share(np.diff(validation.graphs.pair_offsets)[validation.rows])
        with self.averaged():
            output = run_network(self.network, validation.graphs, validation.rows[share])
        error = np.abs(_first(output) - _first(validation.targets)[share]).sum()
        return self.workers.sum(float(error)) / len(validation)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the network carries its averaged weights (if the recipe averages)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, tensor in self.average.items():
                kept = self.parameters[name].detach().clone()
                self.parameters[name].copy_(tensor)
                tensor.copy_(kept)

    def keep_best(self) -> None:
        for name, tensor in self.best.items():
            tensor.copy_((self.average or self.parameters)[name].detach())

    def finish(self, validated: bool) -> None:
        final = self.best if validated else self.average
        with torch.no_grad():
            for name, tensor in final.items():
                self.parameters[name].copy_(tensor)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None

    # ------------------------------------------------------------- checkpoints

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"now.{name}": self.parameters[name].detach() for name in self.moving}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name in self.moving:
            for key, value in self.optimizer.state[self.parameters[name]].items():
                tensors[f"optimizer.{key}.{name}"] = value
        return tensors

    def save(self, folder: Path, state: _State, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        metadata = {"state": json.dumps(vars(state)), "fingerprint": fingerprint}
        with whole(folder / CHECKPOINT) as partial:
            save_file(tensors, partial, metadata=metadata)
        with open(folder / "log.csv", "w", newline="") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(state.history[0]))
            writer.writeheader()
            writer.writerows(state.history)

    def restore(self, path: Path, fingerprint: str) -> _State:
        try:
            with safe_open(path, framework="pt", device=str(self.device)) as handle:
                metadata = handle.metadata()
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}: not a readable checkpoint ({error}). Delete it to start again."
            ) from error
        if metadata.get("fingerprint") != fingerprint:
            raise InputError(
                f"{path}: this checkpoint belongs to a run with other data or settings. "
                "Give another --out folder, or delete this one to start again."
            )
        with torch.no_grad():
            for name in self.moving:
                parameter = self.parameters[name]
                parameter.copy_(tensors[f"now.{name}"])
                self.best[name].copy_(tensors[f"best.{name}"])
                if self.average:
                    self.average[name].copy_(tensors[f"average.{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"optimizer.{key}.{name}" in tensors:
                        self.optimizer.state[parameter][key] = tensors[f"optimizer.{key}.{name}"]
        return _State(**json.loads(metadata["state"]))


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Context in which the message of a lost worker also says what the checkpoint of a run holds."""
    try:
        yield
    except LostWorker as lost:
        path = folder / CHECKPOINT
        if not path.exists():
            raise LostWorker(f"{lost} There is no checkpoint in {folder} yet.") from lost
        with safe_open(path, framework="pt") as handle:
            epoch = json.loads(handle.metadata()["state"])["epoch"]
        raise LostWorker(f"{lost} The checkpoint in {folder} holds epoch {epoch}.") from lost


def _first(values: np.ndarray) -> np.ndarray:
    """The first property, which chooses the epoch."""
    return values if values.ndim == 1 else values[:, 0]
