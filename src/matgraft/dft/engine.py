"""Quantum ESPRESSO as a command: found, run in a folder of its own, and never left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from matgraft.dft import output
from matgraft.dft.calculation import LADDER, Calculation
from matgraft.dft.scratch import folder as scratch_folder
from matgraft.errors import InputError

COMMAND_VARIABLE = "MATGRAFT_PW"
HOME_VARIABLE = "MATGRAFT_HOME"
QEPY = "qepy==7.2.0"
"""Quantum ESPRESSO 7.2 (GPL-2) in one wheel; only ever run as a program, in an environment of its own."""

ANSWER = 600.0
"""Seconds that a program may take to say its version: srun may have to wait for its turn."""

GRACE = 60.0
"""Seconds that a program which was told to end may take before it is killed."""

FULL = 10 * 2**20
"""Bytes: where less is free after a failure, the disk is held to be the reason."""

_RUNNING: set[subprocess.Popen] = set()

_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""
"""Lets the kernel end the program together with whoever started it, even by SIGKILL."""


@dataclass(frozen=True)
class Engine:
    """The programs of Quantum ESPRESSO.

    Attributes
    ----------
    command : tuple of str
        Of pw.x, such as ``("mpirun", "-n", "4", "pw.x")``.
    origin : str
        How it was found.
    """

    command: tuple[str, ...]
    origin: str

    def program(self, name: str) -> tuple[str, ...]:
        """The command of another program of the same installation, such as ``pp.x``."""
        *head, last = self.command
        if "pw.x" not in last:
            raise InputError(
                f"{shlex.join(self.command)}: no pw.x at its end, so {name} beside it is not known. "
                "Write a command that ends in pw.x."
            )
        return *head, last.replace("pw.x", name)

    def version(self) -> str:
        """Version of the program.

        Raises
        ------
        InputError
            It does not start, or is not pw.x.
        """
        return self._version_in(self._greeting()[1])

    def require_pw(self) -> None:
        """Raise an InputError if the program is another one; what is killed when it is asked may be right."""
        code, text = self._greeting()
        if 0 <= code <= 128:
            self._version_in(text)

    def _greeting(self) -> tuple[int, str]:
        """Exit code and words for an input without content: pw.x greets, complains and stops."""
        with scratch_folder() as folder:
            (folder / "pw.in").write_text("&CONTROL\n/\n")
            code, text, _ = execute((*self.command, "-in", "pw.in"), folder, ANSWER)
        return code, text

    def _version_in(self, text: str) -> str:
        found = output.version(text)
        if not found:
            said = output.last_words(text) or "it says nothing"
            raise InputError(
                f"{shlex.join(self.command)}: does not answer like pw.x ({said}). "
                f"Correct --command or ${COMMAND_VARIABLE}, or make an engine with: matgraft dft setup"
            )
        return found

    def require_hubbard(self) -> None:
        """Raise an InputError if the program is too old for the card of Hubbard parameters."""
        found = self.version()
        numbers = [int(part) for part in re.findall(r"\d+", found)[:2]]
        if numbers < [7, 1]:
            raise InputError(
                f"{shlex.join(self.command)}: a Hubbard U needs Quantum ESPRESSO 7.1 or later; this is "
                f"{found}. Name another with --command; matgraft dft setup makes a 7.2."
            )

    def run(
        self,
        calculation: Calculation,
        rung: int = 0,
        max_seconds: float | None = None,
        scratch: str | None = None,
        after: Callable[[Path], None] | None = None,
    ) -> output.Result | output.Failure:
        """Run one calculation in a new folder, which is gone afterwards; forces are as the structure lies.

        Parameters
        ----------
        calculation : Calculation
        rung : int
            Of :data:`matgraft.dft.calculation.LADDER`.
        max_seconds : float, optional
            Wall time after which it is given up.
        scratch : str, optional
            Folder for the run's own; the system's for temporary files by default.
        after : callable, optional
            Called with the folder of a converged run, whose density is kept there for other programs.

        Raises
        ------
        OSError
            The disk is full.
        """
        start = time.monotonic()
        for one in calculation.pseudopotentials.values():
            # Were it missing, pw.x would silently look in folders of the system.
            if not one.path.is_file() or hashlib.sha256(one.path.read_bytes()).hexdigest() != one.sha256:
                return output.Failure(output.CRASHED, f"{one.path}: gone, or no longer the file it was")
        with scratch_folder(scratch) as folder:
            wide = LADDER[rung].get("degauss")
            if wide is not None:
                deck = calculation.deck(rung, degauss=wide, keep=True, max_seconds=max_seconds)  # type: ignore[arg-type]
                first = self._pw(deck, folder, max_seconds)
                if isinstance(first, output.Failure):
                    return first
                max_seconds = max_seconds and max(max_seconds - (time.monotonic() - start), 1.0)
            deck = calculation.deck(
                rung, start=wide is not None, keep=after is not None, max_seconds=max_seconds
            )
            outcome = self._pw(deck, folder, max_seconds)
            if isinstance(outcome, output.Result) and outcome.forces is not None:
                forces = np.asarray(outcome.forces) @ calculation.rotation
                outcome = replace(outcome, forces=forces.tolist())
            if after is not None and isinstance(outcome, output.Result):
                after(folder)
            return outcome

    def stop(self) -> None:
        """End every program that this process runs."""
        for process in list(_RUNNING):
            _end(process)

    def _pw(self, deck: str, folder: Path, max_seconds: float | None) -> output.Result | output.Failure:
        (folder / "pw.in").write_text(deck)
        start = time.monotonic()
        limit = None if max_seconds is None else max_seconds + GRACE
        code, text, late = execute((*self.command, "-in", "pw.in"), folder, limit)
        seconds = time.monotonic() - start
        if late:
            return output.Failure(output.OUT_OF_TIME, "the program did not end by itself", seconds)
        crash = folder / "CRASH"
        verdict = output.read(
            text, code, seconds, crash.read_text(errors="replace") if crash.is_file() else ""
        )
        if isinstance(verdict, output.Failure) and shutil.disk_usage(folder).free < FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return verdict


def execute(command: tuple[str, ...], folder: Path, limit: float | None = None) -> tuple[int, str, bool]:
    """Run a program of one thread in a folder.

    Returns
    -------
    exit_code : int
        Negative for a signal.
    text : str
        Standard output and error.
    late : bool
        Whether it had to be killed after ``limit`` seconds.
    """
    command = bound(command)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # Open MPI refuses to start for root, as which containers run.
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    log = folder / "stdout"
    with open(log, "wb") as handle:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        late = False
        _RUNNING.add(process)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            late, code = True, -signal.SIGKILL
        finally:
            _end(process)
    return code, log.read_text(errors="replace"), late


def bound(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command that the kernel ends together with this process, or with its thread that starts it."""
    if sys.platform != "linux":
        return command
    return (sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command)


def _end(process: subprocess.Popen) -> None:
    # The group: a program of several processes ends as one, even if the first of them is gone.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _RUNNING.discard(process)


def home() -> Path:
    """Where the package keeps programs: ``$MATGRAFT_HOME`` or ``~/.local/share/matgraft``."""
    return Path(os.environ.get(HOME_VARIABLE, Path.home() / ".local" / "share" / "matgraft"))


def _environment() -> Path:
    return home() / QEPY.replace("==", "-")


def find(command: str | None = None) -> Engine:
    """The engine: the command that is given, ``$MATGRAFT_PW``, pw.x on PATH, or what :func:`setup` made.

    Raises
    ------
    InputError
        There is none, or the one that is named does not exist.
    """
    said = command or os.environ.get(COMMAND_VARIABLE)
    if said:
        origin = "--command" if command else f"${COMMAND_VARIABLE}"
        try:
            parts = [_absolute(part) for part in shlex.split(said)]
        except ValueError as error:
            raise InputError(f"{origin} {said!r}: not a command ({error}).") from error
        if not parts or shutil.which(parts[0]) is None:
            raise InputError(f"{origin} {said!r}: no such program.")
        return Engine(tuple(parts), origin)
    if path := shutil.which("pw.x"):
        return Engine((_absolute(path),), "PATH")
    python = _environment() / "bin" / "python"
    if python.is_file():
        return Engine((str(python), "-m", "qepy", "--pw.x"), str(_environment()))
    raise InputError(
        "no pw.x of Quantum ESPRESSO on this machine. Install one (Debian: quantum-espresso), name its "
        f"command with --command or ${COMMAND_VARIABLE}, or make one without root: matgraft dft setup"
    )


def _absolute(part: str) -> str:
    """A part of a command that is right in the folder of a run, too."""
    return os.path.abspath(part) if os.sep in part and os.path.isfile(part) else part


def setup() -> Path:
    """Make an environment that holds Quantum ESPRESSO; nothing is done if it is there.

    The wheel needs CPython 3.11 on Linux; any such interpreter on PATH is used.

    Returns
    -------
    Path
        Folder of the environment.

    Raises
    ------
    InputError
        No fitting interpreter, or the wheel cannot be had.
    """
    target = _environment()
    if (target / "bin" / "python").is_file():
        return target
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if python is None or sys.platform != "linux":
        raise InputError(
            f"{QEPY} needs Linux and Python 3.11 (this is {sys.platform}, {sys.version.split()[0]}, and "
            "there is no python3.11 on PATH). Install either, or a pw.x of another origin and name it in "
            f"${COMMAND_VARIABLE}."
        )
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(scratch_folder(target.parent)) / target.name
        except OSError as error:
            raise InputError(
                f"{target.parent}: cannot be written ({error.strerror}). Name another folder in "
                f"${HOME_VARIABLE}."
            ) from error
        for command in (
            [python, "-m", "venv", str(partial)],
            [str(partial / "bin" / "python"), *pip, QEPY],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                # Where Debian's venv lacks a package, it says so on standard output.
                said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
                raise InputError(
                    f"{shlex.join(command)}: {said.splitlines()[-1]}. Run it again when that is mended, or "
                    f"install a pw.x of another origin and name it in ${COMMAND_VARIABLE}."
                )
        try:
            partial.rename(target)
        except OSError:
            # Another process was faster.
            if not (target / "bin" / "python").is_file():
                raise
    return target
