"""The space group of a crystal."""

from __future__ import annotations

import warnings

import spglib
from ase import Atoms

SYMPREC = 0.01
"""Angstrom by which atoms may miss their symmetric places. Relaxed crystals do so by less; twice as many
calculations of one and the same defect are the price of a smaller value."""


def symmetry(atoms: Atoms) -> spglib.SpglibDataset:
    """Operations, equivalent atoms and the standard cell (spglib; Togo, Shinohara and Tanaka, Sci. Technol.
    Adv. Mater. Meth. 4, 2384822, 2024). Magnetic moments are ignored.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions.

    Raises
    ------
    ValueError
        It cannot be found.
    """
    with warnings.catch_warnings():
        # 2.7 and 2.8 announce on every call that 3.0 will raise errors, where versions before return None.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
            found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
        except Exception as error:
            raise ValueError(str(error)) from error
    if found is None:
        raise ValueError("see whether atoms overlap")
    return found
