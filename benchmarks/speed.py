"""How fast matgraft is beside SchNetPack and PyG: same network, same weights, same work, one thread.

::

    git clone https://github.com/atomistic-machine-learning/schnetpack
    pip install matgraft sympy fasteners dirsync vesin matscipy torch_geometric
    python benchmarks/speed.py all --schnetpack schnetpack
    python benchmarks/speed.py report

Contenders run in one process and take turns, round by round; the ratio is taken in each round. What they
compute is compared before anything is timed, and a disagreement is an error. ``--quick`` needs no peer: the
fast path against this package's own reference kernel, on little work, within a minute. ``gpu`` needs one,
and is not among ``all``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

QUANTITIES = ("training", "inference", "latency", "neighbours", "memory", "cif")
RESULTS = Path(__file__).resolve().parent / "results" / "speed"
DOCS = Path(__file__).resolve().parent.parent / "docs"
QUICK = {"rounds": 2, "structures": 32}


def main() -> int:
    arguments = _arguments()
    if arguments.quantity == "report":
        import_module("speed_report").write(arguments.out or RESULTS, arguments.docs)
        return 0
    # Before torch and numpy start their threads.
    os.environ.update(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1"
    )
    import torch
    from environment import environment
    from peers import SchNetPack
    from quantities.setup import Setup
    from speed_report import table
    from timing import DisagreementError

    torch.set_num_threads(1)
    limits = dict(QUICK) if arguments.quick else {}
    limits |= {k: v for k in QUICK if (v := getattr(arguments, k)) is not None}
    checkout = arguments.schnetpack.resolve() if arguments.schnetpack else None
    peer = SchNetPack(checkout) if checkout else None
    setup = Setup(checkout, peer, arguments.orientation, **limits)
    # Trials do not replace what was measured in full.
    out = arguments.out or (None if limits else RESULTS)
    about = environment({"version": peer.version, "commit": peer.commit} if peer else None)
    failed = False
    for quantity in _chosen(arguments):
        started = time.monotonic()
        try:
            comparisons = import_module(f"quantities.{quantity}").measure(setup)
        except DisagreementError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        for comparison in comparisons:
            print(table(comparison.as_dict()).text(), flush=True)
        report = {
            "quantity": quantity,
            "environment": about,
            "seconds": round(time.monotonic() - started),
            "comparisons": [comparison.as_dict() for comparison in comparisons],
        }
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{quantity}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("::")[0].strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("quantity", choices=[*QUANTITIES, "gpu", "orientation", "all", "report"])
    parser.add_argument("--schnetpack", type=Path, help="a git checkout of SchNetPack")
    parser.add_argument(
        "--orientation", type=Path, metavar="PYTHON", help="an interpreter that has CHGNet and MACE"
    )
    parser.add_argument("--quick", action="store_true", help="against the reference kernel, little work")
    parser.add_argument("--rounds", type=int, help="at most so many rounds, for a trial")
    parser.add_argument("--structures", type=int, help="at most so many structures, for a trial")
    parser.add_argument("--out", type=Path, help="folder of the results (trials write none by default)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of speed.md and speed.png")
    arguments = parser.parse_args()
    if arguments.quantity != "report" and bool(arguments.schnetpack) == arguments.quick:
        parser.error("give either --schnetpack PATH or --quick")
    if arguments.structures is not None and arguments.structures < 32:
        parser.error("--structures: a batch has 32, take at least as many")
    if arguments.quantity == "orientation" and not arguments.orientation:
        parser.error("orientation needs --orientation PYTHON, an interpreter that has CHGNet and MACE")
    return arguments


def _chosen(arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.quantity != "all":
        return (arguments.quantity,)
    return (*QUANTITIES, "orientation") if arguments.orientation else QUANTITIES


if __name__ == "__main__":
    sys.exit(main())
