"""What a total energy is made of, point by point: the electron density and the potentials it moves in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree, Ry

from matgraft.dft.calculation import Calculation
from matgraft.dft.engine import Engine, execute
from matgraft.dft.output import Result
from matgraft.dft.store import Attempt, next_rung
from matgraft.errors import InputError
from matgraft.whole import whole

GRIDS = ("density", "v_ext", "v_hartree", "v_xc", "v_eff")
UNITS = {
    "density": "electrons/Angstrom^3",
    **dict.fromkeys(GRIDS[1:], "eV"),
    **dict.fromkeys(("cell", "positions"), "Angstrom"),
    "electrons": "electrons",
}
"""Of what :meth:`Fields.save` writes."""

_PLOTS = {"density": 0, "total": 1, "bare": 2, "bare_hartree": 11}
"""``plot_num`` of pp.x."""
_PROGRAM = "pp.x"


@dataclass(frozen=True)
class Fields:
    """Density and local potentials on the grid of the fast Fourier transform.

    Point ``(i, j, k)`` is at ``i / n1, j / n2, k / n3`` of the lattice vectors; none is repeated at the far
    faces of the cell.

    Attributes
    ----------
    atoms : Atoms
    electrons : float
        Number of valence electrons that the calculation was asked for.
    density : ndarray, shape (n1, n2, n3)
        Valence electrons per Angstrom^3, both spins together.
    v_ext : ndarray, shape (n1, n2, n3)
        Local part of the pseudopotentials, eV. Their non-local part has no value at a point.
    v_hartree : ndarray, shape (n1, n2, n3)
        Potential of the density, eV; its mean is zero, for that of the nuclei would cancel it.
    v_xc : ndarray, shape (n1, n2, n3)
        Exchange and correlation, eV; the mean of both spins' in a spin-polarised calculation.
    v_eff : ndarray, shape (n1, n2, n3)
        Sum of the three, eV, as the program has it.
    """

    atoms: Atoms
    electrons: float
    density: np.ndarray
    v_ext: np.ndarray
    v_hartree: np.ndarray
    v_xc: np.ndarray
    v_eff: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write a ``.npz`` file of the arrays, the structure and, as JSON, the units."""
        with whole(Path(path)) as partial, open(partial, "wb") as handle:
            np.savez_compressed(
                handle,
                **{name: getattr(self, name) for name in GRIDS},
                electrons=self.electrons,
                numbers=self.atoms.numbers,
                positions=self.atoms.positions,
                cell=self.atoms.cell.array,
                units=json.dumps(UNITS),
            )

    @classmethod
    def load(cls, path: str | Path) -> Fields:
        """Open what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as held:
            atoms = Atoms(held["numbers"], held["positions"], cell=held["cell"], pbc=True)
            return cls(atoms, float(held["electrons"]), **{name: held[name] for name in GRIDS})


@dataclass(frozen=True)
class Check:
    """One property that fields must have.

    Attributes
    ----------
    name, unit : str
    value : float
        Deviation.
    tolerance : float
    """

    name: str
    value: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        return self.value <= self.tolerance

    def as_dict(self) -> dict:
        return {**asdict(self), "passed": self.passed}


def calculate(
    calculation: Calculation,
    engine: Engine,
    *,
    max_seconds: float | None = None,
) -> tuple[Fields, Result]:
    """Converge a calculation with pw.x and let pp.x write its fields.

    Parameters
    ----------
    calculation : Calculation
    engine : Engine
    max_seconds : float, optional
        Wall time of one attempt.

    Raises
    ------
    InputError
        There is no pp.x beside pw.x, or no attempt converges.
    """
    engine.program(_PROGRAM)
    found: list[Fields] = []
    attempts: list[Attempt] = []
    while (rung := next_rung(attempts)) is not None:
        outcome = engine.run(
            calculation,
            rung,
            max_seconds,
            after=lambda folder: found.append(_read(calculation, engine, folder)),
        )
        if isinstance(outcome, Result):
            return found[-1], outcome
        attempts.append(Attempt(rung, outcome.reason, outcome.message, outcome.seconds))
    last = attempts[-1]
    raise InputError(
        f"{calculation.atoms.get_chemical_formula('metal')}: no density, {last.reason} ({last.message}). "
        "Look at the structure, or give another protocol or more time."
    )


def _read(calculation: Calculation, engine: Engine, folder: Path) -> Fields:
    """The fields of the density that pw.x has left in a folder."""
    plots = {}
    for name, number in _PLOTS.items():
        # Component 0 is the sum of both spins for the density and their mean for the potential.
        (folder / "pp.in").write_text(
            f"&INPUTPP prefix='pwscf', outdir='out', filplot='{name}', plot_num={number}, "
            "spin_component=0 /\n"
            "&PLOT /\n"
        )
        code, text, _ = execute((*engine.program(_PROGRAM), "-in", "pp.in"), folder)
        if code or not (folder / name).is_file():
            raise InputError(
                f"{' '.join(engine.program(_PROGRAM))}: does not write the {name.replace('_', ' + ')} "
                f"({' '.join(text.split()[-20:]) or f'exit code {code}'}). It must be of the installation of "
                "pw.x; name that with --command."
            )
        plots[name] = read_plot(folder / name)
    bare, hartree, total = (plots[name] * Ry for name in ("bare", "bare_hartree", "total"))
    return Fields(
        atoms=calculation.atoms,
        electrons=calculation.electrons,
        density=plots["density"] / Bohr**3,
        v_ext=bare,
        v_hartree=hartree - bare,
        v_xc=total - hartree,
        v_eff=total,
    )


def read_plot(path: str | Path) -> np.ndarray:
    """The values in a file that pp.x writes as ``filplot``, in the program's unit; shape (n1, n2, n3).

    They have ten digits there and five in the program's cube files, too few for differences of potentials.
    """
    with open(path) as handle:
        handle.readline()
        *allocated, n1, n2, n3, atoms, species = map(int, handle.readline().split())
        free = int(handle.readline().split()[0]) == 0
        for _ in range((3 if free else 0) + 1 + species + atoms):
            handle.readline()
        values = np.array(handle.read().split(), dtype=float)
    return values.reshape(allocated, order="F")[:n1, :n2, :n3]


def hartree_potential(density: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Solution of Poisson's equation with zero mean, by the components 4 pi e^2 n(G) / G^2.

    Parameters
    ----------
    density : ndarray, shape (n1, n2, n3)
        Electrons per Angstrom^3.
    cell : ndarray, shape (3, 3)
        Angstrom.

    Returns
    -------
    ndarray, shape (n1, n2, n3)
        Potential energy of an electron, eV.
    """
    waves = np.stack(np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in density.shape), indexing="ij"), axis=-1)
    squares = ((waves @ (2 * np.pi * np.linalg.inv(cell).T)) ** 2).sum(axis=-1)
    squares[0, 0, 0] = np.inf
    return np.fft.ifftn(4 * np.pi * Hartree * Bohr * np.fft.fftn(density) / squares).real


def checks(fields: Fields) -> list[Check]:
    """Electrons in the cell, Poisson's equation, and the sum of the potentials."""
    cell = fields.atoms.cell.array
    counted = fields.density.mean() * abs(np.linalg.det(cell))
    poisson = fields.v_hartree - hartree_potential(fields.density, cell)
    rest = fields.v_eff - (fields.v_ext + fields.v_hartree + fields.v_xc)
    return [
        Check("integral of the density", float(abs(counted - fields.electrons)), 1e-3, "electrons"),
        Check("V_Hartree and Poisson's equation", float(np.abs(poisson).max()), 1e-3, "eV"),
        Check("V_eff and the sum of its parts", float(np.abs(rest).max()), 1e-6, "eV"),
    ]
