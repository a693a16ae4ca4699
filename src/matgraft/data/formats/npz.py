"""Flat arrays in one ``.npz`` file: ids, ``natoms``, ``numbers``, ``frac``, ``lattice`` and labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.common import ID_KEYS, Skipped, labels_and_columns, refuse, stem
from matgraft.errors import InputError

REQUIRED = ("natoms", "numbers", "frac", "lattice")

# Reduced formulas follow from the species, in a spelling of their own.
REDUNDANT = frozenset({*ID_KEYS, "formula"})


def read_npz(path: Path, specs: Mapping[str, Label] | None = None) -> Dataset:
    """Read structures and labels; ``specs`` says what labels mean where that is known.

    Float arrays with one value per structure become labels, other arrays with one value per structure
    columns; of other arrays with one row per atom, ``forces`` (N, 3) are kept.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    _check(path, arrays)
    n = len(arrays["natoms"])
    fields = {
        name: values
        for name, values in arrays.items()
        if name not in REDUNDANT and name not in REQUIRED and values.shape == (n,)
    }
    labels, columns = labels_and_columns(fields)
    forces = arrays.get("forces")
    return replace(
        _structures(path, arrays),
        forces=None if forces is None or forces.shape != arrays["frac"].shape else forces.astype(float),
        labels=labels,
        specs={name: (specs or {}).get(name, Label.guess(name)) for name in labels},
        columns=columns,
    )


def unpack(path: Path, folder: Path) -> np.ndarray:
    """Lay the arrays of ids and structures into a folder, for :func:`read_rows`, whatever their size.

    Returns
    -------
    ndarray of int64, shape (n + 1,)
        Where the atoms of each structure begin.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.removesuffix(".npy") in {*REQUIRED, *ID_KEYS}:
                archive.extract(name, folder)
    arrays = _mapped(folder)
    _check(path, arrays)
    return np.concatenate([[0], np.cumsum(arrays["natoms"], dtype=np.int64)])


def read_rows(path: Path, folder: Path, rows: slice, atoms: slice, skipped: list[Skipped]) -> Dataset:
    """Read the structures ``rows``, which own ``atoms``, of what :func:`unpack` made of a file."""
    cut = {
        name: array[atoms if name in ("numbers", "frac") else rows] for name, array in _mapped(folder).items()
    }
    return _structures(path, cut, rows.start, skipped)


def _mapped(folder: Path) -> dict[str, np.ndarray]:
    return {
        file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(folder.glob("*.npy"))
    }


def _check(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    lacking = [name for name in REQUIRED if name not in arrays]
    if lacking:
        raise InputError(
            f"{path}: no array {', '.join(lacking)}. A data set in .npz needs {', '.join(REQUIRED)} "
            "and an id."
        )
    numbers, frac, lattice = (arrays[name].shape for name in ("numbers", "frac", "lattice"))
    n, total = len(arrays["natoms"]), int(arrays["natoms"].sum(dtype=np.int64))
    if numbers != (total,) or frac != (total, 3) or lattice != (n, 3, 3):
        raise InputError(
            f"{path}: natoms adds up to {total} atoms in {n} structures, but numbers has "
            f"{numbers[0]}, frac {frac} and lattice {lattice}. The arrays belong to different sets."
        )


def _structures(
    path: Path, arrays: Mapping[str, np.ndarray], first: int = 0, skipped: list[Skipped] | None = None
) -> Dataset:
    """Structures without labels; ``first`` is the place of the first in the file."""
    natoms, numbers = arrays["natoms"].astype(np.int64), arrays["numbers"]
    owner = np.repeat(np.arange(len(natoms)), natoms)
    ids = next((arrays[key].astype(str) for key in ID_KEYS if key in arrays), None)
    if ids is None:
        ids = np.asarray([f"{stem(path)}-{first + i}" for i in range(len(natoms))], dtype=str)
    unknown = (numbers < 0) | (numbers > 118)
    bad, where = np.unique(owner[unknown], return_index=True)
    for i, number in zip(bad, numbers[unknown][where], strict=True):
        problem = f"{path}: structure {ids[i]}: unknown species, atomic number {number}."
        refuse(path, str(ids[i]), problem, skipped)
    cells = arrays["lattice"].astype(np.float64)
    dataset = Dataset(
        ids=ids,
        natoms=natoms,
        numbers=numbers.astype(np.uint8),
        positions=np.einsum("ni,nij->nj", arrays["frac"].astype(np.float64), cells[owner]),
        cells=cells,
        pbc=np.ones((len(natoms), 3), dtype=bool),
        source=str(path),
    )
    return dataset[np.setdiff1d(np.arange(len(natoms)), bad)] if len(bad) else dataset
