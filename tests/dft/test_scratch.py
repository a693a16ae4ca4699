"""Folders for running programs: none outlives its process, and none is taken from a living one."""

from __future__ import annotations

import os
import signal

import pytest

from matgraft.dft.scratch import PREFIX, folder


def test_a_folder_is_gone_afterwards(tmp_path):
    with folder(tmp_path) as place:
        (place / "out").mkdir()
        (place / "out" / "density").write_text("much")
        assert place.parent == tmp_path
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), folder(tmp_path):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    (tmp_path / "matgraft-mine").mkdir()
    child = os.fork()
    if child == 0:
        with folder(tmp_path) as place:
            (place / "density").write_text("much")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob(f"{PREFIX}*")
    with folder(tmp_path) as place:
        assert not left.exists()
        with folder(tmp_path):
            assert place.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["matgraft-mine"]


def test_a_living_process_keeps_its_folder(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with folder(tmp_path):
            os.write(writer, b"1")
            signal.pause()
    os.read(reader, 1)
    (theirs,) = tmp_path.iterdir()
    with folder(tmp_path):
        assert theirs.exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
