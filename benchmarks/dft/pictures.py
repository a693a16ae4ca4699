"""The pictures of ``docs/``: the self-consistent loop, and the fields of silicon by a real calculation.

    python benchmarks/dft/pictures.py

Minutes; needs pw.x and pp.x (``matgraft dft setup``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ase.build import bulk
from PIL import Image

from matgraft.data import Dataset
from matgraft.dft.engine import find
from matgraft.dft.protocols import PROTOCOLS
from matgraft.errors import InputError
from matgraft.jobs.fields import PICTURE, fields
from matgraft.paper.drawings import self_consistency

DOCS = Path(__file__).parents[2] / "docs"
PLANE = (1, 1, 0)
"""That of the chains of bonds, which holds both atoms."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", help="of pw.x")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pictures")
    arguments = parser.parse_args()
    self_consistency(arguments.docs / "scf_loop.png")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "silicon"
        silicon = Dataset.from_atoms([bulk("Si", a=5.43)], ["silicon"])
        done = fields(silicon, out, PROTOCOLS["moderate"], find(arguments.command), PLANE)
        if done.complaint:
            raise InputError(done.complaint)
        small(out / PICTURE, arguments.docs / "fields.png")


def small(picture: Path, path: Path) -> None:
    """With a palette of its own and dithered: smooth colours weigh four times as much without."""
    colours = Image.open(picture).convert("RGB")
    palette = colours.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    main()
