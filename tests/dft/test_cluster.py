"""Calculations through Parsl: settings that are none, and blocks of this machine whose workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from dft.conftest import TOY, calculation, strained

from matgraft.dft import cluster
from matgraft.dft.engine import Engine
from matgraft.dft.output import KILLED
from matgraft.dft.store import DONE, Store
from matgraft.errors import InputError
from matgraft.jobs.label import label

POOL = "process_worker_pool"
MARK = "MATGRAFT_TEST_CLUSTER"

PROGRAM = """#!/bin/sh
sleep 0.4
energy=$(awk '/CELL_PARAMETERS/ {for (i = 0; i < 3; i++) {getline; s += $1*$1 + $2*$2 + $3*$3}} \
END {printf "%.8f", -s}' pw.in)
cat <<END
     Program PWSCF v.7.2 starts
     number of electrons       =         8.00
     number of k points=     4
     total energy              =    $energy Ry
     estimated scf accuracy    <    0.00000001 Ry
!    total energy              =    $energy Ry
     estimated scf accuracy    <    0.00000001 Ry
     smearing contrib. (-TS)   =    -0.00010000 Ry
     convergence has been achieved in   3 iterations
     PWSCF        :      0.40s CPU      0.40s WALL
   JOB DONE.
END
"""
"""Answers from the cell alone, like a pw.x that takes 0.4 s."""


def processes(mark: str) -> dict[int, str]:
    """Command lines of what bears a mark in its environment, whatever its parent or session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("block = 2", r"no setting 'block'; did you mean 'blocks'\?"),
        ('provider = "lsf"', "provider: .*slurm"),
        ("workers = 0", "workers: .*greater than or equal to 1"),
        ('walltime = "1 day"', "walltime: "),
        ("blocks = ", "not a readable TOML file"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, text, said):
    (path := tmp_path / "cluster.toml").write_text(text)
    with pytest.raises(InputError, match=rf"cluster\.toml: .*{said}"):
        cluster.read(path)


def test_settings_from_a_file(tmp_path):
    with pytest.raises(InputError, match=r"cluster\.toml: not a readable TOML file.*No such file"):
        cluster.read(tmp_path / "cluster.toml")
    (path := tmp_path / "cluster.toml").write_text('provider = "slurm"\nblocks = 3\nnodes = 2\nworkers = 8\n')
    assert cluster.read(path).at_once == 48


def test_without_parsl_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "parsl", None)
    with (
        pytest.raises(InputError, match=r"pip install 'matgraft\[cluster\]'"),
        cluster.executor(cluster.Cluster()),
    ):
        pass


@pytest.fixture
def fake(tmp_path) -> Path:
    pytest.importorskip("parsl")
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")
    (path := tmp_path / "pw.x").write_text(PROGRAM)
    path.chmod(0o755)
    return path


def labels_in(place: Path) -> int:
    return len(Store(place).keys(DONE)) if place.exists() else 0


def nothing_left(mark: str) -> bool:
    deadline = time.monotonic() + 20
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes(mark)


@pytest.mark.slow
def test_a_block_that_is_killed_loses_nothing(tmp_path, monkeypatch, fake):
    engine, n, place, mark = Engine((str(fake),), "test"), 14, tmp_path / "labels.db", uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setattr(cluster, "HEARTBEAT", 1)
    monkeypatch.setattr(cluster, "LOST", 5)
    killed = []

    def kill() -> None:
        while labels_in(place) < 3:
            time.sleep(0.05)
        killed.append(next(pid for pid, line in processes(mark).items() if POOL in line))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    settings = cluster.Cluster(blocks=2)
    with cluster.executor(settings) as pool:
        done = label(strained(n), place, TOY, engine, executor=pool, workers=settings.at_once)
    assert killed
    assert (done.done, done.failed, done.here) == (n, 0, n)
    entries = {entry.ids[0]: entry for entry in Store(place).entries()}
    assert sorted(entries) == sorted(strained(n).ids)
    for i in range(n):
        undisturbed = engine.run(calculation(i))
        assert entries[f"si-{i}"].result.free_energy == undisturbed.free_energy
    lost = [one.reason for entry in entries.values() for one in entry.attempts]
    assert 0 < len(lost) <= settings.at_once
    assert set(lost) == {KILLED}
    assert nothing_left(mark)


LABELLER = """
import logging, signal, sys
from matgraft.dft import cluster
from matgraft.dft.engine import Engine
from matgraft.jobs.label import label
from dft.conftest import TOY, strained

logging.basicConfig(level=logging.INFO)
# Ignored where a shell started the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
cluster.HEARTBEAT, cluster.LOST = 1, 5
with cluster.executor(cluster.Cluster()) as pool:
    label(strained(100), sys.argv[1], TOY, Engine((sys.argv[2],), "test"), executor=pool)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_labeller_that_is_ended_takes_its_blocks_along(tmp_path, fake, how):
    place, mark = tmp_path / "labels.db", uuid.uuid4().hex
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with open(tmp_path / "log", "w") as log:
        labeller = subprocess.Popen(
            [sys.executable, "-c", LABELLER, place, fake],
            env={**os.environ, MARK: mark, "PYTHONPATH": path},
            stderr=log,
        )
    while labels_in(place) < 1:
        assert labeller.poll() is None
        time.sleep(0.1)
    labeller.send_signal(how)
    labeller.wait(timeout=20)
    assert nothing_left(mark)
    said = (tmp_path / "log").read_text()
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    assert "Error" not in said
    # Not what Parsl has to say about each of its steps.
    assert "Scaling" not in said
