"""Folders for running programs: gone afterwards, even if whoever made one is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "matgraft-run-"


@contextmanager
def folder(parent: str | Path | None = None) -> Iterator[Path]:
    """A new folder for as long as the context lasts.

    It stays locked by this process, a lock that the kernel takes off when the process ends. So those that are
    not locked were left by processes that were killed, and are removed first.

    Parameters
    ----------
    parent : path, optional
        The system's folder for temporary files by default.
    """
    parent = Path(parent or tempfile.gettempdir())
    for place in parent.glob(f"{PREFIX}*"):
        _remove_if_left(place)
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    handle = os.open(made, os.O_RDONLY)
    place = made.with_name(made.name[1:])
    try:
        # Some network file systems know no locks of folders; there, nothing that is left is removed either.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        # Named once it is locked: nobody may take it for one that was left.
        made.rename(place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def _remove_if_left(place: Path) -> None:
    with suppress(OSError):
        handle = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
        finally:
            os.close(handle)
