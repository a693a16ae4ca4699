"""Graphs kept on disk."""

from __future__ import annotations

import logging
from dataclasses import fields

import numpy as np
import pytest
from ase.build import bulk

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.graphs.cache import graphs_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MATGRAFT_CACHE", str(tmp_path))
    caplog.set_level(logging.INFO, logger="matgraft")
    return tmp_path / "graphs"


def dataset(a: float = 4.21) -> Dataset:
    return Dataset.from_atoms([bulk("MgO", "rocksalt", a=a), bulk("Si")])


def assert_same(graphs, expected):
    for field in fields(expected):
        np.testing.assert_array_equal(getattr(graphs, field.name), getattr(expected, field.name))


def test_second_call_reads_what_the_first_kept(folder, caplog):
    expected = build_graphs(dataset(), 5.0)
    assert_same(graphs_of(dataset(), 5.0, cache=True), expected)
    assert "from the cache" not in caplog.text
    kept = graphs_of(dataset(), 5.0, cache=True)
    assert "from the cache" in caplog.text
    assert_same(kept, expected)
    assert kept.batch(np.arange(2)).distance.tolist() == expected.batch(np.arange(2)).distance.tolist()
    assert len(list(folder.iterdir())) == 1


def test_other_structures_or_another_cutoff_are_other_graphs(folder):
    graphs_of(dataset(), 5.0, cache=True)
    assert_same(graphs_of(dataset(), 4.0, cache=True), build_graphs(dataset(), 4.0))
    assert_same(graphs_of(dataset(4.3), 5.0, cache=True), build_graphs(dataset(4.3), 5.0))
    assert len(list(folder.iterdir())) == 3


def test_small_sets_are_not_kept(folder):
    graphs_of(dataset(), 5.0)
    assert not folder.exists()


def test_damaged_folder_is_built_anew(folder, caplog):
    graphs_of(dataset(), 5.0, cache=True)
    (next(folder.iterdir()) / "distance.npy").write_bytes(b"nonsense")
    assert_same(graphs_of(dataset(), 5.0, cache=True), build_graphs(dataset(), 5.0))
    assert "is damaged" in caplog.text
    caplog.clear()
    assert_same(graphs_of(dataset(), 5.0, cache=True), build_graphs(dataset(), 5.0))
    assert "is damaged" not in caplog.text


def test_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MATGRAFT_CACHE", str(tmp_path / "file"))
    assert_same(graphs_of(dataset(), 5.0, cache=True), build_graphs(dataset(), 5.0))
    assert "not kept" in caplog.text
