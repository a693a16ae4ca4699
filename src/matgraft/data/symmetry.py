"""The space group of a crystal, and how it lies in space."""

from __future__ import annotations

import warnings

import numpy as np
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


def orientation(atoms: Atoms) -> np.ndarray:
    """The rotation that turns a crystal's axes to where tables of space groups have them.

    For cubic, tetragonal and orthorhombic crystals these are x, y and z; for hexagonal and trigonal ones the
    main axis is z and a twofold one x; for monoclinic ones the axis is y. The symmetry that an almost
    symmetric crystal really has is brought there as exactly as that of an ideal one.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions.

    Returns
    -------
    ndarray, shape (3, 3)
        Proper; of a column vector. The identity without axes: triclinic, or no symmetry is found.
    """
    # Of several choices, spglib's would depend on how the crystal lay before.
    cell, turn = atoms.cell.standard_form()
    upright = atoms.copy()
    upright.set_cell(cell, scale_atoms=True)
    try:
        found = symmetry(upright)
    except ValueError:
        return np.eye(3)
    if found.number <= 2:
        return np.eye(3)
    # To the ideal cell it takes this rotation after a strain. The strain commutes with all symmetry that the
    # crystal has without it, so that the polar factor turns that one exactly; spglib's own rotation does not.
    strained = np.linalg.inv(found.transformation_matrix).T @ cell.array
    left, _, right = np.linalg.svd(np.linalg.solve(strained, found.std_lattice).T)
    return left @ right @ turn
