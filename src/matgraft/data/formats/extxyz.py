"""Extended XYZ.

Written here rather than left to ASE so that ids such as ``0012`` stay text, one label has one type in all
frames, and errors name the frame.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.common import ID_KEYS, SPECS_KEY, labels_and_columns, read_text, stem, typed
from matgraft.errors import InputError

STRUCTURAL = frozenset({"Lattice", "Properties", "pbc"})

_PAIR = re.compile(r"""("(?:\\.|[^"\\])*"|[^\s="]+)=("(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^\]]*\]|[^\s"]*)""")


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text[1:-1]


def _is_scalar(text: str) -> bool:
    """Whether a value describes the structure with one word or number rather than an array."""
    if text.startswith(("{", "[", "_JSON")):
        return False
    words = text.split()
    return len(words) < 2 or typed(words).dtype.kind not in "fiu"


def _species(words: list[str], is_number: bool) -> list[int]:
    if is_number:
        return [int(word) for word in words]
    unknown = [word for word in words if word not in atomic_numbers]
    if unknown:
        raise ValueError(f"unknown species {unknown[0]!r}")
    return [atomic_numbers[word] for word in words]


def _frame(lines: list[str], info: dict[str, str]) -> Atoms:
    layout = info.get("Properties", "species:S:1:pos:R:3").split(":")
    start, first = {}, 0
    for name, width in zip(layout[::3], layout[2::3], strict=True):
        start[name] = first
        first += int(width)
    kind = "species" if "species" in start else "Z"
    if kind not in start or "pos" not in start:
        raise ValueError("Properties must name species (or Z) and pos")
    rows = [line.split() for line in lines]
    short = next((row for row in rows if len(row) < first), None)
    if short is not None:
        raise ValueError(f"an atom line has {len(short)} values instead of {first}")
    numbers = _species([row[start[kind]] for row in rows], is_number=kind == "Z")
    positions = np.asarray([row[start["pos"] : start["pos"] + 3] for row in rows], dtype=float)
    if "Lattice" not in info:
        return Atoms(numbers, positions)
    cell = np.asarray(info["Lattice"].split(), dtype=float)
    if cell.size not in (3, 9):
        raise ValueError(f"Lattice holds {cell.size} numbers instead of 9")
    pbc = [word.upper().startswith("T") for word in info.get("pbc", "T T T").split()]
    return Atoms(numbers, positions, cell=cell.reshape(3, 3) if cell.size == 9 else cell, pbc=pbc)


def read_extxyz(path: Path) -> Dataset:
    """Read all frames; the values on the comment lines become labels and columns."""
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    structures: list[Atoms] = []
    infos: list[dict[str, str]] = []
    row = 0
    while row < len(lines):
        where = f"{path}: frame {len(structures) + 1} (line {row + 1})"
        try:
            natoms = int(lines[row])
        except ValueError:
            raise InputError(
                f"{where}: expected a number of atoms, found {lines[row][:40]!r}. Is this an extended "
                "XYZ file?"
            ) from None
        body = lines[row + 2 : row + 2 + natoms]
        if natoms < 1 or len(body) < natoms:
            raise InputError(
                f"{where}: promises {natoms} atoms but {len(body)} lines follow. The file is "
                "truncated; copy it again."
            )
        info = {_unquote(key): _unquote(value) for key, value in _PAIR.findall(lines[row + 1])}
        try:
            structures.append(_frame(body, info))
        except ValueError as error:
            raise InputError(f"{where}: {error}. Correct or remove this frame.") from error
        infos.append(info)
        row += 2 + natoms

    ids = [
        next((info[key] for key in ID_KEYS if key in info), f"{stem(path)}-{i}")
        for i, info in enumerate(infos)
    ]
    keys = dict.fromkeys(
        key for info in infos for key in info if key not in STRUCTURAL | {*ID_KEYS, SPECS_KEY}
    )
    fields = {
        key: typed([info.get(key) for info in infos])
        for key in keys
        if all(_is_scalar(info[key]) for info in infos if key in info)
    }
    stated = infos[0].get(SPECS_KEY)
    specs = {name: Label(**meaning) for name, meaning in json.loads(stated or "{}").items()}
    labels, columns = labels_and_columns(fields, specs if stated else None)
    return Dataset.from_atoms(structures, ids, labels, specs, columns, source=str(path))
