"""What all verbs share: the console, options of one meaning, JSON."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]


def print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=1))


def names_in(text: str) -> list[str]:
    """``a, b,c`` as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]
