"""The loop learns, resumes to the same weights, and moves what the scheme says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import SMALL

from matgraft.data import Dataset
from matgraft.errors import InputError
from matgraft.graphs import build_graphs
from matgraft.models.files import load_model
from matgraft.models.model import run_network
from matgraft.models.schnet import ARCHITECTURES, Architecture, SchNet
from matgraft.training import loop
from matgraft.training.loop import Diverged, Samples, _Run, fit
from matgraft.training.recipe import PAPER, PRETRAIN, Recipe
from matgraft.training.schemes import SCHEMES, Rate, Scheme

RECIPE = Recipe(epochs=6, batch_size=8, rate=3e-3, average=0.9)


def network() -> SchNet:
    torch.manual_seed(0)
    return SchNet(SMALL)


@pytest.fixture(scope="module")
def samples(crystals):
    graphs = build_graphs(crystals, SMALL.cutoff)
    targets = crystals.values("energy") / crystals.natoms + 4.5
    return Samples(graphs, targets[:48], np.arange(48)), Samples(graphs, targets[48:], np.arange(48, 60))


def weights(net: SchNet) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize(("optimizer", "schedule"), [("adamw", "cosine"), ("adam", "plateau")])
def test_learns(samples, loss, optimizer, schedule):
    train, validation = samples
    recipe = Recipe(epochs=15, batch_size=8, rate=5e-3, loss=loss, optimizer=optimizer, schedule=schedule)
    net = network()
    history = fit(net, train, validation, recipe, SCHEMES["direct"], scale=2.5)
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    error = 2.5 * np.abs(run_network(net, validation.graphs, validation.rows) - validation.targets).mean()
    assert error == pytest.approx(min(row["validation_mae"] for row in history), abs=1e-4)


def test_plateau_lowers_the_rate_as_torch_does(samples, monkeypatch):
    losses = np.random.default_rng(0).choice([1.0, 2.0, 3.0], 40) + np.linspace(2, 0, 40).round(1)
    monkeypatch.setattr(_Run, "epoch", lambda run, state: losses[state.epoch])
    recipe = Recipe(
        epochs=40, batch_size=8, rate=1.0, rate_min=0.2, schedule="plateau", plateau_patience=3,
        plateau_factor=0.5,
    )  # fmt: skip
    history = fit(network(), samples[0], None, recipe, SCHEMES["direct"])
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=3, threshold=0, min_lr=0.2
    )
    rates = []
    for loss in losses:
        rates.append(optimizer.param_groups[0]["lr"])
        theirs.step(loss)
    assert [row["rate"] for row in history] == rates
    assert {1.0, 0.5, 0.25, 0.2} == set(rates)


def test_stops_after_exactly_so_many_epochs_without_a_better_one(samples, monkeypatch):
    errors = iter([3.0, 2.0, 2.5, 1.0, 1.0, 2.0, 0.5])
    monkeypatch.setattr(_Run, "validate", lambda run, validation: next(errors))
    recipe = RECIPE.changed(epochs=7, patience=2)
    assert len(fit(network(), *samples, recipe, SCHEMES["tl3"])) == 6


def test_validation_judges_the_averaged_weights_that_are_kept(samples):
    train, validation = samples
    net = network()
    (row,) = fit(net, train, validation, RECIPE.changed(epochs=1), SCHEMES["direct"])
    error = np.abs(run_network(net, validation.graphs, validation.rows) - validation.targets).mean()
    assert row["validation_mae"] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_further_properties_weigh_as_the_recipe_says(weight):
    """Errors of 1, 2 and 3 for two structures, of which one has no second property."""
    target = torch.tensor([[1.0, 2.0, 3.0], [1.0, float("nan"), 3.0]])
    run = SimpleNamespace(recipe=RECIPE.changed(loss="mae", further_weight=weight))
    loss = _Run._loss(run, torch.zeros(2, 3), target)
    assert float(loss) == pytest.approx(1.0 + weight * (2.0 / 2 + 3.0))


def test_a_run_that_diverges_keeps_the_best_epoch_before(samples, monkeypatch):
    epoch = _Run.epoch

    def lost(run, state):
        loss = epoch(run, state)
        return float("nan") if state.epoch == 3 else loss

    monkeypatch.setattr(_Run, "epoch", lost)
    recipe = RECIPE.model_copy(update={"epochs": 9})
    net = network()
    history = fit(net, *samples, recipe, SCHEMES["direct"])
    assert len(history) == 4
    assert all(torch.isfinite(tensor).all() for tensor in net.state_dict().values())
    with pytest.raises(Diverged, match="diverged in epoch 4"):
        fit(network(), samples[0], None, recipe, SCHEMES["direct"])


@pytest.mark.parametrize(
    ("name", "moving"),
    [
        ("tl1", {"embedding", "interactions", "output"}),
        ("tl2", {"interactions", "output"}),
        ("tl3", {"output"}),
    ],
)
def test_schemes_move_what_they_say(samples, name, moving):
    net = network()
    before = weights(net)
    fit(net, samples[0], None, RECIPE, SCHEMES[name])
    moved = {
        key.split(".")[0] for key, tensor in net.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert moved == moving


def test_staged_unfreezing_and_layer_rates(samples):
    scheme = Scheme(
        name="staged",
        rates=(Rate(parameters="output"), Rate(parameters="interactions.1", factor=0.1, from_epoch=3)),
    )
    net = network()
    before = weights(net)
    fit(net, samples[0], None, RECIPE.model_copy(update={"epochs": 3, "warmup": 0.0}), scheme)
    assert torch.equal(net.interactions[1].atomwise_in.weight, before["interactions.1.atomwise_in.weight"])
    net = network()
    fit(net, samples[0], None, RECIPE, scheme)
    assert not torch.equal(
        net.interactions[1].atomwise_in.weight, before["interactions.1.atomwise_in.weight"]
    )
    assert torch.equal(net.interactions[0].atomwise_in.weight, before["interactions.0.atomwise_in.weight"])
    assert torch.equal(net.embedding.weight, before["embedding.weight"])


def test_what_is_frozen_for_some_epochs_then_starts_afresh(samples):
    """Adam's first step moves every weight by the rate, whatever the gradient."""
    rates = (Rate(parameters="output", factor=10.0), Rate(parameters="interactions.1", from_epoch=2))
    recipe = Recipe(epochs=3, batch_size=48, rate=3e-3)
    net, after, used = network(), [], []
    before = weights(net)

    def noted(row):
        after.append({name: (tensor - before[name]).abs().numpy() for name, tensor in weights(net).items()})
        used.append(row["rate"])

    fit(net, samples[0], None, recipe, Scheme(name="staged", rates=rates), report=noted)
    late, early = "interactions.1.atomwise_in.weight", "output.0.weight"
    assert [bool(moved[late].any()) for moved in after] == [False, False, True]
    for moved, rate in ((after[2][late], used[2]), (after[0][early], 10 * used[0])):
        np.testing.assert_allclose(np.quantile(moved, [0.1, 0.5, 0.9]), rate, rtol=1e-3)


def test_output_layers_alone_are_trained_as_if_the_rest_ran_each_time(samples, monkeypatch):
    """Where nothing below the output layers moves, the rest runs once; a rate of 1e-30 moves nothing."""
    tiny = Scheme(name="tiny", rates=(Rate(parameters="output"), Rate(parameters="embedding", factor=1e-30)))
    slow = network()
    history = fit(slow, samples[0], None, RECIPE, tiny)
    runs = []
    whole = SchNet.representations
    monkeypatch.setattr(
        SchNet, "representations", lambda net, graph: runs.append(len(graph.natoms)) or whole(net, graph)
    )
    fast = network()
    assert [
        row["train_loss"] for row in fit(fast, samples[0], None, RECIPE, SCHEMES["tl3"])
    ] == pytest.approx([row["train_loss"] for row in history], rel=1e-4)
    assert sum(runs) == len(samples[0])
    for name, tensor in fast.state_dict().items():
        torch.testing.assert_close(tensor, slow.state_dict()[name], rtol=1e-3, atol=1e-5)


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    "recipe", [RECIPE, RECIPE.model_copy(update={"schedule": "plateau", "optimizer": "adam"})]
)
@pytest.mark.parametrize("stop_after", [1, 4])
def test_resumed_run_ends_with_the_same_weights(samples, tmp_path, monkeypatch, recipe, stop_after):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole = network()
    history = fit(whole, *samples, recipe, SCHEMES["tl2"], folder=tmp_path / "whole", fingerprint="a")

    def stop(row):
        if row["epoch"] == stop_after + 1:
            raise _Stop

    with pytest.raises(_Stop):
        fit(
            network(), *samples, recipe, SCHEMES["tl2"], folder=tmp_path / "cut", fingerprint="a", report=stop
        )
    resumed = network()
    epochs = []
    again = fit(
        resumed,
        *samples,
        recipe,
        SCHEMES["tl2"],
        folder=tmp_path / "cut",
        fingerprint="a",
        report=epochs.append,
    )
    assert len(epochs) == recipe.epochs - stop_after
    assert same(weights(resumed), weights(whole))
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in history]
    assert (tmp_path / "cut" / "log.csv").read_text().count("\n") == recipe.epochs + 1


def test_finished_run_is_not_run_again(samples, tmp_path):
    first = network()
    fit(first, *samples, RECIPE, SCHEMES["tl1"], folder=tmp_path, fingerprint="a")
    second = network()
    fit(
        second,
        *samples,
        RECIPE,
        SCHEMES["tl1"],
        folder=tmp_path,
        fingerprint="a",
        report=lambda _: pytest.fail("ran"),
    )
    assert same(weights(first), weights(second))


def test_foreign_or_damaged_checkpoints_are_refused(samples, tmp_path):
    fit(network(), *samples, RECIPE, SCHEMES["tl1"], folder=tmp_path, fingerprint="a")
    with pytest.raises(InputError, match="other data or settings"):
        fit(network(), *samples, RECIPE, SCHEMES["tl1"], folder=tmp_path, fingerprint="b")
    path = tmp_path / loop.CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        fit(network(), *samples, RECIPE, SCHEMES["tl1"], folder=tmp_path, fingerprint="a")


COMMAND = """
import sys
from matgraft.cli import main as cli
from matgraft.training import loop, recipe
loop.CHECKPOINT_SECONDS = 0.0
small = recipe.DIRECT.model_copy(update={"epochs": 25, "min_steps": 0})
recipe.PRESETS["default"] = (small, small)
sys.argv = ["matgraft", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(crystals, tmp_path):
    """Kills at random moments of one fine-tune; each resumed run ends with the uninterrupted weights."""
    from matgraft.data.writers import write

    write(crystals, tmp_path / "salts.extxyz")

    def command(out):
        arguments = ["finetune", str(tmp_path / "salts.extxyz"), "--target", "energy", "--source", "none"]
        options = [
            "--scheme",
            "direct",
            "--arch",
            "arch2",
            "--val",
            "12",
            "--no-intervals",
            "--out",
            str(out),
        ]
        return [sys.executable, "-c", COMMAND, *arguments, *options]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # The first may compile; the second says how long it takes.
    for name in ("warm", "whole"):
        started = time.monotonic()
        subprocess.run(command(tmp_path / name), check=True, env=environment, capture_output=True)
        duration = time.monotonic() - started
    expected = load_model(tmp_path / "whole").network.state_dict()
    rng = np.random.default_rng(0)
    tried = killed = 0
    while killed < 6:
        out = tmp_path / f"killed{tried}"
        tried += 1
        process = subprocess.Popen(
            command(out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 0.95) * duration)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:
            # It was faster than it had been: perhaps a busy neighbour is gone.
            duration *= 0.8
        subprocess.run(command(out), check=True, env=environment, capture_output=True)
        assert same(expected, load_model(out).network.state_dict())


def test_stochastic_weight_averaging_is_the_mean_of_the_last_steps(samples, monkeypatch):
    recipe = Recipe(epochs=4, batch_size=8, rate=3e-3, average=0.9, swa_epochs=2, swa_rate=1e-3)
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        seen.append(self.param_groups[0]["params"][0].detach().clone())
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    net = network()
    history = fit(net, samples[0], None, recipe, SCHEMES["direct"])
    assert [row["rate"] for row in history[2:]] == [1e-3, 1e-3]
    mean = torch.stack(seen[len(seen) // 2 :]).double().mean(dim=0)
    torch.testing.assert_close(net.embedding.weight.double(), mean, atol=1e-6, rtol=0)


@pytest.mark.parametrize("arch", [Architecture(), Architecture(radial="published"), ARCHITECTURES["arch2"]])
@pytest.mark.parametrize("rate", [PRETRAIN.rate, PAPER.rate])
def test_fast_path_descends_like_the_reference(arch, rate):
    """Merged atoms and compiled tables in float32, against every atom and pair in plain float64."""
    dataset = Dataset.read("tmo-oxides")[np.arange(320)]
    targets = torch.from_numpy(np.random.default_rng(0).normal(size=len(dataset)).astype(np.float32))

    def losses(spacing: float | None, merge: bool, dtype: torch.dtype) -> np.ndarray:
        graphs = build_graphs(dataset, arch.cutoff, merge_equivalent=merge)
        torch.manual_seed(0)
        net = SchNet(arch).to(dtype)
        net.spacing = spacing
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=PRETRAIN.l2)
        curve = []
        for rows in np.arange(len(dataset)).reshape(10, -1):
            output = net(graphs.batch(rows).to(dtype=dtype))
            loss = torch.nn.functional.huber_loss(output, targets[rows].to(dtype), delta=PRETRAIN.huber_delta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        return np.array(curve)

    fast = losses(PRETRAIN.spacing, True, torch.float32)
    reference = losses(None, False, torch.float64)
    assert np.abs(fast / reference - 1).max() < 1e-6
