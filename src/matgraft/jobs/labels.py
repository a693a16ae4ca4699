"""What a store of labels holds: status, failures, traces, export."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from ase.data import chemical_symbols

from matgraft.data import Dataset, Label
from matgraft.data.writers import write
from matgraft.dft.calculation import Calculation, Unfit, key_of
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import FAILED, UNTRIED, Entry, Store
from matgraft.errors import InputError
from matgraft.evaluation.plots import convergence
from matgraft.evaluation.tables import Table
from matgraft.jobs.folder import not_over, versions, write_csv, write_json
from matgraft.progress import duration

MOST_TRACES = 6
"""In one picture."""

_COLUMNS = (
    "smearing", "fermi", "magnetization", "absolute_magnetization", "iterations", "kpoints", "cpu_seconds",
    "wall_seconds",
)  # fmt: skip


def write_traces(
    dataset: Dataset,
    store: str | Path,
    protocol: Protocol,
    out: str | Path,
    pseudopotentials: str | Path | None = None,
) -> Path:
    """Write how the loops of some labels converged: ``trace.csv`` and ``trace.png``.

    Parameters
    ----------
    dataset, store, protocol, pseudopotentials
        As they were labelled.
    out : path
        Folder.
    """
    opened, known, out = Store(store, create=False), library(pseudopotentials), Path(out)
    traces = {}
    for name, atoms in zip(dataset.ids.tolist(), dataset, strict=True):
        with suppress(Unfit):
            entry = opened.get(Calculation.of(atoms, protocol, known).key)
            if entry is not None and entry.result is not None:
                traces[f"{name} ({atoms.get_chemical_formula('metal', empirical=True)})"] = entry.result.trace
    if not traces:
        raise InputError(f"{opened.place}: no label of these structures, so no trace of one.")
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        (name, step, energy, accuracy)
        for name, trace in traces.items()
        for step, (energy, accuracy) in enumerate(trace, 1)
    ]
    write_csv(out / "trace.csv", ("structure", "iteration", "energy_ev", "estimated_accuracy_ev"), rows)
    convergence(out / "trace.png", dict(list(traces.items())[:MOST_TRACES]))
    return out


def status(store: str | Path) -> dict:
    """What a store holds, as plain values: labels, failures by reason, what is running, and times."""
    opened = Store(store, create=False)
    entries = list(opened.entries())
    labels = [entry.result for entry in entries if entry.result is not None]
    failed = [entry for entry in entries if entry.status == FAILED]
    now = time.time()
    return {
        "store": opened.place,
        "labels": len(labels),
        "failures": dict(Counter(entry.reason or UNTRIED for entry in failed)),
        "protocols": dict(Counter(entry.protocol.name for entry in entries)),
        "running": [
            {"key": key, "by": owner.rsplit(":", 3)[0], "seconds": round(now - since)}
            for key, owner, since in opened.claims()
        ],
        "cpu_seconds": sum(result.cpu_seconds for result in labels),
        "median_wall_seconds": median(result.wall_seconds for result in labels) if labels else None,
    }


def table_of(summary: dict) -> list[Table]:
    """The summary of :func:`status` as tables."""
    typical = summary["median_wall_seconds"]
    facts = [
        ("labels", summary["labels"]),
        *((f"failed: {reason}", n) for reason, n in sorted(summary["failures"].items())),
        ("protocols", ", ".join(f"{name} {n}" for name, n in sorted(summary["protocols"].items()))),
        ("processor time", duration(summary["cpu_seconds"])),
        ("median time of a label", None if typical is None else f"{typical:.1f} s"),
    ]
    tables = [Table(("", summary["store"]), facts)]
    if summary["running"]:
        rows = [(one["key"], one["by"], duration(one["seconds"])) for one in summary["running"]]
        tables.append(Table(("running", "on", "for"), rows))
    return tables


def failures(store: str | Path) -> Table:
    """Every failure and its reason."""
    rows = [
        (entry.ids[0], entry.atoms.get_chemical_formula("metal"), entry.reason, entry.attempts[-1].message)
        for entry in Store(store, create=False).entries()
        if entry.status == FAILED and entry.attempts
    ]
    return Table(("structure", "formula", "reason", "message"), rows)


def export(
    store: str | Path, out: str | Path, protocol: str | Protocol | None = None
) -> tuple[Dataset, dict]:
    """Write the labels of one protocol as a data set, and a card of how they came about beside it.

    Labels with and without forces belong together; where a structure has both, the one with forces is taken.
    Forces (eV/Angstrom) are written, too, if all labels have them; the card says how many do.

    Parameters
    ----------
    store : path or URL
    out : path
        ``.extxyz``, ``.db``, or a folder; see :func:`matgraft.data.writers.write`. The card has the same name
        and ends in ``.json``.
    protocol : str or Protocol, optional
        If the store holds several: the name of one, or exactly these settings, whatever their name.

    Returns
    -------
    dataset : Dataset
        With ``free_energy`` (F = E - TS, eV per cell) and ``internal_energy`` (E) as labels.
    card : dict

    Raises
    ------
    InputError
        No label, or several settings, whose energies do not belong together.
    """
    out, card_file = not_over(out, store), not_over(Path(out).with_suffix(".json"), store)
    if card_file.is_file() and '"with_forces"' not in card_file.read_text():
        raise InputError(f"{card_file}: in the way of the card, and no card itself. Choose another name.")
    opened = Store(store, create=False)
    entries = _once([entry for entry in opened.entries() if _chosen(entry.protocol, protocol)])
    labelled = [(entry, entry.result) for entry in entries if entry.result is not None]
    if not labelled:
        raise InputError(f"{opened.place}: no label{f' by protocol {protocol}' if protocol else ''} in it.")
    _require_one_setting([entry.protocol for entry, _ in labelled], opened.place)
    # With forces only if that was asked for every label.
    settled = min((entry.protocol for entry, _ in labelled), key=lambda one: one.forces)
    hashes: dict[str, str] = {}
    for entry, _ in labelled:
        for element, sha256 in entry.pseudopotentials.items():
            if hashes.setdefault(element, sha256) != sha256:
                raise InputError(
                    f"{opened.place}: labels with different pseudopotentials for {element}, whose "
                    "energies do not belong together. Label anew with one folder of pseudopotentials "
                    "and another --store."
                )
    # What failed by other settings, or with other pseudopotentials, is no gap among these labels.
    failed = [
        entry
        for entry in entries
        if entry.status == FAILED
        and _chosen(entry.protocol, settled)
        and all(hashes.get(element, sha256) == sha256 for element, sha256 in entry.pseudopotentials.items())
    ]
    ids = _unique([entry for entry, _ in labelled], failed)
    programs = sorted({f"Quantum ESPRESSO {result.version}" for _, result in labelled})
    spec = dict(unit="eV", kind="cell", level_of_theory=str(settled), origin=", ".join(programs))
    columns = {
        name: [np.nan if (value := getattr(result, name)) is None else value for _, result in labelled]
        for name in _COLUMNS
    }
    dataset = Dataset.from_atoms(
        [entry.atoms for entry, _ in labelled],
        [ids[entry.key] for entry, _ in labelled],
        labels={
            "free_energy": [result.free_energy for _, result in labelled],
            "internal_energy": [result.energy for _, result in labelled],
        },
        specs={name: Label(name, **spec) for name in ("free_energy", "internal_energy")},  # type: ignore[arg-type]
        columns=columns,
        source=opened.place,
    )
    wall = np.asarray([result.wall_seconds for _, result in labelled])
    forces = [result.forces for _, result in labelled if result.forces is not None]
    card = {
        "n": len(labelled),
        "with_forces": len(forces),
        "protocol": settled.model_dump(),
        "level_of_theory": str(settled),
        "programs": programs,
        "pseudopotentials": dict(sorted(hashes.items())),
        "elements": sorted({chemical_symbols[z] for z in dataset.numbers}),
        "times": {
            "cpu_seconds": float(sum(columns["cpu_seconds"])),
            "wall_seconds_quantiles": {
                f"{share:g}": float(np.quantile(wall, share)) for share in (0, 0.25, 0.5, 0.75, 1)
            },
        },
        "repeated": {ids[entry.key]: entry.ids[1:] for entry, _ in labelled if len(entry.ids) > 1},
        "labelled_after_failures": {
            ids[entry.key]: [one.reason for one in entry.attempts] for entry, _ in labelled if entry.attempts
        },
        "failures": {
            ids[entry.key]: {
                "formula": entry.atoms.get_chemical_formula("metal"),
                "reason": entry.reason,
                "message": entry.attempts[-1].message if entry.attempts else "",
                "attempts": len(entry.attempts),
            }
            for entry in failed
        },
        "versions": versions(),
    }
    if len(forces) == len(labelled):
        dataset = replace(dataset, forces=np.concatenate(forces))
    write(dataset, out)
    write_json(card_file, card)
    return dataset, card


def _settings(protocol: Protocol) -> dict:
    """What decides an energy; forces do not."""
    return protocol.model_dump(exclude={"name", "forces"})


def _chosen(protocol: Protocol, wanted: str | Protocol | None) -> bool:
    if isinstance(wanted, Protocol):
        return _settings(protocol) == _settings(wanted)
    return wanted is None or protocol.name == wanted


def _require_one_setting(protocols: Sequence[Protocol], place: str) -> None:
    settings: list[dict] = []
    for protocol in protocols:
        if (one := _settings(protocol)) not in settings:
            settings.append(one)
    if len(settings) == 1:
        return
    differing = [
        f"{name} ({' or '.join(sorted({str(one[name]) for one in settings}))})"
        for name in settings[0]
        if any(one[name] != settings[0][name] for one in settings)
    ]
    raise InputError(
        f"{place}: labels of {len(settings)} different settings "
        f"({', '.join(sorted({protocol.name for protocol in protocols}))}), whose energies do not belong "
        f"together: they differ in {', '.join(differing)}. Choose one with --protocol; where several have "
        "one name, with the --order, the --hubbard or the JSON file as well that they were labelled with."
    )


def _once(entries: Sequence[Entry]) -> list[Entry]:
    """Each structure and setting once: its label with forces, else its label, else its failure."""
    best: dict[str, Entry] = {}
    for entry in entries:
        moments = entry.atoms.get_initial_magnetic_moments() if entry.atoms.has("initial_magmoms") else None
        plain = entry.protocol.changed(forces=False)
        key = key_of(entry.atoms, plain, moments, entry.pseudopotentials)
        first, second = sorted((best.get(key, entry), entry), key=_rank)
        best[key] = replace(first, ids=list(dict.fromkeys([*first.ids, *second.ids])))
    return list(best.values())


def _rank(entry: Entry) -> int:
    return 2 if entry.result is None else int(entry.result.forces is None)


def _unique(labelled: Sequence[Entry], failed: Sequence[Entry]) -> dict[str, str]:
    """Id of each entry by its key; where several have one id, each gets a piece of its key behind it.

    A failure never changes the id of a label.
    """
    ids: dict[str, str] = {}
    times: Counter[str] = Counter()
    for entries in (labelled, failed):
        times.update(entry.ids[0] for entry in entries)
        for entry in entries:
            first = entry.ids[0]
            ids[entry.key] = first if times[first] == 1 else f"{first}-{entry.key[:8]}"
    return ids
