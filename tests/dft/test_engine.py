"""Programs: found, ended, never left behind; with small programs in place of pw.x."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from threading import Thread

import pytest
from ase.build import bulk
from dft.conftest import TOY, calculation

from matgraft.dft import engine as module
from matgraft.dft.calculation import LADDER, Calculation
from matgraft.dft.engine import Engine, find, setup
from matgraft.dft.output import CRASHED, KILLED, NOT_CONVERGED, OUT_OF_TIME, Failure, Result
from matgraft.dft.pseudopotentials import library
from matgraft.errors import InputError

OUTPUTS = Path(__file__).parent / "outputs"
GOOD, BAD = OUTPUTS / "insulator-7.2.txt", OUTPUTS / "not-converged.txt"


@pytest.fixture
def program(tmp_path):
    """Make a shell script that stands for pw.x."""

    def make(body: str, name: str = "pw.x", folder: str = "bin") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


def engine(path: Path, *arguments: str) -> Engine:
    return Engine((str(path), *arguments), "test")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, seconds: float = 20.0):
    """What the condition gives, as soon as it gives anything."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


def pids_in(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


# -------------------------------------------------------------------------------------------------- find


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any pw.x."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("MATGRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MATGRAFT_PW", raising=False)
    return tmp_path


def test_the_nearest_program_is_found_first(bare, program, monkeypatch):
    with pytest.raises(InputError, match=r"no pw\.x of .*--command or \$MATGRAFT_PW.*dft setup"):
        find()
    python = program("", "python", "home/qepy-7.2.0/bin")
    assert find().command == (str(python), "-m", "qepy", "--pw.x")
    assert find().origin == str(bare / "home" / "qepy-7.2.0")
    on_path = program("")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find() == Engine((str(on_path),), "PATH")
    variable = program("", "other-pw.x")
    monkeypatch.setenv("MATGRAFT_PW", f"{variable} -nk 2")
    assert find() == Engine((str(variable), "-nk", "2"), "$MATGRAFT_PW")
    assert find("pw.x -nd 1") == Engine(("pw.x", "-nd", "1"), "--command")


@pytest.mark.parametrize("command", ["no-such-pw.x", "no-such-mpirun -n 4 pw.x", " "])
def test_programs_that_do_not_exist(bare, monkeypatch, command):
    with pytest.raises(InputError, match=r"--command .*: no such program"):
        find(command)
    monkeypatch.setenv("MATGRAFT_PW", command)
    with pytest.raises(InputError, match=r"\$MATGRAFT_PW .*: no such program"):
        find()


def test_a_command_with_quotes_that_do_not_end(bare):
    with pytest.raises(InputError, match=r"--command .*: not a command \(No closing quotation\)"):
        find("mpirun 'pw.x")


def test_a_program_beside_the_user_runs_elsewhere_too(program, tmp_path, monkeypatch):
    path = program(f"cat {GOOD}")
    monkeypatch.chdir(tmp_path)
    assert isinstance(find("bin/pw.x").run(calculation(0)), Result)
    assert find("env ./bin/pw.x -nk 2").command == ("env", str(path), "-nk", "2")
    monkeypatch.setenv("PATH", f"bin:{os.environ['PATH']}")
    assert isinstance(find().run(calculation(0)), Result)


def test_other_programs_of_the_same_installation():
    assert Engine(("mpirun", "-n", "4", "/opt/qe/bin/pw.x"), "").program("pp.x")[-1] == "/opt/qe/bin/pp.x"
    assert Engine(("python", "-m", "qepy", "--pw.x"), "").program("pp.x")[-1] == "--pp.x"


# ----------------------------------------------------------------------------------------------- version


def greeting(version: str) -> str:
    return f'echo "     Program PWSCF v.{version} starts on 26Nov2026"; exit 1'


@pytest.mark.parametrize("version", ["6.7MaX", "7.2", "7.3.1"])
def test_the_version_is_what_the_program_says(program, version):
    assert engine(program(greeting(version))).version() == version


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 0", "it says nothing"),
        ("echo usage: ls FILE; exit 2", "usage: ls FILE"),
        ("kill -9 $$", "it says nothing"),
    ],
)
def test_a_program_that_is_not_pw_x(program, body, words):
    path = program(body)
    with pytest.raises(InputError, match=f"{path}: does not answer like pw.x .{words}"):
        engine(path).version()


@pytest.mark.parametrize(("body", "right"), [("exit 0", False), ("kill -9 $$", True), ("exit 137", True)])
def test_a_program_that_is_killed_when_it_is_asked_may_be_right(program, body, right):
    one = engine(program(body))
    if right:
        one.require_pw()
    else:
        with pytest.raises(InputError, match=r"does not answer like pw\.x"):
            one.require_pw()
    engine(program(greeting("7.2"))).require_pw()


def test_rubbish_of_a_program_that_is_not_pw_x_is_left_out(program):
    with pytest.raises(InputError) as caught:
        engine(program("head -c 100000 /dev/urandom")).version()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_program_that_cannot_be_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"does not answer like pw\.x"):
        engine(tmp_path / "gone").version()


@pytest.mark.parametrize(
    ("version", "enough"), [("6.7MaX", False), ("7.0", False), ("7.1", True), ("7.2", True), ("10.0", True)]
)
def test_hubbard_parameters_need_a_program_that_knows_their_card(program, version, enough):
    one = engine(program(greeting(version)))
    if enough:
        one.require_hubbard()
    else:
        with pytest.raises(InputError, match=f"needs Quantum ESPRESSO 7.1 or later; this is {version}"):
            one.require_hubbard()


# --------------------------------------------------------------------------------------------------- run


def test_a_run_leaves_its_label_and_no_files(program, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outcome = engine(program(f"ls > {tmp_path}/seen; cat {GOOD}")).run(calculation(0), scratch=str(scratch))
    assert isinstance(outcome, Result)
    assert outcome.iterations == 8
    assert (tmp_path / "seen").read_text().split() == ["pw.in", "stdout"]
    assert list(scratch.iterdir()) == []


def test_the_program_gets_the_input_file_and_one_thread(program, tmp_path):
    path = program(f'echo "$@" $OMP_NUM_THREADS > {tmp_path}/seen; cp pw.in {tmp_path}; cat {GOOD}')
    engine(path, "-nk", "1").run(calculation(0), max_seconds=30)
    assert (tmp_path / "seen").read_text().split() == ["-nk", "1", "-in", "pw.in", "1"]
    assert (tmp_path / "pw.in").read_text() == calculation(0).deck(max_seconds=30)


def test_what_the_file_of_a_crash_says_is_told(program):
    crash = OUTPUTS / "CRASH"
    outcome = engine(program(f"cp {crash} .; exit 1")).run(calculation(0))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, "bad line in namelist" in outcome.message) == (CRASHED, True)


def test_a_killed_program_is_told_from_a_crash(program):
    outcome = engine(program("kill -TERM $$")).run(calculation(0))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.message) == (KILLED, "the program was ended by signal 15")


def test_a_program_that_does_not_end_in_time_is_killed_with_all_its_own(program, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.3)
    path = program(f"sleep 60 & echo $$ $! > {tmp_path}/pids; wait")
    start = time.monotonic()
    outcome = engine(path).run(calculation(0), max_seconds=0.2)
    assert 0.5 <= time.monotonic() - start < 10
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.message) == (OUT_OF_TIME, "the program did not end by itself")
    assert 0.5 <= outcome.seconds < 10
    pids = pids_in(tmp_path / "pids")
    assert len(pids) == 2
    wait_for(lambda: not any(map(alive, pids)))


def test_a_launcher_that_dies_leaves_nothing_running(program, tmp_path):
    outcome = engine(program(f"sleep 60 & echo $! > {tmp_path}/pid; kill -9 $$")).run(calculation(0))
    assert outcome.reason == KILLED
    (pid,) = pids_in(tmp_path / "pid")
    wait_for(lambda: not alive(pid))


def test_stop_leaves_nothing_running(program, tmp_path):
    path = program(f"sleep 60 & echo $$ $! > {tmp_path}/$PPID-$$; wait")
    outcomes: list[Result | Failure] = []
    threads = [Thread(target=lambda: outcomes.append(engine(path).run(calculation(0)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(len(pids_in(path)) for path in tmp_path.glob("*-*")) == 4)
    pids = [pid for path in tmp_path.glob("*-*") for pid in pids_in(path)]
    engine(path).stop()
    for thread in threads:
        thread.join(20)
    assert [one.reason for one in outcomes] == [KILLED, KILLED]
    wait_for(lambda: not any(map(alive, pids)))
    assert not module._RUNNING


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux is asked for it")
def test_a_program_ends_with_its_starter_even_if_that_is_killed(program, tmp_path):
    path = program(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    child = os.fork()
    if child == 0:
        engine(path).run(calculation(0), scratch=str(tmp_path))
        os._exit(0)
    try:
        (pid,) = wait_for(lambda: pids_in(tmp_path / "pid"))
        assert alive(pid)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    wait_for(lambda: not alive(pid))


def test_a_pseudopotential_that_was_changed_is_not_used(program, tmp_path):
    folder = tmp_path / "pseudopotentials"
    folder.mkdir()
    held = Path(shutil.copy(library()["Si"].path, folder / "Si.upf"))
    one = Calculation.of(bulk("Si", a=5.43), TOY, library(folder))
    good = engine(program(f"touch {tmp_path}/ran; cat {GOOD}"))
    assert isinstance(good.run(one), Result)
    (tmp_path / "ran").unlink()
    held.write_text(held.read_text() + " ")
    for change in (lambda: None, held.unlink):
        change()
        outcome = good.run(one)
        assert isinstance(outcome, Failure)
        assert (outcome.reason, outcome.message) == (CRASHED, f"{held}: gone, or no longer the file it was")
    assert not (tmp_path / "ran").exists()


def test_a_failure_on_a_full_disk_is_the_fault_of_the_disk(program, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage(2**40, 2**40 - 1000, 1000))
    with pytest.raises(OSError, match="No space left") as caught:
        engine(program(f"cat {BAD}; exit 2")).run(calculation(0))
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(engine(program(f"cat {GOOD}")).run(calculation(0)), Result)


WIDE = next(rung for rung, steps in enumerate(LADDER) if "degauss" in steps)


def test_the_last_rung_smears_widely_first_and_goes_on_in_the_same_folder(program, tmp_path):
    decks = tmp_path / "decks"
    path = program(f"cat pw.in >> {decks}; [ -e kept ] && echo kept >> {decks}; touch kept; cat {GOOD}")
    one = calculation(0)
    assert isinstance(engine(path).run(one, WIDE), Result)
    wide = LADDER[WIDE]["degauss"]
    expected = one.deck(WIDE, degauss=wide, keep=True) + one.deck(WIDE, start=True) + "kept\n"
    assert decks.read_text() == expected
    assert [rung for rung, steps in enumerate(LADDER) if "degauss" in steps] == [len(LADDER) - 1]


def test_a_wide_smearing_that_fails_is_the_end_of_the_rung(program, tmp_path):
    path = program(f"echo run >> {tmp_path}/runs; cat {BAD}; exit 2")
    outcome = engine(path).run(calculation(0), WIDE)
    assert isinstance(outcome, Failure)
    assert outcome.reason == NOT_CONVERGED
    assert (tmp_path / "runs").read_text() == "run\n"


def test_both_runs_of_the_last_rung_share_the_time(program, tmp_path):
    path = program(f"grep max_seconds pw.in >> {tmp_path}/limits; sleep 0.6; cat {GOOD}")
    engine(path).run(calculation(0), WIDE, max_seconds=20)
    first, second = (float(line.split("=")[1]) for line in (tmp_path / "limits").read_text().splitlines())
    assert first == 20
    assert 1 <= second < 19.5


def test_what_is_done_after_a_label_sees_its_files(program):
    seen: list[list[str]] = []

    def after(folder: Path) -> None:
        seen.append(sorted(path.name for path in folder.iterdir()))

    assert isinstance(engine(program(f"mkdir out; cat {GOOD}")).run(calculation(0), after=after), Result)
    assert isinstance(engine(program(f"cat {BAD}; exit 2")).run(calculation(0), after=after), Failure)
    assert seen == [["out", "pw.in", "stdout"]]


# ------------------------------------------------------------------------------------------------- setup


class Installer:
    """Stands for venv and pip; remembers what was asked of it."""

    def __init__(self, fail: str = "", meanwhile=lambda: None):
        self.commands: list[list[str]] = []
        self.fail, self.meanwhile = fail, meanwhile

    def __call__(self, command, **options):
        self.commands.append(command)
        step = command[2]
        if step == "venv":
            (Path(command[3]) / "bin").mkdir(parents=True)
            (Path(command[3]) / "bin" / "python").write_text("")
        else:
            self.meanwhile()
        failed = step == self.fail
        return subprocess.CompletedProcess(
            command, int(failed), "", "noise\nno such wheel\n" if failed else ""
        )


@pytest.fixture
def home(monkeypatch, bare):
    """A machine with the interpreter that the wheel needs."""
    monkeypatch.setattr(module.sys, "version_info", (3, 11, 7, "final", 0))
    return bare / "home"


def install(monkeypatch, **options) -> Installer:
    installer = Installer(**options)
    monkeypatch.setattr(module.subprocess, "run", installer)
    return installer


def test_setup_makes_what_is_found_afterwards_and_only_once(home, monkeypatch):
    installer = install(monkeypatch)
    folder = setup()
    assert folder == home / "qepy-7.2.0"
    assert find().command[0] == str(folder / "bin" / "python")
    assert installer.commands[0][0] == sys.executable
    assert installer.commands[1][1:3] == ["-m", "pip"]
    assert installer.commands[1][-1] == "qepy==7.2.0"
    assert setup() == folder
    assert len(installer.commands) == 2
    assert [path.name for path in home.iterdir()] == ["qepy-7.2.0"]


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_a_setup_that_fails_leaves_nothing(home, monkeypatch, step):
    install(monkeypatch, fail=step)
    with pytest.raises(InputError, match=f"-m {step} .*: no such wheel"):
        setup()
    assert list(home.iterdir()) == []
    with pytest.raises(InputError, match=r"no pw\.x"):
        find()


def test_a_setup_that_was_slower_than_another_uses_that_one(home, monkeypatch):
    def other() -> None:
        (home / "qepy-7.2.0" / "bin").mkdir(parents=True)
        (home / "qepy-7.2.0" / "bin" / "python").write_text("the other's")

    install(monkeypatch, meanwhile=other)
    assert setup() == home / "qepy-7.2.0"
    assert (home / "qepy-7.2.0" / "bin" / "python").read_text() == "the other's"
    assert [path.name for path in home.iterdir()] == ["qepy-7.2.0"]


def test_setup_needs_an_interpreter_of_the_wheel(home, monkeypatch, program):
    monkeypatch.setattr(module.sys, "version_info", (3, 12, 1, "final", 0))
    installer = install(monkeypatch)
    with pytest.raises(InputError, match=r"needs Linux and Python 3\.11 .*on PATH.*MATGRAFT_PW"):
        setup()
    assert not home.exists()
    another = program("", "python3.11")
    monkeypatch.setenv("PATH", str(another.parent))
    setup()
    assert installer.commands[0][0] == str(another)


def test_setup_is_for_linux(home, monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(InputError, match="this is darwin"):
        setup()


def test_what_a_killed_setup_left_is_taken_away(home, monkeypatch):
    left = home / "matgraft-run-left"
    (left / "qepy-7.2.0").mkdir(parents=True)
    install(monkeypatch)
    setup()
    assert [one.name for one in home.iterdir()] == ["qepy-7.2.0"]


def test_a_file_that_is_no_program_is_said_in_a_line(tmp_path):
    (tmp_path / "pw.x").write_bytes(b"\x00\x01")
    (tmp_path / "pw.x").chmod(0o755)
    with pytest.raises(InputError, match=r"does not answer like pw\.x \(.*pw\.x: Exec format error\)"):
        find(str(tmp_path / "pw.x")).version()
