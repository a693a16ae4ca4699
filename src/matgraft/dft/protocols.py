"""Protocols: every setting that decides a label, by name."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matgraft.errors import InputError

Order = Literal["ferromagnetic", "antiferromagnetic", "none"]


class Protocol(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    ecutwfc: float = Field(gt=0)
    kspacing: float = Field(gt=0)
    smearing: Literal["gaussian", "fd", "cold", "mp"] = "gaussian"
    degauss: float = Field(default=0.015, gt=0)
    conv_thr: float = Field(default=1e-7, gt=0)
    order: Order = "ferromagnetic"
    hubbard_u: dict[str, float] = {}
    forces: bool = False

    def changed(self, **changes: object) -> Protocol:
        """A copy with other settings, checked like new ones."""
        return type(self).model_validate({**self.model_dump(), **changes})

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
        settings = json.loads(Path(name).read_text())
        return Protocol.model_validate({"name": Path(name).stem, **settings})
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{name}: not a readable JSON file of settings ({error}).") from error
    except ValidationError as error:
        raise InputError(f"{name}: {said(error, Protocol)}") from error


def said(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with settings, in a sentence, with the nearest setting that exists."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key, model.model_fields, 1)
        return f"no setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
    return f"{key}: {first['msg']}."
