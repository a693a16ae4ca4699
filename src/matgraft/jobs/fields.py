"""Density and potentials of one structure: arrays, cube files, and a picture of a plane."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ase import Atoms
from ase.io.cube import write_cube
from ase.units import Bohr, Hartree

from matgraft.data import Dataset
from matgraft.dft.calculation import Calculation, Unfit
from matgraft.dft.engine import Engine
from matgraft.dft.fields import GRIDS, Check, Fields, calculate, checks
from matgraft.dft.planes import nearby, on_plane, plane
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.errors import InputError
from matgraft.evaluation.maps import Map, Site, maps
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import claim, write_json
from matgraft.progress import Progress
from matgraft.whole import whole

ARRAYS, PICTURE, CHECKS = "fields.npz", "fields.png", "checks.json"
INSIDE, BESIDE = 0.1, 1.0
"""Angstrom: an atom is in the plane, or near enough to it to be shown."""

_NAMES = dict(zip(GRIDS, ("density", "V_ext", "V_Hartree", "V_xc", "V_eff"), strict=True))


@dataclass(frozen=True)
class Written:
    """Checks of the fields, and the folder that holds them."""

    checks: list[Check]
    protocol: Protocol
    out: Path

    @property
    def table(self) -> Table:
        rows = [(one.name, one.value, one.tolerance, one.unit, one.passed) for one in self.checks]
        return Table(("check", "deviation", "at most", "unit", "passed"), rows)

    @property
    def complaint(self) -> str:
        """Which checks failed, and the remedy; empty if none did."""
        failed = [
            f"{one.name}: off by {one.value:.2g} {one.unit}, at most {one.tolerance:g} are right"
            for one in self.checks
            if not one.passed
        ]
        if not failed:
            return ""
        if not self.checks[0].passed and self.protocol.smearing in ("cold", "mp"):
            remedy = (
                f'With {self.protocol.smearing} smearing, pw.x may miss the Fermi level; set "smearing": '
                '"gaussian" in the protocol and give a new --out.'
            )
        else:
            remedy = "Do not trust this pw.x with its pp.x: name another with --command and give a new --out."
        return f"{self.out}: {'; '.join(failed)}. {remedy}"


def fields(
    structure: str | Path | Dataset,
    out: str | Path,
    protocol: Protocol,
    engine: Engine,
    indices: tuple[int, int, int],
    *,
    name: str | None = None,
    max_seconds: float | None = None,
    pseudopotentials: str | Path | None = None,
) -> Written:
    """Calculate the fields of a structure and draw them on a plane.

    Once calculated they are kept: with another plane, only the picture is made anew.

    Parameters
    ----------
    structure : path or Dataset
    out : path
        Folder for ``fields.npz`` (eV, Angstrom), one cube file for each field (atomic units, as their format
        has them), ``fields.png``, ``checks.json`` and ``settings.json``.
    protocol : Protocol
    engine : Engine
    indices : tuple of int
        Miller indices; see :func:`matgraft.dft.planes.plane`.
    name : str, optional
        Id of the structure, where there are several.
    max_seconds : float, optional
        Wall time of one attempt.
    pseudopotentials : path, optional
        Folder; see :func:`matgraft.dft.pseudopotentials.library`.

    Raises
    ------
    InputError
        Not one structure, one that cannot be calculated, or a folder that holds something else.
    """
    dataset = structure if isinstance(structure, Dataset) else Dataset.read(structure)
    name, atoms = chosen(dataset, name)
    try:
        calculation = Calculation.of(atoms, protocol, library(pseudopotentials))
    except Unfit as unfit:
        raise InputError(f"{dataset.source or 'dataset'}: structure {name}: {unfit}") from unfit
    settings = {"structure": name, "key": calculation.key, "protocol": protocol.model_dump()}
    if not (Path(out) / ARRAYS).is_file():
        # What it lacks is said before the folder is made.
        engine.program("pp.x")
    out = claim(out, settings)
    if (out / ARRAYS).is_file():
        found = Fields.load(out / ARRAYS)
    else:
        with Progress(1, "fields", unit="calculations") as progress:
            found, result = calculate(calculation, engine, max_seconds=max_seconds)
            progress.step()
        for field in GRIDS:
            _write_cube(out / f"{field}.cube", found, field)
        write_json(
            out / CHECKS,
            {
                "grid": found.density.shape,
                "checks": [one.as_dict() for one in checks(found)],
                "calculation": result.as_dict(),
            },
        )
        found.save(out / ARRAYS)
    draw(out / PICTURE, found, indices)
    return Written(checks(found), protocol, out)


def chosen(dataset: Dataset, name: str | None) -> tuple[str, Atoms]:
    """The structure of that id, or the only one.

    Raises
    ------
    InputError
    """
    ids, source = dataset.ids.tolist(), dataset.source or "dataset"
    if name is None and len(ids) != 1:
        some = ", ".join(ids[:3])
        raise InputError(f"{source}: {len(ids)} structures; choose one with --id, such as {some}.")
    if name is not None and name not in ids:
        near = get_close_matches(name, ids, 3) or ids[:3]
        raise InputError(f"{source}: no structure {name!r}; there is {', '.join(near)}.")
    index = 0 if name is None else ids.index(name)
    return ids[index], dataset.atoms(index)


def draw(path: str | Path, found: Fields, indices: tuple[int, int, int]) -> Path:
    """The five fields on the plane with these Miller indices through the first atom."""
    where = plane(found.atoms, indices)
    near, places = nearby(found.atoms, where, BESIDE)
    shown = "".join(map(str, indices)) if max(map(abs, indices)) < 10 else " ".join(map(str, indices))
    return maps(
        path,
        [
            Map(
                title,
                "electrons/Å³" if field == "density" else "eV",
                on_plane(getattr(found, field), found.atoms.cell.array, where),
            )
            for field, title in _NAMES.items()
        ],
        where.extent,
        [
            Site(found.atoms.symbols[index], x, y, abs(off) <= INSIDE)
            for index, (x, y, off) in zip(near, places, strict=True)
        ],
        title=f"{found.atoms.get_chemical_formula('metal')}, plane ({shown}) through the first atom",
    )


def _write_cube(path: Path, found: Fields, field: str) -> None:
    # Programs that open such files take all in them for atomic units.
    factor, unit = (Bohr**3, "electrons/Bohr^3") if field == "density" else (1 / Hartree, "Hartree")
    formula = found.atoms.get_chemical_formula("metal")
    comment = f"{_NAMES[field]} of {formula} in {unit}, lengths in Bohr, by matgraft"
    with whole(path) as partial, open(partial, "w") as handle:
        write_cube(handle, found.atoms, getattr(found, field) * factor, comment=comment)
