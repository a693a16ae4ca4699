"""``matgraft fields``: what it refuses, before a program runs and a folder is made."""

from __future__ import annotations

import command
import pytest
from ase.build import bulk
from ase.io import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Structures, and a pw.x that must not be run."""
    folder = tmp_path_factory.mktemp("crystals")
    write(folder / "si.cif", bulk("Si", a=5.43))
    write(folder / "two.extxyz", [bulk("Si", a=5.43), bulk("TiO", "rocksalt", a=4.2)])
    write(folder / "salt.cif", bulk("NaCl", "rocksalt", a=5.6))
    write(folder / "molecule.xyz", bulk("Si", a=5.43)[:1], plain=True)
    (folder / "pw.x").write_text("#!/bin/sh\ntouch ran\nexit 1\n")
    (folder / "pw.x").chmod(0o755)
    return folder


def run(folder, *arguments):
    return command.run("fields", *arguments, "--out", "out", folder=folder, MATGRAFT_PW=str(folder / "pw.x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.cif"], "nowhere.cif: no such file"),
        (["two.extxyz"], "two.extxyz: 2 structures; choose one with --id, such as two-0, two-1"),
        (["two.extxyz", "--id", "two-7"], "no structure 'two-7'; there is two-"),
        (["si.cif", "--plane", "000"], "--plane '000': write three Miller indices, such as 110"),
        (["si.cif", "--plane", "diagonal"], "three Miller indices"),
        (["si.cif", "--protocol", "exact"], "no protocol named 'exact'; there are fast, moderate, precise"),
        (["si.cif", "--command", "no-such-pw.x"], "--command 'no-such-pw.x': no such program"),
        (["si.cif", "--command", "ls"], "no pw.x at its end"),
        (["salt.cif"], "salt.cif: structure salt: no pseudopotential for Cl, Na"),
        (["molecule.xyz"], "not periodic"),
        (["si.cif", "--pseudopotentials", "nowhere"], "no such folder of pseudopotentials"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_nothing(folder, arguments, message):
    result = run(folder, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "out").exists()
    assert not (folder / "ran").exists()


def test_a_program_that_fails_is_told(folder):
    result = run(folder, "si.cif")
    assert result.returncode == 2
    assert "Si2: no density, crashed" in result.stderr
    assert "Traceback" not in result.stderr
