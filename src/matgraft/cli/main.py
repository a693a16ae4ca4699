"""``matgraft VERB``: parses, calls the job of the same name, prints."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

# Small matrices: more threads per process only get in each other's way, and most so when they wait busily.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Torch writes pages to standard error when a worker is lost; what there is to say is in the message.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import typer

from matgraft.cli.common import Json, console, names_in, print_json
from matgraft.cli.fields import fields
from matgraft.cli.label import Hubbard, Order, Pseudopotentials, dft_app, label_app, settings_of
from matgraft.data import Dataset
from matgraft.data.dataset import LabelKind
from matgraft.errors import InputError, LostWorker

app = typer.Typer(
    help="Graft a network pre-trained on many crystals onto a property with a few hundred labels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(help="Look at, convert and split data sets.", no_args_is_help=True)
paper_app = typer.Typer(help="The published study, from data to figures.", no_args_is_help=True)
models_app = typer.Typer(help="Models that ship with the package.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(paper_app, name="paper")
app.add_typer(models_app, name="models")
app.add_typer(label_app, name="label")
app.add_typer(dft_app, name="dft")


@app.callback()
def _check_launch(context: typer.Context) -> None:
    if context.invoked_subcommand != "pretrain" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"{context.invoked_subcommand} runs as one process, but WORLD_SIZE says that there are several: "
            "start it without torchrun. Only pretrain trains with several workers."
        )


Group = Literal["formula", "chemical_system"]
Preset = Literal["default", "paper"]
MissingLabels = Literal["error", "drop"]
Sort = Literal["none", "prediction", "per_atom"]

Target = Annotated[str, typer.Option(help="Name of the label to learn.")]
Out = Annotated[
    Path, typer.Option(help="Folder for everything that the command writes; resumed if interrupted.")
]
Source = Annotated[str, typer.Option(help="Shipped source model, model folder, or none.")]
GroupBy = Annotated[Group | None, typer.Option(help="Keep structures of one group on one side of the split.")]
Seed = Annotated[int, typer.Option(help="Split, start weights, order of batches.", min=0)]
KindOf = Annotated[
    LabelKind | None, typer.Option("--label-kind", help="What the label means, if its name does not say.")
]
UnitOf = Annotated[str | None, typer.Option("--label-unit", help="Its unit, such as eV or GPa.")]
NoCheck = Annotated[bool, typer.Option("--no-label-check", help="Trust the kind of label that is said.")]
Missing = Annotated[MissingLabels, typer.Option(help="Structures without the label: an error, or left out.")]
Data = Annotated[
    str, typer.Argument(help="File or folder of labelled crystals, or the name of a known data set.")
]
Files = Annotated[str, typer.Argument(help="A file, a folder, or the name of a known data set.")]


def _read(
    data: str, target: str, kind: LabelKind | None, unit: str | None, no_check: bool, missing: MissingLabels
) -> Dataset:
    return Dataset.read(data, target=target, kind=kind, unit=unit, label_check=not no_check, missing=missing)


def _source(name: str) -> str | None:
    return None if name == "none" else name


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in names_in(text)] or [int(text)]
    except ValueError as error:
        raise InputError(
            f"--sizes {text!r}: write whole numbers with commas, such as 100,200,400."
        ) from error


def _substitutions(texts: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        removed, _, added = text.partition(":")
        if not removed.strip() or not names_in(added):
            raise InputError(f"--substitute {text!r}: write an element and its substitutes, such as Ti:Fe,V.")
        found.setdefault(removed.strip(), []).extend(names_in(added))
    return found


def _repeats(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split("x")]
    except ValueError as error:
        raise InputError(f"--supercell {text!r}: write three whole numbers, such as 2x1x1.") from error


@app.command()
def finetune(
    data: Data,
    target: Target,
    out: Out,
    source: Annotated[
        str,
        typer.Option(
            help="Shipped model, model folder, or none; for a contest several (a,b,c). auto: mp-schnet, "
            "and for a contest mp-schnet-total-energy."
        ),
    ] = "auto",
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "--scheme",
            help="auto (a contest on your labels), direct, tl1 (all moves), tl2 (embedding frozen), tl3 "
            "(output only), staged, process (Gaussian process), or another candidate of the contest.",
        ),
    ] = "auto",
    reference: Annotated[
        str,
        typer.Option(
            help="Of direct, tl1 to tl3, staged: auto, labels, residual, none, or a JSON file of energies by "
            "element."
        ),
    ] = "auto",
    references: Annotated[
        Path | None,
        typer.Option(help="JSON file of energies by element, believed as far as the labels agree."),
    ] = None,
    arch: Annotated[str, typer.Option(help="Network of direct training: arch1, arch2 or wide.")] = "arch1",
    val: Annotated[
        str, typer.Option(help="Fraction, number, file of ids, or file of structures to judge on.")
    ] = "0.2",
    group: GroupBy = None,
    seed: Seed = 0,
    preset: Annotated[
        Preset,
        typer.Option(help="Our training settings, or the published ones (for direct, tl1 to tl3, staged)."),
    ] = "default",
    direct: Annotated[
        bool, typer.Option("--direct", help="Also train from a random start, to compare.")
    ] = False,
    forces: Annotated[
        bool, typer.Option("--forces", help="Networks learn from the forces of the structures, too.")
    ] = False,
    intervals: Annotated[
        bool, typer.Option(help="Of a single recipe: also learn how far off it is, by five fits more.")
    ] = True,
    workers: Annotated[
        int | None, typer.Option(help="Processes of contest and intervals; default one per core.", min=1)
    ] = None,
    label_kind: KindOf = None,
    label_unit: UnitOf = None,
    no_label_check: NoCheck = False,
    missing: Missing = "error",
    as_json: Json = False,
) -> None:
    """Graft a source model onto your labels and judge the result.

    Example: `matgraft finetune tmo-oxides-fetiv --target energy --val 117 --direct --out graft`
    """
    from matgraft.jobs.contest import contest_table
    from matgraft.jobs.finetune import run_finetune

    result = run_finetune(
        _read(data, target, label_kind, label_unit, no_label_check, missing),
        target,
        out,
        source=_source(source),
        recipe=recipe,
        reference=reference,
        references=references,
        arch=arch,
        val=val,
        group=group,
        seed=seed,
        preset=preset,
        direct=direct,
        forces=forces,
        intervals=intervals,
        workers=workers,
        label_check=not no_label_check,
        missing=missing,
    )
    if as_json:
        print_json(result.metrics)
        return
    metrics = result.metrics
    if "contest" in metrics:
        console.print(contest_table(metrics["contest"], result.model.label).rich())
    console.print(result.table.rich())
    if "intervals" in metrics:
        found, unit = metrics["intervals"], result.model.label.unit
        console.print(
            f"{found['coverage']:.0%} intervals hold {found['held']:.0%} of the labels held out; half width "
            f"{found['median_half_width']:.3g} {unit} (median), {found['mean_half_width']:.3g} {unit} (mean)"
        )
    if forces and metrics["forces"]:
        of_forces = metrics["forces"]
        errors = "; ".join(f"{1e3 * error:.0f} by {name}" for name, error in of_forces["mae"].items())
        console.print(
            f"components of forces, mean error in meV/A: {errors}; their mean size is "
            f"{1e3 * of_forces['mean_absolute']:.0f}"
        )
    if "reference_cross_validation_per_atom" in metrics:
        checked = metrics["reference_cross_validation_per_atom"]
        rivals = ", ".join(f"{name} {error:.3g}" for name, error in checked.items())
        console.print(
            f"reference energies: {metrics['reference']}"
            + (f" (error in cross-validation: {rivals})" if rivals else "")
        )
    pictures = ("contest.png", "intervals.png", "parity.png", "forces.png", "errors.png", "training.png")
    for name in (*pictures, "predictions.csv", "metrics.json"):
        if (out / name).is_file():
            console.print(f"  {out / name}", soft_wrap=True)
    folder = shlex.quote(str(out))
    console.print(f"predict with: matgraft predict {folder} FILES --out predictions.csv", soft_wrap=True)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Model folder, or the name of a shipped model.")],
    files: Annotated[list[str], typer.Argument(help="Structures: any readable files or folders.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("predictions.csv"),
    sort: Annotated[
        Sort,
        typer.Option(help="Rank the lines by a value, lowest first."),
    ] = "none",
    descending: Annotated[bool, typer.Option("--descending", help="Rank highest first.")] = False,
    top: Annotated[int | None, typer.Option(help="Write only the first of the ranking.", min=1)] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without bad structures; a list says which and why.")
    ] = False,
    coverage: Annotated[
        float | None,
        typer.Option(help="Probability that intervals are to hold the label; default 0.9."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Predict structures, however many; what the model does not know is marked.

    Run again, an interrupted command goes on where it was.

    Example: `matgraft predict mp-schnet pool.npz --sort prediction --top 100 --workers 4 --out ranked.csv`
    """
    from matgraft.jobs.predict import predict as run

    done = run(
        model,
        files,
        out,
        sort=sort,
        descending=descending,
        top=top,
        skip_bad=skip_bad,
        coverage=coverage,
        workers=workers,
    )
    if as_json:
        print_json(
            {
                "n": done.n,
                "with_unseen_species": done.with_unseen_species,
                "skipped": done.skipped,
                "out": str(out),
            }
        )
        return
    console.print(
        f"{done.n} structures, {done.with_unseen_species} of them with species the model never saw: {out}",
        soft_wrap=True,
    )
    if done.skipped:
        console.print(f"{done.skipped} skipped, with the reasons: {done.skipped_list}", soft_wrap=True)


@app.command()
def dope(
    structures: Annotated[list[str], typer.Argument(help="Crystals: any readable files or folders.")],
    out: Annotated[Path, typer.Option(help="New file: .extxyz, .db, or a folder of arrays.")],
    substitute: Annotated[
        list[str] | None, typer.Option(help="An element and what to put in its place: Ti:Fe,V; repeatable.")
    ] = None,
    vacancy: Annotated[
        list[str] | None, typer.Option(help="Elements to take an atom of: O or O,Ti; repeatable.")
    ] = None,
    supercell: Annotated[str, typer.Option(help="Repeats along the lattice vectors.")] = "1x1x1",
    as_json: Json = False,
) -> None:
    """Single substitutions and vacancies, one of each kind that the supercell's symmetry tells apart.

    Example: `matgraft dope rutile.cif --substitute Ti:Fe,V --vacancy O --supercell 2x2x2 --out doped.extxyz`
    """
    from matgraft.jobs.dope import dope as run

    done = run(
        structures,
        out,
        substitute=_substitutions(substitute or []),
        vacancies=[symbol for text in vacancy or [] for symbol in names_in(text)],
        supercell=_repeats(supercell),
    )
    if as_json:
        print_json({"n_pristine": done.n_pristine, "n_doped": done.n_doped, "out": str(out)})
        return
    console.print(done.table.rich())
    console.print(f"{done.n_doped} doped cells of {done.n_pristine} crystals: {out}", soft_wrap=True)


@app.command("formation-energy")
def formation_energy(
    doped: Annotated[list[str], typer.Argument(help="Pristine and doped cells that `dope` wrote.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Model folder or name of a shipped model; repeatable.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Store of DFT labels to compare with.")] = None,
    protocol: Annotated[str, typer.Option(help="Settings that the DFT labels were made with.")] = "moderate",
    order: Order = None,
    hubbard: Hubbard = None,
    pseudopotentials: Pseudopotentials = None,
    chemical_potential: Annotated[
        list[str] | None,
        typer.Option(help="eV of an exchanged atom: O=-4.95, or a JSON file of several; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="CSV file to write.")] = Path("formation.csv"),
    as_json: Json = False,
) -> None:
    """Formation energies of defects: models and DFT side by side.

    Example: `matgraft formation-energy doped.extxyz --model mp-schnet-total-energy --out formation.csv`
    """
    from matgraft.jobs.formation import formation_energies, read_potentials

    done = formation_energies(
        doped,
        out,
        models=model or [],
        store=store,
        protocol=settings_of(protocol, order, hubbard or []),
        pseudopotentials=pseudopotentials,
        chemical_potentials=read_potentials(chemical_potential or []),
    )
    if as_json:
        print_json(
            {
                "n": done.n,
                "without_dft": done.without_dft,
                "mae": done.mae,
                "out": str(out),
                "picture": None if done.picture is None else str(done.picture),
            }
        )
        return
    console.print(done.table.rich())
    for path in (out, done.picture):
        if path is not None:
            console.print(f"  {path}", soft_wrap=True)


app.command()(fields)


@app.command()
def pretrain(
    data: Data,
    target: Target,
    out: Out,
    further: Annotated[
        str, typer.Option(help="More labels for the same network to learn, such as band_gap_pbe.")
    ] = "",
    exclude_formulas_of: Annotated[
        str | None, typer.Option(help="Leave out every formula of this target set.")
    ] = None,
    exclude_elements: Annotated[
        str, typer.Option(help="Leave out every structure with one of these, such as Cr,Mn.")
    ] = "",
    keep: Annotated[
        list[str] | None, typer.Option(help="Keep only structures with e.g. 'natoms<=100'; repeatable.")
    ] = None,
    val_size: Annotated[float, typer.Option(help="Number or share of structures held out.")] = 0.1,
    source: Annotated[
        str | None, typer.Option(help="Continue from the weights of this model instead of random ones.")
    ] = None,
    teachers: Annotated[
        str, typer.Option(help="Learn also what these models (names or folders, with commas) say.")
    ] = "",
    unlabelled: Annotated[
        str | None, typer.Option(help="Structures without a label, to learn from the teachers there too.")
    ] = None,
    arch: Annotated[str, typer.Option(help="arch1, arch2 or wide.")] = "arch1",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    swa_epochs: Annotated[
        int | None, typer.Option(help="How many of them, the last, average the weights.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name for the model card.")] = "",
    licence: Annotated[str, typer.Option(help="Licence for the model card.")] = "",
    seed: Seed = 0,
    label_kind: KindOf = None,
    label_unit: UnitOf = None,
    no_label_check: NoCheck = False,
    missing: Missing = "error",
    as_json: Json = False,
) -> None:
    """Grow a source model of your own.

    Several processes train together: `torchrun --standalone --nproc-per-node 2 -m matgraft pretrain ...`

    Example: `matgraft pretrain mp-source --target e_form_per_atom --exclude-formulas-of tmo-oxides --out s`
    """
    from matgraft.jobs.pretrain import pretrain as run
    from matgraft.models.schnet import ARCHITECTURES
    from matgraft.training.distributed import joined
    from matgraft.training.recipe import PRETRAIN

    if arch not in ARCHITECTURES:
        raise InputError(f"no architecture named {arch!r}; there are {', '.join(ARCHITECTURES)}.")
    changes = {"epochs": epochs, "rate": rate, "swa_epochs": swa_epochs}
    recipe = PRETRAIN.changed(**{key: value for key, value in changes.items() if value is not None})
    with joined() as workers:
        model = run(
            _read(data, target, label_kind, label_unit, no_label_check, missing),
            target,
            out,
            further=names_in(further),
            exclude_formulas_of=exclude_formulas_of,
            exclude_elements=names_in(exclude_elements),
            keep=keep or [],
            val_size=int(val_size) if val_size >= 1 and val_size.is_integer() else val_size,
            source=source,
            teachers=names_in(teachers),
            unlabelled=unlabelled,
            arch=ARCHITECTURES[arch],
            recipe=recipe,
            seed=seed,
            name=name,
            licence=licence,
            workers=workers,
        )
    if workers.rank > 0:
        return
    if as_json:
        print_json(model.card["metrics"])
        return
    for part, scores in model.card["metrics"].items():
        if part == "further":
            continue
        error, unit = scores.get("mae"), model.label.unit
        if "mae_ev_per_atom" in scores:
            error, unit = scores["mae_ev_per_atom"], "eV/atom"
        console.print(f"{part.replace('_', ' ')}: MAE {error:.4f} {unit} on {scores['n']} structures")
    console.print(f"model: {out}", soft_wrap=True)


@app.command()
def benchmark(
    data: Data,
    target: Target,
    out: Out,
    sizes: Annotated[str, typer.Option(help="Numbers of labels.")] = "100,200,400",
    val_size: Annotated[int, typer.Option(help="Structures to judge on.")] = 117,
    schemes: Annotated[
        str, typer.Option(help="Schemes; tl1/labels fixes the reference mode.")
    ] = "direct,tl1,tl2,tl3",
    seeds: Annotated[int, typer.Option(help="Repeats with another split.")] = 5,
    group: GroupBy = None,
    source: Source = "mp-schnet",
    preset: Annotated[Preset, typer.Option(help="Our training settings, or the published ones.")] = "default",
    arch: Annotated[str, typer.Option(help="Network of direct training: arch1, arch2 or wide.")] = "arch1",
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    label_kind: KindOf = None,
    label_unit: UnitOf = None,
    no_label_check: NoCheck = False,
    missing: Missing = "error",
    as_json: Json = False,
) -> None:
    """Learning curves by the study's protocol: disjoint subsets, several seeds, baselines beside.

    Example: `matgraft benchmark tmo-oxides-fetiv --target energy --seeds 5 --out curves`
    """
    from matgraft.jobs.benchmark import benchmark as run
    from matgraft.jobs.benchmark import tabulate

    report = run(
        _read(data, target, label_kind, label_unit, no_label_check, missing),
        target,
        out,
        sizes=_numbers(sizes),
        val_size=val_size,
        schemes=names_in(schemes),
        seeds=seeds,
        group=group,
        source=_source(source),
        preset=preset,
        arch=arch,
        workers=workers,
    )
    if as_json:
        print_json(report["summary"])
        return
    console.print(tabulate(report["summary"], report["settings"]["label"]["unit"], data).rich())
    for name in ("benchmark.png", "benchmark.md", "benchmark.json"):
        console.print(f"  {out / name}", soft_wrap=True)


@paper_app.command("run")
def paper_run(
    out: Out,
    table: Annotated[
        list[str] | None, typer.Option(help="Only what table 1, 2, 3, 4 or beyond needs; repeatable.")
    ] = None,
    figure: Annotated[list[int] | None, typer.Option(help="Only what this figure needs; repeatable.")] = None,
    preset: Annotated[
        Literal["full", "quick"], typer.Option(help="The whole study, or a few epochs of everything.")
    ] = "full",
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Run the study from data to tables and figures, then write the report; repeated, it goes on.

    Example: `matgraft paper run --table 2 --out study`
    """
    from matgraft.paper.experiments import run

    run(out, tables=table or [], figures=figure or [], preset=preset, workers=workers)
    paper_report(out, as_json)


@paper_app.command("report")
def paper_report(out: Out, as_json: Json = False) -> None:
    """Write report.html, report.md and the figures from what has been run.

    Example: `matgraft paper report --out study`
    """
    from matgraft.paper.report import report
    from matgraft.paper.results import Results
    from matgraft.paper.tables import claims

    pages, table = report(out), claims(Results.read(out))
    if as_json:
        print_json([dict(zip(table.columns, row, strict=True)) for row in table.rows])
        return
    console.print(table.rich())
    for path in pages:
        console.print(f"  {path}", soft_wrap=True)


@data_app.command("info")
def data_info(
    data: Files,
    as_json: Json = False,
) -> None:
    """What is in a data set: structures, elements, labels and their meaning.

    Example: `matgraft data info tmo-oxides`
    """
    from matgraft.jobs.data import info, table_of

    summary = info(data)
    if as_json:
        print_json(summary)
        return
    for table in table_of(summary):
        console.print(table.rich())


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Known data sets, their licences, and whether they are at hand.

    Example: `matgraft data list`
    """
    from matgraft.jobs.data import known

    table = known()
    if as_json:
        print_json([dict(zip(table.columns, row, strict=True)) for row in table.rows])
        return
    console.print(table.rich())


@data_app.command("convert")
def data_convert(
    data: Files,
    out: Annotated[Path, typer.Argument(help="New file: .extxyz, .db, or a folder (fast, memory-mapped).")],
    as_json: Json = False,
) -> None:
    """Write structures, labels and forces in another format; stresses are not kept.

    Example: `matgraft data convert tmo-oxides oxides.extxyz`
    """
    from matgraft.jobs.data import convert

    n = convert(data, out)
    if as_json:
        print_json({"n": n, "out": str(out)})
        return
    console.print(f"{n} structures: {out}", soft_wrap=True)


@data_app.command("split")
def data_split(
    data: Files,
    out: Annotated[Path, typer.Option(help="New folder for train.extxyz and val.extxyz.")],
    val: Annotated[str, typer.Option(help="Fraction, number, or file of ids.")] = "0.2",
    group: GroupBy = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Split a data set into training and validation files; forces are kept, stresses are not.

    Example: `matgraft data split tmo-oxides --val 117 --group formula --out split`
    """
    from matgraft.jobs.data import split

    n_train, n_val = split(data, out, val=val, group=group, seed=seed)
    if as_json:
        print_json({"n_train": n_train, "n_val": n_val, "out": str(out)})
        return
    console.print(f"{n_train} structures to train on, {n_val} to validate on: {out}", soft_wrap=True)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """Models that ship with the package.

    Example: `matgraft models list`
    """
    from matgraft.jobs.models import catalogue

    table = catalogue()
    if as_json:
        print_json([dict(zip(table.columns, row, strict=True)) for row in table.rows])
        return
    console.print(table.rich())


@models_app.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="Model folder, or the name of a shipped model.")],
    as_json: Json = False,
) -> None:
    """A model's card: what it was trained on, how, and how wrong it is.

    Example: `matgraft models show mp-schnet`
    """
    from matgraft.jobs.models import card, table_of

    content = card(model)
    if as_json:
        print_json(content)
        return
    console.print(table_of(content).rich())


def main() -> None:
    """Entry point: exit code 0, 1 for a failure, 2 for bad usage or bad input."""
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for library in ("matplotlib", "numba"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # Of a file or a disk; what can be foreseen has a better message where it happens.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = " Make room there, or choose another place." if full else ""
        place = error.filename or "input or output"
        typer.echo(f"error: {place}: {error.strerror or error}.{remedy}", err=True)
        sys.exit(2)
    except LostWorker as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
