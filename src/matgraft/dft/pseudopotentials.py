"""Pseudopotentials: which file stands for an element, and what is in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from matgraft.errors import InputError

SHIPPED = Path(__file__).parent / "shipped"
"""PseudoDojo NC-SR v0.4.1, PBE, standard (van Setten et al., Comput. Phys. Commun. 226, 39, 2018)."""


@dataclass(frozen=True)
class Pseudopotential:
    """One UPF file.

    Attributes
    ----------
    element : str
    path : Path
    valence : float
        Number of electrons that it leaves to the calculation.
    sha256 : str
        Of the file; kept with every label.
    """

    element: str
    path: Path
    valence: float
    sha256: str


def library(folder: str | Path | None = None) -> Mapping[str, Pseudopotential]:
    """The pseudopotentials of a folder, by element.

    Parameters
    ----------
    folder : str or Path, optional
        UPF files whose names begin with the symbol of their element (``Fe.upf``, ``fe_pbe_v1.5.UPF``).
        Default: those that ship with the package. A folder is taken as a whole and never completed from
        another: total energies of different families do not belong together.

    Raises
    ------
    InputError
        No such folder, no or several files for an element, or a file that is not a PBE pseudopotential.
    """
    return _library(SHIPPED if folder is None else Path(folder).resolve())


@lru_cache
def _library(folder: Path) -> Mapping[str, Pseudopotential]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pseudopotentials.")
    found: dict[str, Pseudopotential] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".upf"):
        element = re.split(r"[^A-Za-z]", path.stem)[0].capitalize()
        if not atomic_numbers.get(element):
            raise InputError(
                f"{path}: its name does not begin with the symbol of an element; rename it, as in Fe.upf."
            )
        if element in found:
            raise InputError(
                f"{folder}: {found[element].path.name} and {path.name} are both for {element}; keep one."
            )
        found[element] = _read(element, path)
    if not found:
        raise InputError(f"{folder}: no UPF files in it.")
    return found


def _read(element: str, path: Path) -> Pseudopotential:
    content = path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    if "</UPF>" not in text and "<UPF" in text:
        raise InputError(f"{path}: ends before </UPF>, so a part of it is missing; copy it again.")
    valence = _attribute(text, "z_valence")
    symbol, functional = _attribute(text, "element"), _attribute(text, "functional")
    if valence is None or symbol is None or functional is None:
        raise InputError(f"{path}: not a UPF pseudopotential of format 2; convert it with upf_tools.")
    if symbol != element:
        raise InputError(f"{path}: is for {symbol}, while its name says {element}; rename it.")
    if "PBE" not in functional.upper().split() and "PBX" not in functional.upper():
        raise InputError(f"{path}: made for the functional {functional}; the protocols are PBE.")
    try:
        electrons = float(valence)
    except ValueError:
        electrons = np.nan
    if not 0 < electrons < np.inf:
        raise InputError(f"{path}: z_valence is {valence!r}, no number of electrons; copy the file again.")
    return Pseudopotential(element, path, electrons, hashlib.sha256(content).hexdigest())


def _attribute(text: str, name: str) -> str | None:
    found = re.search(rf'\b{name}\s*=\s*"\s*([^"]*?)\s*"', text)
    return found and found[1]
