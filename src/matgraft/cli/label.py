"""``matgraft label`` and ``matgraft dft``: labels from first principles, and the program that makes them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from matgraft.cli.common import Json, console, names_in, print_json
from matgraft.errors import InputError


class _RunUnlessNamed(TyperGroup):
    """``matgraft label FILE`` is ``matgraft label run FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


label_app = typer.Typer(
    cls=_RunUnlessNamed,
    help="Label structures by density functional theory; `matgraft label STRUCTURES` runs.",
    no_args_is_help=True,
)
dft_app = typer.Typer(help="Quantum ESPRESSO: find it, make it, try it.", no_args_is_help=True)

Store = Annotated[str, typer.Option(help="SQLite file (.db) or PostgreSQL URL that keeps the labels.")]
Held = Annotated[str, typer.Argument(help="SQLite file (.db) or PostgreSQL URL of labels.")]
Command = Annotated[
    str | None, typer.Option(help="Command of pw.x, such as 'mpirun -n 4 pw.x'; found by itself otherwise.")
]
Order = Annotated[
    str | None, typer.Option(help="Moments at the start: ferromagnetic, antiferromagnetic, none.")
]
Hubbard = Annotated[
    list[str] | None, typer.Option(help="Hubbard U in eV by element, such as Fe=4; repeatable.")
]
Workers = Annotated[int, typer.Option(help="Calculations at a time on this machine.", min=1)]
MaxSeconds = Annotated[float | None, typer.Option(help="Longest wall time of one calculation.", min=1)]
Pseudopotentials = Annotated[
    Path | None, typer.Option(help="Folder of UPF files to use instead of those that are shipped.")
]
Scratch = Annotated[Path | None, typer.Option(help="Folder for the files of running calculations.")]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="TOML file: run on Slurm, PBS or Kubernetes instead.")
]


@label_app.command("run")
def run(
    structures: Annotated[str, typer.Argument(help="File or folder of crystals, or a known data set.")],
    store: Store = "labels.db",
    protocol: Annotated[str, typer.Option(help="fast, moderate, precise, or a JSON file.")] = "moderate",
    order: Order = None,
    hubbard: Hubbard = None,
    forces: Annotated[bool, typer.Option("--forces", help="Forces too.")] = False,
    workers: Workers = 1,
    max_atoms: Annotated[int | None, typer.Option(help="Leave out larger cells.", min=1)] = None,
    max_seconds: MaxSeconds = None,
    command: Command = None,
    pseudopotentials: Pseudopotentials = None,
    scratch: Scratch = None,
    cluster: ClusterFile = None,
    trace: Annotated[
        Path | None, typer.Option(help="Folder for a picture and a table of how the loops converged.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Label structures; run again, it goes on with what is missing. Several may share one store.

    Example: `matgraft label oxides.extxyz --protocol moderate --store labels.db --workers 2`
    """
    from matgraft.dft.engine import find
    from matgraft.jobs.label import label, read

    settings, dataset = settings_of(protocol, order, hubbard or [], forces), read(structures)
    if trace is not None:
        _require_place(trace)
    engine = find(command)
    if settings.hubbard_u:
        engine.require_hubbard()
    with _cluster(cluster) as (executor, at_once):
        done = label(
            dataset,
            store,
            settings,
            engine,
            executor=executor,
            workers=at_once or workers,
            max_atoms=max_atoms,
            max_seconds=max_seconds,
            pseudopotentials=pseudopotentials,
            scratch=_folder(scratch),
        )
    _tell(done, store, as_json)
    if trace is not None:
        from matgraft.jobs.labels import write_traces

        write_traces(dataset, store, settings, trace, pseudopotentials)


@label_app.command("status")
def status(store: Held, as_json: Json = False) -> None:
    """What a store holds: labels, failures by reason, what is running.

    Example: `matgraft label status labels.db`
    """
    from matgraft.jobs.labels import failures, table_of
    from matgraft.jobs.labels import status as look

    summary = look(store)
    if as_json:
        print_json(summary)
        return
    for table in table_of(summary):
        console.print(table.rich())
    if summary["failures"]:
        console.print(failures(store).rich())


@label_app.command("retry")
def retry(
    store: Held,
    reason: Annotated[
        list[str] | None, typer.Option(help="Only what failed for this reason; repeatable.")
    ] = None,
    workers: Workers = 1,
    max_seconds: MaxSeconds = None,
    command: Command = None,
    pseudopotentials: Pseudopotentials = None,
    scratch: Scratch = None,
    cluster: ClusterFile = None,
    as_json: Json = False,
) -> None:
    """Begin anew with what has failed.

    Example: `matgraft label retry labels.db --reason 'out of time' --max-seconds 7200`
    """
    from matgraft.dft.engine import find
    from matgraft.jobs.label import retry as again

    engine = find(command)
    with _cluster(cluster) as (executor, at_once):
        done = again(
            store,
            engine,
            reasons=reason or [],
            executor=executor,
            workers=at_once or workers,
            max_seconds=max_seconds,
            pseudopotentials=pseudopotentials,
            scratch=_folder(scratch),
        )
    _tell(done, store, as_json)


@label_app.command("export")
def export(
    store: Held,
    out: Annotated[Path, typer.Argument(help="New file: .extxyz, .db, or a folder.")],
    protocol: Annotated[
        str | None, typer.Option(help="Which, if the store holds several: a name, or a JSON file.")
    ] = None,
    order: Order = None,
    hubbard: Hubbard = None,
    as_json: Json = False,
) -> None:
    """Write the labels as a data set, with a card of settings, failures and times beside it.

    Example: `matgraft label export labels.db labels.extxyz`
    """
    from matgraft.jobs.labels import export as write

    exact = order is not None or hubbard or (protocol or "").endswith(".json")
    if exact and protocol is None:
        raise InputError("--order and --hubbard change a protocol: name the one with --protocol.")
    settings = settings_of(protocol, order, hubbard or [], False) if exact else protocol  # type: ignore[arg-type]
    dataset, card = write(store, out, settings)
    if as_json:
        print_json(card)
        return
    console.print(f"{len(dataset)} labels, {len(card['failures'])} failures: {out}", soft_wrap=True)


@dft_app.command("setup")
def setup(as_json: Json = False) -> None:
    """Make an environment that holds Quantum ESPRESSO, without root or compiler.

    Example: `matgraft dft setup`
    """
    from matgraft.dft.engine import setup as make

    folder = make()
    if as_json:
        print_json({"environment": str(folder)})
        return
    console.print(f"Quantum ESPRESSO: {folder}", soft_wrap=True)


@dft_app.command("check")
def check(command: Command = None, as_json: Json = False) -> None:
    """Say which pw.x is used, and whether it gets silicon right.

    Example: `matgraft dft check`
    """
    from matgraft.dft.check import EXPECTED
    from matgraft.dft.check import check as try_it
    from matgraft.dft.engine import find
    from matgraft.dft.output import Failure

    found = try_it(find(command))
    said = {
        "command": " ".join(found.engine.command),
        "found_by": found.engine.origin,
        "version": found.version,
        "difference_ev_per_atom": found.difference,
        "right": found.right,
    }
    if as_json:
        print_json(said)
    else:
        console.print(
            f"{said['command']} (Quantum ESPRESSO {found.version}, by {found.engine.origin})", soft_wrap=True
        )
    if isinstance(found.outcome, Failure):
        raise InputError(
            f"{said['command']}: silicon fails ({found.outcome.reason}: {found.outcome.message})."
        )
    if not found.right:
        raise InputError(
            f"{said['command']}: silicon has {found.outcome.free_energy:.6f} eV, not {EXPECTED:.6f}. "
            "This program is not to be trusted."
        )
    if not as_json:
        console.print(
            f"silicon: {found.outcome.free_energy:.6f} eV, {1e3 * (found.difference or 0.0):+.4f} meV/atom "
            f"from what is expected, in {found.outcome.wall_seconds:.1f} s: right",
            soft_wrap=True,
        )


def settings_of(name: str, order: str | None, hubbard: list[str], forces: bool = False) -> Any:
    """The protocol of a name, with what options change of it."""
    from matgraft.dft.protocols import protocol

    changes: dict[str, object] = {}
    if order is not None:
        changes["order"] = order
    if forces:
        changes["forces"] = True
    if hubbard:
        changes["hubbard_u"] = _hubbard(hubbard)
    settings = protocol(name)
    return settings.changed(**changes) if changes else settings


def _hubbard(texts: list[str]) -> dict[str, float]:
    """``Fe=4`` or ``Fe=4,Ti=3`` as numbers by element."""
    try:
        pairs = [part.split("=") for text in texts for part in names_in(text)]
        return {element.strip(): float(value) for element, value in pairs}
    except ValueError as error:
        raise InputError(f"--hubbard {' '.join(texts)}: write elements and eV, such as Fe=4.") from error


def _folder(scratch: Path | None) -> str | None:
    if scratch is None:
        return None
    if not scratch.is_dir():
        raise InputError(f"--scratch {scratch}: no such folder.")
    return str(scratch.resolve())


def _require_place(trace: Path) -> None:
    """Raise an InputError now, and not when everything is calculated, if there can be no such folder."""
    place = next(one for one in (trace, *trace.parents) if one.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise InputError(f"--trace {trace}: {place} is no folder that can be written to. Name another.")


def _cluster(path: Path | None):
    """A context of the executor and the number of its workers; of None and 0 without a cluster."""
    if path is None:
        return nullcontext((None, 0))
    from contextlib import contextmanager

    from matgraft.dft.cluster import executor, read

    settings = read(path)

    @contextmanager
    def running():
        with executor(settings) as pool:
            yield pool, settings.at_once

    return running()


def _tell(done: Any, store: str, as_json: bool) -> None:
    from matgraft.dft.store import without_password

    if as_json:
        print_json(
            {
                "done": done.done,
                "failed": done.failed,
                "labelled_now": done.here,
                "reasons": dict(done.reasons),
                "too_large": done.too_large,
            }
        )
        return
    console.print(
        f"{done.done} labels ({done.here} of them new), {done.failed} failures: {without_password(store)}",
        soft_wrap=True,
    )
    for reason, n in done.reasons.most_common():
        console.print(f"  {n} {reason}")
    if done.failed:
        console.print(f"  all of them: matgraft label status {without_password(store)}", soft_wrap=True)
    if done.too_large:
        console.print(f"  {len(done.too_large)} left out as too large, first {done.too_large[0]}")
