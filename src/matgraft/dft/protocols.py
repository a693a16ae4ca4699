"""Protocols: every setting that decides a label, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

from ase.data import atomic_numbers
from pydantic import Field, field_validator

from matgraft.errors import InputError
from matgraft.settings import Settings

Order = Literal["ferromagnetic", "antiferromagnetic", "none"]


class Protocol(Settings):
    """How a total energy is calculated: plane-wave Kohn-Sham theory with the functional PBE.

    Attributes
    ----------
    name : str
    ecutwfc : float
        Cutoff of the kinetic energy of wave functions, Ry; that of the density is four times as much.
    kspacing : float
        Greatest distance of neighbouring points of the Gamma-centred Monkhorst-Pack grid, 1/Angstrom
        (reciprocal vectors include 2 pi).
    smearing : {"gaussian", "fd", "cold", "mp"}
        The last two have more than one Fermi level for a crystal with a gap, and pw.x need not find the right
        one; see ``docs/dft.md``.
    degauss : float
        Width of the smearing, Ry.
    conv_thr : float
        Estimated error of the energy at which the self-consistent loop ends, Ry per atom.
    order : {"ferromagnetic", "antiferromagnetic", "none"}
        Order of the moments at the start of a spin-polarised calculation; ``none`` is not spin-polarised.
    hubbard_u : dict of str to float
        Hubbard U of the d (or f, p) shell by element, eV; Dudarev's form on orthogonalised atomic orbitals.
    forces : bool
        Whether forces belong to the label.
    """

    what: ClassVar[str] = "protocol"

    name: str = "custom"
    ecutwfc: float = Field(gt=0)
    kspacing: float = Field(gt=0)
    smearing: Literal["gaussian", "fd", "cold", "mp"] = "gaussian"
    degauss: float = Field(default=0.015, gt=0)
    conv_thr: float = Field(default=1e-7, gt=0)
    order: Order = "ferromagnetic"
    hubbard_u: dict[str, float] = Field(default={})
    forces: bool = False

    @field_validator("hubbard_u")
    @classmethod
    def _of_elements(cls, hubbard_u: dict[str, float]) -> dict[str, float]:
        # A misspelt element would be in no structure, and every label silently without its U.
        for symbol in hubbard_u:
            if not atomic_numbers.get(symbol):
                raise ValueError(f"no element {symbol!r}")
        return hubbard_u

    @property
    def decisive(self) -> dict:
        """What decides the label.

        Without what has its default, so that a setting which is added one day leaves the keys of older labels
        as they are; for the same reason a default must never change.
        """
        return self.model_dump(exclude={"name"}, exclude_defaults=True)

    def __str__(self) -> str:
        parts = [f"PBE, {self.ecutwfc:g} Ry, k-spacing {self.kspacing:g} 1/A"]
        parts += [f"{self.smearing} smearing {self.degauss:g} Ry", f"{self.order} start"]
        parts += [f"U({element}) = {u:g} eV" for element, u in sorted(self.hubbard_u.items())]
        return ", ".join(parts)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="fast", ecutwfc=70, kspacing=0.5, conv_thr=1e-6),
        Protocol(name="moderate", ecutwfc=96, kspacing=0.25, conv_thr=1e-7),
        Protocol(name="precise", ecutwfc=120, kspacing=0.15, conv_thr=1e-9),
    )
}


def protocol(name: str) -> Protocol:
    """A protocol by name, or the one in a JSON file.

    Raises
    ------
    InputError
        No such protocol, or a file with unknown or impossible settings.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if not name.endswith(".json"):
        raise InputError(f"no protocol named {name!r}; there are {', '.join(PROTOCOLS)}, or a JSON file.")
    try:
        settings = {"name": Path(name).stem, **json.loads(Path(name).read_text())}
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{name}: not a readable JSON file of settings ({error}).") from error
    return Protocol.of(settings, name)
