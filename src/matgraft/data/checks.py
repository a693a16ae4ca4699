"""What must hold before a data set is worth training on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase.cell import Cell
from ase.data import chemical_symbols

from matgraft.data.dataset import Dataset, Label
from matgraft.errors import InputError

# Angstrom. X-ray refinement puts hydrogen as near as 0.47 to oxygen and nitrogen in accepted structures.
CLOSEST = 0.5
CLOSEST_HYDROGEN = 0.4

# Angstrom; a crystal has no cell thinner than an atom.
THINNEST = 0.1

# How many times worse the stated kind of an energy must fit the compositions than the other kind.
KIND_RATIO = 3.0
KIND_MIN_STRUCTURES = 20
KIND_MIN_SPREAD = 0.3
KIND_SAMPLE = 1000
# Share of the values at either end that may be of another kind, as by a wrong unit.
_TAIL = 0.1


def list_ids(ids: Sequence[str] | np.ndarray, shown: int = 5) -> str:
    """The first few ids, and how many more there are."""
    more = len(ids) - shown
    return ", ".join(str(name) for name in ids[:shown]) + (f" and {more} more" if more > 0 else "")


def _where(ds: Dataset, bad: np.ndarray) -> str:
    names = ds.ids[np.asarray(bad)]
    return f"{ds.source or 'dataset'}: structure{'s' if len(names) > 1 else ''} {list_ids(names)}"


def check_structures(ds: Dataset) -> None:
    """Raise an error for structures that no network can be trained on.

    Parameters
    ----------
    ds : Dataset

    Raises
    ------
    InputError
        If the set or a structure is empty, ids repeat, a species is unknown, a coordinate or cell is not
        finite, a periodic direction has no extent, or atoms (periodic images included) are closer than
        0.5 Angstrom (0.4 if one is hydrogen).
    """
    if not len(ds):
        raise InputError(f"{ds.source or 'dataset'}: no structures in it.")
    check_numbers(ds, "Export the structure again or remove it.")
    check_ids(ds)
    owner = np.repeat(np.arange(len(ds)), ds.natoms)
    unknown = (ds.numbers < 1) | (ds.numbers >= len(chemical_symbols))
    if unknown.any():
        raise InputError(
            f"{_where(ds, np.unique(owner[unknown]))}: unknown species (atomic number "
            f"{ds.numbers[unknown][0]}). Replace it by an element."
        )
    cells, heights = _complete(ds)
    flat = (heights < THINNEST).any(axis=1)
    if flat.any():
        raise InputError(
            f"{_where(ds, np.flatnonzero(flat))}: singular cell (lattice vectors of zero length, or in "
            "one plane). Correct the lattice, or mark the direction as not periodic."
        )
    _check_distances(ds, cells, heights)


def check_numbers(
    ds: Dataset, remedy: str = "Correct it; in molecular dynamics, use a shorter time step."
) -> None:
    """Raise an InputError for structures without atoms, and for coordinates or cells that are not finite."""
    if (empty := np.flatnonzero(ds.natoms < 1)).size:
        raise InputError(f"{_where(ds, empty)}: no atoms. Remove what is empty.")
    finite = np.isfinite(ds.cells).all(axis=(1, 2))
    owner = np.repeat(np.arange(len(ds)), ds.natoms)
    finite[owner[~np.isfinite(ds.positions).all(axis=1)]] = False
    if not finite.all():
        raise InputError(
            f"{_where(ds, np.flatnonzero(~finite))}: a coordinate or lattice vector is NaN or infinite. "
            f"{remedy}"
        )


def check_ids(ds: Dataset) -> None:
    """Raise an InputError for ids that repeat."""
    names, counts = np.unique(ds.ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{ds.source or 'dataset'}: ids used more than once: {list_ids(names[counts > 1])}. "
            "Rename or remove the repeated structures."
        )


def _complete(ds: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Cells with a unit vector for each non-periodic direction that has none, and their heights (n, 3)."""
    cells = np.array(ds.cells)
    lacking = np.abs(cells).max(axis=2, initial=0) == 0
    # Completing would also fill in periodic directions that have no extent.
    for i in np.flatnonzero((lacking & ~ds.pbc).any(axis=1) & ~(lacking & ds.pbc).any(axis=1)):
        cells[i] = Cell(cells[i]).complete().array
    areas = np.linalg.norm(
        np.stack([np.cross(cells[:, k - 2], cells[:, k - 1]) for k in range(3)], axis=1), axis=2
    )
    volumes = np.abs(np.linalg.det(cells))
    return cells, np.divide(volumes[:, None], areas, out=np.zeros_like(areas), where=areas > 0)


def _check_distances(ds: Dataset, cells: np.ndarray, heights: np.ndarray) -> None:
    # Compiled on first use, which costs a second that importing this room should not.
    from matgraft.data.overlaps import close_pairs

    owner = np.repeat(np.arange(len(ds)), ds.natoms)
    frac = np.einsum("ni,nij->nj", ds.positions, np.linalg.inv(cells)[owner])
    closest = np.where(ds.numbers == 1, CLOSEST_HYDROGEN, CLOSEST)
    pairs, distances = close_pairs(ds.offsets, frac, closest, cells, heights, np.array(ds.pbc))
    bad = np.flatnonzero(np.isfinite(distances))
    if bad.size:
        first, second = pairs[bad[0]]
        numbers = ds.numbers[ds.offsets[bad[0]] :]
        raise InputError(
            f"{_where(ds, bad)}: atoms overlap (in {ds.ids[bad[0]]}, atoms {first} "
            f"{chemical_symbols[numbers[first]]} and {second} {chemical_symbols[numbers[second]]} are "
            f"{distances[bad[0]]:.2f} Angstrom apart, periodic images included). "
            "Remove the duplicated atom or the structure."
        )


def check_values(ds: Dataset, target: str) -> None:
    """Raise an InputError for label values that are NaN or infinite, and so cannot be learnt."""
    if (bad := np.flatnonzero(~np.isfinite(ds.values(target)))).size:
        raise InputError(
            f"{_where(ds, bad)}: label {target!r} is NaN or infinite. Correct it, or leave these "
            "structures out."
        )


def check_label(ds: Dataset, target: str) -> None:
    """Raise an error for label values that cannot be learnt, or that mean something else than stated.

    A label stated per cell that follows the composition clearly better per atom, or the reverse, is an
    error. The test needs at least 20 structures of clearly different sizes and is silent otherwise.

    Parameters
    ----------
    ds : Dataset
    target : str
        Name of the label.

    Raises
    ------
    InputError
        If the label does not exist, is NaN or infinite somewhere, or seems to be of the wrong kind.
    """
    check_values(ds, target)
    values = ds.values(target)
    stated = ds.specs[target].kind
    known = stated == "intensive" and ds.specs[target] != Label.guess(target)
    if known or len(ds) < KIND_MIN_STRUCTURES:
        return
    ratio = _misfit_per_cell(ds, values)
    if stated == "cell" and ratio > KIND_RATIO:
        looks, option = "per atom", "atom"
    elif stated != "cell" and ratio < 1 / KIND_RATIO:
        looks, option = "per cell", "cell"
    else:
        return
    taken = "one that does not depend on size" if stated == "intensive" else f"a value per {stated}"
    raise InputError(
        f"{ds.source or 'dataset'}: label {target!r} is taken as {taken}, but over {len(ds)} "
        f"structures (such as {list_ids(ds.ids, 2)}) it looks like a value {looks}. State what it is with "
        f"--label-kind {option} (or cell|atom|intensive), or pass --no-label-check if it is right as it is."
    )


def _misfit_per_cell(ds: Dataset, values: np.ndarray) -> float:
    """How much worse a linear model of the composition explains the values as per cell than as per atom.

    Both readings are compared on one scale: the likelihood of the values under ``y = x.c + noise`` against
    that under ``y = n (x.c + noise)``, with ``x`` the fractions of the elements; the Jacobian of the latter
    is the geometric mean of the sizes. 1 where the set says nothing.
    """
    rows = np.arange(len(ds))
    if len(ds) > KIND_SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(rows, KIND_SAMPLE, replace=False))
    natoms, values = ds.natoms[rows], values[rows]
    log_size = np.log(natoms)
    if log_size.std() < KIND_MIN_SPREAD:
        return 1.0
    fractions = ds[rows].composition() / natoms[:, None]
    fractions = fractions[:, fractions.any(axis=0)]
    predict = _leave_one_out(fractions)
    per_cell = predict(values / natoms) * np.exp(log_size.mean())
    per_atom = predict(values)
    tiny = np.finfo(float).tiny
    return max(per_cell, tiny) / max(per_atom, tiny)


def _leave_one_out(features: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function from values to the typical leave-one-out error of their ridge regression on the features."""
    centred = features - features.mean(axis=0)
    n = len(centred)
    # A penalty that weighs like one structure per hundred; elements seen once then hardly pull.
    hat = centred @ np.linalg.solve(centred.T @ centred + 0.01 * np.eye(centred.shape[1]), centred.T) + 1 / n
    leverage = np.clip(np.diag(hat), None, 1 - 1e-6)

    def error(values: np.ndarray) -> float:
        # A few wild labels, a wrong unit say, decide neither by what they pull nor by what they miss.
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
        values = np.clip(values, low - 2 * (high - low), high + 2 * (high - low))
        return float(np.median(np.abs(values - hat @ values) / (1 - leverage)))

    return error
