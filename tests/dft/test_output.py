"""The verdict on recorded runs of pw.x 6.7 and 7.2, against ASE and the numbers as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.io import read as ase_read
from ase.units import Bohr, create_units

from matgraft.dft.output import (
    CRASHED,
    KILLED,
    NOT_CONVERGED,
    OUT_OF_TIME,
    Failure,
    Result,
    _fermi,
    _seconds,
    read,
    trace,
    version,
)

OUTPUTS = Path(__file__).parent / "outputs"
RYDBERG = 13.605693
"""eV."""
CONVERGED = ("metal-6.7", "insulator-7.2")


def text_of(name: str) -> str:
    return (OUTPUTS / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", CONVERGED)
def test_labels_are_those_of_the_reader_of_ase(name):
    own = read(text_of(name), 0, 1.0)
    other = ase_read(OUTPUTS / f"{name}.txt", format="espresso-out").calc
    assert isinstance(own, Result)
    # ASE takes the constants that Quantum ESPRESSO does; ours are those of the rest of the package.
    scale = create_units("2006")["Ry"] / create_units("2014")["Ry"]
    assert own.free_energy == pytest.approx(other.results["free_energy"] / scale, rel=1e-9)
    assert own.fermi == pytest.approx(other.get_fermi_level(), abs=1e-4)
    assert own.kpoints == len(other.get_ibz_k_points())
    if "forces" in other.results:
        np.testing.assert_allclose(own.forces, other.results["forces"], rtol=1e-6)


def test_a_metal_with_spin():
    own = read(text_of("metal-6.7"), 0, 1.0)
    assert isinstance(own, Result)
    assert own.free_energy == pytest.approx(-244.09872896 * RYDBERG)
    assert own.smearing == pytest.approx(-0.00389831 * RYDBERG)
    assert own.energy == pytest.approx(-244.09483065 * RYDBERG)
    assert own.free_energy == own.energy + own.smearing
    assert (own.magnetization, own.absolute_magnetization) == (2.37, 2.42)
    assert (own.iterations, own.kpoints, own.electrons, own.version) == (10, 4, 16, "6.7MaX")
    assert own.fermi == 19.5478
    assert own.forces is None
    assert 0 < own.cpu_seconds < own.wall_seconds < 10


def test_an_insulator_with_forces():
    own = read(text_of("insulator-7.2"), 0, 1.0)
    assert isinstance(own, Result)
    assert own.free_energy == pytest.approx(-16.72925393 * RYDBERG)
    assert (own.magnetization, own.absolute_magnetization) == (None, None)
    assert (own.iterations, own.electrons, own.version) == (8, 8, "7.2")
    expected = np.array([0.02463216, 0.03206761, -0.02593704]) * RYDBERG / Bohr
    np.testing.assert_allclose(own.forces, [expected, -expected], rtol=1e-6)


@pytest.mark.parametrize("name", CONVERGED)
def test_the_trace_comes_down_to_the_label(name):
    own = read(text_of(name), 0, 1.0)
    assert isinstance(own, Result)
    assert len(own.trace) == own.iterations
    assert own.trace[-1][0] == own.free_energy
    assert own.trace[-1][1] < 1e-5 < own.trace[0][1]
    printed = re.findall(r"estimated scf accuracy    <\s+(\S+) Ry", text_of(name))
    np.testing.assert_allclose([accuracy for _, accuracy in own.trace], np.array(printed, float) * RYDBERG)


@pytest.mark.parametrize(
    ("name", "code", "reason", "message"),
    [
        ("not-converged", 2, NOT_CONVERGED, r"3 iterations, estimated accuracy 0\.0062 eV"),
        ("max-seconds-6.7", 2, OUT_OF_TIME, "time limit was reached"),
        ("max-seconds-7.2", 255, OUT_OF_TIME, "time limit was reached"),
        ("no-pseudopotential", 1, CRASHED, r"readpp \(1\): file /pseudopotentials/Sx\.upf not found"),
        ("bad-input", 1, CRASHED, r"read_namelists \(1\): bad line in namelist &system"),
        ("killed", -9, KILLED, "signal 9"),
        ("killed", 143, KILLED, "signal 15"),
        ("killed", 0, CRASHED, r"exit code 0, last words: .* iteration # 3 ecut= 60.00 Ry beta= 0.40"),
        ("metal-6.7", 1, CRASHED, "exit code 1"),
        ("metal-6.7", -11, KILLED, "signal 11"),
    ],
)
def test_runs_without_a_label_say_why(name, code, reason, message):
    outcome = read(text_of(name), code, 7.5)
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.seconds) == (reason, 7.5)
    assert re.search(message, outcome.message)


@pytest.mark.parametrize(
    ("text", "code", "reason", "message"),
    [
        ("", 0, CRASHED, "exit code 0, last words: none"),
        ("", 1, CRASHED, "exit code 1, last words: none"),
        ("", -9, KILLED, "the program was ended by signal 9"),
        ("", 129, KILLED, "the program was ended by signal 1"),
        ("", 128, CRASHED, "exit code 128, last words: none"),
        ("mpirun: no memory\n", 3, CRASHED, "exit code 3, last words: mpirun: no memory"),
    ],
)
def test_programs_that_say_little(text, code, reason, message):
    assert read(text, code, 0.0) == Failure(reason, message, 0.0)


def test_the_file_of_a_crash_goes_before_the_output():
    crash = (OUTPUTS / "CRASH").read_text()
    outcome = read("some words", 1, 0.0, crash)
    assert isinstance(outcome, Failure)
    assert outcome.reason == CRASHED
    assert outcome.message.startswith(
        "task # 0 from read_namelists : error # 1 bad line in namelist &system:"
    )


def test_an_output_that_is_cut_anywhere_is_no_label():
    text = text_of("metal-6.7")
    end = text.index("JOB DONE") + len("JOB DONE")
    for stop in range(0, end, 97):
        assert isinstance(read(text[:stop], 0, 0.0), Failure)
    assert isinstance(read(text[: end - 1], 0, 0.0), Failure)
    assert read(text[:end], 0, 0.0) == read(text, 0, 0.0)


@pytest.mark.parametrize("printed", ["NaN", "**************"])
def test_what_is_no_number_is_no_label(printed):
    text = text_of("insulator-7.2")
    for number in ("-16.72925393", "0.02463216"):
        outcome = read(text.replace(number, printed), 0, 0.0)
        assert isinstance(outcome, Failure)
        assert outcome.reason == CRASHED
        assert outcome.message.startswith("an output that cannot be read: ")
        assert printed.lower() in outcome.message


def test_an_early_estimate_too_large_to_print_does_no_harm():
    text = text_of("metal-6.7")
    first = re.search(r"estimated scf accuracy    <\s+(\S+) Ry", text)
    own, spoilt = read(text, 0, 0.0), read(text.replace(first[1], "*" * 16, 1), 0, 0.0)
    assert isinstance(spoilt, Result)
    assert np.isnan(spoilt.trace[0][1])
    assert spoilt.free_energy == own.free_energy


def test_the_version_is_that_of_the_first_line():
    assert version(text_of("killed")) == "6.7MaX"
    assert version("pw.x: command not found") == ""
    assert trace("nothing") == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("  3.08s ", 3.08), ("1m 2.5s", 62.5), ("2h10m", 7800), ("1d 1h", 90000)]
)
def test_times_as_the_program_writes_them(text, seconds):
    assert _seconds(text) == pytest.approx(seconds)


def test_of_several_times_the_last_is_that_of_the_whole_run():
    text = text_of("metal-6.7")
    earlier = "     PWSCF        :      0.10s CPU      0.20s WALL\n"
    own, longer = read(text, 0, 1.0), read(earlier + text, 0, 1.0)
    assert (longer.cpu_seconds, longer.wall_seconds) == (own.cpu_seconds, own.wall_seconds)
    assert own.cpu_seconds > 0.1


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("the Fermi energy is    19.5478 ev", 19.5478),
        ("the Fermi energy is 1.0 ev\n the Fermi energy is 2.0 ev", 2.0),
        ("the spin up/dw Fermi energies are     5.0   6.0 ev", 5.5),
        ("highest occupied level (ev):     6.2\n", 6.2),
        ("highest occupied, lowest unoccupied level (ev):     6.2    7.9", 6.2),
        ("nothing", None),
    ],
)
def test_the_highest_occupied_level(text, level):
    assert _fermi(text) == level


def test_rubbish_is_told_in_printable_signs():
    noise = bytes(range(256)).decode(errors="replace") * 100
    for text, crash in ((noise + "\x1b[2J the end", ""), ("", f"{'%' * 30}{noise}{'%' * 30}")):
        outcome = read(text, 1, 0.0, crash)
        assert isinstance(outcome, Failure)
        assert outcome.message.isprintable()
        assert "\ufffd" not in outcome.message
        assert len(outcome.message) < 600
    assert read("\x1b[2J the end", 1, 0.0).message.endswith("last words: [2J the end")
    assert read("\x00\x01\ufffd", 1, 0.0).message.endswith("last words: none")
