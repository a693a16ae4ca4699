"""The program itself, from the command line to labels that a kill does not change."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from command import run
from pictures import is_picture

from matgraft.dft.calculation import Calculation
from matgraft.dft.check import check
from matgraft.dft.output import NOT_CONVERGED, Result
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import Store

QUICK = Protocol(name="quick", ecutwfc=20, kspacing=1.2, forces=True)


@pytest.fixture
def folder(tmp_path):
    """Two crystals of silicon, one of them strained, and quick settings."""
    silicon = bulk("Si", a=5.43)
    strained = silicon.copy()
    strained.set_cell(silicon.cell.array * [[1.02], [1.0], [1.0]], scale_atoms=True)
    strained.positions[1, 0] += 0.1
    write(tmp_path / "si.extxyz", [silicon, strained])
    (tmp_path / "quick.json").write_text(QUICK.model_dump_json())
    return tmp_path


def test_the_engine_gets_silicon_right(program):
    found = check(program)
    assert found.right
    assert abs(found.difference) < 1e-4
    assert found.version == found.outcome.version


def test_labels_from_a_file_to_a_file(program, folder):
    label = ("label", "si.extxyz", "--protocol", "quick.json", "--store", "si.db", "--json")
    result = run(*label, "--workers", "2", "--trace", "trace", folder=folder)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "done": 2, "failed": 0, "labelled_now": 2, "reasons": {}, "too_large": [],
    }  # fmt: skip
    before = [(entry.key, entry.result) for entry in Store(folder / "si.db").entries()]
    # Run again, it starts no program: this one would fail.
    result = run(*label, "--command", "true", folder=folder)
    assert json.loads(result.stdout)["labelled_now"] == 0
    assert [(entry.key, entry.result) for entry in Store(folder / "si.db").entries()] == before

    with open(folder / "trace" / "trace.csv") as handle:
        rows = list(csv.DictReader(handle))
    for i, (_, one) in enumerate(before):
        mine = [row for row in rows if row["structure"] == f"si-{i} (Si)"]
        assert len(mine) == one.iterations
        assert float(mine[-1]["energy_ev"]) == pytest.approx(one.free_energy)
    assert is_picture(folder / "trace" / "trace.png")

    status = json.loads(run("label", "status", "si.db", "--json", folder=folder).stdout)
    assert (status["labels"], status["failures"], status["running"]) == (2, {}, [])

    result = run("label", "export", "si.db", "out.extxyz", folder=folder)
    assert "2 labels, 0 failures" in result.stdout
    frames = read(folder / "out.extxyz", index=":")
    by_name = {atoms.info["id"]: atoms for atoms in frames}
    for i, (_, one) in enumerate(before):
        assert by_name[f"si-{i}"].info["internal_energy"] == one.energy
        assert by_name[f"si-{i}"].get_forces().tolist() == one.forces
    # The diamond structure has none by symmetry; the displaced atom is drawn back.
    assert abs(by_name["si-0"].get_forces()).max() < 1e-4
    assert by_name["si-1"].get_forces()[1, 0] < -0.1
    card = json.loads((folder / "out.json").read_text())
    assert (card["n"], card["with_forces"], card["failures"]) == (2, 2, {})
    assert card["protocol"] == QUICK.model_dump()
    assert card["pseudopotentials"] == {"Si": library()["Si"].sha256}
    assert card["programs"] == [f"Quantum ESPRESSO {program.version()}"]
    assert card["times"]["cpu_seconds"] > 0


def test_a_labeller_that_is_killed_leaves_no_program_and_changes_no_label(program, folder):
    settings = QUICK.changed(name="slow", ecutwfc=45, kspacing=0.7, forces=False)
    (folder / "slow.json").write_text(settings.model_dump_json())
    write(folder / "one.extxyz", bulk("Si", a=5.43))
    label = (
        "label",
        "one.extxyz",
        "--protocol",
        "slow.json",
        "--store",
        "si.db",
        "--scratch",
        "scratch",
        "--json",
    )
    (folder / "scratch").mkdir()
    labeller = subprocess.Popen(
        [sys.executable, "-m", "matgraft", *label], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 60
    # In the middle of the loop.
    while not any("iteration #" in path.read_text() for path in (folder / "scratch").glob("*/stdout")):
        assert labeller.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(Store(folder / "si.db").claims()) == 1
    labeller.send_signal(signal.SIGKILL)
    labeller.wait()
    store = Store(folder / "si.db")
    assert list(store.entries()) == []
    assert store.claims() == []
    (left,) = (folder / "scratch").iterdir()
    while works_in(left):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert left.exists()
    result = run(*label, folder=folder)
    assert json.loads(result.stdout)["labelled_now"] == 1
    assert not left.exists()
    (entry,) = store.entries()
    undisturbed = program.run(Calculation.of(bulk("Si", a=5.43), settings, library()))
    assert entry.result.free_energy == pytest.approx(undisturbed.free_energy, abs=1e-6)
    assert entry.attempts == []


def works_in(folder) -> bool:
    """Whether any process has its files there."""
    for process in os.listdir("/proc"):
        try:
            if process.isdigit() and os.readlink(f"/proc/{process}/cwd") == str(folder):
                return True
        except OSError:
            continue
    return False


def test_what_does_not_converge_is_kept_with_its_reason(program, monkeypatch):
    one = Calculation.of(bulk("Si", a=5.43), QUICK.changed(forces=False), library())
    deck = type(one).deck
    monkeypatch.setattr(
        type(one), "deck", lambda self, *args, **options: deck(self, *args, **options).replace("= 60", "= 2")
    )
    outcome = program.run(one)
    assert (outcome.reason, outcome.message[:12]) == (NOT_CONVERGED, "2 iterations")


@pytest.mark.parametrize("rung", [1, 2, 3])
def test_every_step_of_the_ladder_comes_to_the_same_label(program, rung):
    one = Calculation.of(bulk("Si", a=5.43), QUICK.changed(forces=False, conv_thr=1e-9), library())
    first, other = program.run(one), program.run(one, rung)
    assert isinstance(first, Result)
    assert isinstance(other, Result)
    assert other.free_energy == pytest.approx(first.free_energy, abs=1e-4)


@pytest.mark.parametrize("atoms", [bulk("Si", a=5.43), bulk("FeO", "rocksalt", a=4.3)], ids=["Si2", "FeO"])
def test_cost_counts_the_points_that_the_program_does(program, atoms):
    settings = QUICK.changed(conv_thr=1e-2, forces=False)
    one = Calculation.of(atoms, settings, library())
    at_gamma = Calculation.of(atoms, settings.changed(kspacing=10), library())
    outcome = program.run(one)
    assert isinstance(outcome, Result)
    assert outcome.kpoints == pytest.approx(one.cost / at_gamma.cost)
    assert outcome.kpoints < np.prod(one.kpoints)
