"""What pw.x wrote: the label, or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

import numpy as np
from ase.units import Bohr, Ry

NOT_CONVERGED = "not converged"
CRASHED = "crashed"
OUT_OF_TIME = "out of time"
KILLED = "killed"

LONGEST = 500
"""Characters that are kept of what a program says."""

_TIMES = re.compile(r"PWSCF\s*:\s*(.*?)CPU\s*(.*?)WALL")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Result:
    """A converged calculation; energies of the whole cell in eV.

    Attributes
    ----------
    free_energy : float
        F = E - TS, the label of the study.
    energy : float
        E, without the smearing term.
    smearing : float
        -TS.
    fermi : float or None
        Fermi energy (the mean of both spins' where they differ), or the highest occupied level, eV.
    magnetization, absolute_magnetization : float or None
        Bohr magnetons per cell; None if not spin-polarised.
    iterations : int
        Of the self-consistent loop.
    kpoints : int
        Inequivalent ones.
    electrons : float
    cpu_seconds, wall_seconds : float
    version : str
        Of the program.
    forces : list of list of float or None
        eV/Angstrom, shape (n, 3).
    trace : list of (energy, accuracy)
        Total energy and estimated accuracy after each iteration, eV.
    """

    free_energy: float
    energy: float
    smearing: float
    fermi: float | None
    magnetization: float | None
    absolute_magnetization: float | None
    iterations: int
    kpoints: int
    electrons: float
    cpu_seconds: float
    wall_seconds: float
    version: str
    forces: list[list[float]] | None = None
    trace: list[tuple[float, float]] = field(default_factory=list)

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """Why a calculation gave no label.

    Attributes
    ----------
    reason : str
        ``not converged``, ``crashed``, ``out of time``, ``killed``, or that of
        :class:`matgraft.dft.calculation.Unfit`.
    message : str
        What the program said.
    seconds : float
        Wall time that it took.
    """

    reason: str
    message: str
    seconds: float = 0.0


def read(text: str, exit_code: int, seconds: float, crash: str = "") -> Result | Failure:
    """The verdict on a run of pw.x.

    A label needs three things at once: exit code 0, the words of convergence, and the program's last words.

    Parameters
    ----------
    text : str
        Its standard output.
    exit_code : int
        Negative for a signal.
    seconds : float
        Wall time of the run.
    crash : str
        Content of the file CRASH.
    """
    done = "JOB DONE" in text
    if exit_code == 0 and done and "convergence has been achieved" in text:
        try:
            return _result(text)
        except ValueError as unreadable:
            return Failure(CRASHED, f"an output that cannot be read: {unreadable}", seconds)
    if "Maximum CPU time exceeded" in text:
        return Failure(OUT_OF_TIME, "the time limit was reached before the loop had converged", seconds)
    if "convergence NOT achieved" in text:
        last = trace(text)[-1:] or [(np.nan, np.nan)]
        said = re.search(r"convergence NOT achieved after\s+(\d+)", text)
        steps = said[1] if said else "all"
        return Failure(NOT_CONVERGED, f"{steps} iterations, estimated accuracy {last[0][1]:.2g} eV", seconds)
    if complaint := _error(crash) or _error(text):
        return Failure(CRASHED, complaint, seconds)
    if exit_code < 0 or exit_code > 128:
        signal = -exit_code if exit_code < 0 else exit_code - 128
        return Failure(KILLED, f"the program was ended by signal {signal}", seconds)
    words = last_words(text) or "none"
    return Failure(CRASHED, f"exit code {exit_code}, last words: {words}", seconds)


def last_words(text: str) -> str:
    """The end of what a program said, in one line that any screen can show; nothing if it said nothing."""
    return " ".join(_printable(text[-10 * LONGEST :]).split()[-30:])[-LONGEST:]


def _printable(text: str) -> str:
    """Text without what is none: signs that steer a screen, and bytes that could not be read."""
    return "".join(sign if sign.isprintable() and sign != "\ufffd" else " " for sign in text)


def trace(text: str) -> list[tuple[float, float]]:
    """Total energy and estimated accuracy (eV) after each iteration of the loop."""
    found = re.findall(
        r"^!?\s+total energy\s+=\s*(\S+) Ry\s+estimated scf accuracy\s+<\s*(\S+) Ry", text, re.M
    )
    # Early estimates may be too large for the columns that they are printed in.
    numbers = [[np.nan if "*" in word else float(word) for word in pair] for pair in found]
    return [(energy * Ry, accuracy * Ry) for energy, accuracy in numbers]


def version(text: str) -> str:
    """Version that the program's first line tells, or nothing."""
    found = re.search(r"Program PWSCF v\.(\S+)", text)
    return found[1] if found else ""


def _result(text: str) -> Result:
    last = text[text.rfind("!    total energy") :]
    free = _number(r"total energy\s+=\s*(\S+) Ry", last)
    smearing = _number(r"smearing contrib\. \(-TS\)\s+=\s*(\S+) Ry", last)
    cpu, wall = (_seconds(part) for part in _TIMES.findall(text)[-1])
    if free is None:
        raise ValueError("no total energy in it")
    free, smearing = free * Ry, (smearing or 0.0) * Ry
    return Result(
        free_energy=free,
        energy=free - smearing,
        smearing=smearing,
        fermi=_fermi(text),
        magnetization=_number(r"total magnetization\s+=\s*(\S+) Bohr", last),
        absolute_magnetization=_number(r"absolute magnetization\s+=\s*(\S+) Bohr", last),
        iterations=int(_number(r"convergence has been achieved in\s+(\d+)", last) or 0),
        kpoints=int(_number(r"number of k points=\s*(\d+)", text) or 0),
        electrons=_number(r"number of electrons\s+=\s*(\S+)", text) or 0.0,
        cpu_seconds=cpu,
        wall_seconds=wall,
        version=version(text),
        forces=_forces(last),
        trace=trace(text),
    )


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    if not found:
        return None
    if not np.isfinite(value := float(found[1])):
        raise ValueError(f"{value} is no number")
    return value


def _fermi(text: str) -> float | None:
    patterns = (
        r"the spin up/dw Fermi energies are\s+(\S+)\s+(\S+) ev",
        r"the Fermi energy is\s+(\S+) ev",
        r"highest occupied, lowest unoccupied level \(ev\):\s+(\S+)",
        r"highest occupied level \(ev\):\s+(\S+)",
    )
    for pattern in patterns:
        if found := re.findall(pattern, text):
            return float(np.mean(np.asarray(found[-1], dtype=float)))
    return None


def _forces(text: str) -> list[list[float]] | None:
    parts = re.split(r"Forces acting on atoms.*\n", text)
    if len(parts) < 2:
        return None
    # The contributions that follow the total ones have the same form.
    total = re.split(r"\n\s*(?:The non-local|Total force)", parts[1])[0]
    rows = re.findall(r"force =\s+(\S+)\s+(\S+)\s+(\S+)", total)
    forces = np.asarray(rows, dtype=float) * (Ry / Bohr)
    if not np.isfinite(forces).all():
        raise ValueError("a force is nan")
    return forces.tolist()


def _seconds(text: str) -> float:
    """``1h 2m`` or ``  3.08s`` in seconds."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)\s*([dhms])", text))


def _error(text: str) -> str:
    """The message between the program's lines of percent signs."""
    found = re.search(r"%{20,}\s*(.*?)\s*%{20,}", text, re.S)
    return " ".join(_printable(found[1]).split())[:LONGEST] if found else ""
