"""Extended XYZ.

Written here rather than left to ASE so that ids such as ``0012`` stay text, one label has one type in all
frames, and errors name the frame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.common import (
    FLAG,
    ID_KEYS,
    ISOTOPES,
    SPECS_KEY,
    Skipped,
    is_number,
    labels_and_columns,
    read_text,
    refuse,
    stem,
    typed,
)

STRUCTURAL = frozenset({"Lattice", "Properties", "pbc"})
MOMENTS = ("initial_magmoms", "magmoms")
"""Names of a column of magnetic moments, to start from or as calculated, by ASE."""
FORCES = ("forces", "force")

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


def _is_text(value: str, own: bool) -> bool:
    """Whether a value, as it stands in the file, must be text.

    Our own files put text, and nothing else, in quotes; others put arrays there, and may put numbers.
    """
    if not value.startswith('"'):
        return False
    text = _unquote(value)
    return own or (_is_scalar(text) and not is_number(text or "nan"))


def _species(words: list[str], is_number: bool) -> list[int]:
    if is_number:
        return [int(word) for word in words]
    known = atomic_numbers | ISOTOPES
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(f"unknown species {unknown[0]!r}")
    return [known[word] for word in words]


def _frame(lines: list[str], info: dict[str, str]) -> Atoms:
    layout = info.get("Properties", "species:S:1:pos:R:3").split(":")
    columns, first = {}, 0
    for name, width in zip(layout[::3], map(int, layout[2::3]), strict=True):
        columns[name] = slice(first, first + width)
        first += width
    kind = "species" if "species" in columns else "Z"
    if kind not in columns or "pos" not in columns:
        raise ValueError("Properties must name species (or Z) and pos")
    rows = [line.split() for line in lines]
    short = next((row for row in rows if len(row) < first), None)
    if short is not None:
        raise ValueError(f"an atom line has {len(short)} values instead of {first}")

    def values(*names: str) -> np.ndarray | None:
        """Of the first column that there is, shape (natoms, width)."""
        found = next((columns[name] for name in names if name in columns), None)
        return None if found is None else np.asarray([row[found] for row in rows], dtype=float)

    numbers = _species([row[columns[kind].start] for row in rows], is_number=kind == "Z")
    moments, forces = values(*MOMENTS), values(*FORCES)
    if moments is not None and moments.shape[1] == 1:
        moments = moments[:, 0]
    atoms = Atoms(numbers, values("pos"), magmoms=moments)
    if "Lattice" in info:
        cell = np.asarray(info["Lattice"].split(), dtype=float)
        if cell.size not in (3, 9):
            raise ValueError(f"Lattice holds {cell.size} numbers instead of 9")
        atoms.set_cell(cell.reshape(3, 3) if cell.size == 9 else cell)
        atoms.set_pbc(_periodic(info.get("pbc", "T T T")))
    if forces is not None:
        if forces.shape[1] != 3:
            raise ValueError(f"forces have {forces.shape[1]} components instead of 3")
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
    return atoms


def _periodic(text: str) -> list[bool]:
    words = [word.strip("[],.\"'").lower() for word in text.split()]
    if len(words) != 3 or not set(words) <= set(FLAG):
        raise ValueError(f"pbc is {text!r} instead of three of T and F")
    return [FLAG[word] for word in words]


@dataclass(frozen=True)
class Part:
    """Frames that follow one another: ``start`` and ``stop`` in bytes, and how much lies before them."""

    start: int = 0
    stop: int | None = None
    frames: int = 0
    frames_before: int = 0
    lines_before: int = 0


def parts(path: Path, size: int) -> Iterator[Part]:
    """Cut a file that is not compressed into parts of ``size`` frames, without keeping it in memory.

    What cannot be followed any further, for want of a number of atoms, all belongs to the last part.
    """
    start = stop = frames = frames_before = lines = lines_before = 0
    with open(path, "rb") as file:
        while head := file.readline():
            try:
                natoms = int(head.decode("utf-8-sig", "replace"))
            except ValueError:
                natoms = 0
            if natoms < 1:
                if frames or head.strip() or any(line.strip() for line in file):
                    yield Part(start, None, max(frames, 1), frames_before, lines_before)
                return
            stop += len(head) + sum(map(len, islice(file, natoms + 1)))
            frames += 1
            lines += natoms + 2
            if frames == size:
                yield Part(start, stop, frames, frames_before, lines_before)
                start, frames, frames_before, lines_before = stop, 0, frames_before + frames, lines
    if frames:
        yield Part(start, stop, frames, frames_before, lines_before)


def read_extxyz(path: Path, skipped: list[Skipped] | None = None, part: Part | None = None) -> Dataset:
    """Read all frames, or a part of them; the values on the comment lines become labels and columns.

    Bad frames are an error, or put on the list ``skipped``.
    """
    part = part or Part()
    # Not splitlines, which also cuts at characters that may stand in a comment.
    lines = read_text(path, part.start, part.stop).replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    structures: list[Atoms] = []
    infos: list[dict[str, str]] = []
    ids: list[str] = []
    own, texts, naming = False, set[str](), set[str]()
    row, frame = 0, part.frames_before
    while row < len(lines):
        name = f"{stem(path)}-{frame}"
        frame += 1
        where = f"{path}: frame {frame} (line {part.lines_before + row + 1})"
        try:
            natoms = int(lines[row])
        except ValueError:
            refuse(
                path,
                f"{name} and all that follow",
                f"{where}: expected a number of atoms, found {lines[row][:40]!r}. Is this an extended "
                "XYZ file?",
                skipped,
            )
            break
        body = lines[row + 2 : row + 2 + natoms]
        if natoms < 1 or len(body) < natoms:
            refuse(
                path,
                f"{name} and all that follow",
                f"{where}: promises {natoms} atoms but {len(body)} lines follow. The file is "
                "truncated; copy it again.",
                skipped,
            )
            break
        pairs = [(_unquote(key), value) for key, value in _PAIR.findall(lines[row + 1])]
        info = {key: _unquote(value) for key, value in pairs}
        own = own or SPECS_KEY in info
        texts |= {key for key, value in pairs if _is_text(value, own)}
        named = next((key for key in ID_KEYS if key in info), None)
        if named:
            name = info[named]
            naming.add(named)
        row += 2 + natoms
        try:
            structures.append(_frame(body, info))
        except ValueError as error:
            refuse(path, name, f"{where}: {error}. Correct or remove this frame.", skipped)
            continue
        infos.append(info)
        ids.append(name)

    keys = dict.fromkeys(
        key for info in infos for key in info if key not in STRUCTURAL | {SPECS_KEY, *naming}
    )
    fields = {
        key: typed([info.get(key) for info in infos], text=key in texts)
        for key in keys
        if key in texts or all(_is_scalar(info[key]) for info in infos if key in info)
    }
    stated = infos[0].get(SPECS_KEY) if infos else None
    specs = {name: Label(**meaning) for name, meaning in json.loads(stated or "{}").items()}
    labels, columns = labels_and_columns(fields, specs if stated else None)
    return Dataset.from_atoms(structures, ids, labels, specs, columns, source=str(path))
