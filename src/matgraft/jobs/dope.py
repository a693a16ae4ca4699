"""Files of doped and defective supercells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matgraft.data import Dataset
from matgraft.data.writers import write
from matgraft.errors import InputError
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import not_over
from matgraft.screening.dope import doped, pristine

NOTHING = "-"
"""Stands for no element. A blank would do, but a text file gives a column of nothing but blanks and ``F``, or
``Na``, back as truth values, or as nothing at all."""
SHOWN = 40
"""Rows of a table for the screen; the file has them all."""


@dataclass(frozen=True)
class Written:
    """Numbers of pristine and of doped cells, what they are, and their file."""

    n_pristine: int
    n_doped: int
    table: Table
    out: Path


def dope(
    data: str | Path | Sequence[str | Path] | Dataset,
    out: str | Path,
    *,
    substitute: Mapping[str, Sequence[str]] | None = None,
    vacancies: Sequence[str] = (),
    supercell: Sequence[int] = (1, 1, 1),
) -> Written:
    """Write the pristine supercell of each structure and, behind it, its single substitutions and vacancies.

    In the file they are called ``<id>/pristine``, ``<id>/Fe_Ti(1)`` and so on. Its columns are ``pristine``
    (id of the pristine cell, blank for that cell itself), ``removed`` and ``added`` (elements, or ``-``),
    ``site`` and ``multiplicity`` (NaN for the pristine cell) and ``wyckoff``; their meaning is that of
    :class:`matgraft.screening.dope.Doped`. Labels stay behind, for they belong to other cells.

    Parameters
    ----------
    data : path, sequence of paths, or Dataset
        Whatever :meth:`Dataset.read` takes. Of several structures, each gets what concerns its elements.
    out : path
        ``.extxyz``, ``.db`` or a folder; what is there is replaced, unless it is an input.
    substitute : mapping of str to sequence of str, optional
    vacancies : sequence of str
    supercell : sequence of int, length 3

    Raises
    ------
    InputError
        If an element that was asked for is in no structure, a structure has none of them, or
        :func:`matgraft.screening.dope.doped` refuses.
    """
    out = not_over(out, data)
    dataset = data if isinstance(data, Dataset) else Dataset.read(data)
    source, substitute = dataset.source or "dataset", substitute or {}
    elements = [system.split("-") for system in dataset.chemical_systems.tolist()]
    known = set().union(*elements)
    wanted = list(dict.fromkeys([*substitute, *vacancies]))
    if absent := [symbol for symbol in wanted if symbol not in known]:
        raise InputError(
            f"{source}: no {', '.join(absent)} in any structure that could be taken away; there is "
            f"{', '.join(sorted(known))}."
        )
    cells, ids, rows = [], [], []
    for parent, own, atoms in zip(dataset.ids.tolist(), elements, dataset, strict=True):
        name = f"{source}: structure {parent}"
        if wanted and not set(wanted) & set(own):
            raise InputError(
                f"{name} has no {' or '.join(wanted)}, only {', '.join(own)}. Ask for one of these too, or "
                "leave the structure out."
            )
        changed = doped(
            atoms,
            supercell,
            {removed: added for removed, added in substitute.items() if removed in own},
            [removed for removed in vacancies if removed in own],
            name,
        )
        cells += [pristine(atoms, supercell, name), *(one.atoms for one in changed)]
        ids += [f"{parent}/pristine", *(f"{parent}/{one.name}" for one in changed)]
        rows.append(("", NOTHING, NOTHING, np.nan, np.nan, NOTHING))
        rows += [
            (f"{parent}/pristine", one.removed, one.added or NOTHING, one.site, one.multiplicity, one.wyckoff)
            for one in changed
        ]
    names = ("pristine", "removed", "added", "site", "multiplicity", "wyckoff")
    columns = dict(zip(names, map(np.asarray, zip(*rows, strict=True)), strict=True))
    write(Dataset.from_atoms(cells, ids, columns=columns), out)
    table = [
        (name, *(None if value != value else value for value in row[1:]), len(cell))
        for name, row, cell in zip(ids, rows, cells, strict=True)
    ]
    return Written(
        n_pristine=len(dataset),
        n_doped=len(cells) - len(dataset),
        table=shown(("id", *names[1:], "atoms"), table, out),
        out=out,
    )


def shown(columns: Sequence[str], rows: Sequence[Sequence], out: str | Path, caption: str = "") -> Table:
    """A table of the first rows, which says how many more are in the file."""
    more = f"{len(rows) - SHOWN} more in {out}" if len(rows) > SHOWN else ""
    return Table(columns, rows[:SHOWN], caption="; ".join(filter(None, (more, caption))))
