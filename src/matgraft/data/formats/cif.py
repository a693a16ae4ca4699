"""CIF through gemmi, which parses a file some fifty times faster than ASE or pymatgen."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import gemmi
import numpy as np

from matgraft.data.dataset import Dataset
from matgraft.data.formats.common import Skipped, refuse, stem
from matgraft.errors import InputError

# Images of one site closer than this (Angstrom) are one atom on a special position with rounded coordinates.
SITE_TOLERANCE = 0.2


# How the ICSD writes which choice of origin a symbol means.
_ORIGINS = {" S": ":1", " Z": ":2"}


def _group(small: gemmi.SmallStructure) -> gemmi.SpaceGroup | None:
    """The space group that a block names; ValueError if that is no single one."""
    symbol = small.spacegroup_hm.strip()
    if symbol[-2:] in _ORIGINS:
        return gemmi.find_spacegroup_by_name(symbol[:-2] + _ORIGINS[symbol[-2:]])
    group = small.spacegroup
    if group is None and small.spacegroup_number:
        group = gemmi.find_spacegroup_by_number(small.spacegroup_number)
    if group is not None and group.ext in ("1", "2") and ":" not in symbol and not small.spacegroup_hall:
        raise ValueError(
            f"space group {group.hm} has two choices of origin, and there is no list of symmetry operations; "
            f"add _symmetry_equiv_pos_as_xyz, or say {group.hm}:1 or {group.hm}:2"
        )
    return group


def _operations(small: gemmi.SmallStructure) -> list[gemmi.Op]:
    """Symmetry operations: as listed, else those of the space group that the block names, else identity."""
    if len(small.symops):
        return [gemmi.Op(text) for text in small.symops]
    group = _group(small)
    if group is not None:
        return list(group.operations())
    if small.spacegroup_hm or small.spacegroup_hall:
        raise ValueError(
            f"unknown space group {small.spacegroup_hm or small.spacegroup_hall!r} and no list of symmetry "
            "operations; add _symmetry_equiv_pos_as_xyz or export the file in P1"
        )
    return [gemmi.Op("x,y,z")]


def _expand(frac: np.ndarray, operations: list[gemmi.Op], cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All atoms of the cell: which site each comes from, and its fractional coordinates."""
    rotations = np.asarray([op.rot for op in operations]) / gemmi.Op.DEN
    shifts = np.asarray([op.tran for op in operations]) / gemmi.Op.DEN
    images = np.einsum("oij,sj->soi", rotations, frac) + shifts
    images -= np.floor(images)
    difference = images[:, :, None] - images[:, None]
    difference -= np.round(difference)
    near = np.linalg.norm(difference @ cell, axis=-1) < SITE_TOLERANCE
    earlier = np.tril(np.ones(near.shape[1:], dtype=bool), k=-1)
    site, image = np.nonzero(~(near & earlier).any(axis=2))
    return site, images[site, image]


def _check_formula(block: gemmi.cif.Block, numbers: np.ndarray) -> None:
    """Compare with the formula in the file: a table that was cut at a line's end parses without complaint."""
    text = block.find_value("_chemical_formula_sum")
    if not text:
        return
    stated: dict[int, float] = {}
    for word in gemmi.cif.as_string(text).split():
        match = re.fullmatch(r"([A-Z][a-z]?)(\d*\.?\d*)", word)
        element = gemmi.Element(match[1]).atomic_number if match else 0
        if match is None or element == 0 or match[2] == ".":
            return
        stated[element] = stated.get(element, 0) + float(match[2] or 1)
    if not stated:
        return
    found = Counter(numbers.tolist())
    total_stated, total_found = sum(stated.values()), sum(found.values())
    # Of the cell or of a unit of it; of an element alone nothing else tells.
    times = max(total_found / total_stated, total_stated / total_found)
    if (
        set(stated) != set(found)
        or any(abs(stated[z] / total_stated - found[z] / total_found) > 1e-3 for z in stated)
        or (len(stated) == 1 and abs(times - round(times)) > 1e-3)
    ):
        raise ValueError(
            f"the atoms do not add up to the formula {gemmi.cif.as_string(text)!r} given in the file; "
            "atoms are missing, or the formula line should be corrected or removed"
        )


def _structure(block: gemmi.cif.Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers, positions and cell that a CIF data block describes; ValueError says what stands against
    it."""
    small = gemmi.make_small_structure_from_block(block)
    sites = list(small.sites)
    if block.find_value("_cell_length_a") is None:
        raise ValueError("it gives no unit cell")
    for site in sites:
        if site.element.atomic_number == 0:
            raise ValueError(f"unknown species {site.type_symbol or site.label!r}")
        if abs(site.occ - 1) > 1e-3:
            raise ValueError(
                f"site {site.label} has occupancy {site.occ:g}; only ordered structures can be used, "
                "so replace it by an ordered one"
            )
    if not sites:
        raise ValueError("it lists no atoms; is the file complete")
    frac = np.asarray([site.fract.tolist() for site in sites])
    numbers = np.asarray([site.element.atomic_number for site in sites])
    cell = np.asarray(small.cell.orth.mat.tolist()).T
    operations = _operations(small)
    if len(operations) > 1 and np.isfinite(frac).all():
        origin, frac = _expand(frac, operations, cell)
        numbers = numbers[origin]
    _check_formula(block, numbers)
    return numbers, frac @ cell, cell


def read_cif(path: Path, skipped: list[Skipped] | None = None) -> Dataset:
    """Read every data block with atoms; a single one is called after the file, several after themselves.

    Bad blocks are an error, or put on the list ``skipped``.
    """
    return _dataset(gemmi.cif.read(str(path)), path, stem(path), skipped)


def from_text(text: str, path: Path, name: str) -> Dataset:
    """The structures of one CIF that stands, as text, in a file of many."""
    try:
        document = gemmi.cif.read_string(text)
    except ValueError as error:
        raise InputError(f"{path}: structure {name}: no CIF ({error}). Correct or remove it.") from error
    return _dataset(document, path, name, None)


def _dataset(document: gemmi.cif.Document, path: Path, called: str, skipped: list[Skipped] | None) -> Dataset:
    blocks = [block for block in document if block.find_loop("_atom_site_fract_x")]
    if not blocks:
        raise InputError(
            f"{path}: no data block with _atom_site_fract_x"
            + ("" if called == stem(path) else f" in structure {called}")
            + ". Is the file complete, and a CIF?"
        )
    structures, ids = [], []
    for block in blocks:
        name = called if len(blocks) == 1 else block.name
        try:
            structures.append(_structure(block))
        except ValueError as error:
            refuse(path, name, f"{path}: structure {block.name}: {error}.", skipped)
            continue
        ids.append(name)
    numbers, positions, cells = zip(*structures, strict=True) if structures else ((), (), ())
    return Dataset(
        ids=np.asarray(ids, dtype=str),
        natoms=np.asarray([len(each) for each in numbers], dtype=np.int64),
        numbers=np.concatenate([*numbers, np.zeros(0)]).astype(np.uint8),
        positions=np.concatenate([*positions, np.zeros((0, 3))]),
        cells=np.asarray(cells, dtype=float).reshape(-1, 3, 3),
        pbc=np.ones((len(ids), 3), dtype=bool),
        source=str(path),
    )
