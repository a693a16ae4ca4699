from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matgraft.data import Dataset, catalogue
from matgraft.data.splits import (
    disjoint_subsets,
    exclude,
    grouped_split,
    groups,
    random_split,
    split_by_file,
)
from matgraft.data.writers import write
from matgraft.errors import InputError

seeds = st.integers(0, 2**32 - 1)


def is_partition(n: int, train: np.ndarray, val: np.ndarray) -> bool:
    return np.array_equal(np.sort(np.concatenate([train, val])), np.arange(n))


@given(n=st.integers(2, 200), seed=seeds, data=st.data())
def test_random_split_is_a_partition_of_the_size_asked(n, seed, data):
    size = data.draw(st.integers(1, n - 1))
    train, val = random_split(n, size, seed)
    assert len(val) == size
    assert is_partition(n, train, val)
    again = random_split(n, size, np.random.default_rng(seed))
    assert np.array_equal(val, again[1])


def test_random_split_depends_on_the_seed():
    assert not np.array_equal(random_split(100, 0.5, 0)[1], random_split(100, 0.5, 1)[1])


def test_fraction():
    assert len(random_split(517, 0.2, 0)[1]) == 103


@pytest.mark.parametrize("size", [0, -1, 10, 11, 0.01, 0.99, 1.0, 1.5])
def test_impossible_validation_sizes(size):
    with pytest.raises(InputError, match="validation"):
        random_split(10, size, 0)
    with pytest.raises(InputError, match="validation"):
        grouped_split(np.arange(10), size, 0)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), seeds, st.data())
def test_grouped_split_keeps_groups_whole_and_is_as_near_as_any(grouping, seed, data):
    grouping = np.asarray(grouping)
    names, sizes = np.unique(grouping, return_counts=True)
    if len(names) < 2:
        return
    size = data.draw(st.integers(1, len(grouping) - 1))
    train, val = grouped_split(grouping, size, seed)
    assert is_partition(len(grouping), train, val)
    assert len(train)
    assert len(val)
    assert not set(grouping[train]) & set(grouping[val])
    unions = (sum(part) for r in range(1, len(names)) for part in combinations(sizes.tolist(), r))
    assert abs(len(val) - size) == min(abs(total - size) for total in unions)


def test_grouped_split_is_random():
    grouping = np.repeat(np.arange(50), 2)
    assert not np.array_equal(grouped_split(grouping, 20, 0)[1], grouped_split(grouping, 20, 1)[1])


def test_one_group_cannot_be_split():
    with pytest.raises(InputError, match="one group"):
        grouped_split(np.zeros(10), 3, 0)


def test_groups(dataset):
    assert groups(dataset, "formula").tolist() == ["ClNa", "MgO", "Fe"]
    assert groups(dataset, "chemical_system").tolist() == ["Cl-Na", "Mg-O", "Fe"]
    with pytest.raises(InputError, match="formula or chemical_system"):
        groups(dataset, "colour")


def test_formula_groups_of_the_paper_set():
    ds = catalogue.load("tmo-oxides-fetiv")
    formulas = groups(ds, "formula")
    assert len(set(formulas)) == 339
    train, val = grouped_split(formulas, 117, 0)
    assert (len(train), len(val)) == (400, 117)
    assert not set(formulas[train]) & set(formulas[val])


@given(st.integers(1, 60), seeds, st.data())
def test_disjoint_subsets(n, seed, data):
    train = np.arange(n) * 3
    size = data.draw(st.integers(1, n))
    subsets = disjoint_subsets(train, size, seed)
    assert len(subsets) == n // size
    assert all(len(subset) == size for subset in subsets)
    together = np.concatenate(subsets)
    assert len(set(together.tolist())) == len(together)
    assert set(together.tolist()) <= set(train.tolist())


@pytest.mark.parametrize("size", [0, 401])
def test_fewer_structures_than_the_subsets_need(size):
    with pytest.raises(InputError, match=f"cannot take .*{size}"):
        disjoint_subsets(np.arange(400), size, 0)


def test_split_by_list_of_ids(dataset, tmp_path):
    (tmp_path / "val.txt").write_text("# held out\nmp 7\n\n0012\n")
    train, val = split_by_file(dataset, tmp_path / "val.txt")
    assert train.tolist() == [2]
    assert val.tolist() == [0, 1]


def test_split_by_data_set(dataset, tmp_path):
    write(dataset[[1]], tmp_path / "val.xyz")
    train, val = split_by_file(dataset, tmp_path / "val.xyz")
    assert train.tolist() == [0, 2]
    assert val.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [("0012\nmp-404\n", "not in salts: mp-404"), ("# none\n", "0 of 3"), ('0012\nmp 7\nT"x\\\n', "3 of 3")],
)
def test_lists_that_do_not_split(dataset, tmp_path, text, message):
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        split_by_file(dataset, tmp_path / "val.txt")


def test_split_by_file_that_is_not_there(dataset, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        split_by_file(dataset, tmp_path / "val.txt")


def test_exclude_counts_each_reason_once(dataset):
    target = Dataset.from_atoms([dataset.atoms(1).repeat(2)])
    keep, report = exclude(dataset, target, ["O", "Fe"])
    assert keep.tolist() == [True, False, False]
    assert report == {"total": 3, "same_formula": 1, "element": 1, "kept": 1}


def test_exclude_nothing(dataset):
    keep, report = exclude(dataset)
    assert keep.all()
    assert report["kept"] == 3


def test_exclude_unknown_element(dataset):
    with pytest.raises(InputError, match="'Xx'"):
        exclude(dataset, None, ["Fe", "Xx"])


def test_source_exclusion_of_the_paper(shared):
    source, target = catalogue.load("mp-source"), catalogue.load("tmo-oxides")
    keep, report = exclude(source, target, ["Cr", "Mn"])
    assert (report["total"], report["total"] - report["same_formula"]) == (60405, 59742)
    assert report["kept"] == keep.sum() == 53207
