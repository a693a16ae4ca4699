"""Screening of the unlabelled crystals, from file to ranked CSV: seconds, and memory at its peak.

::

    python benchmarks/screening.py PATH/mp_unlabelled.npz

Two processes, whose resident memory is summed. Run twice, the second time with the structures in reverse
order: what a structure is given must not depend on its place.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from environment import environment

from matgraft.data import Dataset
from matgraft.data.writers import write

RESULT = Path(__file__).resolve().parent / "results" / "speed" / "screening.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("::")[0].strip())
    parser.add_argument("structures", type=Path)
    path = parser.parse_args().structures
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset.read(path, check=False)
        backwards = Path(folder) / "backwards.dataset"
        write(dataset[np.arange(len(dataset))[::-1]], backwards)
        first, seconds, megabytes = _screened(path, Path(folder) / "forwards.csv")
        second, *_ = _screened(backwards, Path(folder) / "backwards.csv")
    result = {
        "environment": environment(),
        "structures": len(first),
        "workers": 2,
        "wall_seconds": round(seconds, 1),
        "peak_megabytes_of_all_processes": round(megabytes),
        "same_numbers_in_reverse_order": first == second,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print({key: value for key, value in result.items() if key != "environment"})


def _screened(structures: Path, out: Path) -> tuple[dict[str, str], float, float]:
    command = [sys.executable, "-m", "matgraft", "predict", "mp-schnet", str(structures)]
    command += ["--sort", "prediction", "--workers", "2", "--out", str(out)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    if process.wait() != 0:
        raise SystemExit("matgraft predict failed")
    seconds = time.monotonic() - started
    watcher.join()
    with out.open() as handle:
        rows = list(csv.DictReader(handle))
    return {row["id"]: row["prediction"] for row in rows}, seconds, peak[0]


def _watch(process: subprocess.Popen, peak: list[float]) -> None:
    """Note the largest sum of resident memory of a process and those it started (Linux)."""
    while process.poll() is None:
        pids, total = [process.pid], 0.0
        for pid in pids:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            pids += [int(child) for child in children]
            total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        peak[0] = max(peak[0], total / 1024)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
