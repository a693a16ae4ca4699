"""Data sets to files, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.db import connect
from ase.db.core import check

from matgraft.data.dataset import Dataset
from matgraft.data.formats.ase_files import DATA_KEY
from matgraft.data.formats.common import SPECS_KEY
from matgraft.errors import InputError
from matgraft.whole import whole


def write(ds: Dataset, path: str | Path) -> None:
    """Write a data set so that :func:`matgraft.data.readers.read` gives all of it back.

    Parameters
    ----------
    ds : Dataset
    path : str or Path
        ``.xyz`` or ``.extxyz`` for extended XYZ, ``.db`` for an ASE database, ``.dataset`` or no extension
        for a folder of arrays. What is there already is replaced once the new one is complete.

    Raises
    ------
    InputError
        For other extensions, and for a folder that is not a data set.
    """
    path = Path(path)
    writers = {
        ".xyz": _write_extxyz,
        ".extxyz": _write_extxyz,
        ".db": _write_ase_db,
        ".dataset": Dataset.save,
    }
    writer = writers.get(path.suffix.lower(), None if path.suffix else Dataset.save)
    if writer is None:
        raise InputError(
            f"{path}: cannot write {path.suffix} files. Use {', '.join(writers)} or no extension."
        )
    if path.is_dir() and not (writer is Dataset.save and (path / "dataset.json").is_file()):
        raise InputError(f"{path}: a folder with other things in it is in the way. Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        writer(ds, partial)


def _values(ds: Dataset, i: int) -> dict[str, float | bool | str]:
    """Labels and columns of structure ``i`` as plain values, without those that are missing."""
    values = {name: column[i].item() for name, column in {**ds.columns, **ds.labels}.items()}
    return {name: v for name, v in values.items() if v != "" and not (isinstance(v, float) and np.isnan(v))}


def _specs(ds: Dataset) -> dict[str, dict[str, str]]:
    return {name: asdict(spec) for name, spec in ds.specs.items()}


def _comment(values: Mapping[str, float | bool | str]) -> str:
    def text(value: float | bool | str) -> str:
        if isinstance(value, bool):
            return "T" if value else "F"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)

    def key(name: str) -> str:
        return name if name.replace("_", "").isalnum() else json.dumps(name, ensure_ascii=False)

    return " ".join(f"{key(name)}={text(value)}" for name, value in values.items())


def _write_extxyz(ds: Dataset, path: Path) -> None:
    offsets = ds.offsets
    columns, layout = [ds.positions], "species:S:1:pos:R:3"
    if ds.moments is not None:
        columns, layout = [*columns, ds.moments[:, None]], f"{layout}:initial_magmoms:R:1"
    plain = np.hstack(columns)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(len(ds)):
            rows = slice(offsets[i], offsets[i + 1])
            forces = _forces(ds, rows)
            head: dict[str, float | bool | str] = {
                "Lattice": " ".join(map(repr, ds.cells[i].ravel().tolist())),
                "Properties": layout if forces is None else f"{layout}:forces:R:3",
                "pbc": " ".join("T" if periodic else "F" for periodic in ds.pbc[i]),
                "id": str(ds.ids[i]),
            }
            if not ds.cells[i].any():
                del head["Lattice"]
            if i == 0:
                head[SPECS_KEY] = json.dumps(_specs(ds), ensure_ascii=False)
            values = plain[rows] if forces is None else np.hstack([plain[rows], forces])
            file.write(f"{ds.natoms[i]}\n{_comment(head | _values(ds, i))}\n")
            # Shortest exact decimals: equal data keep an equal hash through a file.
            atoms = zip(ds.numbers[rows].tolist(), values.tolist(), strict=True)
            file.writelines(f"{chemical_symbols[z]} {' '.join(map(repr, row))}\n" for z, row in atoms)


def _is_key_value(name: str, value: float | bool | str) -> bool:
    """Whether ASE takes the pair as one that its databases can be queried by."""
    try:
        check({name: value})
    except ValueError:
        return False
    return True


def _forces(ds: Dataset, rows: slice) -> np.ndarray | None:
    """Forces on the atoms of one structure, or None if it has none."""
    return None if ds.forces is None or np.isnan(ds.forces[rows]).all() else ds.forces[rows]


def _write_ase_db(ds: Dataset, path: Path) -> None:
    offsets = ds.offsets
    with connect(path, append=False, use_lock_file=False) as database:
        database.metadata = {SPECS_KEY: _specs(ds)}
        for i, atoms in enumerate(ds):
            values = _values(ds, i)
            results: dict[str, Any] = {"energy": values.pop("energy")} if "energy" in values else {}
            if (forces := _forces(ds, slice(offsets[i], offsets[i + 1]))) is not None:
                results["forces"] = forces
            if results:
                atoms.calc = SinglePointCalculator(atoms, **results)
            pairs = {name: value for name, value in values.items() if _is_key_value(name, value)}
            rest = {name: value for name, value in values.items() if name not in pairs}
            database.write(
                atoms, key_value_pairs=pairs, data={DATA_KEY: {"id": str(ds.ids[i]), "values": rest}}
            )
