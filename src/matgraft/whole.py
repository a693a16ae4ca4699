"""Files and folders that are there once they are complete, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to, which then takes the place of ``path``.

    It lies in the same folder and has the same extension. After an error it is taken away, and what was
    there before is as it was. A file does not take the place of a folder.
    """
    partial = path.with_name(f".{path.stem}-{os.getpid()}.tmp{path.suffix}")
    try:
        yield partial
        if path.is_dir() and partial.is_dir():
            # A folder cannot be renamed onto one that has files in it.
            old = path.with_name(f".{path.stem}-{os.getpid()}.old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
    except OSError as error:
        # A full disk does not say which file it has no room for.
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
