"""Which structures train and which validate. Pure functions of a generator: equal seed, equal split."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from matgraft.data.checks import list_ids
from matgraft.data.dataset import Dataset
from matgraft.data.formats.common import FLAG, read_text
from matgraft.data.readers import read
from matgraft.errors import InputError

Rng = np.random.Generator | int
Split = tuple[np.ndarray, np.ndarray]

_CONDITION = re.compile(r"\s*(\S.*?)\s*(<=|>=|==|<|>)\s*(\S+)\s*")
_COMPARE = {"<=": np.less_equal, ">=": np.greater_equal, "==": np.equal, "<": np.less, ">": np.greater}
ID_LISTS = frozenset({"", ".txt", ".ids", ".lst"})


def validation_count(n: int, val_size: float) -> int:
    """Number of validation structures: ``val_size`` itself, or that fraction of ``n`` if it is below one."""
    fraction = isinstance(val_size, float) and 0 < val_size < 1
    # 1 is one structure; 1.0 may be meant as all of them.
    all_or_one = isinstance(val_size, float) and val_size == 1
    if not fraction and (not math.isfinite(val_size) or int(val_size) != val_size or all_or_one):
        raise InputError(
            f"validation size {val_size} is neither a whole number nor a fraction between 0 and 1."
        )
    count = round(val_size * n) if fraction else int(val_size)
    if not 0 < count < n:
        raise InputError(
            f"cannot take {val_size} structures for validation out of {n}: both sides need at least one. "
            "Ask for fewer, or add structures."
        )
    return count


def random_split(n: int, val_size: float, rng: Rng) -> Split:
    """Split ``n`` structures at random, as the paper does.

    Parameters
    ----------
    n : int
    val_size : int or float
        Number of validation structures, or a fraction between 0 and 1.
    rng : Generator or int

    Returns
    -------
    train, val : ndarray of int, sorted
    """
    count = validation_count(n, val_size)
    order = np.random.default_rng(rng).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def groups(ds: Dataset, by: str) -> np.ndarray:
    """The group of each structure: its reduced formula, or its set of elements (``chemical_system``)."""
    if by not in ("formula", "chemical_system"):
        raise InputError(f"cannot group by {by!r}; choose formula or chemical_system.")
    return ds.formulas if by == "formula" else ds.chemical_systems


def grouped_split(grouping: np.ndarray, val_size: float, rng: Rng) -> Split:
    """Split so that each group is on one side only; polymorphs of a formula then never straddle the split.

    Groups are taken in random order. Of all unions of groups, one is chosen whose size is as near to
    ``val_size`` as any (subset sum by dynamic programming), of groups that come early in that order.

    Parameters
    ----------
    grouping : ndarray, shape (n,)
        Group of each structure.
    val_size : int or float
    rng : Generator or int

    Returns
    -------
    train, val : ndarray of int, sorted
    """
    count = validation_count(len(grouping), val_size)
    _, member, sizes = np.unique(grouping, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise InputError(
            "all structures belong to one group, which cannot be split. Group by something finer."
        )
    order = np.random.default_rng(rng).permutation(len(sizes))
    reachable = np.zeros(min(len(grouping), 2 * count + 1), dtype=bool)
    reachable[0] = True
    # Through which group a size was reached first: all others on its path come earlier in the order.
    through = np.full(len(reachable), -1)
    for group in order:
        size = sizes[group]
        if size >= len(reachable):
            continue
        new = np.flatnonzero(reachable[:-size] & ~reachable[size:]) + size
        reachable[new], through[new] = True, group
        if reachable[count]:
            break
    sums = np.flatnonzero(reachable)[1:]
    if not sums.size:
        # Every group is more than twice as large as asked for.
        through = np.full(sizes.min() + 1, order[np.argmin(sizes[order])])
        sums = sizes.min(keepdims=True)
    left = sums[np.argmin(np.abs(sums - count))]
    chosen = np.zeros(len(sizes), dtype=bool)
    while left:
        chosen[through[left]] = True
        left -= sizes[through[left]]
    val = chosen[member.ravel()]
    return np.flatnonzero(~val), np.flatnonzero(val)


def split_by_file(ds: Dataset, path: str | Path) -> Split:
    """Validate on the structures that a file names, train on all others.

    Parameters
    ----------
    ds : Dataset
    path : str or Path
        A text file (``.txt``, ``.ids``, ``.lst`` or no extension) with one id per line, or a file of
        structures with the same ids.
    """
    if Path(path).suffix.lower() in ID_LISTS and Path(path).is_file():
        listed = [line.strip() for line in read_text(Path(path)).splitlines()]
        listed = [name for name in listed if name and not name.startswith("#")]
    else:
        listed = read(path, check=False).ids.tolist()
    unknown = sorted(set(listed) - set(ds.ids.tolist()))
    if unknown:
        raise InputError(
            f"{path}: {len(unknown)} ids are not in {ds.source or 'the data set'}: {list_ids(unknown)}. "
            "Remove them, or read the data set that they belong to."
        )
    val = np.isin(ds.ids, listed)
    if val.all() or not val.any():
        raise InputError(
            f"{path}: names {val.sum()} of {len(ds)} structures, which leaves one side of the split empty."
        )
    return np.flatnonzero(~val), np.flatnonzero(val)


def disjoint_subsets(train_idx: np.ndarray, size: int, rng: Rng) -> list[np.ndarray]:
    """As many disjoint random subsets of ``size`` as there are: the halves and quarters of the paper."""
    if not 1 <= size <= len(train_idx):
        raise InputError(
            f"cannot take {size} structures out of {len(train_idx)} for training. Ask for between 1 and "
            f"{len(train_idx)}, or keep fewer for validation."
        )
    order = np.random.default_rng(rng).permutation(np.asarray(train_idx))
    return [np.sort(order[start : start + size]) for start in range(0, len(order) - size + 1, size)]


def exclude(
    source: Dataset, formulas_of: Dataset | None = None, elements: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, int]]:
    """What may stay in a source set so that it has not seen the target.

    Parameters
    ----------
    source : Dataset
    formulas_of : Dataset, optional
        Structures with the reduced formula of one of these go.
    elements : sequence of str
        Structures that contain one of these go.

    Returns
    -------
    keep : ndarray of bool, shape (n,)
    report : dict of str to int
        ``total``, ``same_formula``, ``element`` (further ones), ``kept``.
    """
    unknown = [symbol for symbol in elements if not atomic_numbers.get(symbol)]
    if unknown:
        raise InputError(f"cannot exclude {', '.join(map(repr, unknown))}: not a chemical element.")
    same = np.zeros(len(source), dtype=bool)
    if formulas_of is not None:
        same = np.isin(source.formulas, formulas_of.formulas)
    contains = (source.composition()[:, [atomic_numbers[symbol] for symbol in elements]] > 0).any(axis=1)
    keep = ~same & ~contains
    report = {
        "total": len(source),
        "same_formula": int(same.sum()),
        "element": int((contains & ~same).sum()),
        "kept": int(keep.sum()),
    }
    return keep, report


def keep_where(dataset: Dataset, conditions: Sequence[str]) -> np.ndarray:
    """Mask of structures that satisfy conditions such as ``e_form_spread<=0.1`` or ``natoms<=100``."""
    mask = np.ones(len(dataset), dtype=bool)
    known = {"natoms": dataset.natoms, **dataset.labels, **dataset.columns}
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        if match is None or match[1] not in known:
            raise InputError(
                f"--keep {condition!r}: write NAME<=VALUE (or <, >, >=, ==) with one of "
                f"{', '.join(sorted(known))}."
            )
        values = known[match[1]]
        try:
            # Any text but the empty one is true for numpy.
            bound: bool | float | str = match[3]
            if values.dtype.kind == "b":
                bound = FLAG[match[3].lower()]
            elif values.dtype.kind != "U":
                bound = float(match[3])
        except (KeyError, ValueError) as error:
            raise InputError(f"--keep {condition!r}: {match[3]!r} is not a value of {match[1]}.") from error
        mask &= _COMPARE[match[2]](values, bound)
    return mask


def condition_name(condition: str) -> str:
    """The label or column that a condition of :func:`keep_where` speaks of."""
    match = _CONDITION.fullmatch(condition)
    return match[1] if match else ""


def validation_split(
    dataset: Dataset, val: str, group: str | None, seed: int, target: str | None = None, **reading
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on.

    Parameters
    ----------
    val : str
        A fraction, a number of structures, a text file of ids, or a file of further labelled structures
        (which is then put behind the data set).
    group : {"formula", "chemical_system"}, optional
        Keep each group on one side; files must do so.
    target : str, optional
        Label that a file of further structures must carry.
    **reading
        How such a file is read: ``missing``, ``label_check``; see :func:`matgraft.data.readers.read`.
    """
    size = stated_size(val)
    if size is None:
        if Path(val).suffix.lower() in ID_LISTS:
            return _apart(dataset, *split_by_file(dataset, val), group)
        spec = None if target is None else dataset.specs[target]
        kind, unit = (None, None) if spec is None else (spec.kind, spec.unit)
        more = read(val, target, kind, unit, **reading)
        both = sorted(set(more.ids) & set(dataset.ids))
        if both:
            raise InputError(
                f"{val}: {len(both)} ids are also in {dataset.source}, the first is {both[0]}: "
                "a structure cannot both train and validate."
            )
        if twins := _twins(dataset, more):
            raise InputError(
                f"{val}: {len(twins)} structures are also in {dataset.source}, by other names: "
                f"{list_ids([' = '.join(pair) for pair in twins])}. A structure cannot both train and "
                "validate."
            )
        n = len(dataset)
        return _apart(Dataset.concatenate([dataset, more]), np.arange(n), np.arange(n, n + len(more)), group)
    if group is None:
        return dataset, *random_split(len(dataset), size, seed)
    return dataset, *grouped_split(groups(dataset, group), size, seed)


def _keys(dataset: Dataset) -> list[bytes]:
    """Equal for structures whose atoms and cells are the same."""
    places = np.split(dataset.positions.round(4) + 0.0, dataset.offsets[1:-1])
    kinds = np.split(dataset.numbers, dataset.offsets[1:-1])
    cells = dataset.cells.round(4) + 0.0
    return [z.tobytes() + r.tobytes() + c.tobytes() for z, r, c in zip(kinds, places, cells, strict=True)]


def _twins(one: Dataset, other: Dataset) -> list[tuple[str, str]]:
    """Ids of structures of the second data set that are the same as one of the first, and that one's."""
    known = dict(zip(_keys(one), one.ids.tolist(), strict=True))
    found = zip(other.ids.tolist(), _keys(other), strict=True)
    return [(name, known[key]) for name, key in found if key in known]


def repeated(dataset: Dataset) -> list[np.ndarray]:
    """Rows of each structure that stands in a data set more than once, under whatever names."""
    rows: dict[bytes, list[int]] = {}
    for row, key in enumerate(_keys(dataset)):
        rows.setdefault(key, []).append(row)
    return [np.array(same) for same in rows.values() if len(same) > 1]


def _apart(
    dataset: Dataset, train: np.ndarray, validation: np.ndarray, group: str | None
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """A split that somebody else has made, unless it tears groups apart that are to stay together."""
    if group is not None:
        names = groups(dataset, group)
        if torn := sorted(set(names[train]) & set(names[validation])):
            raise InputError(
                f"--group {group}: {list_ids(torn)} would both train and validate. Move them to one side, or "
                "leave out --group."
            )
    return dataset, train, validation


def stated_size(val: str) -> float | None:
    """``0.2`` as a fraction, ``117`` as a number of structures, None for anything else."""
    for number in (int, float):
        try:
            return number(val)
        except ValueError:
            continue
    return None
