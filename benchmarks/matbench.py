"""Matbench's two smallest tasks on structures, by its own folds, beside what others published.

    python benchmarks/matbench.py run matbench_jdft2d.json.gz matbench_phonons.json.gz [--workers 2]
    python benchmarks/matbench.py report

The files are those of matbench.materialsproject.org (what is committed was run on copies with coordinates
rounded to six decimals). A contest as `matgraft finetune` holds it learns four folds and is judged on the
fifth. A line of matbench.jsonl is written for each fold, which is not done again. The source models have seen
many of the crystals with phonons, with another label; the published methods start from nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.model_selection import KFold

from matgraft.data import Dataset
from matgraft.evaluation.tables import Table
from matgraft.jobs.finetune import run_finetune
from matgraft.jobs.folder import versions, write_text
from matgraft.jobs.verdict import title

OUT = Path(__file__).parent / "results" / "matbench.jsonl"
FOLDS, SEED = 5, 18012019
"""Matbench's own: Dunn et al., npj Comput. Mater. 6, 138 (2020)."""
TARGETS = {"matbench_jdft2d": "exfoliation_en", "matbench_phonons": "last phdos peak"}
WORDS = {
    "matbench_jdft2d": ("exfoliation energies of 636 layered crystals", "meV/atom"),
    "matbench_phonons": ("highest phonon peaks of 1,265 crystals", "1/cm"),
}
PUBLISHED = {
    "matbench_jdft2d": {
        "MODNet 0.1.12": (33.1918, 7.3428),
        "MODNet 0.1.10": (34.5368, 9.4959),
        "coNGN": (36.1698, 11.5972),
        "coGN": (37.1652, 13.6825),
        "Automatminer express 2020": (39.8497, 9.8835),
        "SchNet (kgcnn)": (42.6637, 13.7201),
        "ALIGNN": (43.4244, 8.9491),
        "DeeperGATGNN": (45.4611, 11.6819),
        "CrabNet": (45.6104, 12.2491),
        "Finder 1.2 (structure)": (46.1339, 11.4644),
        "Finder 1.2 (composition)": (47.9614, 11.6680),
        "DimeNet++ (kgcnn)": (49.0243, 11.9027),
        "CGCNN 2019": (49.2440, 11.5865),
        "random forest (SCM, Magpie)": (50.0440, 8.6271),
        "MEGNet (kgcnn)": (54.1719, 11.4299),
        "mean of the labels": (67.2851, 10.1832),
    },
    "matbench_phonons": {
        "MEGNet (kgcnn)": (28.7606, 2.5767),
        "coNGN": (28.8874, 3.2840),
        "ALIGNN": (29.5385, 2.1148),
        "coGN": (29.7117, 1.9968),
        "DeeperGATGNN": (33.1211, 1.4530),
        "MODNet 0.1.12": (34.2751, 2.0781),
        "DimeNet++ (kgcnn)": (37.4619, 2.1934),
        "MODNet 0.1.10": (38.7524, 1.7732),
        "SchNet (kgcnn)": (38.9636, 1.9760),
        "Finder 1.2 (composition)": (46.5751, 3.7415),
        "Finder 1.2 (structure)": (50.7406, 5.4036),
        "CrabNet": (55.1114, 5.7317),
        "Automatminer express 2020": (56.1706, 6.7981),
        "CGCNN 2019": (57.7635, 12.3109),
        "random forest (SCM, Magpie)": (67.6126, 8.9900),
        "mean of the labels": (323.9822, 17.7269),
    },
}
"""Mean and standard deviation over the folds of the mean absolute error: Matbench's leaderboard
(github.com/materialsproject/matbench, 936176d, docs_src/Leaderboards Per-Task)."""


def run(path: Path, out: Path, workers: int) -> None:
    """Do the folds that are missing."""
    task = path.name.partition(".")[0]
    target = TARGETS[task]
    dataset = Dataset.read(path, target=target)
    values = dataset.values(target)
    data_hash = dataset.content_hash(target)
    done = {(one["data_hash"], one["fold"]) for one in finished(out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    for fold, (train, test) in enumerate(KFold(FOLDS, shuffle=True, random_state=SEED).split(values)):
        if (data_hash, fold) in done:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            listed = Path(folder) / "fold.txt"
            listed.write_text("\n".join(dataset.ids[test]))
            graft = Path(folder) / "graft"
            result = run_finetune(
                dataset, target, graft, val=str(listed), seed=fold, direct=True, workers=workers
            )
            with open(graft / "predictions.csv") as rows:
                said = {row["id"]: float(row["prediction"]) for row in csv.DictReader(rows)}
        error = np.abs([said[name] for name in dataset.ids[test]] - values[test])
        metrics = result.metrics
        record = {
            "task": task,
            "fold": fold,
            "mae": {
                "auto": metrics["mae"],
                **{name: scores["mae"] for name, scores in metrics["baselines"].items()},
                "mean of the labels": float(np.abs(values[test] - values[train].mean()).mean()),
            },
            "greatest_error": float(error.max()),
            "intervals": metrics["intervals"],
            "contest": metrics["contest"],
            "wall_seconds": time.monotonic() - start,
            "data_hash": data_hash,
            "versions": versions(),
        }
        with open(out, "a") as lines:
            print(json.dumps(record), file=lines)


def finished(out: Path) -> list[dict]:
    """What has been run, fold by fold."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []


def table(task: str, folds: list[dict]) -> Table:
    """Our methods among the published ones, best first."""
    shown = {name: (mean, std, "published") for name, (mean, std) in PUBLISHED[task].items()}
    for method in ("auto", "direct", "references_alone", "composition_forest"):
        errors = [one["mae"][method] for one in folds if method in one["mae"]]
        # Direct training may diverge.
        if len(errors) == len(folds):
            shown[title(method)] = (float(np.mean(errors)), float(np.std(errors)), "matgraft")
    rows = [
        (name, f"{mean:.1f}", f"{std:.1f}", origin)
        for name, (mean, std, origin) in sorted(shown.items(), key=lambda item: item[1][0])
    ]
    held = np.mean([one["intervals"]["held"] for one in folds])
    minutes = np.median([one["wall_seconds"] for one in folds]) / 60
    return Table(
        ("method", "MAE", "± over folds", "from"),
        rows,
        ", ".join(WORDS[task]),
        f"{len(folds)} of {FOLDS} folds; 90 % intervals of auto hold {held:.0%}; {minutes:.0f} min a fold",
    )


def by_task(out: Path) -> dict[str, list[dict]]:
    """What has been run, by task."""
    found = defaultdict(list)
    for one in finished(out):
        found[one["task"]].append(one)
    return dict(sorted(found.items()))


def report(out: Path) -> None:
    """Write the tables."""
    tables = [table(task, folds).markdown() for task, folds in by_task(out).items()]
    write_text(out.with_suffix(".md"), "\n".join(tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "run" and not options.files:
        parser.error("name the files of the tasks")
    if unknown := [path.name for path in options.files if path.name.partition(".")[0] not in TARGETS]:
        parser.error(f"no task is in {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    for path in options.files if options.what == "run" else ():
        run(path, options.out, options.workers)
    report(options.out)


if __name__ == "__main__":
    main()
