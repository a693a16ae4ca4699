"""A table of labels beside a folder of CIF files, the convention of CGCNN, or with them in a column."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np

from matgraft.data.checks import list_ids
from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.cif import from_text, read_cif
from matgraft.data.formats.common import ID_KEYS, is_number, labels_and_columns, read_text, typed
from matgraft.errors import InputError

SUBFOLDERS = ("cifs", "structures")
STRUCTURES = "cif"
"""Column that holds the CIF files themselves, as text."""


def _cif_files(folder: Path) -> dict[str, Path]:
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        files = sorted(place.iterdir()) if place.is_dir() else []
        found = {path.stem: path for path in files if path.suffix.lower() == ".cif"}
        if found:
            return found
    return {}


def _read_table(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Ids, and the other columns by name."""
    text = read_text(path)
    # A field may hold a CIF file of any size.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = [row for row in csv.reader(StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows or len(rows[0]) < 2:
        raise InputError(f"{path}: expected lines of the form id,value separated by commas.")
    if is_number(rows[0][1]):
        if len(rows[0]) > 2:
            raise InputError(
                f"{path}: several values per line but no header. Add a first line such as id,energy,gap."
            )
        header = ["id", "target"]
    else:
        header = [name.strip() for name in rows.pop(0)]
    if len(set(header)) < len(header):
        raise InputError(f"{path}: two columns have the same name in {','.join(header)}. Rename one.")
    ragged = next((row for row in rows if len(row) != len(header)), None)
    if ragged is not None:
        raise InputError(
            f"{path}: structure {ragged[0]}: {len(ragged)} values where the header has {len(header)}. "
            "Is the file truncated?"
        )
    if not rows:
        raise InputError(f"{path}: a header but no lines of data.")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    key: str | None = header[0]
    if STRUCTURES in columns or not key:
        # The first column may be anything then; pandas writes numbers of lines into one without a name.
        key = next((name for name in (*ID_KEYS, "name", "") if name in columns), None)
    ids = list(map(str, range(len(rows)))) if key is None else [name.strip() for name in columns.pop(key)]
    columns.pop("", None)
    return ids, {name: list(values) for name, values in columns.items()}


def cif_files(path: Path) -> list[Path] | None:
    """The CIF file of each line of a table, or None if the table itself holds the structures."""
    ids, columns = _read_table(path)
    return None if STRUCTURES in columns else _files_of(path, ids)


def _files_of(path: Path, ids: list[str]) -> list[Path]:
    files = _cif_files(path.parent)
    without_cif = [name for name in ids if name not in files]
    if without_cif:
        raise InputError(
            f"{path}: no CIF file for {len(without_cif)} of {len(ids)} ids: {list_ids(without_cif)}. "
            f"Put <id>.cif beside the table or into a sub-folder {' or '.join(SUBFOLDERS)}, or remove "
            "those lines."
        )
    without_line = sorted(set(files) - set(ids))
    if without_line:
        raise InputError(
            f"{path}: {len(without_line)} CIF files have no line in the table: {list_ids(without_line)}. "
            "Add their labels (an empty value where unknown) or move the files elsewhere."
        )
    return [files[name] for name in ids]


def read_csv_cif(path: Path) -> Dataset:
    """Read labels from a CSV file and the structure of each id from ``<id>.cif`` beside it, or from its text.

    The CIFs lie in the folder of the CSV file or in its sub-folder ``cifs`` or ``structures``, and the first
    column holds the ids; or they stand in a column ``cif``, beside one of ids (``id``, ``material_id``,
    ``name``) or none, and lines are numbered. A file of two columns without a header, as CGCNN writes it, has
    one label called ``target``.
    """
    ids, fields = _read_table(path)
    texts = fields.pop(STRUCTURES, None)
    if texts is None:
        parts = [read_cif(file) for file in _files_of(path, ids)]
    else:
        parts = [from_text(text, path, name) for name, text in zip(ids, texts, strict=True)]
    several = [name for name, part in zip(ids, parts, strict=True) if len(part) > 1]
    if several:
        raise InputError(f"{path}: several structures in the CIF of {several[0]}. Give each its own id.")
    labels, columns = labels_and_columns({name: typed(values) for name, values in fields.items()})
    return replace(
        Dataset.concatenate(parts),
        ids=np.asarray(ids, dtype=str),
        labels=labels,
        specs={name: Label.guess(name) for name in labels},
        columns=columns,
        source=str(path),
    )
