"""Tables of the README from the raw results: ``python benchmarks/tables.py [--write]``.

Without ``--write`` it only checks that the README says what the results say.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from matgraft.evaluation.tables import Table
from matgraft.jobs.benchmark import tabulate
from matgraft.models.files import load_model, shipped_models

ROOT = Path(__file__).resolve().parent.parent
HEADINGS = {
    "oxides-random": "517 oxides of Fe, Ti and V, random split, 117 held out",
    "oxides-total-energy": "The same split, grafted on mp-schnet-total-energy",
    "oxides-formula": "The same oxides, no formula on both sides of the split",
    "oxides-clean": "The 251 oxides with the geometry of their label, random split, 91 held out",
    "tio2-qe": "TiO2 and suboxides from another code (Quantum ESPRESSO), many squeezed cells, 300 held out",
}


def benchmark_tables() -> str:
    """One table per committed benchmark."""
    parts = []
    for name, heading in HEADINGS.items():
        report = json.loads((ROOT / "benchmarks" / "results" / name / "benchmark.json").read_text())
        table = tabulate(report["summary"], report["settings"]["label"]["unit"])
        rows = Table(
            table.columns,
            table.rows,
            title=heading,
            caption=f"{table.title}; {report['settings']['seeds']} seeds",
        )
        parts.append(rows.markdown())
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
