"""Structures for a label set of our own: small oxides of Fe, Ti, V, Cr and Mn, known and substituted ones.

    python benchmarks/oxide_structures.py --out structures.extxyz

Known: every structure of `tmo-oxides` and `tmo-unlabelled` that holds nothing but these metals and oxygen and
at most ten atoms. Substituted: the same with one metal for another, the cell scaled by the change of the
metal-oxygen distance in Shannon's radii (high spin, sixfold) for the mean oxidation state. All are brought to
the primitive cell of their space group, which moves no atom by more than 0.01 Angstrom and spares pw.x every
k-point that symmetry makes needless; oblique ones to the Niggli cell, which spares it grid points. Of two
structures with equal formula, space group and number of atoms whose volumes are within three per cent, the
first stays.
"""

from __future__ import annotations

import argparse

import numpy as np
import spglib
from ase import Atoms

from matgraft.data import Dataset
from matgraft.data.symmetry import SYMPREC
from matgraft.data.writers import write

METALS = ("Ti", "V", "Cr", "Mn", "Fe")
RADII = {
    "Ti": (0.86, 0.67, 0.605),
    "V": (0.79, 0.64, 0.58),
    "Cr": (0.80, 0.615, 0.55),
    "Mn": (0.83, 0.645, 0.53),
    "Fe": (0.78, 0.645, 0.585),
}
"""Angstrom, for the charges 2, 3, 4 (Shannon, Acta Cryst. A 32, 751, 1976)."""
OXYGEN = 1.40
MOST_ATOMS = 10
SAME_VOLUME = 0.03
OBLIQUE = 1.2


def known() -> list[tuple[str, Atoms]]:
    found = []
    for name in ("tmo-oxides", "tmo-unlabelled"):
        data = Dataset.read(name)
        for identity, atoms in zip(data.ids, data, strict=True):
            if len(atoms) <= MOST_ATOMS and set(atoms.symbols) <= {*METALS, "O"} and "O" in atoms.symbols:
                found.append((str(identity), atoms))
    return found


def substituted(identity: str, atoms: Atoms) -> list[tuple[str, Atoms]]:
    metals = sorted(set(atoms.symbols) - {"O"})
    if len(metals) != 1:
        return []
    (old,) = metals
    counts = atoms.symbols.formula.count()
    charge = float(np.clip(2 * counts["O"] / counts[old], 2, 4))
    found = []
    for new in METALS:
        if new == old:
            continue
        before, after = (np.interp(charge, (2, 3, 4), RADII[metal]) + OXYGEN for metal in (old, new))
        other = atoms.copy()
        other.symbols[other.symbols == old] = new
        other.set_cell(atoms.cell * (after / before), scale_atoms=True)
        found.append((f"{identity}-{new}", other))
    return found


def cell_of(atoms: Atoms) -> tuple:
    return atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers


def primitive(atoms: Atoms) -> Atoms:
    lattice, positions, numbers = spglib.standardize_cell(cell_of(atoms), to_primitive=True, symprec=SYMPREC)
    result = Atoms(numbers, scaled_positions=positions, cell=lattice, pbc=True)
    reduced = spglib.niggli_reduce(lattice)
    if obliqueness(lattice) > OBLIQUE * obliqueness(reduced):
        result.set_cell(reduced)
        result.wrap()
    return result


def obliqueness(lattice: np.ndarray) -> float:
    """Product of the lengths over the volume: 1 for a box, and what a grid along the vectors wastes."""
    return float(np.prod(np.linalg.norm(lattice, axis=1)) / abs(np.linalg.det(lattice)))


def distinct(structures: list[tuple[str, Atoms]]) -> list[tuple[str, Atoms]]:
    kept: list[tuple[str, Atoms]] = []
    seen: dict[tuple, list[float]] = {}
    for identity, atoms in structures:
        group = spglib.get_spacegroup(cell_of(atoms), symprec=SYMPREC)
        volumes = seen.setdefault((str(atoms.symbols.formula.reduce()[0]), len(atoms), group), [])
        if all(abs(atoms.cell.volume / volume - 1) > SAME_VOLUME for volume in volumes):
            volumes.append(atoms.cell.volume)
            kept.append((identity, atoms))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    parents = known()
    children = [child for parent in parents for child in substituted(*parent)]
    structures = distinct([(identity, primitive(atoms)) for identity, atoms in parents + children])
    ids, atoms = zip(*structures, strict=True)
    origin = ["substituted" if identity.count("-") > 1 else "known" for identity in ids]
    write(Dataset.from_atoms(atoms, ids, columns={"structure_from": origin}), options.out)
    print(f"{len(parents)} known, {len(children)} substituted, {len(structures)} distinct: {options.out}")


if __name__ == "__main__":
    main()
