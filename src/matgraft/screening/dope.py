"""Single substitutions and vacancies, one of each kind that the symmetry of a supercell tells apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from matgraft.data.symmetry import symmetry
from matgraft.errors import InputError

MOST_ATOMS = 100_000
"""Of a supercell."""
VACANCY = "vac"
"""Stands for the missing atom in names: the V of Kröger and Vink is vanadium."""


@dataclass(frozen=True)
class Doped:
    """A supercell with one atom exchanged or taken away.

    Attributes
    ----------
    name : str
        After Kröger and Vink, with the number of the site among the inequivalent ones of its element:
        ``Fe_Ti(1)``, ``vac_O(2)``.
    atoms : Atoms
    site : int
        Index of the changed atom in the pristine supercell, the first of those equivalent to it.
    removed, added : str
        Elements; nothing is added to a vacancy.
    multiplicity : int
        Sites in the supercell where the same defect is the same crystal.
    wyckoff : str
        Letter of the site in the space group of the crystal. Sites of one letter may differ in a supercell.
    """

    name: str
    atoms: Atoms
    site: int
    removed: str
    added: str
    multiplicity: int
    wyckoff: str


def pristine(atoms: Atoms, supercell: Sequence[int], name: str = "") -> Atoms:
    """The supercell that :func:`doped` changes: whole unit cells behind one another, none of them wrapped.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions. Magnetic moments, charges and tags are left behind.
    supercell : sequence of int, length 3
        Repeats along the lattice vectors.
    name : str
        Of the structure, for messages; its formula by default.

    Raises
    ------
    InputError
        If the crystal is not periodic, the repeats are not three positive integers, or there are more than
        :data:`MOST_ATOMS`.
    """
    name = name or atoms.get_chemical_formula("metal")
    whole = len(supercell) == 3 and all(isinstance(n, int | np.integer) and n > 0 for n in supercell)
    if not whole:
        raise InputError(
            f"{name}: a supercell of {' x '.join(map(str, supercell))} cannot be made. Give three whole "
            "numbers of at least 1, such as 2x1x1."
        )
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise InputError(
            f"{name}: not a crystal, for it does not repeat in three directions, and its sites have no space "
            "group. Give it three lattice vectors (and vacuum, if it is a surface or a molecule)."
        )
    if (n := len(atoms) * math.prod(map(int, supercell))) > MOST_ATOMS:
        raise InputError(
            f"{name}: a supercell of {' x '.join(map(str, supercell))} has {n:,} atoms, more than "
            f"{MOST_ATOMS:,}. Take a smaller one."
        )
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    return bare.repeat(tuple(int(n) for n in supercell))


def doped(
    atoms: Atoms,
    supercell: Sequence[int],
    substitute: Mapping[str, Sequence[str]] | None = None,
    vacancies: Sequence[str] = (),
    name: str = "",
) -> list[Doped]:
    """All single substitutions and vacancies of some elements that are different crystals.

    Two sites are equivalent if an operation of the crystal that keeps the lattice of the supercell (spglib;
    Togo, Shinohara and Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822, 2024) takes one to the other: the
    three oxygens of a cubic perovskite are one site in a 2x2x2 cell and two in a 2x1x1 cell. Magnetic moments
    are ignored. Nothing is relaxed.

    Parameters
    ----------
    atoms : Atoms
    supercell : sequence of int, length 3
    substitute : mapping of str to sequence of str, optional
        Elements of the crystal, and the elements to put in their place.
    vacancies : sequence of str
        Elements of the crystal to take an atom of.
    name : str
        Of the structure, for messages; its formula by default.

    Returns
    -------
    list of Doped
        In the order of the request, the sites of each in the order of the supercell.

    Raises
    ------
    InputError
        If nothing is asked for, an element is unknown, not in the crystal or its own substitute, or the
        vacancy leaves no atom; see also :func:`pristine`.
    """
    name = name or atoms.get_chemical_formula("metal")
    perfect = pristine(atoms, supercell, name)
    changes = _changes(perfect, substitute or {}, vacancies, name)
    sites, multiplicities, wyckoffs = _inequivalent(perfect, name)
    found = []
    for removed, added in changes:
        own = np.flatnonzero(perfect.numbers[sites] == atomic_numbers[removed])
        for k, i in enumerate(own, start=1):
            site, changed = int(sites[i]), perfect.copy()
            if added:
                changed.numbers[site] = atomic_numbers[added]
            else:
                del changed[site]
            label = f"{added or VACANCY}_{removed}({k})"
            found.append(Doped(label, changed, site, removed, added, int(multiplicities[i]), wyckoffs[site]))
    return found


def _changes(
    perfect: Atoms, substitute: Mapping[str, Sequence[str]], vacancies: Sequence[str], name: str
) -> list[tuple[str, str]]:
    """Pairs of removed and added element, each once."""
    exchanges = [(removed, added) for removed, several in substitute.items() for added in several]
    changes = list(dict.fromkeys(exchanges + [(removed, "") for removed in vacancies]))
    if not changes:
        raise InputError(
            f"{name}: neither a substitution nor a vacancy was asked for. Name some, such as Ti:Fe,V or O."
        )
    present = perfect.symbols.species()
    for removed, added in changes:
        for symbol in (removed, added):
            if symbol and symbol not in chemical_symbols[1:]:
                raise InputError(f"{name}: {symbol!r} is no element. Write its symbol, such as Ti.")
        if removed not in present:
            raise InputError(
                f"{name}: no {removed} in it to take away; there is {', '.join(sorted(present))}."
            )
        if removed == added:
            raise InputError(f"{name}: {removed} in place of {removed} changes nothing. Leave it out.")
        if not added and len(perfect) == 1:
            raise InputError(f"{name}: its only atom cannot be missing. Take a larger supercell.")
    return changes


def _inequivalent(perfect: Atoms, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """First atom of each class of equivalent ones and the size of the class, and the letter of every atom."""
    try:
        found = symmetry(perfect)
    except ValueError as problem:
        raise InputError(
            f"{name}: its symmetry cannot be found ({problem}). Correct the structure or leave it out."
        ) from problem
    _, sites, sizes = np.unique(found.equivalent_atoms, return_index=True, return_counts=True)
    order = np.argsort(sites)
    return sites[order], sizes[order], list(found.wyckoffs)
