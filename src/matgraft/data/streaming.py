"""Structures without labels from files of any size, in pieces that any process can read for itself."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from matgraft.data import catalogue
from matgraft.data.checks import check_structures
from matgraft.data.dataset import Dataset
from matgraft.data.formats import npz
from matgraft.data.formats.common import Skipped, is_packed, stem
from matgraft.data.formats.csv_cif import cif_files
from matgraft.data.formats.extxyz import Part, parts, read_extxyz
from matgraft.data.readers import (
    CIF,
    CSV,
    EXTXYZ,
    NPZ,
    POSCAR,
    errors_of,
    files_in,
    format_of,
    not_found,
    read_file,
)
from matgraft.errors import InputError

NO_STRUCTURES = Dataset.from_atoms([])


class Piece(Protocol):
    """Some structures of one file.

    Attributes
    ----------
    source : str
        The file, as messages call it.
    count : int
        Structures in it; 1 for a file that nobody has looked into.
    """

    @property
    def source(self) -> str: ...
    @property
    def count(self) -> int: ...

    def read(self, skipped: list[Skipped]) -> Dataset:
        """Read the structures; bad ones are put on the list, and what cannot be read at all is an error."""


Chunk = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class File:
    """A whole file."""

    source: str
    count: int = 1

    def read(self, skipped: list[Skipped]) -> Dataset:
        return read_file(Path(self.source), skipped)


@dataclass(frozen=True, slots=True)
class Frames:
    """Part of an extended XYZ file, or of what was unpacked from it."""

    source: str
    part: Part
    path: str

    @property
    def count(self) -> int:
        return self.part.frames

    def read(self, skipped: list[Skipped]) -> Dataset:
        noted: list[Skipped] = []
        try:
            with errors_of(Path(self.source), EXTXYZ):
                return read_extxyz(Path(self.path), noted, self.part)
        except InputError as error:
            raise InputError(str(error).replace(self.path, self.source)) from error
        finally:
            skipped += [Skipped(self.source, s.id, s.reason.replace(self.path, self.source)) for s in noted]


@dataclass(frozen=True, slots=True)
class NpzRows:
    """Part of an ``.npz`` file, its arrays laid out in a folder."""

    source: str
    folder: str
    rows: slice
    atoms: slice

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start

    def read(self, skipped: list[Skipped]) -> Dataset:
        with errors_of(Path(self.source), NPZ):
            return npz.read_rows(Path(self.source), Path(self.folder), self.rows, self.atoms, skipped)


@dataclass(frozen=True, slots=True)
class Rows:
    """Part of a folder of arrays; ``skipped`` is what was left out when it was made."""

    source: str
    folder: str
    rows: slice
    skipped: tuple[Skipped, ...] = ()

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start

    def read(self, skipped: list[Skipped]) -> Dataset:
        skipped += self.skipped
        return Dataset.load(self.folder)[self.rows] if self.count else NO_STRUCTURES


def read_chunk(chunk: Iterable[Piece]) -> tuple[Dataset, list[str], list[Skipped]]:
    """Read and check the structures of a chunk.

    Returns
    -------
    dataset : Dataset
        Without labels and columns.
    files : list of str
        Of each structure.
    skipped : list of Skipped
        Files and structures that cannot be used.
    """
    skipped: list[Skipped] = []
    read = [NO_STRUCTURES]
    files: list[str] = []
    for piece in chunk:
        try:
            part = piece.read(skipped)
        except InputError as error:
            skipped.append(Skipped(piece.source, stem(Path(piece.source)), str(error)))
            continue
        read.append(replace(part, labels={}, specs={}, columns={}, source=""))
        files += [piece.source] * len(part)
    dataset = Dataset.concatenate(read)
    try:
        if len(dataset):
            check_structures(dataset)
        return dataset, files, skipped
    except InputError:
        pass
    sound = []
    for i, file in enumerate(files):
        try:
            check_structures(replace(dataset[[i]], source=file))
            sound.append(i)
        except InputError as error:
            skipped.append(Skipped(file, str(dataset.ids[i]), str(error)))
    return dataset[sound], [files[i] for i in sound], skipped


class Stream:
    """Structures in files, folders and known data sets, none of them read yet.

    Parameters
    ----------
    paths : sequence of path or name
        As :func:`matgraft.data.readers.read` takes them.

    Raises
    ------
    InputError
        If one does not exist or holds no structures.
    """

    def __init__(self, paths: Sequence[str | Path]):
        if not paths:
            raise InputError("no files to read. Name at least one.")
        self._sources = [source for path in paths for source in _sources(Path(path))]

    def fingerprint(self) -> str:
        """Hash of the names, sizes and times of all files: another one means that the input changed."""
        digest = hashlib.sha256()
        for source in self._sources:
            path = source if source.exists() else catalogue.locate(str(source))
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                stat = os.stat(file)
                digest.update(
                    f"{source} {os.path.abspath(file)} {stat.st_size} {stat.st_mtime_ns}\n".encode()
                )
        return digest.hexdigest()

    def chunks(self, size: int, scratch: Path) -> Iterator[Chunk]:
        """Cut everything into chunks of about ``size`` structures.

        Parameters
        ----------
        size : int
        scratch : Path
            A folder for what must be unpacked before it can be cut; needed as long as the chunks are.
        """
        chunk: list[Piece] = []
        count = 0
        for k, source in enumerate(self._sources):
            for piece in _pieces(source, size, scratch / str(k)):
                if chunk and count + piece.count > size:
                    yield tuple(chunk)
                    chunk, count = [], 0
                chunk.append(piece)
                count += piece.count
        if chunk:
            yield tuple(chunk)


def _sources(path: Path) -> list[Path]:
    """Files, folders of arrays and names of data sets behind what a user named."""
    if path.is_dir() and not (path / "dataset.json").is_file():
        if not (path / "id_prop.csv").is_file():
            return files_in(path)
        path = path / "id_prop.csv"
    if not path.exists():
        known = catalogue.ENTRIES.get(str(path))
        if known is None:
            raise not_found(path)
        return [path] if known.select or known.structures else [catalogue.locate(known.name)]
    # Labels are not wanted here, only the structures that they belong to.
    return (cif_files(path) if format_of(path) is CSV else None) or [path]


def _pieces(source: Path, size: int, scratch: Path) -> Iterator[Piece]:
    if source.is_dir():
        yield from _rows(source, source, len(Dataset.load(source)), size)
        return
    promised = format_of(source)
    if not source.exists():
        yield from _saved(catalogue.load(str(source)), source, size, scratch)
    elif promised is NPZ:
        scratch.mkdir(parents=True)
        with errors_of(source, NPZ):
            offsets = npz.unpack(source, scratch)
        for start in range(0, len(offsets) - 1, size):
            stop = min(start + size, len(offsets) - 1)
            rows, atoms = slice(start, stop), slice(int(offsets[start]), int(offsets[stop]))
            yield NpzRows(str(source), str(scratch), rows, atoms)
    elif promised is EXTXYZ:
        yield from _frames(source, size, scratch)
    elif promised in (CIF, POSCAR):
        yield File(str(source))
    else:
        skipped: list[Skipped] = []
        yield from _saved(read_file(source, skipped), source, size, scratch, tuple(skipped))


def _saved(
    dataset: Dataset, source: Path, size: int, scratch: Path, skipped: tuple[Skipped, ...] = ()
) -> Iterator[Piece]:
    replace(dataset, labels={}, specs={}, columns={}).save(scratch)
    yield from _rows(source, scratch, len(dataset), size, skipped)


def _rows(
    source: Path, folder: Path, total: int, size: int, skipped: tuple[Skipped, ...] = ()
) -> Iterator[Piece]:
    for start in range(0, total, size):
        yield Rows(str(source), str(folder), slice(start, min(start + size, total)))
    if skipped:
        yield Rows(str(source), str(folder), slice(total, total), skipped)


def _frames(source: Path, size: int, scratch: Path) -> Iterator[Piece]:
    path = source
    try:
        if is_packed(source):
            scratch.mkdir(parents=True)
            path = scratch / source.with_suffix("").name
            with gzip.open(source) as packed, open(path, "wb") as plain:
                shutil.copyfileobj(packed, plain)
        cut = list(parts(path, size))
    except (OSError, EOFError, zlib.error):
        cut = []
    # Without a single frame to be found, reading the file as a whole says best what is wrong with it.
    if not cut or (cut[0].stop is None and not cut[0].start):
        yield File(str(source))
        return
    for part in cut:
        yield Frames(str(source), part, str(path))
