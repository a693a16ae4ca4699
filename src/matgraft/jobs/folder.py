"""Output folders: made late, written whole, and able to tell what they belong to."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

from matgraft.errors import InputError
from matgraft.whole import whole

log = logging.getLogger(__name__)

SETTINGS = "settings.json"
_BESIDE_A_MODEL = ("predictions.csv", "suspects.csv", "log.csv")
_NUMBERS = re.compile(r"\[\s+(?:(?:-?\d[\d.eE+-]*|-?Infinity|NaN),?\s+)+\]")
_PACKAGES = ("matgraft", "torch", "numpy", "numba", "scikit-learn", "ase", "gemmi")


def claim(folder: str | Path, settings: dict) -> Path:
    """Make an output folder, or take up again one that an interrupted run with equal settings left.

    Parameters
    ----------
    folder : str or Path
    settings : dict
        Everything that decides the result, data hash included; kept in ``settings.json``.

    Raises
    ------
    InputError
        The folder holds something else.
    """
    folder = Path(folder)
    wanted = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    if path.is_file():
        try:
            kept = json.loads(path.read_text())
            found = kept["settings"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not readable. Give another --out folder, or delete this one."
            ) from error
        if found != wanted:
            changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise InputError(
                f"{folder}: holds a run with other settings ({', '.join(changed)} differ). "
                "Give another --out folder, or delete this one."
            )
        begun = kept.get("versions", {}).get("matgraft")
        if begun != version("matgraft"):
            log.warning("%s: begun by matgraft %s; what that has finished is taken over", folder, begun)
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and was not written by this command. Give another --out folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": wanted, "versions": versions()})
    return folder


def not_over(out: str | Path, *inputs: object) -> Path:
    """The path of an output file, unless that would replace one of the inputs.

    Parameters
    ----------
    out : str or Path
    *inputs : str, Path, sequence of them, or anything else
        What is no path is passed over.

    Raises
    ------
    InputError
        It is one of them, the table in one of them, or part of one that is a model; or it is a store of
        labels, a device or a pipe.
    """
    if Path(out).exists() and not (Path(out).is_file() or Path(out).is_dir()):
        raise InputError(f"--out {out}: this is no file that can be replaced. Choose another name.")
    for one in inputs:
        if isinstance(one, str | Path):
            taken = [Path(one), Path(one) / "id_prop.csv", Path(one) / "dataset.json"]
            if Path(out).exists() and any(path.exists() and path.samefile(out) for path in taken):
                raise InputError(f"--out {out}: this is one of the inputs. Choose another name.")
            inside = Path(one).is_dir() and Path(one).resolve() in Path(out).resolve().parents
            kept = Path(out).suffix in (".json", ".safetensors") or Path(out).name in _BESIDE_A_MODEL
            if inside and kept and Path(out).exists() and (Path(one) / "model.json").is_file():
                raise InputError(f"--out {out}: this is part of the model {one}. Choose another name.")
        elif isinstance(one, list | tuple):
            not_over(out, *one)
    if Path(out).suffix == ".db" and Path(out).is_file():
        # Databases take long to import.
        from matgraft.dft.store import is_store

        if is_store(Path(out)):
            raise InputError(f"--out {out}: this is a store of labels. Choose another name.")
    return Path(out)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Context in which no other process on this machine may work in the folder, or make it.

    The lock lies beside it, so that what is in the folder may be thrown away meanwhile.

    Raises
    ------
    InputError
        Another one does.
    """
    path = folder.absolute().with_name(f".{folder.absolute().name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = _locked(path)
    except BlockingIOError as error:
        raise InputError(f"{folder}: another run is at work here. Wait, or choose another --out.") from error
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO:
    """The open file of a lock; raises BlockingIOError if another process has it."""
    while True:
        with ExitStack() as stack:
            lock = stack.enter_context(open(path, "w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that has just ended may have taken the file away before it could be locked.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    stack.pop_all()
                    return lock


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def write_text(path: Path, text: str) -> None:
    with whole(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: object) -> None:
    """Indented, with each list of plain numbers on one line."""
    text = json.dumps(content, indent=1)
    write_text(path, _NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()), text) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with whole(path) as partial, open(partial, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
