"""Structures that pymatgen stored as JSON, read without pymatgen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from matgraft.data.dataset import Dataset
from matgraft.data.formats.common import (
    ID_KEYS,
    ISOTOPES,
    Skipped,
    gather,
    labels_and_columns,
    read_text,
    refuse,
    stem,
)
from matgraft.errors import InputError


def atoms_from_dict(structure: dict[str, Any]) -> Atoms:
    """The crystal in a ``Structure.as_dict()``; ValueError says what stands against it."""
    if not isinstance(structure, dict):
        raise ValueError("it holds no structure")
    cell = np.asarray(structure["lattice"]["matrix"], dtype=float)
    numbers: list[int] = []
    frac: list[Sequence[float]] = []
    moments: list[float | Sequence[float]] = []
    for site in structure["sites"]:
        species = site["species"]
        if len(species) != 1 or abs(species[0]["occu"] - 1) > 1e-3:
            raise ValueError(
                f"site {site.get('label', len(numbers))} is disordered; replace it by an ordered one"
            )
        symbol = species[0]["element"]
        number = ISOTOPES.get(symbol, atomic_numbers.get(symbol, 0))
        if number == 0:
            raise ValueError(f"unknown species {symbol!r}")
        numbers.append(number)
        frac.append(site["abc"])
        moments.append(_moment(site))
    if not numbers:
        raise ValueError("it holds no atoms")
    pbc = structure["lattice"].get("pbc", (True, True, True))
    return Atoms(numbers, np.asarray(frac, dtype=float) @ cell, cell=cell, pbc=pbc, magmoms=_alike(moments))


def _moment(site: dict[str, Any]) -> float | Sequence[float]:
    found = (site.get("properties") or {}).get("magmom")
    if isinstance(found, dict):  # a pymatgen Magmom
        found = found.get("moment")
    return found or 0.0


def _alike(moments: list[float | Sequence[float]]) -> np.ndarray:
    """One number for each atom, or three for each if one has a direction."""
    if all(np.ndim(one) == 0 for one in moments):
        return np.asarray(moments)
    return np.asarray([one if np.ndim(one) else (0.0, 0.0, one) for one in moments])


def _is_structure(item: Any) -> bool:
    return isinstance(item, dict) and {"lattice", "sites"} <= item.keys()


def _records(content: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of id and ``{"structure": ..., label: value}`` for each of the accepted arrangements."""
    if _is_structure(content):
        yield name, {"structure": content}
    elif isinstance(content, dict) and {"index", "columns", "data"} <= content.keys():
        for key, record in _rows(content):
            yield _identified(record, key if isinstance(key, str) else f"{name}-{key}")
    elif isinstance(content, dict):
        for key, item in content.items():
            yield key, {"structure": item} if _is_structure(item) else item
    elif isinstance(content, list):
        for i, item in enumerate(content):
            if _is_structure(item):
                yield f"{name}-{i}", {"structure": item}
            else:
                yield _identified(dict(item), f"{name}-{i}")
    else:
        raise ValueError("neither a structure nor a collection of structures")


def _identified(record: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """The id that a record states, or else its name; and what else it holds."""
    ids = [str(record.pop(key)) for key in ID_KEYS if key in record]
    return ids[0] if ids else name, record


def _rows(table: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Index and columns of each row of a table of pandas."""
    index, columns, rows = table["index"], table["columns"], table["data"]
    if len(index) != len(rows):
        raise ValueError(f"a table with {len(index)} entries in its index and {len(rows)} rows")
    for key, row in zip(index, rows, strict=True):
        if not isinstance(row, list) or len(row) != len(columns):
            raise ValueError(f"row {key} does not have a value for each of the {len(columns)} columns")
        yield key, dict(zip(columns, row, strict=True))


def read_pymatgen(path: Path, skipped: list[Skipped] | None = None) -> Dataset:
    """Read a structure, a list of them, ``{id: structure}``, or records with ``structure`` and labels.

    A table of pandas (``orient="split"``), which data sets of matminer and Matbench are, counts as records.
    Bad structures are an error, or put on the list ``skipped``.
    """
    structures, ids, fields = [], [], []
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not complete JSON ({error}). The file may be truncated; copy it again."
        ) from error
    for name, record in _records(content, stem(path)):
        try:
            structures.append(atoms_from_dict(record["structure"]))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else error
            refuse(path, name, f"{path}: structure {name}: {problem}.", skipped)
            continue
        ids.append(name)
        fields.append({k: v for k, v in record.items() if isinstance(v, str | int | float)})
    labels, columns = labels_and_columns(gather(fields))
    return Dataset.from_atoms(structures, ids, labels, columns=columns, source=str(path))
