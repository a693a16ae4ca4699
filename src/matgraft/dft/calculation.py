"""From a structure and a protocol to the input of pw.x."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import spglib
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.io.espresso import write_espresso_in
from ase.neighborlist import neighbor_list

from matgraft.data import Dataset
from matgraft.data.checks import check_structures
from matgraft.data.symmetry import orientation
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import Pseudopotential
from matgraft.errors import InputError

MOMENTS = {
    "Ti": 1.0, "V": 2.0, "Cr": 3.0, "Mn": 4.0, "Fe": 4.0, "Co": 3.0, "Ni": 2.0, "Cu": 1.0, "Mo": 2.0,
    "Ru": 2.0, "Ce": 1.0, "Nd": 3.0, "Sm": 5.0, "Eu": 7.0, "Gd": 7.0, "Tb": 6.0, "Dy": 5.0, "Ho": 4.0,
}  # fmt: skip
"""Moments at the start, Bohr magnetons: about the unpaired electrons of common ions; 0 for other elements."""

SHELLS = dict.fromkeys(range(21, 31), "3d") | dict.fromkeys(range(39, 49), "4d")
SHELLS |= dict.fromkeys(range(72, 81), "5d") | dict.fromkeys(range(57, 72), "4f")
SHELLS |= dict.fromkeys(range(89, 104), "5f") | {6: "2p", 7: "2p", 8: "2p"}

SAME = 1e-5
"""Angstrom: structures that differ by less are one and share their label."""

LADDER: tuple[dict[str, object], ...] = (
    {"mixing_beta": 0.4, "electron_maxstep": 60},
    {"mixing_beta": 0.2, "electron_maxstep": 100},
    {"mixing_beta": 0.1, "mixing_mode": "local-TF", "mixing_ndim": 12, "electron_maxstep": 150},
    {"mixing_beta": 0.2, "electron_maxstep": 200, "diagonalization": "cg", "degauss": 0.05},
)
"""What is tried in turn when the loop does not converge or the program crashes. None changes the label: the
last one converges with a wide smearing first and goes on from its density with the protocol's own."""


MOST_SPECIES = 10
"""That Quantum ESPRESSO takes; an element is one for each moment that its atoms start from."""

FEW = 12
"""Magnetic atoms, up to which all antiferromagnetic orders are compared."""


class Unfit(Exception):
    """A structure that a protocol cannot calculate: ``reason`` in a few words, the message in a sentence."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Calculation:
    """One structure by one protocol.

    Attributes
    ----------
    numbers : ndarray, shape (n,)
    positions : ndarray, shape (n, 3)
        Angstrom.
    cell : ndarray, shape (3, 3)
        Angstrom.
    moments : ndarray, shape (n,) or None
        At the start, Bohr magnetons; None is not spin-polarised.
    protocol : Protocol
    pseudopotentials : dict of str to Pseudopotential
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    moments: np.ndarray | None
    protocol: Protocol
    pseudopotentials: dict[str, Pseudopotential]

    @classmethod
    def of(cls, atoms: Atoms, protocol: Protocol, library: Mapping[str, Pseudopotential]) -> Calculation:
        """Prepare a calculation.

        Raises
        ------
        Unfit
            No pseudopotential for an element, not periodic, atoms that overlap, a cell or place that is none,
            an order that the cell cannot hold, or an odd number of electrons without spin polarisation.
        InputError
            A Hubbard U on an element without a shell for it.
        """
        elements = sorted(set(atoms.get_chemical_symbols()))
        lacking = [element for element in elements if element not in library]
        if lacking:
            raise Unfit(
                "no pseudopotential",
                f"no pseudopotential for {', '.join(lacking)}; there are those of {', '.join(library)}. "
                "Give a folder that holds all with --pseudopotentials.",
            )
        if not atoms.pbc.all():
            raise Unfit("bad structure", "not periodic in three directions; put it in a box.")
        try:
            # pw.x converges for atoms 0.1 Angstrom apart, too: to a label of a thousand eV.
            check_structures(Dataset.from_atoms([atoms], [str(atoms.symbols)], source="not calculated"))
        except InputError as error:
            raise Unfit("bad structure", str(error)) from error
        for element in protocol.hubbard_u:
            if element in elements and atomic_numbers[element] not in SHELLS:
                raise InputError(
                    f"--hubbard {element}: a U is for d and f shells, and for p of C, N and O; leave "
                    f"{element} out."
                )
        electrons = sum(library[symbol].valence for symbol in atoms.symbols)
        return cls(
            numbers=atoms.numbers.copy(),
            positions=atoms.positions.copy(),
            cell=atoms.cell.array.copy(),
            moments=grouped(atoms.numbers, starting_moments(atoms, protocol, electrons)),
            protocol=protocol,
            pseudopotentials={element: library[element] for element in elements},
        )

    @property
    def atoms(self) -> Atoms:
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=True, magmoms=self.moments)

    @cached_property
    def rotation(self) -> np.ndarray:
        """The proper rotation, of a column vector, from the crystal as it is to how :meth:`deck` has it.

        pw.x looks for symmetry among the rotations of an upright cube and an upright hexagonal prism only; a
        crystal that lies differently would need several times as many k-points.
        """
        return orientation(Atoms(self.numbers, self.positions, cell=self.cell, pbc=True))

    @property
    def electrons(self) -> float:
        """Number of valence electrons."""
        return sum(self.pseudopotentials[chemical_symbols[z]].valence for z in self.numbers)

    @property
    def kpoints(self) -> tuple[int, int, int]:
        """Gamma-centred grid whose points are nowhere farther apart than the protocol says."""
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(self.cell).T, axis=1)
        # The margin keeps round-off from adding a point.
        a, b, c = np.maximum(np.ceil(lengths / self.protocol.kspacing - 1e-6), 1).astype(int).tolist()
        return a, b, c

    @cached_property
    def cost(self) -> float:
        """Work of one step of the loop on a scale without unit: inequivalent k-points, grid points, bands.

        In small cells, bands are Fourier transformed more than they are multiplied, on a grid along the
        vectors of the cell. On 80 oxides, this says the time of a step to within a fifth.
        """
        moments = np.zeros(len(self.numbers)) if self.moments is None else self.moments
        _, kinds = np.unique(np.column_stack([self.numbers, moments]), axis=0, return_inverse=True)
        cell = (self.cell.tolist(), self.atoms.get_scaled_positions().tolist(), kinds.ravel().tolist())
        mesh = spglib.get_ir_reciprocal_mesh(self.kpoints, cell, is_shift=(0, 0, 0), symprec=SAME)
        inequivalent = np.prod(self.kpoints) if mesh is None else len(np.unique(mesh[0]))
        spins = 1 if self.moments is None else 2
        box = np.prod(np.linalg.norm(self.cell, axis=1))
        return float(spins * inequivalent * box * self.protocol.ecutwfc**1.5 * self.electrons)

    @cached_property
    def key(self) -> str:
        """See :func:`key_of`."""
        return key_of(self.atoms, self.protocol, self.moments, self.hashes)

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the pseudopotentials, by element."""
        return {element: one.sha256 for element, one in self.pseudopotentials.items()}

    def deck(
        self,
        rung: int = 0,
        *,
        degauss: float | None = None,
        keep: bool = False,
        start: bool = False,
        max_seconds: float | None = None,
    ) -> str:
        """The input file of pw.x, which works in ``./out``; the crystal turned by :attr:`rotation`.

        Parameters
        ----------
        rung : int
            Of :data:`LADDER`.
        degauss : float, optional
            Another width of smearing, Ry.
        keep, start : bool
            Keep the density on disk; start from the one that is kept.
        max_seconds : float, optional
            After which the program ends by itself.
        """
        settings, atoms = self.protocol, self.atoms
        atoms.set_cell(self.cell @ self.rotation.T, scale_atoms=True)
        control: dict[str, object] = {
            "calculation": "scf",
            "outdir": "out",
            "pseudo_dir": str(next(iter(self.pseudopotentials.values())).path.parent),
            "disk_io": "low" if keep or start else "none",
            "tprnfor": settings.forces,
        }
        if max_seconds is not None:
            control["max_seconds"] = float(max_seconds)
        if self.moments is not None:
            # pw.x wants them as a share of the valence electrons.
            valence = [self.pseudopotentials[symbol].valence for symbol in atoms.symbols]
            atoms.set_initial_magnetic_moments(np.clip(self.moments / valence, -1, 1))
        steps = {key: value for key, value in LADDER[rung].items() if key != "degauss"}
        text = io.StringIO()
        write_espresso_in(
            text,
            atoms,
            input_data={
                "control": control,
                "system": {
                    "ecutwfc": settings.ecutwfc,
                    "ecutrho": 4 * settings.ecutwfc,
                    "occupations": "smearing",
                    "smearing": settings.smearing,
                    "degauss": degauss or settings.degauss,
                    "nspin": 1 if self.moments is None else 2,
                },
                "electrons": {
                    "conv_thr": settings.conv_thr * len(atoms),
                    **steps,
                    **({"startingpot": "file"} if start else {}),
                },
            },
            pseudopotentials={element: one.path.name for element, one in self.pseudopotentials.items()},
            kpts=self.kpoints,
        )
        return text.getvalue() + self._hubbard(text.getvalue())

    def _hubbard(self, deck: str) -> str:
        """The card of the Hubbard parameters, for each species of an element that has one."""
        species = deck.split("ATOMIC_SPECIES")[1].split("K_POINTS")[0].split()[::3]
        lines = []
        for name in species:
            element = name.rstrip("0123456789")
            if self.protocol.hubbard_u.get(element):
                shell = SHELLS[atomic_numbers[element]]
                lines.append(f"U {name}-{shell} {self.protocol.hubbard_u[element]:g}")
        return "\n".join(["HUBBARD ortho-atomic", *lines, ""]) if lines else ""


def key_of(
    atoms: Atoms,
    protocol: Protocol,
    moments: np.ndarray | None = None,
    pseudopotentials: Mapping[str, str] | None = None,
) -> str:
    """32 hexadecimal digits that are equal if and only if the label is the same.

    SHA-256 over structure (to 1e-5 Angstrom), moments at the start, settings, and the hashes of the
    pseudopotentials; neither versions of programs nor the form of the input file are in it.
    """
    content: dict[str, object] = {
        "numbers": atoms.numbers.tolist(),
        "structure": [_steps(atoms.cell.array), _steps(atoms.positions)],
        "moments": None if moments is None else np.round(moments, 6).tolist(),
        "settings": protocol.decisive,
        "pseudopotentials": dict(pseudopotentials or {}),
    }
    if not atoms.pbc.all():
        content["pbc"] = atoms.pbc.tolist()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def key_of_unfit(atoms: Atoms, protocol: Protocol) -> str:
    """The key of a structure that cannot be calculated, under which the reason is kept."""
    own = atoms.get_initial_magnetic_moments()
    return key_of(atoms, protocol, own if own.any() else None)


def _steps(places: np.ndarray) -> list:
    """Places in whole numbers of :data:`SAME`; as words where they are no numbers."""
    finite = np.isfinite(places)
    steps = np.round(np.where(finite, places, 0) / SAME).astype(np.int64).astype(object)
    steps[~finite] = places[~finite].astype(str)
    return steps.tolist()


def starting_moments(atoms: Atoms, protocol: Protocol, electrons: float) -> np.ndarray | None:
    """Moments that a calculation starts from, in Bohr magnetons; None if it need not be spin-polarised.

    Those of a structure that brings its own, else :data:`MOMENTS`; moments of its own in both directions are
    an order, and are left as they are. Without a magnetic element and with an even number of electrons, spin
    polarisation would find nothing; with an odd number one moment is spread over the atoms.

    Raises
    ------
    Unfit
    """
    odd = round(electrons) % 2 == 1
    if protocol.order == "none":
        if odd:
            raise Unfit(
                "odd number of electrons",
                f"{electrons:g} electrons cannot all be paired: use a spin-polarised protocol "
                "(order ferromagnetic).",
            )
        return None
    own = atoms.get_initial_magnetic_moments() if atoms.has("initial_magmoms") else np.zeros(len(atoms))
    if not np.isfinite(own).all():
        raise Unfit("bad structure", "a magnetic moment is NaN or infinite; correct or remove it.")
    moments = own if own.any() else np.asarray([MOMENTS.get(symbol, 0.0) for symbol in atoms.symbols])
    if not moments.any():
        return np.full(len(atoms), 1.0 / len(atoms)) if odd else None
    ordered = (moments > 0).any() and (moments < 0).any()
    if protocol.order == "ferromagnetic" or ordered:
        return moments
    return moments * alternating(atoms, moments != 0)


def grouped(numbers: np.ndarray, moments: np.ndarray | None) -> np.ndarray | None:
    """Moments of at most :data:`MOST_SPECIES` species; as they are where there are no more.

    The nearest two of an element become their mean, over and over: a start need not be exact, and what a
    program left behind differs between like atoms in the last digits only.
    """
    if moments is None:
        return None
    moments, kinds = moments.copy(), np.unique(np.column_stack([numbers, moments]), axis=0)
    species = [np.flatnonzero((numbers == z) & (moments == moment)) for z, moment in kinds]
    while len(species) > MOST_SPECIES:
        gaps = [
            (moments[upper[0]] - moments[lower[0]], i)
            for i, (lower, upper) in enumerate(pairwise(species))
            if numbers[lower[0]] == numbers[upper[0]]
        ]
        if not gaps:
            break
        _, i = min(gaps)
        both = np.concatenate(species[i : i + 2])
        moments[both] = moments[both].mean()
        species[i : i + 2] = [both]
    return moments


def alternating(atoms: Atoms, magnetic: np.ndarray) -> np.ndarray:
    """Signs for the simplest antiferromagnetic order: as many near magnetic neighbours opposite as can be.

    Pairs count by the inverse sixth power of their distances. Up to :data:`FEW` magnetic atoms, no signs are
    better; beyond, none that differ in one atom.

    Parameters
    ----------
    atoms : Atoms
    magnetic : ndarray of bool, shape (n,)

    Returns
    -------
    ndarray, shape (n,)
        1, -1; 1 for the first magnetic atom.

    Raises
    ------
    Unfit
        Fewer than two magnetic atoms, which all periodic images make ferromagnetic.
    """
    sites = np.flatnonzero(magnetic)
    if len(sites) < 2:
        raise Unfit(
            "bad structure",
            "an antiferromagnetic start needs at least two magnetic atoms in the cell; give a supercell.",
        )
    sublattice = atoms[sites]
    reach = 1.5 * sublattice.cell.volume ** (1 / 3)
    first, second, distance = neighbor_list("ijd", sublattice, reach)
    coupling = np.zeros((len(sites), len(sites)))
    np.add.at(coupling, (first, second), distance**-6.0)
    np.fill_diagonal(coupling, 0.0)
    result = np.ones(len(atoms))
    result[sites] = _best_signs(coupling) if len(sites) <= FEW else _good_signs(coupling)
    return result


def _best_signs(coupling: np.ndarray) -> np.ndarray:
    every = np.array([(1, *rest) for rest in product((1, -1), repeat=len(coupling) - 1)])
    energies = ((every @ coupling) * every).sum(axis=1)
    # The first of equals, whatever the round-off.
    return every[np.flatnonzero(energies <= energies.min() + 1e-6 * np.ptp(energies))[0]]


def _good_signs(coupling: np.ndarray) -> np.ndarray:
    """Each next atom, nearest first, against the majority of those before; then turned while that helps."""
    signs = np.zeros(len(coupling))
    signs[0] = 1.0
    while (signs == 0).any():
        field = coupling @ signs
        strength = np.where(signs == 0, coupling @ np.abs(signs), -1.0)
        site = int(strength.argmax())
        signs[site] = 1.0 if field[site] < 0 else -1.0
    for _ in range(10 * len(signs)):
        gain = signs * (coupling @ signs)
        site = int(gain.argmax())
        if gain[site] <= 1e-12:
            break
        signs[site] *= -1
    return signs * signs[0]
