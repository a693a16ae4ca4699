"""``matgraft label`` and ``matgraft dft`` with a small program in place of pw.x, and what they refuse."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import command
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write

from matgraft.cli import main as cli
from matgraft.dft.calculation import Calculation
from matgraft.dft.check import EXPECTED
from matgraft.dft.output import CRASHED, OUT_OF_TIME, Failure
from matgraft.dft.output import read as verdict
from matgraft.dft.protocols import PROTOCOLS, Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import DONE, Store
from matgraft.jobs import label as job
from matgraft.jobs.labels import export

OUTPUTS = Path(__file__).parents[1] / "dft" / "outputs"
SILICON = (OUTPUTS / "insulator-7.2.txt").read_text()
LABEL = verdict(SILICON, 0, 0.0)
QUICK = Protocol(name="quick", ecutwfc=20, kspacing=2.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three strained crystals of silicon, and a pw.x that knows nothing else and counts its runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "POLL", 0.02)
    write(tmp_path / "si.extxyz", [bulk("Si", a=a) for a in (5.4, 5.43, 5.5)])
    (tmp_path / "quick.json").write_text(QUICK.model_dump_json())
    (tmp_path / "silicon").write_text(SILICON)
    program = tmp_path / "pw.x"
    program.write_text(
        f"#!/bin/sh\n"
        f"grep -q ATOMIC_SPECIES pw.in || {{ echo '     Program PWSCF v.6.7 starts'; exit 1; }}\n"
        f"echo run >> {tmp_path}/runs\n"
        f"grep -q Si.upf pw.in || exit 9\ncat {tmp_path}/silicon\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("MATGRAFT_PW", str(program))
    return tmp_path


@pytest.fixture
def matgraft(folder, monkeypatch, capsys):
    """The command line in this process: starting another takes longer than all that it does here."""

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["matgraft", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code or 0, out=out, err=err)

    return run


def runs(folder: Path) -> int:
    path = folder / "runs"
    return len(path.read_text().split()) if path.exists() else 0


def test_labels_once(matgraft, folder):
    result = matgraft("label", "si.extxyz", "--protocol", "quick.json", "--workers", 2)
    assert result.code == 0, result.err
    assert "3 labels (3 of them new), 0 failures: labels.db" in result.out
    assert runs(folder) == 3
    again = matgraft("label", "--json", "--protocol", "quick.json", "si.extxyz")
    assert json.loads(again.out) == {
        "done": 3, "failed": 0, "labelled_now": 0, "reasons": {}, "too_large": [],
    }  # fmt: skip
    assert runs(folder) == 3


def test_settings_of_the_command_line_reach_the_calculation(matgraft, folder):
    matgraft("label", "si.extxyz", "--protocol", "fast", "--order", "none", "--forces", "--max-seconds", 60)
    (settled,) = {entry.protocol.model_dump_json() for entry in Store("labels.db").entries()}
    assert json.loads(settled) == PROTOCOLS["fast"].changed(order="none", forces=True).model_dump()
    keys = {entry.key for entry in Store("labels.db").entries()}
    settings = PROTOCOLS["fast"].changed(order="none", forces=True)
    assert keys == {Calculation.of(one, settings, library()).key for one in read("si.extxyz", ":")}


def test_a_program_that_is_not_pw_x_is_found_out_before_anything_runs(matgraft, folder):
    for arguments in (("si.extxyz", "--protocol", "quick.json"), ("retry", "labels.db")):
        result = matgraft("label", *arguments, "--command", "/bin/true")
        assert result.code == 2
        assert "/bin/true: does not answer like pw.x (it says nothing). Correct --command" in result.err
        assert not list(Store("labels.db").entries(DONE))
        Store("labels.db").record(
            Calculation.of(bulk("Si", a=5.7), QUICK, library()), Failure(OUT_OF_TIME, "no"), ["late"]
        )
    (late,) = Store("labels.db").entries()
    assert {one.reason for one in late.attempts} <= {OUT_OF_TIME}
    matgraft("label", "si.extxyz", "--protocol", "quick.json")
    again = matgraft("label", "si.extxyz", "--protocol", "quick.json", "--command", "/bin/true")
    assert "3 labels (0 of them new)" in again.out


def test_large_cells_are_left_out_and_told(matgraft, folder):
    write(folder / "mixed.extxyz", [bulk("Si", a=5.43), bulk("Si", a=5.43, cubic=True)])
    result = matgraft("label", "mixed.extxyz", "--protocol", "quick.json", "--max-atoms", 4)
    assert "1 labels (1 of them new)" in result.out
    assert "1 left out as too large, first mixed-1" in result.out
    result = matgraft("label", "mixed.extxyz", "--protocol", "quick.json", "--max-atoms", 4, "--json")
    assert json.loads(result.out)["too_large"] == ["mixed-1"]


def test_a_place_that_is_no_number_is_a_reason(matgraft, folder):
    (folder / "nan.extxyz").write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nSi 0 0 nan\n')
    for _ in range(2):
        result = matgraft("label", "nan.extxyz", "--protocol", "quick.json", "--json")
        assert json.loads(result.out)["reasons"] == {"bad structure": 1}, result.err
    status = matgraft("label", "status", "labels.db").out
    assert "NaN or infinite" in " ".join(status.split())
    assert len(list(Store("labels.db").entries())) == 1


@pytest.fixture
def mixed(matgraft, folder, caplog):
    """A store with a label, a crash, an element without a pseudopotential, and two atoms in one place."""
    iron, clash = bulk("Fe", a=2.8), bulk("Si", a=5.43)
    clash.positions[1] = [0.1, 0, 0]
    iron.calc = None
    write(folder / "mixed.extxyz", [bulk("Si", a=5.43), iron, bulk("Cu"), clash])
    result = matgraft("label", "mixed.extxyz", "--protocol", "quick.json")
    assert result.code == 0, result.err
    assert "1 labels (1 of them new), 3 failures" in result.out
    for reason in ("crashed", "no pseudopotential", "bad structure"):
        assert f"1 {reason}" in result.out
    assert "mixed-2: no pseudopotential (no pseudopotential for Cu" in caplog.text
    assert "matgraft label status labels.db" in result.out
    return result


def test_status_gives_every_reason(mixed, matgraft):
    result = matgraft("label", "status", "labels.db")
    assert result.code == 0
    for words in ("mixed-1", "crashed", "exit code 9", "mixed-2", "no pseudopotential for Cu", "mixed-3"):
        assert words in result.out
    assert "0.10 Angstrom apart" in " ".join(result.out.split())
    summary = json.loads(matgraft("label", "status", "labels.db", "--json").out)
    assert summary["labels"] == 1
    assert summary["failures"] == {"crashed": 1, "no pseudopotential": 1, "bad structure": 1}
    assert summary["protocols"] == {"quick": 4}
    assert summary["running"] == []


def test_retry_begins_anew_with_one_reason(mixed, matgraft, folder):
    before = runs(folder)
    result = matgraft("label", "retry", "labels.db", "--reason", OUT_OF_TIME)
    assert result.code == 2
    there_are = "there are bad structure, crashed, no pseudopotential."
    assert f"labels.db: no failure for the reason 'out of time'; {there_are}" in result.err
    assert runs(folder) == before
    result = matgraft("label", "retry", "labels.db", "--reason", CRASHED, "--json")
    assert json.loads(result.out)["reasons"] == {CRASHED: 1}
    assert runs(folder) > before
    (folder / "pw.x").write_text(f"#!/bin/sh\ncat {folder}/silicon\n")
    result = matgraft("label", "retry", "labels.db", "--json")
    said = json.loads(result.out)
    assert (said["done"], said["labelled_now"], said["failed"]) == (1, 1, 2)
    (iron,) = [entry for entry in Store("labels.db").entries() if entry.ids == ["mixed-1"]]
    assert (iron.status, iron.attempts) == ("done", [])


def test_retry_keeps_an_antiferromagnetic_start(matgraft, folder):
    write(folder / "feo.extxyz", bulk("FeO", "rocksalt", a=4.3).repeat((2, 1, 1)))
    matgraft("label", "feo.extxyz", "--protocol", "quick.json", "--order", "antiferromagnetic")
    matgraft("label", "retry", "labels.db")
    (entry,) = Store("labels.db").entries()
    assert entry.atoms.get_initial_magnetic_moments().tolist() == [4, 0, -4, 0]


def test_moments_of_a_file_start_the_calculation_and_come_back(matgraft, folder):
    silicon = bulk("Si", a=5.43)
    silicon.set_initial_magnetic_moments([0.5, -0.5])
    write(folder / "both.extxyz", [silicon, bulk("Si", a=5.43)])
    matgraft("label", "both.extxyz", "--protocol", "quick.json")
    starts = [entry.atoms.get_initial_magnetic_moments().tolist() for entry in Store("labels.db").entries()]
    assert sorted(starts) == [[0, 0], [0.5, -0.5]]
    matgraft("label", "export", "labels.db", "labels.extxyz")
    again = matgraft("label", "labels.extxyz", "--protocol", "quick.json")
    assert "2 labels (0 of them new), 0 failures" in again.out


def test_moments_that_a_calculation_came_to_are_read_from_an_ase_database(matgraft, folder):
    calculated, started = bulk("Si", a=5.43), bulk("Si", a=5.5)
    started.set_initial_magnetic_moments([0.3, 0.3])
    for atoms in (calculated, started):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, magmoms=np.array([0.5, -0.5]))
        connect("both.db").write(atoms)
    result = matgraft("label", "both.db", "--protocol", "quick.json")
    assert result.code == 0, result.err
    starts = [entry.atoms.get_initial_magnetic_moments().tolist() for entry in Store("labels.db").entries()]
    assert sorted(starts) == [[0.3, 0.3], [0.5, -0.5]]


def test_export_writes_labels_and_a_card(mixed, matgraft, folder):
    result = matgraft("label", "export", "labels.db", "out/labels.extxyz")
    assert result.code == 0, result.err
    assert "1 labels, 3 failures: out/labels.extxyz" in result.out
    atoms = read("out/labels.extxyz")
    assert atoms.calc.results["free_energy"] == LABEL.free_energy
    assert atoms.info["internal_energy"] == LABEL.energy
    card = json.loads(Path("out/labels.json").read_text())
    assert (card["n"], card["with_forces"], card["elements"]) == (1, 1, ["Si"])
    assert card["protocol"] == QUICK.model_dump()
    assert card["programs"] == ["Quantum ESPRESSO 7.2"]
    assert card["pseudopotentials"] == {"Si": library()["Si"].sha256}
    failures = {name: one["reason"] for name, one in card["failures"].items()}
    assert failures == {"mixed-1": "crashed", "mixed-2": "no pseudopotential", "mixed-3": "bad structure"}
    assert json.loads(matgraft("label", "export", "labels.db", "again.db", "--json").out) == card


def test_export_writes_forces_where_all_labels_have_them(matgraft, folder):
    write(folder / "one.extxyz", bulk("Si", a=5.43))
    matgraft("label", "one.extxyz", "--protocol", "quick.json")
    matgraft("label", "export", "labels.db", "forces.extxyz")
    (one,) = (entry.result for entry in Store("labels.db").entries())
    np.testing.assert_allclose(read("forces.extxyz").get_forces(), one.forces)
    store = Store("labels.db")
    one = Calculation.of(bulk("Si", a=5.5), QUICK, library())
    store.record(one, replace(LABEL, forces=None), ["without"])
    matgraft("label", "export", "labels.db", "labels.extxyz")
    assert "forces" not in read("labels.extxyz", 0).arrays
    assert json.loads(Path("labels.json").read_text())["with_forces"] == 1


def test_labels_of_several_protocols_are_exported_one_by_one(matgraft, folder):
    matgraft("label", "si.extxyz", "--protocol", "quick.json")
    matgraft("label", "si.extxyz", "--protocol", "fast")
    result = matgraft("label", "export", "labels.db", "labels.extxyz")
    assert result.code == 2
    assert "labels of 2 different settings (fast, quick)" in result.err
    assert "Choose one with --protocol" in result.err
    assert not Path("labels.extxyz").exists()
    result = matgraft("label", "export", "labels.db", "labels.extxyz", "--protocol", "fast")
    assert "3 labels" in result.out
    result = matgraft("label", "export", "labels.db", "x.extxyz", "--protocol", "precise")
    assert result.code == 2
    assert "no label by protocol precise in it" in result.err
    result = matgraft("label", "export", "labels.db", "x.extxyz", "--order", "none")
    assert result.code == 2
    assert "change a protocol: name the one with --protocol" in result.err


def test_labels_with_and_without_forces_belong_together(matgraft, folder):
    crystals, crashed = [*read("si.extxyz", ":"), bulk("Si", a=5.6)], Failure(CRASHED, "no")
    for i, forces, outcome in (
        (0, False, replace(LABEL, forces=None)), (1, False, replace(LABEL, forces=None)), (0, True, LABEL),
        (2, True, LABEL), (1, True, crashed), (3, False, crashed), (3, True, crashed),
    ):  # fmt: skip
        one = Calculation.of(crystals[i], QUICK.changed(forces=forces), library())
        Store("labels.db").record(one, outcome, [f"{i}-{forces}"])
    result = matgraft("label", "export", "labels.db", "labels.extxyz", "--protocol", "quick")
    assert result.code == 0, result.err
    assert [atoms.info["id"] for atoms in read("labels.extxyz", ":")] == ["0-True", "1-False", "2-True"]
    card = json.loads(Path("labels.json").read_text())
    assert (card["n"], card["with_forces"], card["protocol"]) == (3, 2, QUICK.model_dump())
    assert card["repeated"] == {"0-True": ["0-False"], "1-False": ["1-True"]}
    assert list(card["failures"]) == ["3-False"]


def test_settings_under_one_name_are_told_apart(matgraft, folder):
    salt = bulk("FeO", "rocksalt", a=4.3).repeat((2, 1, 1))
    for change in ({}, {"order": "antiferromagnetic"}, {"hubbard_u": {"Fe": 4.0}}):
        one = Calculation.of(salt, PROTOCOLS["fast"].changed(**change), library())
        Store("labels.db").record(one, replace(LABEL, forces=None), ["feo"])
    result = matgraft("label", "export", "labels.db", "labels.extxyz", "--protocol", "fast")
    assert result.code == 2
    assert "labels of 3 different settings (fast)" in result.err
    assert (
        "they differ in order (antiferromagnetic or ferromagnetic), hubbard_u ({'Fe': 4.0} or {})"
        in result.err
    )
    (folder / "fast.json").write_text(PROTOCOLS["fast"].model_dump_json())
    for i, (settings, expected) in enumerate(
        [
            (("--order", "antiferromagnetic", "--protocol", "fast"), {"order": "antiferromagnetic"}),
            (("--protocol", "fast", "--order", "ferromagnetic"), {}),
            (("--protocol", "fast", "--hubbard", "Fe=4"), {"hubbard_u": {"Fe": 4.0}}),
            (("--protocol", "fast.json"), {}),
        ]
    ):
        result = matgraft("label", "export", "labels.db", f"{i}.extxyz", *settings)
        assert result.code == 0, result.err
        card = json.loads(Path(f"{i}.json").read_text())
        assert (card["n"], card["protocol"]) == (1, PROTOCOLS["fast"].changed(**expected).model_dump())
    result = matgraft("label", "export", "labels.db", "x.extxyz", "--protocol", "fast", "--order", "none")
    assert (result.code, "no label by protocol PBE, 70 Ry" in result.err) == (2, True)


def test_labels_whose_loops_ended_at_different_errors_are_not_mixed(matgraft, folder):
    for i, conv_thr in enumerate((1e-6, 1e-8)):
        one = Calculation.of(bulk("Si", a=5.4 + i), QUICK.changed(conv_thr=conv_thr), library())
        Store("labels.db").record(one, LABEL, [f"si-{i}"])
    result = matgraft("label", "export", "labels.db", "labels.extxyz")
    assert result.code == 2
    assert "they differ in conv_thr (1e-06 or 1e-08)" in result.err


def test_an_export_tells_the_settings_and_the_sum_of_processor_times(folder):
    for i, (cpu, wall) in enumerate([(3.0, 1.0), (5.0, 9.0)]):
        one = Calculation.of(bulk("Si", a=5.4 + i), QUICK, library())
        Store("labels.db").record(one, replace(LABEL, cpu_seconds=cpu, wall_seconds=wall), [f"si-{i}"])
    dataset, card = export("labels.db", "labels.extxyz")
    assert card["times"]["cpu_seconds"] == 8.0
    assert card["times"]["wall_seconds_quantiles"]["0.5"] == 5.0
    settings = "PBE, 20 Ry, k-spacing 2 1/A, gaussian smearing 0.015 Ry, ferromagnetic start"
    assert card["level_of_theory"] == settings
    assert {label.level_of_theory for label in dataset.specs.values()} == {settings}


def test_labels_by_different_pseudopotentials_are_not_mixed(matgraft, folder):
    store = Store("labels.db")
    for i, sha in enumerate("ab"):
        one = Calculation.of(bulk("Si", a=5.4 + i), QUICK, library())
        one = replace(one, pseudopotentials={"Si": replace(library()["Si"], sha256=sha)})
        store.record(one, LABEL, [f"si-{i}"])
    result = matgraft("label", "export", "labels.db", "labels.extxyz")
    assert result.code == 2
    assert "different pseudopotentials for Si" in result.err


def test_traces_are_written_from_structures_that_are_read_once(matgraft, folder, monkeypatch):
    from matgraft.data import Dataset

    asked, real = [], Dataset.read
    monkeypatch.setattr(
        Dataset, "read", lambda *args, **options: asked.append(args) or real(*args, **options)
    )
    result = matgraft("label", "si.extxyz", "--protocol", "quick.json", "--trace", "trace")
    assert result.code == 0, result.err
    assert len(asked) == 1
    assert sorted(path.name for path in Path("trace").iterdir()) == ["trace.csv", "trace.png"]
    rows = Path("trace/trace.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * LABEL.iterations


def test_failures_by_other_settings_neither_are_exported_nor_change_names(matgraft, folder):
    write(folder / "one.extxyz", bulk("Si", a=5.43))
    late = Calculation.of(bulk("Si", a=5.43), QUICK.changed(ecutwfc=30), library())
    Store("labels.db").record(late, Failure(OUT_OF_TIME, "no"), ["one-0"])
    torn = {"Si": replace(library()["Si"], sha256="0" * 64)}
    broken = Calculation.of(bulk("Si", a=5.43), QUICK, torn)
    for rung in range(4):
        Store("labels.db").record(broken, Failure(CRASHED, "no"), ["one-0"], rung)
    other = Calculation.of(bulk("Si", a=5.5), QUICK, library())
    for rung in range(4):
        Store("labels.db").record(other, Failure(CRASHED, "no"), ["one-0"], rung)
    matgraft("label", "one.extxyz", "--protocol", "quick.json")
    dataset, card = export("labels.db", "labels.extxyz")
    assert dataset.ids.tolist() == ["one-0"]
    # Of the same name and settings, but another structure.
    assert list(card["failures"]) == [f"one-0-{other.key[:8]}"]


def test_traces_of_nothing(matgraft, folder):
    write(folder / "cu.extxyz", bulk("Cu"))
    result = matgraft("label", "cu.extxyz", "--protocol", "quick.json", "--trace", "trace")
    assert result.code == 2
    assert "no label of these structures, so no trace of one" in result.err
    assert "0 labels (0 of them new), 1 failures" in result.out
    assert not Path("trace").exists()


@pytest.mark.parametrize("trace", ["si.extxyz", "si.extxyz/deeper"])
def test_a_place_without_room_for_traces_is_found_out_before_anything_runs(matgraft, folder, trace):
    result = matgraft("label", "si.extxyz", "--protocol", "quick.json", "--trace", trace)
    assert result.code == 2
    assert f"--trace {trace}: si.extxyz is no folder" in result.err
    assert runs(folder) == 0


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.extxyz"], "nowhere.extxyz: no such file"),
        (["empty.extxyz"], "empty.extxyz: the file is empty"),
        (["twins.extxyz"], "ids used more than once: a. Rename"),
        (["si.extxyz", "--protocol", "exact"], "no protocol named 'exact'; there are fast, moderate"),
        (["si.extxyz", "--protocol", "nowhere.json"], "nowhere.json: not a readable JSON file of settings"),
        (["si.extxyz", "--protocol", "broken.json"], "broken.json: not a readable JSON file of settings"),
        (["si.extxyz", "--protocol", "unknown.json"], "no setting 'ecutwf'; did you mean 'ecutwfc'?"),
        (["si.extxyz", "--order", "spiral"], "order: Input should be 'ferromagnetic', 'antiferromagnetic'"),
        (["si.extxyz", "--hubbard", "Fe"], "--hubbard Fe: write elements and eV, such as Fe=4."),
        (["si.extxyz", "--hubbard", "Fe=a"], "--hubbard Fe=a: write elements and eV"),
        (["si.extxyz", "--hubbard", "Fe=4=5"], "--hubbard Fe=4=5: write elements and eV"),
        (["si.extxyz", "--hubbard", "Fee=4"], "hubbard_u: no element 'Fee'"),
        (["si.extxyz", "--hubbard", "Fe=nan"], "hubbard_u.Fe: Input should be a finite number"),
        (["si.extxyz", "--pseudopotentials", "torn"], "torn/Si.upf: ends before </UPF>"),
        (["si.extxyz", "--pseudopotentials", "odd"], "odd/Si.upf: z_valence is 'abc', no number"),
        (["si.extxyz", "--hubbard", "Fe=4"], "a Hubbard U needs Quantum ESPRESSO 7.1 or later; this is 6.7"),
        (["si.extxyz", "--command", "no-such-pw.x"], "--command 'no-such-pw.x': no such program"),
        (["si.extxyz", "--pseudopotentials", "nowhere"], "nowhere: no such folder of pseudopotentials"),
        (["si.extxyz", "--pseudopotentials", "."], "no UPF files in it"),
        (["si.extxyz", "--scratch", "nowhere"], "--scratch nowhere: no such folder"),
        (["si.extxyz", "--cluster", "nowhere.toml"], "nowhere.toml: not a readable TOML file"),
        (["si.extxyz", "--store", "labels.sqlite"], "labels.sqlite: a store is a file that ends in .db"),
        (["si.extxyz", "--workers", "0"], "--workers"),
        (["si.extxyz", "--max-seconds", "0"], "--max-seconds"),
        (["status", "labels.db"], "labels.db: no such store"),
        (["retry", "labels.db"], "labels.db: no such store"),
        (["export", "labels.db", "out.extxyz"], "labels.db: no such store"),
    ],
)  # fmt: skip
def test_bad_input_exits_with_2_and_leaves_nothing(matgraft, folder, arguments, message):
    (folder / "empty.extxyz").write_text("")
    (folder / "twins.extxyz").write_text(2 * '1\nLattice="3 0 0 0 3 0 0 0 3" id=a\nSi 0 0 0\n')
    (folder / "broken.json").write_text("{")
    (folder / "unknown.json").write_text('{"ecutwf": 40, "kspacing": 0.5}')
    whole = library()["Si"].path.read_text()
    valence = re.search(r'z_valence="[^"]*"', whole)[0]
    for name, text in (("torn", whole[:100000]), ("odd", whole.replace(valence, 'z_valence="abc"'))):
        (folder / name).mkdir()
        (folder / name / "Si.upf").write_text(text)
    result = matgraft("label", *arguments)
    assert result.code == 2
    assert message in " ".join(result.err.replace("│", "").split())
    assert "Traceback" not in result.err
    assert not list(folder.glob("labels.*"))
    assert not (folder / "out.extxyz").exists()
    assert runs(folder) == 0


@pytest.mark.parametrize("verb", ["run", "status", "retry", "export"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("noise.db", "noise.db: cannot be opened as a store of labels"),
        ("other.db", "other.db: a database of other things; give another --store"),
        ("app.db", "app.db: a database of other things; give another --store"),
        ("newer.db", "newer.db: a store of version 99, while this program writes version 1"),
    ],
)
def test_stores_that_are_none_are_left_alone(matgraft, folder, verb, name, message):
    if name == "noise.db":
        (folder / name).write_bytes(b"not a database" * 100)
    elif name == "other.db":
        connect(folder / name).write(bulk("Cu"))
    elif name == "app.db":
        with sqlite3.connect(folder / name) as connection:
            connection.execute("CREATE TABLE notes (words TEXT)")
    else:
        Store(folder / name)
        connect(folder / name).metadata = {"matgraft_store": 99}
    before = (folder / name).read_bytes()
    rest = {"run": ["si.extxyz", "--store", name], "export": [name, "out.extxyz"]}.get(verb, [name])
    result = matgraft("label", verb, *rest)
    assert result.code == 2
    assert message in result.err
    assert (folder / name).read_bytes() == before
    assert runs(folder) == 0


def test_a_store_without_labels_is_not_exported(matgraft, folder):
    Store("labels.db").record(
        Calculation.of(bulk("Si", a=5.43), QUICK, library()), Failure(CRASHED, "no"), ["si"], 3
    )
    result = matgraft("label", "export", "labels.db", "out.extxyz")
    assert (result.code, "labels.db: no label in it" in result.err) == (2, True)
    assert not Path("out.extxyz").exists()
    for name in ("out.cif", "taken"):
        Path("taken").mkdir(exist_ok=True)
        Store("labels.db").record(Calculation.of(bulk("Si", a=5.43), QUICK, library()), LABEL, ["si"])
        result = matgraft("label", "export", "labels.db", name)
        assert result.code == 2
        assert name in result.err


def test_the_check_knows_right_from_wrong(matgraft, folder):
    result = matgraft("dft", "check")
    assert result.code == 2
    assert f"silicon has {LABEL.free_energy:.6f} eV, not {EXPECTED:.6f}" in result.err
    right = SILICON.replace("-16.72925393", f"{EXPECTED / 13.605693122994:.8f}")
    (folder / "silicon").write_text(right)
    result = matgraft("dft", "check")
    assert result.code == 0, result.err
    assert "Quantum ESPRESSO 6.7, by $MATGRAFT_PW" in result.out
    assert "right" in result.out
    assert json.loads(matgraft("dft", "check", "--json").out)["right"] is True
    (folder / "silicon").write_text("")
    result = matgraft("dft", "check")
    assert result.code == 2
    assert "silicon fails (crashed: exit code 0, last words: none)" in result.err


def test_the_command_line_as_a_user_starts_it(folder):
    """In a process of its own, interrupted by nothing and told by an exit code."""
    result = command.run("label", "si.extxyz", "--protocol", "exact", folder=folder)
    assert result.returncode == 2
    assert "no protocol named 'exact'" in result.stderr
    assert "Traceback" not in result.stderr


def test_neither_stores_nor_structures_nor_other_files_are_written_over(matgraft, folder):
    matgraft("label", "si.extxyz", "--protocol", "quick.json")
    (folder / "mine.json").write_text("[1, 2]")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    defects = ("formation-energy", "si.extxyz", "--store", "labels.db", "--protocol", "quick.json")
    for arguments, words in (
        (("label", "export", "labels.db", "labels.db"), "one of the inputs"),
        (("label", "export", "labels.db", "mine.extxyz"), "mine.json: in the way of the card"),
        ((*defects, "--out", "labels.db"), "store of labels"),
        ((*defects, "--out", "si.extxyz"), "one of the inputs"),
        (("dope", "si.extxyz", "--vacancy", "Si", "--out", "si.extxyz"), "one of the inputs"),
    ):
        result = matgraft(*arguments)
        assert result.code == 2
        assert words in result.err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert matgraft("label", "export", "labels.db", "new.extxyz").code == 0
    assert matgraft("label", "export", "labels.db", "new.extxyz").code == 0
