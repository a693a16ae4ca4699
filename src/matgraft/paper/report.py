"""One page that shows all there is: self-contained HTML and its Markdown twin."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import write_text
from matgraft.paper import published
from matgraft.paper.figures import Drawn, draw
from matgraft.paper.results import Results
from matgraft.paper.tables import (
    RECIPES,
    claims,
    errors_by_size,
    gains_by_size,
    gains_of_both,
    methods,
    pays,
    table1,
    table4,
    witness,
    worth,
)

TITLE = "Transfer learning with few labels: the study of Krawczuk and Venturi (2020), rerun"
LABELS = (
    "The study's labels, free energies from Quantum ESPRESSO, were never published. Ours are total "
    "energies of the Materials Project (PBE and PBE+U) for sets of the same sizes, chosen by the same "
    "rules: 517 oxides of Fe, Ti and V, 146 more of Cr and Mn, and about 50,000 crystals without the "
    "formulas of these for the source. Absolute errors are therefore not comparable; what schemes gain "
    "over direct training is."
)
RECIPE_NOTES = (
    "The published recipe: Adam at 1e-4, times 0.8 after 25 epochs without a lower training loss down to "
    "1e-6, L2 of 1e-3, at most 1000 epochs, the epoch chosen on a tenth of the training set; reference "
    "energies fitted to the labels alone; source of formation energies with the study's network. Our "
    "recipe: the settings of matgraft finetune --recipe direct, tl1, tl2, tl3 and process (a Gaussian "
    "process on the source's features), and auto, its default, which holds a contest of these and others on "
    "the training labels alone; reference energies fitted to what the source does not know, drawn to the "
    "source's own as cross-validation says; source of total energies, the target's own level of theory."
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; }
table { border-collapse: collapse; margin: 0.6rem 0; display: block; overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:last-child { white-space: normal; }
caption, figcaption, .note { color: #555; font-size: 0.9em; text-align: left; }
img { max-width: 100%; }
figure { margin: 1.5rem 0; }
"""

Block = str | Table | Drawn


def report(folder: str | Path) -> tuple[Path, Path]:
    """Draw the figures and write ``report.html`` and ``report.md`` from what has been run.

    Parameters
    ----------
    folder : path
        Where :func:`matgraft.paper.experiments.run` has written.

    Returns
    -------
    tuple of Path
        The page and its twin.

    Raises
    ------
    InputError
        There is no such folder.
    """
    results = Results.read(folder)
    drawn = draw(results, results.folder / "figures")
    sections = _sections(results, drawn)
    page, twin = results.folder / "report.html", results.folder / "report.md"
    write_text(page, _html(sections))
    write_text(twin, _markdown(sections, results.folder))
    return page, twin


def _sections(results: Results, drawn: list[Drawn]) -> dict[str, list[Block]]:
    sections: dict[str, list[Block]] = {
        "What this is": [LABELS, RECIPE_NOTES],
        "Claims": [claims(results)],
        "Table 1": [table1(results)],
    }
    for heading, data, values in (
        ("Table 2", "oxides", published.TABLE2),
        ("Table 3", "extended", published.TABLE3),
    ):
        blocks: list[Block] = []
        for recipe, name in RECIPES.items():
            if (finding := results.get(f"{recipe}/{data}")) is not None:
                blocks += [
                    errors_by_size(finding, values, f"{heading}, {name}: {finding.experiment.title}"),
                    gains_by_size(finding, values),
                    pays(finding),
                    methods(finding),
                ]
        sections[heading] = [*blocks, gains_of_both(results, data)]
    sections["Table 2"].append(witness(results))
    sections["Table 4"] = [table4(results)]
    sections["Beyond the study's data"] = [
        block for finding in results.beyond for block in (methods(finding), pays(finding))
    ]
    sections["What a label is worth"] = [worth(results)]
    sections["Figures"] = list(drawn)
    sections["Settings"] = [_settings(results)]
    for heading, blocks in sections.items():
        sections[heading] = [block for block in blocks if not isinstance(block, Table) or block.rows]
    return {heading: blocks for heading, blocks in sections.items() if blocks}


def _settings(results: Results) -> Table:
    rows = []
    for name, finding in results.findings.items():
        settings = finding.settings
        seconds = sum(row["cpu_seconds"] for row in finding.report["results"])
        recipe = json.dumps(settings["recipes"]["source"], separators=(",", ":")).replace('"', "")
        rows.append(
            [
                name,
                settings["data"],
                settings["target"],
                settings["source"],
                f"{seconds / 60:.1f}",
                finding.report["versions"]["torch"],
                recipe,
            ]
        )
    columns = ["experiment", "data", "label", "source", "min", "torch", "recipe from a source"]
    return Table(
        columns,
        rows,
        caption="min: processor minutes of all fits; all settings: benchmark.json of each experiment",
    )


def _markdown(sections: dict[str, list[Block]], folder: Path) -> str:
    parts = [f"# {TITLE}"]
    for heading, blocks in sections.items():
        parts.append(f"## {heading}")
        for block in blocks:
            if isinstance(block, Table):
                parts.append(block.markdown().rstrip())
            elif isinstance(block, Drawn):
                where = block.path.relative_to(folder).as_posix()
                parts.append(f"![{block.heading}]({where})\n\n**{block.heading}.** {block.caption}")
            else:
                parts.append(block)
    return "\n\n".join(parts) + "\n"


def _html(sections: dict[str, list[Block]]) -> str:
    parts = [f"<h1>{html.escape(TITLE)}</h1>"]
    for heading, blocks in sections.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        parts += map(_element, blocks)
    head = f'<meta charset="utf-8"><title>{html.escape(TITLE)}</title><style>{_STYLE}</style>'
    return (
        f"<!doctype html><html lang='en'><head>{head}</head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _element(block: Block) -> str:
    if isinstance(block, Table):
        return block.html()
    if isinstance(block, Drawn):
        picture = base64.b64encode(block.path.read_bytes()).decode()
        heading, caption = html.escape(block.heading), html.escape(block.caption)
        return (
            f'<figure><img alt="{heading}" src="data:image/png;base64,{picture}">'
            f"<figcaption><b>{heading}.</b> {caption}</figcaption></figure>"
        )
    return f"<p>{html.escape(block)}</p>"
