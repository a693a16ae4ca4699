"""Small tables of results, for a README, a terminal and a log file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from matgraft.data import Label

MISSING = "\N{EN DASH}"

_NUMERIC = re.compile(r"[-+±<>≤≥~≈]?\s*(\d[\d,]*\.?\d*|\.\d+|nan|inf)(\b|\s|%|$)", re.IGNORECASE)
_MARKDOWN = re.compile(r"([\\|*_`<>\[\]])")


def per_atom_scale(label: Label) -> tuple[float, str]:
    """Factor and unit in which errors per atom of a label are shown: energies in meV/atom."""
    return (1e3, "meV/atom") if label.is_energy else (1.0, label.unit)


def number(value: float | np.floating | np.integer, digits: int = 3) -> str:
    """A number for readers: ``digits`` significant digits, as plain decimals wherever that is readable.

    Integers, and everything left of the decimal point, are never rounded; from 10,000 on they carry commas.
    """
    if isinstance(value, int | np.integer):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    value = float(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 9:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - exponent)
    return f"{value:,.{decimals}f}" if abs(value) >= 10_000 else f"{value:.{decimals}f}"


def spread(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Mean and sample standard deviation, as in ``3.72 ± 0.11``.

    Parameters
    ----------
    values : sequence of float
        One value per repeat. A single one is printed without a spread, for it has none to show.
    digits : int
        Decimal places of both numbers.

    Returns
    -------
    str
        Values that are not finite are left out and counted, as in ``3.72 ± 0.11 (4 of 5)``.
    """
    values = np.asarray(values, dtype=float).ravel()
    finite = values[np.isfinite(values)]
    if not len(finite):
        return MISSING
    text = f"{finite.mean():.{digits}f}"
    if len(finite) > 1:
        text += f" ± {finite.std(ddof=1):.{digits}f}"
    return text if len(finite) == len(values) else f"{text} ({len(finite)} of {len(values)})"


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes
    ----------
    columns : sequence of str
    rows : sequence of sequences
        Text is printed as it is, numbers by :func:`number`, None as a dash.
    title, caption : str
        Printed above and below, if given.

    Raises
    ------
    ValueError
        If a row has more or fewer cells than there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(row) for row in self.rows))
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table {self.title!r}: row {i} has {len(row)} cells for {len(self.columns)} columns."
                )

    def markdown(self) -> str:
        """A GitHub table: title in bold, caption in italics."""
        header = [_escaped(name) for name in self.columns]
        rows = [[_escaped(cell) for cell in row] for row in self._cells()]
        right = self._right()
        widths = [max(3, *map(cell_len, column)) for column in zip(header, *rows, strict=True)]
        rule = ["-" * (width - 1) + ":" if r else "-" * width for width, r in zip(widths, right, strict=True)]
        lines = [
            "| " + " | ".join(map(_padded, cells, widths, right)) + " |" for cells in (header, rule, *rows)
        ]
        above = [f"**{_escaped(self.title)}**", ""] if self.title else []
        below = ["", f"*{_escaped(self.caption)}*"] if self.caption else []
        return "\n".join(above + lines + below) + "\n"

    def text(self) -> str:
        """Plain aligned columns under a rule."""
        rows = self._cells()
        right = self._right()
        widths = [max(map(cell_len, column)) for column in zip(self.columns, *rows, strict=True)]
        rule = ["-" * width for width in widths]
        lines = [
            "  ".join(map(_padded, cells, widths, right)).rstrip() for cells in (self.columns, rule, *rows)
        ]
        above = [self.title, ""] if self.title else []
        below = ["", self.caption] if self.caption else []
        return "\n".join(above + lines + below) + "\n"

    def html(self) -> str:
        """A ``<table>``: title as caption, the caption as a note below."""
        title = f"<caption><b>{escape(self.title)}</b></caption>" if self.title else ""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._cells())
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        note = f'<p class="note">{escape(self.caption)}</p>' if self.caption else ""
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>{note}"

    def rich(self) -> RichTable:
        """The table for a rich console."""
        # Text, not str: a cell such as "[tl1]" is no markup.
        table = RichTable(
            title=Text(self.title, style="bold") if self.title else None,
            caption=Text(self.caption, style="dim") if self.caption else None,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
            header_style="bold",
        )
        for name, right in zip(self.columns, self._right(), strict=True):
            table.add_column(Text(name), justify="right" if right else "left")
        for row in self._cells():
            table.add_row(*map(Text, row))
        return table

    def _cells(self) -> list[list[str]]:
        return [[_cell(value) for value in row] for row in self.rows]

    def _right(self) -> list[bool]:
        """Columns that hold nothing but numbers are aligned to the right."""
        columns = list(zip(*self._cells(), strict=True)) or [() for _ in self.columns]
        filled = [[cell for cell in column if cell not in ("", MISSING)] for column in columns]
        return [bool(cells) and all(map(_NUMERIC.match, cells)) for cells in filled]


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.integer | np.floating):
        return number(value)
    return str(value).replace("\n", " ")


def _padded(cell: str, width: int, right: bool) -> str:
    pad = " " * (width - cell_len(cell))
    return pad + cell if right else cell + pad


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
