"""Crystals and their labels as flat arrays."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

from matgraft.errors import InputError
from matgraft.whole import whole

log = logging.getLogger(__name__)

LabelKind = Literal["cell", "atom", "intensive"]

_ENERGY = {"energy", "enthalpy"}
_UNITS = {
    "mev": "meV", "ha": "Ha", "hartree": "Ha", "ry": "Ry", "rydberg": "Ry", "kj": "kJ/mol",
    "kcal": "kcal/mol", "j": "J",
}  # fmt: skip
_PER_ATOM = re.compile(r"(?:per[\s_-]*|/\s*|energy_|ev_)atoms?(?![a-z])")
_TOTAL = {"e", "f", "etot", "toten", *_ENERGY}
_HOW = {"tot", "total", "dft", "ref", "pbe", "per", "cell", "ev", "mol", *_UNITS}
_PUBLISHED_PER_ATOM = {"formation", "hull", "cohesive", "atomization"}
_SHORT_PER_ATOM = {"e_form", "e_hull", "e_above_hull", "ehull"}
_NOT_OF_THE_CELL = {
    "fermi", "surface", "interface", "adsorption", "binding", "exfoliation", "migration", "activation",
    "ionization", "vacancy", "interstitial", "defect", "band", "density", "unit", "fu", "formula",
}  # fmt: skip

_ARRAYS = ("ids", "natoms", "numbers", "positions", "cells", "pbc")
_OF_ATOMS: dict[str, tuple[tuple[int, ...], float]] = {"moments": ((), 0.0), "forces": ((3,), np.nan)}
"""Values per atom that a data set may have: their shape, and what stands where a structure has none."""


@dataclass(frozen=True)
class Label:
    """What a column of labels means.

    Attributes
    ----------
    name : str
        Column name, for instance ``energy``.
    unit : str
        Unit of the value, for instance ``eV``, ``eV/atom`` or ``GPa``.
    kind : {"cell", "atom", "intensive"}
        Whether the value belongs to the whole cell (grows with its size), is already divided by the
        number of atoms, or does not depend on the amount of matter at all (a band gap).
    level_of_theory, origin : str
        Free text: functional or experiment, and where the values come from.
    """

    name: str
    unit: str = "eV"
    kind: LabelKind = "cell"
    level_of_theory: str = ""
    origin: str = ""

    @classmethod
    def guess(cls, name: str) -> Label:
        """The meaning that a column's name suggests.

        Energies are per cell unless they say otherwise; formation energies and those above the hull are per
        atom, as they are published.
        """
        lower = name.lower()
        words = set(re.split(r"[^a-z0-9]+", lower))
        energy = bool(words & _ENERGY) or lower.startswith("e_")
        stated = next((unit for word, unit in {**_UNITS, "ev": "eV"}.items() if word in words), None)
        unit = stated or "eV"
        if _PER_ATOM.search(lower):
            return cls(name, unit=f"{unit}/atom" if energy or stated else "", kind="atom")
        if energy and "per_cell" in lower:
            return cls(name, unit)
        if "gap" in lower:
            return cls(name, unit, kind="intensive")
        published = words & _ENERGY and words & _PUBLISHED_PER_ATOM and not words & _NOT_OF_THE_CELL
        if published or lower in _SHORT_PER_ATOM:
            return cls(name, unit=f"{unit}/atom", kind="atom")
        if (words & _TOTAL and words <= _TOTAL | _HOW) or (words & _ENERGY and not words & _NOT_OF_THE_CELL):
            return cls(name, unit)
        return cls(name, unit="", kind="intensive")

    @property
    def meaning(self) -> str:
        """Kind and unit in words."""
        kind = "independent of size" if self.kind == "intensive" else f"per {self.kind}"
        return f"{kind} ({self.unit or 'no unit'})"

    @property
    def other_energy_unit(self) -> str | None:
        """The unit of an energy that is not in eV, as the sources' are."""
        unit = self.unit.removesuffix("/atom")
        return unit if unit in _UNITS.values() else None

    @property
    def is_energy(self) -> bool:
        """Whether it is an energy that grows with the amount of matter, in eV or eV/atom: no band gap."""
        return self.kind != "intensive" and self.unit in ("eV", "eV/atom")

    @property
    def per_atom_unit(self) -> str:
        """Unit of values on the per-atom scale; see :meth:`to_per_atom`."""
        return f"{self.unit}/atom" if self.kind == "cell" else self.unit

    def to_per_atom(self, values: np.ndarray, natoms: np.ndarray) -> np.ndarray:
        """Values on the scale a mean-pooling network works on: divided by ``natoms`` if per cell."""
        return values / natoms if self.kind == "cell" else np.asarray(values, dtype=float)

    def from_per_atom(self, values: np.ndarray, natoms: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_per_atom`."""
        return values * natoms if self.kind == "cell" else np.asarray(values, dtype=float)


def _is_numeric(column: np.ndarray) -> bool:
    if column.dtype.kind == "U":
        try:
            column.astype(float)
        except ValueError:
            return False
    return column.dtype.kind in "iufU"


@dataclass(frozen=True)
class Dataset:
    """Structures and labels as flat arrays.

    Structure ``i`` owns rows ``offsets[i]:offsets[i + 1]`` of ``numbers`` and ``positions``.

    Attributes
    ----------
    ids : ndarray of str, shape (n,)
    natoms : ndarray of int64, shape (n,)
    numbers : ndarray of uint8, shape (N,)
        Atomic numbers of all structures, concatenated.
    positions : ndarray of float64, shape (N, 3)
        Cartesian coordinates in Angstrom.
    cells : ndarray of float64, shape (n, 3, 3)
        Rows are the lattice vectors in Angstrom; zero where there is no periodicity.
    pbc : ndarray of bool, shape (n, 3)
    labels : dict of str to ndarray of float64, shape (n,)
        NaN where a structure has no value.
    specs : dict of str to Label
        What each label means.
    columns : dict of str to ndarray, shape (n,)
        Anything else that is known per structure (groups, flags, provenance).
    source : str
        Where the structures were read from; used in messages only.
    moments : ndarray of float64, shape (N,), optional
        Magnetic moments that a calculation is to start from, in Bohr magnetons; None if no structure has any.
    forces : ndarray of float64, shape (N, 3), optional
        In eV/Angstrom, NaN for a structure without; None if no structure has any.
    """

    ids: np.ndarray
    natoms: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    specs: dict[str, Label] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    source: str = ""
    moments: np.ndarray | None = None
    forces: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, total = len(self.ids), int(self.natoms.sum())
        shapes = {
            "natoms": (n,),
            "numbers": (total,),
            "positions": (total, 3),
            "cells": (n, 3, 3),
            "pbc": (n, 3),
            **{name: (total, *_OF_ATOMS[name][0]) for name in self._of_atoms},
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(
                    f"{self.source or 'dataset'}: {name} has shape {getattr(self, name).shape}, "
                    f"expected {shape}."
                )
        for name, values in {**self.labels, **self.columns}.items():
            if len(values) != n:
                raise InputError(
                    f"{self.source or 'dataset'}: {name} has {len(values)} values for {n} structures."
                )

    # ---------------------------------------------------------------- building

    @classmethod
    def from_atoms(
        cls,
        structures: Iterable[Atoms],
        ids: Sequence[str] | None = None,
        labels: Mapping[str, ArrayLike] | None = None,
        specs: Mapping[str, Label] | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        source: str = "",
    ) -> Dataset:
        """Gather ASE structures; ids default to ``0, 1, 2 ...``, label meanings to :meth:`Label.guess`.

        Initial magnetic moments are kept, unless they have a direction, and so are the forces that a
        calculator holds.
        """
        structures = list(structures)
        ids = [str(i) for i in (ids if ids is not None else range(len(structures)))]
        values = {name: np.asarray(column, dtype=np.float64) for name, column in (labels or {}).items()}
        return cls(
            ids=np.asarray(ids, dtype=str),
            natoms=np.asarray([len(atoms) for atoms in structures], dtype=np.int64),
            numbers=_numbers(structures, ids, source),
            positions=np.concatenate([a.positions for a in structures] or [np.zeros((0, 3))]).astype(float),
            cells=np.asarray([a.cell.array for a in structures], dtype=float).reshape(-1, 3, 3),
            pbc=np.asarray([a.pbc for a in structures], dtype=bool).reshape(-1, 3),
            labels=values,
            specs={name: (specs or {}).get(name, Label.guess(name)) for name in values},
            columns={name: np.asarray(column) for name, column in (columns or {}).items()},
            source=source,
            moments=_moments(structures, ids, source),
            forces=_forces(structures),
        )

    @classmethod
    def read(cls, path: str | Path | Sequence[str | Path], target: str | None = None, **options) -> Dataset:
        """Read structures and labels from files; see :func:`matgraft.data.readers.read`."""
        from matgraft.data.readers import read

        return read(path, target=target, **options)

    @staticmethod
    def concatenate(parts: Sequence[Dataset]) -> Dataset:
        """Put data sets behind one another; a label or column missing in one part is NaN (or empty) there.

        Whole numbers, a column by themselves, join the label of that name in another part.
        """
        if not parts:
            raise InputError("nothing to concatenate.")
        named = {name for part in parts for name in part.labels}
        parts = [part.with_columns_as_labels(named) for part in parts]
        specs: dict[str, Label] = {}
        for part in parts:
            for name, spec in part.specs.items():
                known = specs.setdefault(name, spec)
                if (known.unit, known.kind) != (spec.unit, spec.kind):
                    raise InputError(
                        f"label {name!r} is {known.meaning} in {parts[0].source or 'one part'} but "
                        f"{spec.meaning} in {part.source or 'another'}; convert one of them."
                    )
                if known.level_of_theory and spec.level_of_theory not in ("", known.level_of_theory):
                    raise InputError(
                        f"label {name!r} is by {known.level_of_theory} in {parts[0].source or 'one part'} "
                        f"but by {spec.level_of_theory} in {part.source or 'another'}; rename one of them."
                    )
        columns = {}
        for name in dict.fromkeys(name for part in parts for name in part.columns):
            like = next(part.columns[name] for part in parts if name in part.columns)
            blank = np.nan if like.dtype.kind in "fiub" else ""
            columns[name] = np.concatenate(
                [part.columns.get(name, np.full(len(part), blank)) for part in parts]
            )
        return Dataset(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
            labels={
                name: np.concatenate([part.labels.get(name, np.full(len(part), np.nan)) for part in parts])
                for name in specs
            },
            specs=specs,
            columns=columns,
            source=", ".join(dict.fromkeys(part.source for part in parts if part.source)),
            **{
                name: np.concatenate(
                    [p._of_atoms.get(name, np.full((len(p.numbers), *shape), blank)) for p in parts]
                )
                for name, (shape, blank) in _OF_ATOMS.items()
                if any(name in part._of_atoms for part in parts)
            },
        )

    def with_columns_as_labels(self, names: set[str]) -> Dataset:
        """The data set with those columns of numbers, be they text, that are among ``names`` as labels."""
        found = [name for name, v in self.columns.items() if name in names and _is_numeric(v)]
        if not found:
            return self
        return replace(
            self,
            labels={**self.labels, **{name: self.columns[name].astype(float) for name in found}},
            specs={**self.specs, **{name: Label.guess(name) for name in found}},
            columns={name: values for name, values in self.columns.items() if name not in found},
        )

    # ----------------------------------------------------------------- reading

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Start row of each structure, and the end of the last; shape (n + 1,)."""
        offsets = np.zeros(len(self.natoms) + 1, dtype=np.int64)
        np.cumsum(self.natoms, out=offsets[1:])
        return offsets

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Dataset:
        """The structures that a slice, an integer array or a boolean mask selects, in that order."""
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            rows = rows[None]
        offsets = self.offsets
        atoms = np.concatenate(
            [np.arange(offsets[i], offsets[i + 1]) for i in rows] or [np.zeros(0, dtype=np.int64)]
        )
        return replace(
            self,
            ids=self.ids[rows],
            natoms=self.natoms[rows],
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            cells=self.cells[rows],
            pbc=self.pbc[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
            columns={name: values[rows] for name, values in self.columns.items()},
            **{name: values[atoms] for name, values in self._of_atoms.items()},
        )

    @property
    def _of_atoms(self) -> dict[str, np.ndarray]:
        """Those of the optional values per atom that there are."""
        return {name: values for name in _OF_ATOMS if (values := getattr(self, name)) is not None}

    @property
    def has_forces(self) -> np.ndarray:
        """Whether the forces on all atoms of a structure are known, shape (n,)."""
        if self.forces is None or not len(self):
            return np.zeros(len(self), dtype=bool)
        return np.logical_and.reduceat(np.isfinite(self.forces).all(axis=1), self.offsets[:-1])

    def atoms(self, i: int) -> Atoms:
        """Structure ``i`` as an ASE object."""
        rows = slice(*self.offsets[[i, i + 1]])
        moments = None if self.moments is None or not self.moments[rows].any() else self.moments[rows]
        return Atoms(
            self.numbers[rows], self.positions[rows], cell=self.cells[i], pbc=self.pbc[i], magmoms=moments
        )

    def __iter__(self) -> Iterator[Atoms]:
        return (self.atoms(i) for i in range(len(self)))

    def values(self, target: str) -> np.ndarray:
        """Label values, shape (n,), or an error that lists the labels that exist."""
        if target not in self.labels:
            have = ", ".join(sorted(self.labels)) or "none at all"
            raise InputError(
                f"{self.source or 'dataset'}: no label named {target!r}. Labels here: {have}. "
                "Name one of them with --target."
            )
        return self.labels[target]

    @property
    def formulas(self) -> np.ndarray:
        """Reduced formulas with elements in alphabetical order, shape (n,)."""
        counts = self.composition()
        divisor = np.gcd.reduce(counts, axis=1)
        reduced = counts // np.maximum(divisor, 1)[:, None]
        order = sorted(range(counts.shape[1]), key=lambda z: chemical_symbols[z])
        return np.asarray(
            [
                "".join(f"{chemical_symbols[z]}{row[z] if row[z] > 1 else ''}" for z in order if row[z])
                for row in reduced
            ]
        )

    @property
    def chemical_systems(self) -> np.ndarray:
        """Elements present, joined by dashes (``Fe-O``), shape (n,)."""
        present = self.composition() > 0
        return np.asarray(
            ["-".join(sorted(chemical_symbols[z] for z in np.flatnonzero(row))) for row in present]
        )

    def composition(self) -> np.ndarray:
        """Number of atoms of each element, shape (n, 119), indexed by atomic number."""
        counts = np.zeros((len(self), len(chemical_symbols)), dtype=np.int64)
        np.add.at(counts, (np.repeat(np.arange(len(self)), self.natoms), self.numbers), 1)
        return counts

    # ------------------------------------------------------------------ keeping

    def with_label(self, name: str, values: np.ndarray, spec: Label | None = None) -> Dataset:
        """A copy that carries one more label."""
        return replace(
            self,
            labels={**self.labels, name: np.asarray(values, dtype=np.float64)},
            specs={**self.specs, name: spec or Label.guess(name)},
        )

    def content_hash(self, *targets: str, forces: bool = False) -> str:
        """SHA-256 of structures, named labels and, if asked for, forces: equal data, equal hash, whatever the
        file format."""
        digest = hashlib.sha256()
        for name in ("natoms", "numbers", "positions", "cells", "pbc"):
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        for target in targets:
            digest.update(json.dumps(asdict(self.specs[target]), sort_keys=True).encode())
            digest.update(np.ascontiguousarray(self.values(target)).tobytes())
        if forces and self.forces is not None:
            digest.update(np.ascontiguousarray(self.forces).tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write a folder of ``.npy`` arrays that :meth:`load` maps into memory instead of reading."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name) for name in _ARRAYS} | self._of_atoms
        for kind in ("labels", "columns"):
            for name, values in getattr(self, kind).items():
                arrays[f"{kind}.{quote(name, safe='')}"] = values
        for name, values in arrays.items():
            # What is there may be mapped into memory, by this very data set.
            with whole(folder / f"{name}.npy") as partial:
                np.save(partial, values)
        meta = {
            "format": "matgraft-dataset",
            "version": 1,
            "labels": {name: asdict(spec) for name, spec in self.specs.items()},
            "columns": list(self.columns),
            "source": self.source,
            "per_atom": list(self._of_atoms),
        }
        (folder / "dataset.json").write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Open what :meth:`save` wrote; arrays are memory-mapped."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / "dataset.json").read_text())

            def array(name: str) -> np.ndarray:
                return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

            # Folders of before say of moments alone whether there are any.
            of_atoms = meta.get("per_atom", ["moments"] if meta.get("moments") else [])
            return cls(
                **{name: array(name) for name in (*_ARRAYS, *of_atoms)},
                labels={name: array(f"labels.{quote(name, safe='')}") for name in meta["labels"]},
                specs={name: Label(**spec) for name, spec in meta["labels"].items()},
                columns={name: array(f"columns.{quote(name, safe='')}") for name in meta["columns"]},
                source=str(folder),
            )
        except (OSError, KeyError, TypeError, EOFError, ValueError) as error:
            raise InputError(f"{folder}: not a readable matgraft data set folder ({error}).") from error


def _numbers(structures: Sequence[Atoms], ids: Sequence[str], source: str) -> np.ndarray:
    """Atomic numbers; one byte holds those that there are, and would make others of what there is not."""
    numbers = np.concatenate([atoms.numbers for atoms in structures] or [[]])
    if (odd := np.flatnonzero((numbers < 0) | (numbers >= len(chemical_symbols)))).size:
        ends = np.cumsum([len(atoms) for atoms in structures])
        raise InputError(
            f"{source or 'dataset'}: structure {ids[np.searchsorted(ends, odd[0], side='right')]}: unknown "
            f"species (atomic number {numbers[odd[0]]:.0f}). Replace it by an element."
        )
    return numbers.astype(np.uint8)


def _moments(structures: Sequence[Atoms], ids: Sequence[str], source: str) -> np.ndarray | None:
    """Initial magnetic moments of all atoms, or None if there are none but zeros."""
    moments = [atoms.get_initial_magnetic_moments() for atoms in structures]
    directed = [k for k, values in enumerate(moments) if values.ndim > 1]
    if directed:
        log.warning(
            "%s: magnetic moments of %d structures, first %s, have a direction and are left out; give each "
            "atom one number, with a sign for up and down",
            source or "dataset", len(directed), ids[directed[0]],
        )  # fmt: skip
        for k in directed:
            moments[k] = np.zeros(len(structures[k]))
    joined = np.concatenate([*moments, np.zeros(0)])
    return joined if joined.any() else None


def _forces(structures: Sequence[Atoms]) -> np.ndarray | None:
    """Forces that calculators hold, those on fixed atoms too, or None if there are none."""

    def held(atoms: Atoms) -> np.ndarray | None:
        known = "forces" in getattr(atoms.calc, "results", {})
        return atoms.calc.get_property("forces", atoms, allow_calculation=False) if known else None

    found = [held(atoms) for atoms in structures]
    if all(forces is None for forces in found):
        return None
    return np.concatenate(
        [
            np.full((len(atoms), 3), np.nan) if forces is None else np.asarray(forces, dtype=float)
            for atoms, forces in zip(structures, found, strict=True)
        ]
    )
