"""A queue of labels by the real pw.x while processes are killed at random moments: is anything lost or twice?

    python benchmarks/dft/kills.py --out results/dft/kills.json

Forty small crystals are labelled in peace, then again by `matgraft label` into another store while SIGKILL
ends the labeller, one pw.x, or all processes at once; a second labeller works on the same store part of the
time. Last, the pw.x of one structure is killed whenever it appears, until the labeller gives it up, and
`matgraft label retry` is called. The exit code says whether all that must hold does. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase.build import bulk

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from environment import environment

from matgraft.data import Dataset
from matgraft.data.writers import write
from matgraft.dft.engine import find
from matgraft.dft.output import KILLED
from matgraft.dft.protocols import Protocol
from matgraft.dft.store import DONE, MOST_KILLS, Store
from matgraft.jobs.folder import write_json

PROTOCOL = Protocol(name="coarse", ecutwfc=50, kspacing=0.9, conv_thr=1e-7)
KINDS = {"labeller": 9, "program": 9, "everything": 6}
OXIDES = {"TiO": 4.18, "VO": 4.09, "MnO": 4.44, "FeO": 4.33}
SAME = 1e-6
"""eV."""
GONE = 15.0
"""Seconds within which what a killed labeller had started must be gone."""
MARK = "MATGRAFT_KILLS"


def structures(rng: np.random.Generator) -> Dataset:
    """Silicon under 32 strains, and eight oxides in the structure of rock salt."""
    made = []
    for i in range(32):
        atoms = bulk("Si", a=5.43)
        strain = rng.uniform(-0.03, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        made.append((f"Si2-{i}", atoms))
    for name, a in OXIDES.items():
        made += [(f"{name}-{scale}", bulk(name, "rocksalt", a=a * scale)) for scale in (0.98, 1.02)]
    return Dataset.from_atoms([atoms for _, atoms in made], [name for name, _ in made])


class Labeller:
    """``matgraft label`` as a process; all that it starts bears its mark, whatever its session or parent."""

    def __init__(self, *arguments: object, log: Path):
        self.mark = uuid.uuid4().hex
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "matgraft", "label", *map(str, arguments), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    @property
    def living(self) -> bool:
        return self.process.poll() is None

    def all(self) -> list[int]:
        """Every process that bears the mark."""
        return [pid for pid in _processes() if self.mark.encode() in _read(pid, "environ")]

    def programs(self) -> list[int]:
        """Every pw.x that bears the mark, also qepy's, a Python, but not what is still to become one."""
        commands = {pid: _read(pid, "cmdline") for pid in self.all()}
        return [
            pid for pid, said in commands.items() if said.endswith(b"\0pw.in\0") and b"\0-c\0" not in said
        ]

    def end(self) -> dict:
        """Wait for it; what it says."""
        said, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the labeller ended with exit code {self.process.returncode}")
        return json.loads(said)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(pid: int, what: str) -> bytes:
    try:
        return (Path("/proc") / str(pid) / what).read_bytes()
    except OSError:
        return b""


def _kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def seconds_until(holds: Callable[[], bool], most: float) -> float | None:
    """Seconds until something holds; None if it does not in time."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > most:
            return None
        time.sleep(0.05)
    return time.monotonic() - start


def disturb(start: Callable[[int], Labeller], place: Path, rng: np.random.Generator, calm: float) -> dict:
    """Kill as :data:`KINDS` says, starting again what has died, then let the queue end in peace.

    Kills are spread over about the time ``calm`` in seconds that the queue takes undisturbed.
    """
    kinds = rng.permutation([kind for kind, n in KINDS.items() for _ in range(n)]).tolist()
    kills, gone, rivals, starts = [], [], 0, 0
    every: list[Labeller] = []
    begin = time.monotonic()
    for kind in kinds:
        two = rng.random() < 0.4
        living = [one for one in every if one.living]
        while len(living) < 1 + two:
            # A rival has one worker, as a second machine might.
            living.append(start(1 if living else 2))
            every.append(living[-1])
            starts += 1
        rivals += len(living) > 1
        time.sleep(float(rng.uniform(0.1, 1.6)) * calm / len(kinds))
        victim = living[int(rng.integers(len(living)))]
        if kind == "program":
            if seconds_until(lambda: bool(victim.programs()) or not victim.living, 120) is None:  # noqa: B023
                raise RuntimeError("no program appears")
            time.sleep(float(rng.uniform(0.0, 0.5)))
            programs = victim.programs()
            _kill(*programs[:1])
            if not programs:
                continue
        elif victim.living:
            _kill(*(victim.all() if kind == "everything" else [victim.process.pid]))
            victim.process.wait()
            gone.append(seconds_until(lambda: not victim.all(), GONE))  # noqa: B023
        else:
            continue
        labels = len(Store(place).keys(DONE))
        at = round(time.monotonic() - begin, 2)
        kills.append({"kind": kind, "labellers": len(living), "at_s": at, "labels_by_then": labels})
        print(f"{len(kills)} {kind}, {len(living)} labellers, {labels} labels", file=sys.stderr, flush=True)
    for one in every:
        if one.living:
            one.end()
    last = start(2)
    said = last.end()
    every.append(last)
    return {
        "kills": kills,
        "by_kind": dict(Counter(one["kind"] for one in kills)),
        "with_two_labellers": rivals,
        "labellers_started": starts + 1,
        "seconds": round(time.monotonic() - begin, 1),
        "last_labeller": said,
        "slowest_end_of_orphans_s": None if None in gone else round(max(gone), 2),
        "left_behind": sum(len(one.all()) for one in every),
    }


def wear_out(start: Callable[..., Labeller], place: Path) -> dict:
    """Kill the program of one structure whenever it appears; then begin anew."""
    labeller, killed = start(1), 0
    while labeller.living:
        if programs := labeller.programs():
            _kill(*programs)
            killed += len(programs)
            seconds_until(lambda: not set(programs) & set(_processes()), GONE)
        time.sleep(0.05)
    said = labeller.end()
    (entry,) = Store(place, create=False).entries()
    again = start(1, retry=True).end()
    (after,) = Store(place, create=False).entries()
    return {
        "kills": killed,
        "reason": entry.reason,
        "attempts": [f"{one.reason}: {one.message}" for one in entry.attempts],
        "said": said,
        "said_after_retry": again,
        "free_energy_after_retry_ev": after.result and after.result.free_energy,
    }


def flaws(place: Path) -> list[str]:
    """What is wrong with the tables of a store, beyond what its entries tell."""
    with sqlite3.connect(place) as connection:
        found = [one for (one,) in connection.execute("PRAGMA integrity_check") if one != "ok"]
        doubled = "SELECT unique_id FROM systems GROUP BY unique_id HAVING COUNT(*) > 1"
        found += [f"{key}: twice" for (key,) in connection.execute(doubled)]
        for table in ("keys", "text_key_values", "number_key_values", "species"):
            alone = f"SELECT COUNT(*) FROM {table} WHERE id NOT IN (SELECT id FROM systems)"
            if lost := connection.execute(alone).fetchone()[0]:
                found.append(f"{table}: {lost} rows of no structure")
        sizes = "SELECT COUNT(*) FROM number_key_values GROUP BY id"
        if len({n for (n,) in connection.execute(sizes)}) != 1:
            found.append("rows with fewer values than others")
    for row in Store(place, create=False)._db.select():
        if row.get("status") != DONE or row.get("free_energy") is None:
            found.append(f"{row.unique_id}: {row.get('status')}, free energy {row.get('free_energy')}")
    return found


def main() -> int:
    arguments = _arguments()
    rng = np.random.default_rng(arguments.seed)
    engine = find(arguments.command)
    with TemporaryDirectory(prefix="matgraft-kills-") as name:
        folder = Path(name)
        (scratch := folder / "scratch").mkdir()
        (protocol := folder / "coarse.json").write_text(PROTOCOL.model_dump_json())
        data = structures(rng)
        write(data, folder / "queue.extxyz")
        write(data[:1], folder / "one.extxyz")

        def start(workers: int, store: str = "labels", queue: str = "queue", retry: bool = False) -> Labeller:
            place = folder / f"{store}.db"
            what = ["retry", place] if retry else [folder / f"{queue}.extxyz", "--store", place]
            more = [] if retry else ["--protocol", protocol]
            common = ["--workers", workers, "--scratch", scratch, "--command", shlex.join(engine.command)]
            return Labeller(*what, *more, *common, log=folder / "log")

        begin = time.monotonic()
        start(2, "reference").end()
        calm = round(time.monotonic() - begin, 1)
        disturbed = disturb(start, folder / "labels.db", rng, calm)
        worn = wear_out(lambda workers, retry=False: start(workers, "worn", "one", retry), folder / "worn.db")
        reference = {entry.key: entry for entry in Store(folder / "reference.db").entries()}
        store = Store(folder / "labels.db")
        entries = list(store.entries())
        results = {entry.key: entry.result for entry in entries if entry.result is not None}
        differences = [
            abs(results[key].free_energy - entry.result.free_energy)
            for key, entry in reference.items()
            if entry.result is not None and key in results
        ]
        first = next(entry for entry in reference.values() if entry.ids == [data.ids[0]])
        checks = {
            "at least 20 kills": len(disturbed["kills"]) >= 20,
            "every label in the undisturbed store": all(one.result for one in reference.values()),
            "every label exactly once": len(entries) == len(results) == len(data)
            and set(results) == set(reference),
            "labels equal to the undisturbed": len(differences) == len(data) and max(differences) < SAME,
            "every failed attempt says that it was killed": all(
                attempt.reason == KILLED and attempt.message
                for entry in entries
                for attempt in entry.attempts
            ),
            "last labeller finds nothing failed": disturbed["last_labeller"]["failed"] == 0,
            "no row half-written": not (found := flaws(folder / "labels.db")),
            "no claim left": not store.claims(),
            "no process left behind": disturbed["left_behind"] == 0,
            "orphans end at once": disturbed["slowest_end_of_orphans_s"] is not None,
            "no folder left behind": not list(scratch.iterdir()),
            "given up after the kills that are allowed": len(worn["attempts"]) == MOST_KILLS
            and worn["reason"] == KILLED,
            "labelled after retry": worn["free_energy_after_retry_ev"] is not None
            and abs(worn["free_energy_after_retry_ev"] - first.result.free_energy) < SAME,
        }
        log = (folder / "log").read_text()
    report = {
        "checks": checks,
        "structures": len(data),
        "labels": len(results),
        "greatest_difference_ev": max(differences, default=None),
        "failed_attempts": dict(
            Counter(f"{one.reason}: {one.message}" for entry in entries for one in entry.attempts)
        ),
        "flaws": found,
        "seconds_in_peace": calm,
        "disturbed": disturbed,
        "worn_out": worn,
        "tracebacks": log.count("Traceback"),
        "labels_ev": {
            entry.ids[0]: [entry.result.free_energy, results[entry.key].free_energy]
            for entry in reference.values()
            if entry.result is not None and entry.key in results
        },
        "seed": arguments.seed,
        "protocol": PROTOCOL.model_dump(),
        "program": f"Quantum ESPRESSO {engine.version()}",
        "environment": environment(),
    }
    if arguments.out:
        write_json(arguments.out, report)
    kinds = ", ".join(f"{n} {kind}" for kind, n in disturbed["by_kind"].items())
    print(
        f"{len(results)} of {len(data)} labels after {len(disturbed['kills'])} kills ({kinds}; "
        f"{disturbed['with_two_labellers']} with two labellers), "
        f"greatest difference {report['greatest_difference_ev']} eV"
    )
    for what, holds in checks.items():
        print(f"{'ok    ' if holds else 'FAILED'}  {what}")
    if not all(checks.values()):
        print(log, file=sys.stderr)
    return 0 if all(checks.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file of everything that was found")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", help="of pw.x; found by itself otherwise")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
