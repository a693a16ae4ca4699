"""Flat arrays in one ``.npz`` file: ids, ``natoms``, ``numbers``, ``frac``, ``lattice`` and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from matgraft.data.dataset import Dataset, Label
from matgraft.data.formats.common import ID_KEYS, labels_and_columns, stem
from matgraft.errors import InputError

REQUIRED = ("natoms", "numbers", "frac", "lattice")

# Reduced formulas follow from the species, in a spelling of their own.
REDUNDANT = frozenset({*ID_KEYS, "formula"})


def read_npz(path: Path, specs: Mapping[str, Label] | None = None) -> Dataset:
    """Read structures and labels; ``specs`` says what labels mean where that is known.

    Float arrays with one value per structure become labels, other arrays with one value per structure
    columns. Arrays with one row per atom other than the structure itself (forces) are left aside.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    lacking = [name for name in REQUIRED if name not in arrays]
    if lacking:
        raise InputError(
            f"{path}: no array {', '.join(lacking)}. A data set in .npz needs {', '.join(REQUIRED)} "
            "and an id."
        )
    natoms = arrays["natoms"].astype(np.int64)
    numbers = arrays["numbers"]
    n, total = len(natoms), int(natoms.sum())
    if len(numbers) != total or arrays["frac"].shape != (total, 3) or arrays["lattice"].shape != (n, 3, 3):
        raise InputError(
            f"{path}: natoms adds up to {total} atoms in {n} structures, but numbers has "
            f"{len(numbers)}, frac {arrays['frac'].shape} and lattice {arrays['lattice'].shape}. "
            "The arrays belong to different sets."
        )
    owner = np.repeat(np.arange(n), natoms)
    ids = next((arrays[key].astype(str) for key in ID_KEYS if key in arrays), None)
    if ids is None:
        ids = np.asarray([f"{stem(path)}-{i}" for i in range(n)])
    if total and not 0 <= numbers.min() <= numbers.max() <= 118:
        wrong = int(np.argmax((numbers < 0) | (numbers > 118)))
        raise InputError(
            f"{path}: structure {ids[owner[wrong]]}: unknown species, atomic number {numbers[wrong]}."
        )
    cells = arrays["lattice"].astype(np.float64)
    positions = np.einsum("ni,nij->nj", arrays["frac"].astype(np.float64), cells[owner])
    fields = {
        name: values
        for name, values in arrays.items()
        if name not in REDUNDANT and name not in REQUIRED and values.shape == (n,)
    }
    labels, columns = labels_and_columns(fields)
    return Dataset(
        ids=ids,
        natoms=natoms,
        numbers=numbers.astype(np.uint8),
        positions=positions,
        cells=cells,
        pbc=np.ones((n, 3), dtype=bool),
        labels=labels,
        specs={name: (specs or {}).get(name, Label.guess(name)) for name in labels},
        columns=columns,
        source=str(path),
    )
