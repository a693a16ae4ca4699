"""The study's learning-curve protocol: disjoint subsets of one training set, one validation set per seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matgraft.data import Dataset
from matgraft.data.splits import disjoint_subsets, grouped_split, groups, random_split
from matgraft.errors import InputError


@dataclass(frozen=True)
class Subset:
    """One training subset of one repeat.

    Attributes
    ----------
    seed, size, part : int
        Repeat, number of labels, and which of the disjoint parts.
    train, validation : ndarray of int
    """

    seed: int
    size: int
    part: int
    train: np.ndarray
    validation: np.ndarray

    @property
    def name(self) -> str:
        return f"seed{self.seed}-n{self.size}-part{self.part}"


def learning_curve_subsets(
    dataset: Dataset, sizes: list[int], val_size: int, seeds: int, group: str | None = None
) -> list[Subset]:
    """All training subsets of the protocol.

    For each seed the data are split once; the largest training set is cut into disjoint halves, quarters
    and so on, each size using every structure as often as it can. Errors of equal size are averaged.

    Parameters
    ----------
    dataset : Dataset
    sizes : list of int
    val_size : int
    seeds : int
    group : {"formula", "chemical_system"}, optional
        Keep each group on one side of the split.

    Raises
    ------
    InputError
        Fewer structures than the sizes need.
    """
    if min(sizes) < 1 or seeds < 1:
        raise InputError(f"sizes {sizes} and seeds {seeds} must be positive.")
    subsets = []
    for seed in range(seeds):
        if group is None:
            train, validation = random_split(len(dataset), val_size, seed)
        else:
            train, validation = grouped_split(groups(dataset, group), val_size, seed)
        largest = disjoint_subsets(train, max(sizes), seed)[0]
        for size in sorted(sizes):
            for part, rows in enumerate(disjoint_subsets(largest, size, seed)):
                subsets.append(Subset(seed, size, part, rows, validation))
    return subsets
