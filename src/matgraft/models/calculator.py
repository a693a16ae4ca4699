"""A model as an ASE calculator: relaxation, molecular dynamics, phonons."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

if TYPE_CHECKING:
    from matgraft.models.predictor import Predictor

log = logging.getLogger(__name__)


class MatgraftCalculator(Calculator):
    """ASE calculator of a model whose label is an energy; made by :meth:`Predictor.calculator`.

    Energy, forces and stress come from one evaluation. Only structures that are periodic in all three
    directions have a stress. Elements that the model never saw are named in one warning.

    Parameters
    ----------
    model : Predictor

    Raises
    ------
    InputError
        If the label is not an energy in eV.
    """

    name = "matgraft"
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012
    nolabel = True
    atoms: Atoms

    def __init__(self, model: Predictor):
        super().__init__()
        model.require_energy()
        self.model = model
        self._warned: set[str] = set()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties or self.implemented_properties, system_changes)
        periodic = bool(self.atoms.pbc.all())
        if "stress" in (properties or ()) and not periodic:
            raise PropertyNotImplementedError(
                "stress needs a cell that is periodic in all three directions; this one has "
                f"pbc={self.atoms.pbc.tolist()}."
            )
        found = self.model.forces(self.atoms)
        self._warn(found.unseen[0])
        energy = float(found.energies[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": found.forces[0]}
        if periodic:
            self.results["stress"] = found.stresses[0]

    def _warn(self, unseen: tuple[str, ...]) -> None:
        new = set(unseen) - self._warned
        if new:
            log.warning(
                "the model never saw %s: energies and forces of structures with it are guesses",
                ", ".join(sorted(new)),
            )
            self._warned |= new
