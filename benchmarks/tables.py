"""Tables of the README from the raw results: ``python benchmarks/tables.py [--write]``.

Without ``--write`` it only checks that the README says what the results say.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from matgraft.evaluation.tables import Table
from matgraft.models.files import load_model, shipped_models
from matgraft.paper.results import Results
from matgraft.paper.tables import methods

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "results" / "paper"
HEADINGS = {
    "ours/oxides": "517 oxides of Fe, Ti and V, random split, 117 held out",
    "beyond/oxides-by-formula": "The same oxides, no formula on both sides of the split",
    "beyond/oxides-clean": "The 251 oxides with the geometry of their label, random split, 91 held out",
    "beyond/tio2-quantum-espresso": "TiO2 and suboxides from another code, many squeezed cells, 200 held out",
    "beyond/bulk-modulus": "Bulk moduli, 200 held out",
}


def benchmark_tables() -> str:
    """Some experiments of the study."""
    results = Results.read(STUDY)
    parts = []
    for name, heading in HEADINGS.items():
        finding = results.get(name)
        if finding is not None:
            table = methods(finding)
            parts.append(Table(table.columns, table.rows, heading, table.caption).markdown())
    return "\n".join(parts)


def model_table() -> str:
    """Validation errors of the shipped source models, from their cards."""
    rows = []
    for name in shipped_models():
        card = load_model(name).card
        metrics = card["metrics"]
        rows.append(
            [
                name,
                f"{card['n_train']:,}",
                *(
                    f"{metrics[part]['mae_ev_per_atom']:.4f} ({metrics[part]['n']:,})"
                    for part in ("validation", "validation_pbe_geometry", "validation_later_geometry")
                ),
                card["target"],
                "same formulas" + "".join(f", {symbol}" for symbol in card["exclude_elements"]),
            ]
        )
    columns = ["source model", "crystals", "MAE, all", "PBE geometry", "later geometry", "label", "left out"]
    caption = "validation error in eV/atom (structures); of several labels, that of the first"
    return Table(columns, rows, caption=caption).markdown()


def filled(readme: str) -> str:
    """The README with its tables made anew."""
    for mark, content in (("tables", benchmark_tables()), ("models", model_table())):
        readme = re.sub(
            rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)",
            lambda m, c=content: m[1] + c + m[2],
            readme,
            flags=re.DOTALL,
        )
    return readme


def main() -> int:
    path = ROOT / "README.md"
    text = path.read_text()
    if "--write" in sys.argv:
        path.write_text(filled(text))
        return 0
    same = filled(text) == text
    print(
        "README tables agree with the results" if same else "README tables are out of date: run with --write"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
