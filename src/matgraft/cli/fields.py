"""``matgraft fields``: density and potentials of one structure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matgraft.cli.common import Json, console, print_json
from matgraft.cli.label import Command, MaxSeconds, Pseudopotentials
from matgraft.errors import InputError


def fields(
    structure: Annotated[str, typer.Argument(help="File of a crystal.")],
    out: Annotated[Path, typer.Option(help="Folder for arrays, cube files and the picture.")],
    plane: Annotated[
        str, typer.Option(help="Miller indices of the plane in the picture; it passes the first atom.")
    ] = "110",
    protocol: Annotated[str, typer.Option(help="fast, moderate, precise, or a JSON file.")] = "moderate",
    name: Annotated[
        str | None, typer.Option("--id", help="Which structure, if the file holds several.")
    ] = None,
    max_seconds: MaxSeconds = None,
    command: Command = None,
    pseudopotentials: Pseudopotentials = None,
    as_json: Json = False,
) -> None:
    """Density and potentials of a crystal: V_ext, V_Hartree, V_xc and their sum.

    Run again with another plane, it only draws. Fields that contradict their equations end in exit code 2.

    Example: `matgraft fields silicon.cif --plane 110 --protocol moderate --out silicon`
    """
    from matgraft.dft.engine import find
    from matgraft.dft.planes import miller
    from matgraft.dft.protocols import protocol as named
    from matgraft.jobs.fields import fields as run

    indices, settings = miller(plane), named(protocol)
    done = run(
        structure,
        out,
        settings,
        find(command),
        indices,
        name=name,
        max_seconds=max_seconds,
        pseudopotentials=pseudopotentials,
    )
    if as_json:
        print_json({"out": str(out), "checks": [one.as_dict() for one in done.checks]})
    else:
        console.print(done.table.rich())
        for path in sorted(out.iterdir()):
            console.print(f"  {path}", soft_wrap=True)
    if done.complaint:
        raise InputError(done.complaint)
