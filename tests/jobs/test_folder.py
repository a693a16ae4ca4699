"""What an output may not replace."""

from __future__ import annotations

import pytest

from matgraft.data.writers import write
from matgraft.dft.store import Store
from matgraft.errors import InputError
from matgraft.jobs.data import convert
from matgraft.jobs.folder import not_over
from matgraft.models.files import load_source


def test_an_output_replaces_neither_inputs_nor_stores_nor_devices(crystals, tmp_path):
    write(crystals, tmp_path / "a.extxyz")
    Store(tmp_path / "labels.db")
    before = (tmp_path / "labels.db").read_bytes()
    for out, message in (("a.extxyz", "one of the inputs"), ("labels.db", "store of labels")):
        with pytest.raises(InputError, match=message):
            convert(tmp_path / "a.extxyz", tmp_path / out)
    assert (tmp_path / "labels.db").read_bytes() == before
    folder = load_source("mp-schnet").save(tmp_path / "graft")
    with pytest.raises(InputError, match=r"part of the model .*graft"):
        not_over(folder / "model.json", ["a.extxyz"], str(folder))
    (folder / "new.csv").write_text("of before")
    assert not_over(folder / "new.csv", str(folder)) == folder / "new.csv"
    with pytest.raises(InputError, match="can be replaced"):
        not_over("/dev/null")
    assert convert(tmp_path / "a.extxyz", tmp_path / "other.db") == len(crystals)
    # A database of structures is no store.
    assert convert(tmp_path / "a.extxyz", tmp_path / "other.db") == len(crystals)
