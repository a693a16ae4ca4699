"""A table of labels beside a folder of CIF files, the convention of CGCNN."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from matgraft.data.checks import list_ids
from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.cif import read_cif
from matgraft.data.formats.common import is_number, labels_and_columns, read_text, typed
from matgraft.errors import InputError

SUBFOLDERS = ("cifs", "structures")


def _cif_files(folder: Path) -> dict[str, Path]:
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        files = sorted(place.iterdir()) if place.is_dir() else []
        found = {path.stem: path for path in files if path.suffix.lower() == ".cif"}
        if found:
            return found
    return {}


def read_table(path: Path) -> tuple[list[str], list[list[str]], list[Path]]:
    """Column names, lines (ids first) and the CIF file of each line."""
    rows = [row for row in csv.reader(read_text(path).splitlines()) if any(cell.strip() for cell in row)]
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

    ids = [row[0].strip() for row in rows]
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

    return header, rows, [files[name] for name in ids]


def read_csv_cif(path: Path) -> Dataset:
    """Read labels from a CSV file and the structure of each id from ``<id>.cif`` beside it.

    The CIFs lie in the folder of the CSV file or in its sub-folder ``cifs`` or ``structures``. The first
    column holds the ids. A file of two columns without a header, as CGCNN writes it, has one label called
    ``target``.
    """
    header, rows, files = read_table(path)
    parts = [read_cif(file) for file in files]
    several = [file for file, part in zip(files, parts, strict=True) if len(part) > 1]
    if several:
        raise InputError(f"{several[0]}: several structures in the CIF of one id. Split the file.")
    labels, columns = labels_and_columns(
        {name: typed([row[k] for row in rows]) for k, name in enumerate(header) if k}
    )
    return replace(
        Dataset.concatenate(parts),
        labels=labels,
        specs={name: Label.guess(name) for name in labels},
        columns=columns,
        source=str(path),
    )
