"""Tables and the picture of ``docs/speed.md`` from the raw results of ``speed.py``."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from pages import filled

from matgraft.errors import InputError
from matgraft.evaluation.style import COLOURS, INK, STYLE
from matgraft.evaluation.tables import Table, number

ORDER = ("training", "inference", "latency", "neighbours", "memory", "cif", "gpu", "orientation")
OURS = "matgraft"
PAGE = """# Speed

What a step, a prediction or a file costs here and elsewhere: the same SchNet with the same weights (6
interactions, 128 features and filters, cutoff 5 \N{ANGSTROM SIGN}, energies only, batches of 32), in float32
on one thread.

<!-- speed -->
<!-- /speed -->
"""


def table(comparison: dict) -> Table:
    """One comparison, one row per contender."""
    rows = []
    memory = "memory" in comparison["rounds"][comparison["baseline"]]
    for name, summary in comparison["summary"].items():
        if memory:
            cells = [_range(summary["memory"], 1.0), None]
        else:
            cells = [_range(summary["cpu"], 1e3), number(1e3 * summary["wall"]["median"])]
        ratio = summary["ratio"]["memory" if memory else "cpu"]
        rows.append([name, *cells, _quartiles(ratio)])
    what = "MB" if memory else "CPU ms per structure"
    work = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in comparison["work"].items())
    agreement = "; ".join(
        f"largest difference, {key.replace('_', ' ')}: {max(values.values()):.1e}"
        for key, values in comparison["agreement"].items()
        if values
    )
    notes = "; ".join(f"{name}: {note}" for name, note in comparison["notes"].items())
    said = [work, f"{len(_any_rounds(comparison))} rounds", agreement, notes]
    return Table(
        ["", f"{what}: median (quartiles; least)", "wall ms", f"times less than {comparison['baseline']}"],
        rows,
        title=comparison["name"],
        caption="; ".join(filter(None, said)),
    )


def write(results: Path, docs: Path) -> None:
    """Fill ``speed.md`` between its marks and draw ``speed.png``."""
    docs.mkdir(parents=True, exist_ok=True)
    page = docs / "speed.md"
    text = page.read_text() if page.is_file() else PAGE
    page.write_text(filled(text, "speed", tables(results)))
    draw(_of_same_work(_read(results)), docs / "speed.png")


def tables(results: Path) -> str:
    """All comparisons as Markdown: in short, as a picture, and one by one."""
    reports = _read(results)
    parts = [
        _summary(_of_same_work(reports)).markdown(),
        "![How many times less time or memory than the baseline](speed.png)\n",
        *(table(comparison).markdown() for report in reports for comparison in report["comparisons"]),
        _about(reports),
    ]
    return "\n".join(parts)


def _read(results: Path) -> list[dict]:
    reports = [json.loads(path.read_text()) for name in ORDER if (path := results / f"{name}.json").is_file()]
    if not reports:
        raise InputError(
            f"{results}: no results. Measure first: python benchmarks/speed.py all --schnetpack PATH."
        )
    return reports


def _of_same_work(reports: list[dict]) -> list[dict]:
    """Without other networks, which do other work: no ratio of theirs belongs beside these."""
    return [one for report in reports for one in report["comparisons"] if not one["notes"]]


def draw(comparisons: list[dict], path: Path) -> None:
    """Horizontal bars: how many times less than the baseline, with quartiles over the rounds."""
    bars = [
        (f"{comparison['name']}\n(against {comparison['baseline']})", ratio)
        for comparison in comparisons
        if OURS in comparison["summary"] and (ratio := _ratio(comparison, OURS)) is not None
    ]
    with matplotlib.rc_context(rc=STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 0.9 + 0.42 * len(bars)))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for y, (_, ratio) in enumerate(bars):
            axes.barh(y, ratio["median"] - 1.0, left=1.0, height=0.62, color=COLOURS[0])
            axes.plot([ratio["q1"], ratio["q3"]], [y, y], color=INK, linewidth=1.4)
            axes.annotate(
                f"{number(ratio['median'])}\N{MULTIPLICATION SIGN}",
                (max(ratio["median"], ratio["q3"]), y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(bars)), [label for label, _ in bars])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xscale("log")
        axes.set_xlim(0.5, 1.7 * max(ratio["q3"] for _, ratio in bars))
        axes.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("times less CPU time or memory: median and quartiles")
        figure.savefig(path)


def _summary(comparisons: list[dict]) -> Table:
    rows = []
    for comparison in comparisons:
        baseline, summary = comparison["baseline"], comparison["summary"]
        if OURS not in summary or baseline not in summary:
            continue
        kind, scale, unit = ("memory", 1.0, "MB") if "memory" in summary[OURS] else ("cpu", 1e3, "ms")
        ratio = _ratio(comparison, OURS)
        rows.append(
            [
                comparison["name"],
                f"{number(scale * summary[OURS][kind]['median'])} {unit}",
                f"{number(scale * summary[baseline][kind]['median'])} {unit}",
                _quartiles(ratio),
                f"{baseline}",
            ]
        )
    return Table(
        ["quantity", OURS, "baseline", "times less (quartiles)", "the baseline is"],
        rows,
        caption="CPU time per structure, or memory of one step; medians over rounds, ratios round by round",
    )


def _ratio(comparison: dict, name: str) -> dict[str, float]:
    ratios = comparison["summary"][name]["ratio"]
    return ratios.get("cpu") or ratios["memory"]


def _quartiles(spread: dict[str, float]) -> str:
    return f"{number(spread['median'])} ({number(spread['q1'])} to {number(spread['q3'])})"


def _range(spread: dict[str, float], scale: float) -> str:
    median, q1, q3, least = (number(scale * spread[key]) for key in ("median", "q1", "q3", "min"))
    return f"{median} ({q1} to {q3}; {least})"


def _any_rounds(comparison: dict) -> list[float]:
    return next(iter(comparison["rounds"][comparison["baseline"]].values()))


def _about(reports: list[dict]) -> str:
    """One sentence per machine and set of versions."""
    runs: dict[str, list[float]] = {}
    for report in reports:
        environment = report["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        commit = (environment["commit"] or "unknown")[:12]
        changed = f" with {n} changed files" if (n := environment["changed_files"]) else ""
        peer = environment.get("schnetpack")
        gpu = f", {environment['gpu']}" if "gpu" in environment else ""
        text = (
            f"{environment['date']}, {environment['cpu']} ({environment['vector_instructions']}), "
            f"{environment['cpus']} cores, {environment['threads']} thread{gpu}; "
            f"Python {environment['python']}, {versions}; commit {commit}{changed}"
            + (f"; SchNetPack {peer['version']} at {peer['commit'][:12]}" if peer else "")
        )
        runs.setdefault(text, []).append(environment["load_average"][0])
    return "".join(
        f"Measured on: {text}; load average {min(loads):.1f} to {max(loads):.1f}.\n"
        for text, loads in runs.items()
    )
