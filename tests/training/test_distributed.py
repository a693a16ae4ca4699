"""Several workers train as one does; a lost one ends the rest with a message, and nothing is lost with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from safetensors.torch import load_file
from small import SMALL

from matgraft.data import Dataset
from matgraft.errors import InputError
from matgraft.graphs import build_graphs
from matgraft.models.files import load_model
from matgraft.models.schnet import Architecture, SchNet
from matgraft.training import loop
from matgraft.training.distributed import ALONE, Workers, balanced_share, joined
from matgraft.training.loop import Samples, fit
from matgraft.training.recipe import Recipe
from matgraft.training.schemes import SCHEMES

TWO_OUTPUTS = Architecture(interactions=2, features=16, filters=16, outputs=2)
# 257 structures: the last batch holds one, so that all workers but one have nothing to do.
N_TRAIN, N_VALIDATION = 257, 40
RECIPES = {
    "source": Recipe(
        epochs=5, batch_size=32, rate=3e-3, average=0.99, swa_epochs=2, swa_rate=1e-3, jitter=0.03, warmup=0.5
    ),
    "stopped early": Recipe(
        epochs=40, batch_size=64, rate=3e-2, optimizer="adam", schedule="plateau", loss="mse", patience=1
    ),
}


def salts(n: int) -> Dataset:
    rng = np.random.default_rng(1)
    structures, energies = [], []
    for k in range(n):
        strain = rng.uniform(-0.05, 0.05)
        metal = ("Ti", "V", "Fe")[k % 3]
        atoms = bulk(f"{metal}O", "rocksalt", a=4.3 * (1 + strain)).repeat((1 + k % 3, 1, 1))
        atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
        structures.append(atoms)
        energies.append(len(atoms) * (0.1 * (k % 3) + 40 * strain**2))
    return Dataset.from_atoms(structures, [f"salt-{k}" for k in range(n)], {"energy": energies})


def curve(name: str, workers: Workers) -> tuple[list[dict], SchNet]:
    """One fit; the second of two properties is known of every third structure only."""
    dataset = salts(N_TRAIN + N_VALIDATION)
    per_atom = dataset.values("energy") / dataset.natoms
    second = np.where(np.arange(len(dataset)) % 3 == 0, -2 * per_atom, np.nan)
    targets = np.stack([per_atom, second], axis=1)
    graphs = build_graphs(dataset, SMALL.cutoff)
    train = Samples(graphs, targets[:N_TRAIN], np.arange(N_TRAIN))
    validation = Samples(graphs, targets[N_TRAIN:], np.arange(N_TRAIN, len(dataset)))
    # Other start weights on every worker: those of rank 0 have to reach the rest.
    torch.manual_seed(workers.rank)
    network = SchNet(TWO_OUTPUTS)
    return fit(network, train, validation, RECIPES[name], SCHEMES["direct"], workers=workers), network


def curves_turns_and_a_disagreement(folder: Path) -> None:
    try:
        with joined() as workers:
            for name in RECIPES:
                history, network = curve(name, workers)
                weights = {key: tensor.tolist() for key, tensor in network.state_dict().items()}
                path = folder / f"{name} {workers.rank}.json"
                path.write_text(json.dumps({"history": history, "weights": weights}))
            with workers.rank_zero_first():
                if workers.rank == 0:
                    time.sleep(0.5)
                    (folder / "built").touch()
                assert (folder / "built").exists()
            workers.agree("greeting", "hello")
            workers.agree("data", "other" if workers.rank == 1 else "same")
    except InputError as error:
        print(error)
        # Left to the end of the interpreter, the threads of gloo abort the process once in a while.
        assert torch.cuda.is_available() or not torch.distributed.is_initialized()
        sys.exit(2)


def pretrain(folder: Path) -> None:
    """The command, with a small network and few epochs; slow ones if it is to be killed."""
    from matgraft.cli import main as cli
    from matgraft.models import schnet
    from matgraft.training import recipe

    loop.CHECKPOINT_SECONDS = 0.0
    recipe.PRETRAIN = RECIPES["source"].changed(epochs=12)
    schnet.ARCHITECTURES["arch1"] = SMALL
    if "SLOW" in os.environ:
        folder.mkdir(exist_ok=True)
        (folder / f"pid{os.environ['RANK']}").write_text(str(os.getpid()))
        after_epoch = loop._Run.after_epoch

        def slow(*arguments):
            time.sleep(0.5)
            after_epoch(*arguments)

        loop._Run.after_epoch = slow
    data, out = str(folder / "salts.extxyz"), str(folder / "out")
    sys.argv = ["matgraft", "pretrain", data, "--target", "energy", "--val-size", "40", "--out", out]
    cli.main()


def command(what, folder: Path) -> list[str]:
    return [__file__, what.__name__, str(folder)]


def start(arguments: list[str], count: int, **environment: str) -> list[subprocess.Popen]:
    """Workers as any launcher starts them; rank 0 keeps the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
    return [
        launch([sys.executable, *arguments], RANK=str(rank), LOCAL_RANK=str(rank), **place)
        for rank in range(count)
    ]


def launch(arguments: list[str], **environment: str) -> subprocess.Popen:
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        arguments,
        env={**os.environ, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(processes: list[subprocess.Popen], within: float = 120) -> tuple[list[int], list[str]]:
    try:
        said = [process.communicate(timeout=within)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_shares_cut_a_batch_without_gap_and_nearly_evenly(count, n):
    costs = np.random.default_rng(n).integers(0, 1000, n)
    shares = [balanced_share(costs, rank, count) for rank in range(count)]
    assert np.concatenate([np.arange(n)[share] for share in shares]).tolist() == list(range(n))
    load = [(costs[share] + 1).sum() for share in shares]
    assert max(load) <= (costs + 1).sum() / count + costs.max() + 1
    assert balanced_share(np.zeros(8), 0, 2) == slice(0, 4)


def test_one_process_shares_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as workers:
        assert workers is ALONE
    assert workers.share(np.ones(3)) == slice(0, 3)
    assert workers.sum(0.1) == 0.1


def test_parts_of_a_batch_sum_to_the_gradient_of_its_mean_loss():
    """Against the mean of squares written out for the whole batch in one piece."""
    dataset = salts(30)
    rows = np.arange(30)
    targets = np.random.default_rng(0).normal(size=30)
    graphs = build_graphs(dataset, SMALL.cutoff)
    torch.manual_seed(0)
    network = SchNet(SMALL)
    recipe = Recipe(epochs=1, batch_size=30, rate=1e-3, loss="mse")
    run = loop._Run(network, Samples(graphs, targets, rows), recipe, SCHEMES["direct"], 0, ALONE)

    whole = (network(graphs.batch(rows)) - torch.from_numpy(targets).float()).square().sum() / 30
    expected = torch.autograd.grad(whole, list(network.parameters()))
    parts = [run._backward(rows, share, 0, 0) for share in (slice(0, 11), slice(11, 11), slice(11, 30))]
    torch.testing.assert_close(sum(parts), whole.detach(), rtol=1e-6, atol=0)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_workers_that_cannot_meet_are_told_how_to_start(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="torchrun"), joined():
        pass


def test_verbs_of_one_process_are_refused():
    refused = launch([sys.executable, "-m", "matgraft", "data", "list"], WORLD_SIZE="2", RANK="0")
    (code,), (said,) = ends([refused])
    assert code == 2
    assert "without torchrun" in said


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, *ends(start(command(curves_turns_and_a_disagreement, folder), 2))


def test_two_workers_train_like_one(two_workers):
    folder, *_ = two_workers
    for name in RECIPES:
        history, network = curve(name, ALONE)
        first, second = (json.loads((folder / f"{name} {rank}.json").read_text()) for rank in (0, 1))
        assert first["weights"] == second["weights"]
        for results in (first["history"], second["history"]):
            assert len(results) == len(history)
            for key in ("rate", "train_loss", "validation_mae"):
                found, expected = ([row[key] for row in rows] for rows in (results, history))
                np.testing.assert_allclose(found, expected, rtol=2e-5)
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(torch.tensor(first["weights"][key]), tensor, rtol=1e-4, atol=1e-5)
    assert len(history) < RECIPES["stopped early"].epochs


def test_rank_zero_builds_first_and_a_disagreement_is_said_once(two_workers):
    folder, codes, said = two_workers
    assert (folder / "built").exists()
    assert codes == [2, 2], said
    assert sum("do not have the same data" in text for text in said) == 1
    assert "Traceback" not in "".join(said)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("whole"))


def pretrained(folder: Path) -> dict[str, torch.Tensor]:
    """Weights after the command ran to its end in one process."""
    write_salts(folder)
    codes, said = ends([launch([sys.executable, *command(pretrain, folder)])])
    assert codes == [0], said
    return load_model(folder / "out").network.state_dict()


def write_salts(folder: Path) -> None:
    from matgraft.data.writers import write

    write(salts(N_TRAIN + N_VALIDATION), folder / "salts.extxyz")


def kill_after_three_epochs(folder: Path, rank: int) -> None:
    log = folder / "out" / "log.csv"
    until = time.monotonic() + 120
    while not log.exists() or log.read_text().count("\n") < 4:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(int((folder / f"pid{rank}").read_text()), signal.SIGKILL)


def lost_message(said: list[str]) -> str:
    """The one line that all the survivors together say."""
    lines = [line for text in said for line in text.splitlines() if "a worker was lost" in line]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (3, 2)])
def test_survivors_of_a_killed_worker_say_how_to_go_on(tmp_path, uninterrupted, count, victim):
    write_salts(tmp_path)
    processes = start(command(pretrain, tmp_path), count, SLOW="1")
    kill_after_three_epochs(tmp_path, victim)
    codes, said = ends(processes, within=20)
    assert codes == [-signal.SIGKILL if rank == victim else 1 for rank in range(count)]
    assert "Traceback" not in "".join(said)
    assert_resumable(tmp_path, lost_message(said))
    same_weights(pretrained(tmp_path), uninterrupted)


@pytest.mark.slow
def test_torchrun_that_lost_a_worker_goes_on_with_another_number(tmp_path, uninterrupted):
    write_salts(tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    run = launch([*torchrun, "2", *command(pretrain, tmp_path)], SLOW="1")
    kill_after_three_epochs(tmp_path, 1)
    codes, said = ends([run], within=30)
    assert codes == [1]
    # The one traceback is torchrun's own.
    assert said[0].count("Traceback") == 1
    assert "ChildFailedError" in said[0]
    assert_resumable(tmp_path, lost_message(said))

    codes, said = ends([launch([*torchrun, "3", *command(pretrain, tmp_path)])])
    assert codes == [0], said
    assert said[0].count("model: ") == 1
    log = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log[1:]] == [str(epoch) for epoch in range(1, 13)]
    same_weights(load_model(tmp_path / "out").network.state_dict(), uninterrupted)


@pytest.mark.slow
def test_torchrun_may_start_the_workers_again_by_itself(tmp_path, uninterrupted):
    write_salts(tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = launch([*torchrun, "--max-restarts", "1", *command(pretrain, tmp_path)], SLOW="1")
    kill_after_three_epochs(tmp_path, 0)
    codes, said = ends([run])
    assert codes == [0], said
    same_weights(load_model(tmp_path / "out").network.state_dict(), uninterrupted)


def assert_resumable(folder: Path, message: str) -> None:
    assert "repeat the command" in message
    epoch = int(message.split("holds epoch ")[1].rstrip("."))
    assert 3 <= epoch < 12
    # The log is written right after the checkpoint.
    assert epoch - (folder / "out" / "log.csv").read_text().count("\n") in (-1, 0)
    load_file(folder / "out" / loop.CHECKPOINT)


def same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
