"""What several formats share: file names, decompression and the typing of text values."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from matgraft.errors import InputError

ALWAYS_LABELS = frozenset({"energy", "free_energy"})
# Floats that say how good a label is, not labels.
NEVER_LABELS = frozenset({"e_form_spread"})
ID_KEYS = ("id", "material_id")
ISOTOPES = {"D": 1, "T": 1}

# Under this key our own files say what their labels mean.
SPECS_KEY = "matgraft_labels"

_BLANK = frozenset({"", "nan", "none", "null", "na", "n/a"})
BOOLEAN = {"t": True, "true": True, "f": False, "false": False}
# Where nothing but a flag can stand.
FLAG = {**BOOLEAN, "1": True, "0": False}


class Skipped(NamedTuple):
    """A structure that was left out, and why."""

    file: str
    id: str
    reason: str


def refuse(path: Path, name: str, problem: str, skipped: list[Skipped] | None) -> None:
    """Raise an error about one structure of a file, or note it where bad ones are to be left out."""
    if skipped is None:
        raise InputError(problem)
    skipped.append(Skipped(str(path), name, problem))


def is_packed(path: Path) -> bool:
    """Whether a file's name says that it is compressed by gzip."""
    return path.suffix.lower() == ".gz"


def stem(path: Path) -> str:
    """File name without its extension, and without ``.gz``."""
    return path.with_suffix("").stem if is_packed(path) else path.stem


def read_bytes(path: Path, start: int = 0, stop: int | None = None) -> bytes:
    """The file's content between two places, decompressed if its name ends in ``.gz``."""
    with gzip.open(path) if is_packed(path) else open(path, "rb") as file:
        file.seek(start)
        return file.read(-1 if stop is None else stop - start)


def read_text(path: Path, start: int = 0, stop: int | None = None) -> str:
    """The file's content between two places as UTF-8 text, or an error that says it is none."""
    try:
        return read_bytes(path, start, stop).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a text file (byte {error.start} is not UTF-8). Is the file damaged?"
        ) from error


def is_number(text: str) -> bool:
    """Whether a text is a number, ``nan`` included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def typed(values: Sequence[str | None], text: bool = False) -> np.ndarray:
    """The narrowest of int, float, bool and str that holds every value; blanks become NaN (or empty).

    Parameters
    ----------
    values : sequence of str or None
        One text per structure; None and words such as ``nan`` count as blank.
    text : bool
        Whether they are known to be text, even if all are ``F`` (fluorine) or ``0012``.

    Returns
    -------
    ndarray, shape (n,)
        Ints and bools with blanks among them come back as floats.
    """
    texts = ["" if value is None else value.strip() for value in values]
    if text:
        return np.asarray(texts, dtype=str)
    # Na is sodium.
    blank = [t.lower() in _BLANK and t != "Na" for t in texts]
    known = [t for t, missing in zip(texts, blank, strict=True) if not missing]
    if known and all(t.lower() in BOOLEAN for t in known):
        if not any(blank):
            return np.asarray([BOOLEAN[text.lower()] for text in texts])
        return np.asarray(
            [np.nan if m else float(BOOLEAN[t.lower()]) for t, m in zip(texts, blank, strict=True)]
        )
    try:
        numbers = np.asarray([np.nan if m else float(t) for t, m in zip(texts, blank, strict=True)])
    except ValueError:
        return np.asarray(texts, dtype=str)
    if known and not any(blank) and all(t.lstrip("+-").isdigit() for t in known):
        return np.asarray([int(t) for t in texts])
    return numbers


def labels_and_columns(
    fields: Mapping[str, np.ndarray], named: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Sort named per-structure values into labels and columns.

    Labels are the ``named`` ones if the file says which; else floats, and energies even if whole numbers.
    """

    def is_label(name: str, values: np.ndarray) -> bool:
        if named is not None:
            return name in named
        number = values.dtype.kind == "f" or (name in ALWAYS_LABELS and values.dtype.kind in "iu")
        return number and name not in NEVER_LABELS

    labels = {
        name: np.asarray(values, dtype=np.float64)
        for name, values in fields.items()
        if is_label(name, values)
    }
    return labels, {name: values for name, values in fields.items() if name not in labels}


def gather(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Per-structure mappings turned into one array per key; a key that a row lacks is blank there."""
    fields = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        known = [value for value in values if value is not None]
        if all(isinstance(value, int | float | bool | np.number | np.bool_) for value in known):
            complete = len(known) == len(values)
            fields[name] = np.asarray(
                values if complete else [np.nan if v is None else float(v) for v in values]
            )
        else:
            fields[name] = np.asarray(["" if value is None else str(value) for value in values])
    return fields
