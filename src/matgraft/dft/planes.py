"""Planes through crystals, and what fields are worth there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from scipy.ndimage import map_coordinates

from matgraft.data.symmetry import symmetry
from matgraft.errors import InputError

SPACING = 0.05
"""Angstrom between points on a plane."""
REACH = 8.0
"""Angstrom: least width and height of the part of a plane that is shown."""


@dataclass(frozen=True)
class Plane:
    """A rectangular part of a plane.

    Attributes
    ----------
    centre : ndarray, shape (3,)
        Angstrom.
    right, up : ndarray, shape (3,)
        Unit vectors in the plane, at right angles.
    width, height : float
        Angstrom.
    """

    centre: np.ndarray
    right: np.ndarray
    up: np.ndarray
    width: float
    height: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.right, self.up)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top in the coordinates of the plane, its centre the origin; Angstrom."""
        return -self.width / 2, self.width / 2, -self.height / 2, self.height / 2

    def points(self) -> np.ndarray:
        """Points of a regular grid from the lower left, edges included; Angstrom, (rows, columns, 3)."""
        left, right, bottom, top = self.extent
        x = np.linspace(left, right, round(self.width / SPACING) + 1)
        y = np.linspace(bottom, top, round(self.height / SPACING) + 1)
        return self.centre + x[None, :, None] * self.right + y[:, None, None] * self.up

    def coordinates(self, positions: np.ndarray) -> np.ndarray:
        """Along ``right``, ``up`` and the normal from the centre; Angstrom, shape (n, 3)."""
        return (positions - self.centre) @ np.array([self.right, self.up, self.normal]).T


def miller(text: str) -> tuple[int, int, int]:
    """Three indices: ``110``, ``1-10``, or with commas where one has several digits.

    Raises
    ------
    InputError
    """
    found = re.fullmatch(r"(-?\d)(-?\d)(-?\d)", text.strip()) or re.fullmatch(
        r"(-?\d+)[,\s]+(-?\d+)[,\s]+(-?\d+)", text.strip()
    )
    if found is None or not any(map(int, found.groups())):
        raise InputError(f"--plane {text!r}: write three Miller indices, such as 110, 1-10 or 1,0,-1.")
    h, k, l = map(int, found.groups())  # noqa: E741
    return h, k, l


def plane(atoms: Atoms, indices: tuple[int, int, int]) -> Plane:
    """The lattice plane with these Miller indices through the first atom.

    It extends over one and a half periods of the crystal each way, :data:`REACH` at least, along the shortest
    lattice vector that lies in it.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions.
    indices : tuple of int
        With respect to :func:`conventional`.
    """
    normal = np.asarray(indices) @ np.linalg.inv(conventional(atoms)).T
    normal /= np.linalg.norm(normal)
    first, second = _periods(atoms.cell.array, normal)
    length = float(np.linalg.norm(first))
    right = first / length
    up = np.cross(normal, right)
    return Plane(
        centre=atoms.positions[0],
        right=right,
        up=up,
        width=max(REACH, 1.5 * length),
        height=max(REACH, 1.5 * abs(float(second @ up))),
    )


def conventional(atoms: Atoms) -> np.ndarray:
    """Lattice vectors that Miller indices refer to, Angstrom, shape (3, 3).

    Those of the structure, unless its cell is not as large as the conventional one of its symmetry: the
    primitive cell of a centred lattice, or a supercell, of which only that one has indices that all agree on.
    """
    cell = atoms.cell.array
    try:
        matrix = symmetry(atoms).transformation_matrix
    except ValueError:
        return cell
    return cell if abs(abs(np.linalg.det(matrix)) - 1) < 1e-3 else np.linalg.inv(matrix).T @ cell


def _periods(cell: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two shortest lattice vectors at right angles to the normal that are not parallel."""
    reach = 2 * np.linalg.norm(cell, axis=1).max()
    while True:
        vectors = _lattice(cell, reach) @ cell
        lengths = np.linalg.norm(vectors, axis=1)
        inside = (np.abs(vectors @ normal) < 1e-3 * lengths) & (lengths > 1e-6) & (lengths <= reach)
        # Of two that differ in sign, the one that points along the axes.
        order = np.lexsort((-vectors[inside].sum(axis=1).round(6), lengths[inside].round(6)))
        vectors = vectors[inside][order]
        if len(vectors):
            across = (
                np.linalg.norm(np.cross(vectors, vectors[0]), axis=1) > 1e-3 * lengths[inside][order] ** 2
            )
            if across.any():
                return vectors[0], vectors[across.argmax()]
        reach *= 2


def _lattice(cell: np.ndarray, reach: float) -> np.ndarray:
    """Integers of all lattice vectors no longer than ``reach``, and of some that are; shape (n, 3)."""
    most = np.ceil(reach * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int)
    return np.array(list(product(*(range(-n, n + 1) for n in most))))


def nearby(atoms: Atoms, plane: Plane, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and images of them that a plane passes.

    Parameters
    ----------
    atoms : Atoms
    plane : Plane
    distance : float
        Greatest one from the plane, Angstrom.

    Returns
    -------
    indices : ndarray of int, shape (n,)
    coordinates : ndarray, shape (n, 3)
        See :meth:`Plane.coordinates`.
    """
    cell = atoms.cell.array
    corner = np.hypot(plane.width, plane.height) / 2 + distance
    reach = corner + np.linalg.norm(atoms.positions - plane.centre, axis=1).max()
    shifts = _lattice(cell, reach) @ cell
    places = plane.coordinates((atoms.positions + shifts[:, None]).reshape(-1, 3))
    limits = np.array([plane.width / 2, plane.height / 2, distance]) + 1e-6
    inside = (np.abs(places) <= limits).all(axis=1)
    return np.tile(np.arange(len(atoms)), len(shifts))[inside], places[inside]


def on_plane(field: np.ndarray, cell: np.ndarray, plane: Plane) -> np.ndarray:
    """Values at :meth:`Plane.points`, by periodic cubic splines; shape (rows, columns).

    Parameters
    ----------
    field : ndarray, shape (n1, n2, n3)
        See :class:`matgraft.dft.fields.Fields`.
    cell : ndarray, shape (3, 3)
        Angstrom.
    """
    places = plane.points() @ np.linalg.inv(cell) * field.shape
    return map_coordinates(field, np.moveaxis(places, -1, 0), order=3, mode="grid-wrap")
