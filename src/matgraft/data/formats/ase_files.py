"""Formats that ASE reads well: POSCAR and its databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from io import StringIO
from pathlib import Path

import ase.io
from ase import Atoms
from ase.db import connect
from ase.db.row import AtomsRow

from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.common import SPECS_KEY, gather, labels_and_columns, read_text, stem
from matgraft.errors import InputError

# Key of the ``data`` of a row under which things are kept that ASE does not take as key-value pairs.
DATA_KEY = "matgraft"
ROW_IDS = ("material_id", "structure_id", "uid", "name")


def read_poscar(path: Path) -> Dataset:
    """Read one structure; a file called just POSCAR or CONTCAR is known by its folder."""
    text = StringIO(read_text(path))
    # Of an old file without a line of species ASE looks for others beside it.
    text.name = str(path)  # type: ignore[attr-defined]
    atoms: Atoms = ase.io.read(text, format="vasp")  # type: ignore[assignment]
    return Dataset.from_atoms([atoms], [_name(path)], source=str(path))


def _name(path: Path) -> str:
    if path.name in {"POSCAR", "CONTCAR"}:
        return path.resolve().parent.name
    # What looks like an extension tells POSCAR.1 from POSCAR.2.
    return path.name if path.name.startswith(("POSCAR", "CONTCAR")) else stem(path)


def _with_moments(row: AtomsRow) -> Atoms:
    """The structure of a row; what a calculation came to are its moments where it started from none."""
    atoms = row.toatoms()
    if not atoms.has("initial_magmoms") and (found := row.get("magmoms")) is not None:
        atoms.set_initial_magnetic_moments(found)
    return atoms


def is_ase_database(path: Path) -> bool:
    """Whether a SQLite file has the tables of ASE, which makes them in any other that it opens.

    Raises
    ------
    sqlite3.Error
        It is no SQLite file, or cannot be read.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchone() is not None


def read_ase_db(path: Path) -> Dataset:
    """Read all rows of an ASE database; energies and key-value pairs become labels and columns."""
    if path.suffix == ".db" and not is_ase_database(path):
        raise InputError(f"{path}: a database of other things than crystals, not one of ASE.")
    database = connect(path, use_lock_file=False)
    structures, fields = [], []
    ids: list[str] = []
    without: list[int] = []
    for row in database.select():
        values = {name: row.get(name) for name in ("energy", "free_energy") if row.get(name) is not None}
        values |= row.key_value_pairs
        own = row.data.get(DATA_KEY, {})
        values |= own.get("values", {})
        if "id" not in own:
            without.append(len(ids))
        ids.append(own.get("id", f"{stem(path)}-{row.id}"))
        structures.append(_with_moments(row))
        fields.append(values)
    for key in ROW_IDS:
        rows = [k for k in without if isinstance(fields[k].get(key), str)]
        # What several structures are called, such as their formula, tells none from the others.
        if len({fields[k][key] for k in rows}) == len(rows):
            for k in rows:
                ids[k] = fields[k].pop(key)
            without = [k for k in without if k not in {*rows}]
    stated = database.metadata.get(SPECS_KEY)
    specs = {name: Label(**meaning) for name, meaning in (stated or {}).items()}
    labels, columns = labels_and_columns(gather(fields), None if stated is None else specs)
    return Dataset.from_atoms(structures, ids, labels, specs, columns, source=str(path))
