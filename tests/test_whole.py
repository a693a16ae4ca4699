"""What is written is there whole, or as it was before."""

from __future__ import annotations

import errno

import pytest

from matgraft.whole import whole


def test_a_file_takes_the_place_of_another_once_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "two"):
        with whole(path) as partial:
            partial.write_text(text)
            assert partial.suffix == ".txt"
            assert path.exists() == (text == "two")
        assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    path = tmp_path / "set"
    for name in ("one", "two"):
        with whole(path) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
        assert [one.name for one in path.iterdir()] == [name]
    assert [one.name for one in tmp_path.iterdir()] == ["set"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept").write_text("")

    def write() -> None:
        with whole(tmp_path / "a") as partial:
            partial.write_text("new")

    with pytest.raises(OSError, match="directory"):
        write()
    assert [one.name for one in tmp_path.rglob("*")] == ["a", "kept"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with whole(path) as partial:
            if kind == "file":
                partial.write_text("half")
            else:
                partial.mkdir()
                (partial / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_with_the_file(tmp_path):
    with pytest.raises(OSError, match=r"a\.txt") as caught, whole(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.txt"))
