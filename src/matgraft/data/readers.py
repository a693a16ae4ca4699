"""Structures and labels from files of many kinds, through one function."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from matgraft.data import catalogue
from matgraft.data.checks import check_label, check_structures, check_values, list_ids
from matgraft.data.dataset import Dataset, LabelKind
from matgraft.data.formats.ase_files import read_ase_db, read_poscar
from matgraft.data.formats.cif import read_cif
from matgraft.data.formats.common import Skipped, is_number, is_packed, read_bytes, stem
from matgraft.data.formats.csv_cif import read_csv_cif
from matgraft.data.formats.extxyz import read_extxyz
from matgraft.data.formats.npz import read_npz
from matgraft.data.formats.pymatgen import read_pymatgen
from matgraft.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """A file format: its name in messages, how it is recognised and read."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[..., Dataset]
    binary: bool = False
    packed: bool = False
    """Whether it may be compressed by gzip."""
    skips: bool = False
    """Whether the reader can leave out bad structures instead of raising an error."""


def _read_npz(path: Path) -> Dataset:
    return read_npz(path, catalogue.labels_of(path.name))


EXTXYZ = Format("extended XYZ", (".xyz", ".extxyz"), read_extxyz, packed=True, skips=True)
CIF = Format("CIF", (".cif",), read_cif, packed=True, skips=True)
POSCAR = Format("POSCAR", (".vasp", ".poscar", ".contcar"), read_poscar, packed=True)
ASE_DB = Format("ASE database", (".db",), read_ase_db, binary=True)
ASE_JSON = Format("ASE database", (), read_ase_db)
PYMATGEN = Format("pymatgen JSON", (".json",), read_pymatgen, packed=True, skips=True)
CSV = Format("CSV with CIF files", (".csv",), read_csv_cif, packed=True)
NPZ = Format("npz arrays", (".npz",), _read_npz, binary=True)
FORMATS = (EXTXYZ, CIF, POSCAR, ASE_DB, PYMATGEN, CSV, NPZ)

# Bytes that are looked at to tell what a file is.
HEAD = 65536

# What a folder of structures is searched for; tables and archives describe more than one structure each.
IN_FOLDERS = (EXTXYZ, CIF, POSCAR)


def read(
    path: str | Path | Sequence[str | Path],
    target: str | None = None,
    kind: LabelKind | None = None,
    unit: str | None = None,
    check: bool = True,
    *,
    missing: Literal["error", "drop"] = "error",
    label_check: bool = True,
) -> Dataset:
    """Read structures and their labels.

    Parameters
    ----------
    path : str, Path or sequence of them
        Extended XYZ, CIF, POSCAR, ASE database, JSON of pymatgen structures, CSV beside CIF files, ``.npz``
        arrays, a folder of CIF, POSCAR or XYZ files, a folder written by :meth:`Dataset.save`, or the name of
        a known data set such as ``tmo-oxides``. Several are put behind one another.
    target : str, optional
        The label that is needed. A column of whole numbers may serve as one.
    kind : {"cell", "atom", "intensive"}, optional
    unit : str, optional
        What the target means, where its name does not say so.
    check : bool
        Whether to look for structures and values that cannot be right (:mod:`matgraft.data.checks`).
    missing : {"error", "drop"}
        What to do about structures without the target; dropped ones are named in a warning.
    label_check : bool
        Whether ``check`` includes the label's kind.

    Raises
    ------
    InputError
        With the file, the structure and the remedy, if any of this fails.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise InputError("no files to read. Name at least one.")
    parts = [_read_one(one) for one in paths]
    ds = parts[0] if len(parts) == 1 else Dataset.concatenate(parts)
    if target is None and (kind or unit):
        raise InputError("a label kind or unit was given without a target. Name the label with --target.")
    if target is not None:
        ds = _with_target(ds, target, kind, unit)
        ds = _labelled(ds, target, missing)
    if check:
        check_structures(ds)
        if target is not None:
            (check_label if label_check else check_values)(ds, target)
    return ds


def _with_target(ds: Dataset, target: str, kind: LabelKind | None, unit: str | None) -> Dataset:
    """The data set with ``target`` as a label of the given meaning."""
    if kind is not None and kind not in get_args(LabelKind):
        raise InputError(
            f"label kind {kind!r} is none of {', '.join(get_args(LabelKind))}. Correct --label-kind."
        )
    column = ds.columns.get(target)
    if target not in ds.labels and column is not None:
        ds = ds.with_columns_as_labels({target})
        if target not in ds.labels:
            k = next((k for k, value in enumerate(column.tolist()) if not is_number(str(value))), 0)
            raise InputError(
                f"{ds.source}: {target!r} cannot be a label, its values are not all numbers (structure "
                f"{ds.ids[k]} has {str(column[k])!r}). Correct them, or name another with --target."
            )
    ds.values(target)
    spec = ds.specs[target]
    if kind is not None and kind != spec.kind:
        # An energy keeps its unit but for the amount of matter that it refers to.
        base = spec.unit.removesuffix("/atom")
        spec = replace(spec, kind=kind, unit=f"{base}/atom" if kind == "atom" and base else base)
    if unit is not None:
        spec = replace(spec, unit=unit)
    return replace(ds, specs={**ds.specs, target: spec})


def _labelled(ds: Dataset, target: str, missing: str) -> Dataset:
    """The structures that have the target; without any of it missing, the data set itself."""
    without = np.isnan(ds.values(target))
    if not without.any():
        return ds
    names = f"{without.sum()} of {len(ds)} structures have no {target!r}: {list_ids(ds.ids[without])}"
    if missing != "drop":
        raise InputError(
            f"{ds.source}: {names}. Add the values, or leave those structures out with --missing drop."
        )
    log.warning("%s: %s. They are left out", ds.source, names)
    return ds[~without]


def _read_one(path: str | Path) -> Dataset:
    name, path = str(path), Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.exists():
        return read_file(path)
    if name in catalogue.ENTRIES:
        return catalogue.load(name)
    raise not_found(path)


def not_found(path: Path) -> InputError:
    """The error for what is neither a file nor a known data set, with similar names."""
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*beside, *catalogue.ENTRIES], n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"{path}: no such file, and no known data set of that name.{hint}")


def _read_folder(folder: Path) -> Dataset:
    if (folder / "dataset.json").is_file():
        return Dataset.load(folder)
    if (folder / "id_prop.csv").is_file():
        return read_csv_cif(folder / "id_prop.csv")
    return replace(Dataset.concatenate([read_file(path) for path in files_in(folder)]), source=str(folder))


def files_in(folder: Path) -> list[Path]:
    """The files of structures in a folder, in order of their names."""
    # A link to nothing is read as well, and then told.
    known = [path for path in sorted(folder.iterdir()) if not path.is_dir() and format_of(path) is not None]
    files = [path for path in known if format_of(path) in IN_FOLDERS]
    if not files:
        raise InputError(
            f"{folder}: no {', '.join(one.name for one in IN_FOLDERS)} files in this folder, no "
            "id_prop.csv and no dataset.json. Name the folder that holds the structures, or the file itself."
        )
    if others := [path.name for path in known if path not in files]:
        log.warning("%s: left out, to be read by name alone: %s", folder, list_ids(others))
    return files


def format_of(path: Path) -> Format | None:
    """The format that a file's name promises."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = is_packed(path)
    suffix = suffixes[-2 if packed else -1] if len(suffixes) > packed else ""
    found = next((known for known in FORMATS if suffix in known.suffixes and known.packed >= packed), None)
    return POSCAR if found is None and path.name.startswith(("POSCAR", "CONTCAR")) else found


def _by_content(content: bytes) -> Format | None:
    """The format that a file's first bytes show beyond doubt."""
    if content.startswith(b"SQLite format 3"):
        return ASE_DB
    if content.startswith(b"PK\x03\x04"):
        return NPZ
    lines = (line.strip() for line in content.decode("utf-8-sig", errors="replace").splitlines())
    telling = list(islice((line for line in lines if line and not line.startswith("#")), 2))
    if not telling:
        return None
    if telling[0].startswith(("{", "[")) and b'"' in content[:200]:
        return PYMATGEN
    if telling[0].lower().startswith("data_") and "," not in telling[0]:
        return CIF
    if (
        telling[0].isdigit()
        and len(telling) > 1
        and ("Lattice=" in telling[1] or "Properties=" in telling[1])
    ):
        return EXTXYZ
    return None


def _is_ase_json(path: Path) -> bool:
    try:
        parsed = json.loads(read_bytes(path))
    except (ValueError, EOFError):
        return False
    return isinstance(parsed, dict) and {"ids", "nextid"} <= parsed.keys()


def read_file(path: Path, skipped: list[Skipped] | None = None) -> Dataset:
    """Read one file.

    Parameters
    ----------
    path : Path
    skipped : list, optional
        Bad structures are put here instead of raising an error, where the format tells them apart.
    """
    promised = format_of(path)
    try:
        content = read_bytes(path, 0, HEAD)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Is the file damaged? Copy it again.") from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty. Was it written completely?")
    shown = _by_content(content)
    if promised is None or (shown is not None and shown is not promised):
        known = ", ".join(suffix for one in FORMATS for suffix in one.suffixes)
        looks = (
            f" The content looks like {shown.name}: rename it to {stem(path)}{shown.suffixes[0]}."
            if shown
            else ""
        )
        wrong = "does not hold what its name says" if promised else "unknown file extension"
        raise InputError(f"{path}: {wrong}.{looks or f' Known extensions: {known}.'}")
    if not promised.binary and b"\0" in content:
        raise InputError(
            f"{path}: binary data where {promised.name} is text. Is the file damaged, or misnamed?"
        )
    if promised is PYMATGEN and _is_ase_json(path):
        promised = ASE_JSON
    with errors_of(path, promised):
        ds = promised.read(path, skipped) if promised.skips else promised.read(path)
    return replace(ds, source=str(path))


@contextmanager
def errors_of(path: Path, promised: Format) -> Iterator[None]:
    """Parsers of other projects raise whatever comes; to the user it is one thing."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as {promised.name} ({type(error).__name__}: {error}). Is the file "
            "complete, with known species and in the format that its name says?"
        ) from error
