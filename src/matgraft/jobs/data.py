"""Looking at, converting and splitting data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from matgraft.data import Dataset
from matgraft.data.catalogue import ENTRIES, locate
from matgraft.data.splits import validation_split
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import not_over


def info(data: str | Path | Sequence[str | Path]) -> dict:
    """Structures, elements and labels of a data set, as plain values."""
    dataset = Dataset.read(data)
    composition = dataset.composition() > 0
    labels = {}
    for name, values in dataset.labels.items():
        known = values[np.isfinite(values)]
        spec = dataset.specs[name]
        labels[name] = {
            "unit": spec.unit,
            "kind": spec.kind,
            "level_of_theory": spec.level_of_theory,
            "n": len(known),
            "mean": float(known.mean()) if len(known) else None,
            "min": float(known.min()) if len(known) else None,
            "max": float(known.max()) if len(known) else None,
        }
    return {
        "source": dataset.source,
        "n": len(dataset),
        "atoms_min": int(dataset.natoms.min()),
        "atoms_median": float(np.median(dataset.natoms)),
        "atoms_max": int(dataset.natoms.max()),
        "formulas": len(np.unique(dataset.formulas)),
        "elements": {chemical_symbols[z]: int(n) for z, n in enumerate(composition.sum(axis=0)) if n},
        "labels": labels,
        "columns": sorted(dataset.columns),
        "with_forces": int(dataset.has_forces.sum()),
        "content_hash": dataset.content_hash(),
    }


def table_of(summary: dict) -> list[Table]:
    """The summary of :func:`info` as tables."""
    elements = ", ".join(
        f"{symbol} {n}" for symbol, n in sorted(summary["elements"].items(), key=lambda e: -e[1])
    )
    facts = [
        ("structures", summary["n"]),
        ("formulas", summary["formulas"]),
        (
            "atoms per cell",
            f"{summary['atoms_min']} to {summary['atoms_max']}, median {summary['atoms_median']:g}",
        ),
        ("structures by element", elements),
        ("columns (--target takes those of numbers)", ", ".join(summary["columns"])),
        *([("with forces", n)] if (n := summary["with_forces"]) else []),
        ("content hash", summary["content_hash"]),
    ]
    labels = [
        (name, spec["unit"], spec["kind"], spec["n"], *_resolved(spec["mean"], spec["min"], spec["max"]))
        for name, spec in summary["labels"].items()
    ]
    return [
        Table(("", summary["source"]), facts),
        Table(("label", "unit", "per", "values", "mean", "least", "most"), labels),
    ]


def _resolved(*values: float | None) -> list[str | float | None]:
    """Numbers with as many decimals as tell them apart, however far they are from zero."""
    some = [value for value in values if value is not None]
    spread = max(some) - min(some) if some else 0.0
    if not 1e-6 < spread < 0.05 * max(map(abs, some), default=0.0):
        return list(values)
    decimals = max(0, 2 - math.floor(math.log10(spread)))
    return [None if value is None else f"{value:,.{decimals}f}" for value in values]


def known() -> Table:
    """Known data sets and whether they are at hand."""
    rows = []
    for name, entry in ENTRIES.items():
        try:
            locate(name)
            here = "yes"
        except InputError:
            here = "no"
        rows.append((name, entry.size, entry.licence, here, entry.description))
    return Table(("name", "structures", "licence", "at hand", "what it is"), rows)


def convert(data: str | Path, out: str | Path) -> int:
    """Write a data set in another format; returns the number of structures."""
    dataset = Dataset.read(data)
    write(dataset, not_over(out, data))
    return len(dataset)


def split(
    data: str | Path, out: str | Path, *, val: str = "0.2", group: str | None = None, seed: int = 0
) -> tuple[int, int]:
    """Write ``train.extxyz`` and ``val.extxyz`` into a new folder; returns their sizes."""
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: exists. Give another --out folder.")
    dataset, train, validation = validation_split(Dataset.read(data), val, group, seed)
    out.mkdir(parents=True)
    write(dataset[train], out / "train.extxyz")
    write(dataset[validation], out / "val.extxyz")
    return len(train), len(validation)
