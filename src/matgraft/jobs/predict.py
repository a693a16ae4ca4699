"""Predicting files of structures, however many."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from matgraft.data.checks import list_ids
from matgraft.data.streaming import Chunk, Stream, read_chunk
from matgraft.errors import InputError
from matgraft.graphs import build_graphs
from matgraft.jobs.folder import SETTINGS, alone, claim, not_over, write_csv
from matgraft.jobs.pool import finished, pool
from matgraft.models.files import load_model
from matgraft.models.intervals import COVERAGE
from matgraft.models.predictor import Predictor, bounds
from matgraft.progress import Progress
from matgraft.whole import whole

log = logging.getLogger(__name__)

CHUNK = 1000
"""Structures whose graphs are in memory at a time, for each process."""

SORTS = ("none", "prediction", "per_atom")


@dataclass(frozen=True)
class Summary:
    """What was predicted: numbers of structures, and the files that were written.

    ``skipped_list`` is None where nothing was skipped.
    """

    n: int
    with_unseen_species: int
    skipped: int
    out: Path
    skipped_list: Path | None


def predict(
    model: str | Path | Predictor,
    files: Sequence[str | Path],
    out: str | Path,
    *,
    sort: str = "none",
    descending: bool = False,
    top: int | None = None,
    skip_bad: bool = False,
    coverage: float | None = None,
    workers: int = 1,
    chunk_size: int = CHUNK,
) -> Summary:
    """Predict every structure in some files.

    Structures are read and predicted in chunks, which are kept in the folder ``<out>.part`` until all are
    done: an interrupted run goes on with what is missing. A structure's number does not depend on the order
    of the structures, on the chunks or on the workers.

    Parameters
    ----------
    model : str, Path or Predictor
        A shipped model's name, a model folder, or a model.
    files : sequence of path
    out : path
        A CSV file: id, prediction in the label's unit, formula, per atom, and what the model does not know.
    sort : {"none", "prediction", "per_atom"}
        Order of the lines: that of the files, or ascending by value and then by id, with a column ``rank``.
    descending : bool
        Highest value first.
    top : int, optional
        Write only the first lines of the ranking.
    skip_bad : bool
        Go on without the files and structures that cannot be used and list them, with the reasons, in
        ``<out>.skipped.csv``, without the ``.csv`` of ``out``. Otherwise the first is an error.
    coverage : float, optional
        Probability that an interval is to hold the label; default 0.9. Only of a model with intervals.
    workers : int
        Processes of one thread each.
    chunk_size : int
        Structures to a chunk; memory grows with it.

    Raises
    ------
    InputError
        If a file or structure cannot be used; for other values of ``sort`` and ``top``.
    """
    if sort not in SORTS:
        raise InputError(f"cannot sort by {sort!r}; there are {', '.join(SORTS)}.")
    if sort == "none" and (descending or top is not None):
        raise InputError("a ranking was asked for but not by what. Add --sort prediction or per_atom.")
    if min(workers, chunk_size, 1 if top is None else top) < 1:
        raise InputError("--workers, --top and the size of a chunk must be at least 1.")
    out = not_over(out, list(files), model)
    if out.is_dir():
        raise InputError(f"{out}: a folder is in the way of the CSV file. Choose another name for --out.")
    predictor = model if isinstance(model, Predictor) else load_model(model)
    if coverage is not None and predictor.intervals is None:
        raise InputError("--coverage: this model has no intervals. Graft one by `matgraft finetune`.")
    coverage = COVERAGE if coverage is None else coverage
    if not 0 < coverage < 1:
        raise InputError(f"--coverage {coverage:g} is no probability between 0 and 1.")
    stream = Stream(files)
    settings = {
        "command": "predict",
        "matgraft": version("matgraft"),
        "model": {
            "weights": predictor.content_hash(),
            **predictor.description(),
            "bounds": predictor.bounds_hash(),
            "unreferenced": predictor.references.missing.tolist(),
            "label": asdict(predictor.label),
            "species": sorted(predictor.species),
        },
        "structures": stream.fingerprint(),
        "coverage": coverage,
        "chunk_size": chunk_size,
    }
    kept = out.with_name(f"{out.name}.part")
    with alone(kept):
        _keep(kept, settings)
        scratch = kept / "input"
        shutil.rmtree(scratch, ignore_errors=True)
        chunks: list[Chunk] = []
        try:
            chunks += stream.chunks(chunk_size, scratch)
            if not chunks:
                raise InputError(f"{', '.join(map(str, files))}: no structures in it.")
            known: dict[str, str] = {}
            paths = [kept / f"{k:06}.npz" for k in range(len(chunks))]
            with closing(_predicted(predictor, coverage, chunks, paths, workers)) as ready:
                for path in ready:
                    if not skip_bad:
                        _require_sound(Results.read(path), known)
        except InputError:
            # Of a single chunk nothing is finished that another run could go on with.
            if len(chunks) < 2:
                shutil.rmtree(kept)
            raise
        results, repeated = Results.joined(Results.read(path) for path in paths).without_repeated()
        _warn(results)
        if np.isinf(results.half_width).any():
            log.warning("too few labels to promise a coverage of %g: intervals are infinite", coverage)
        listed = out.with_name(f"{out.name.removesuffix('.csv')}.skipped.csv")
        skipped = [*results.skipped.tolist(), *((*one, "id used more than once") for one in repeated)]
        if skipped:
            write_csv(listed, ("file", "id", "reason"), skipped)
        else:
            listed.unlink(missing_ok=True)
        _write(out, results, predictor.label.unit, sort, descending, top)
        shutil.rmtree(kept)
        return Summary(
            n=len(results.ids),
            with_unseen_species=int((results.unseen != "").sum()),
            skipped=len(skipped),
            out=out,
            skipped_list=listed if skipped else None,
        )


_TEXTS = ("files", "unseen", "unreferenced", "too_close")


@dataclass(frozen=True)
class Results:
    """Predictions of some structures as flat arrays, one entry per structure.

    ``half_width`` is NaN for a model without intervals, ``strangeness`` where it is not known. ``unseen`` and
    ``unreferenced`` hold elements with spaces between them, ``too_close`` pairs of them, or a question mark
    where that is not known; ``files`` names the file of each; ``skipped`` has shape (n_skipped, 3): file, id
    and reason.
    """

    ids: np.ndarray
    files: np.ndarray
    values: np.ndarray
    per_atom: np.ndarray
    half_width: np.ndarray
    strangeness: np.ndarray
    formulas: np.ndarray
    unseen: np.ndarray
    unreferenced: np.ndarray
    too_close: np.ndarray
    skipped: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Results:
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{name: archive[name] for name in archive.files})

    def write(self, path: Path) -> None:
        with whole(path) as partial, open(partial, "wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def joined(cls, parts: Iterable[Results]) -> Results:
        columns = [vars(part) for part in parts]
        for column in columns:
            # An array of text would be as wide everywhere as its longest entry.
            column.update({name: column[name].astype(object) for name in _TEXTS})
        return cls(**{name: np.concatenate([column[name] for column in columns]) for name in columns[0]})

    def without_repeated(self) -> tuple[Results, list[tuple[str, str]]]:
        """The first structure of each id, and files and ids of the others."""
        _, first = np.unique(self.ids, return_index=True)
        rows = np.sort(first)
        if len(rows) == len(self.ids):
            return self, []
        files, ids = (np.delete(column, rows).tolist() for column in (self.files, self.ids))
        repeated = list(zip(files, ids, strict=True))
        entries = {name: array if name == "skipped" else array[rows] for name, array in vars(self).items()}
        return Results(**entries), repeated


def _keep(folder: Path, settings: dict) -> None:
    """Make the folder of finished chunks; those of another model or of other structures are thrown away."""
    try:
        found = json.loads((folder / SETTINGS).read_text())["settings"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        claim(folder, settings)
        return
    wanted = json.loads(json.dumps(settings))
    if found != wanted and found.get("command") == settings["command"]:
        changed = [name for name in wanted if found.get(name) != wanted[name]]
        log.warning(
            "%s: kept by an interrupted run before this changed: %s. Starting anew.",
            folder,
            ", ".join(changed),
        )
        shutil.rmtree(folder)
    claim(folder, settings)


def _predicted(
    model: Predictor, coverage: float, chunks: list[Chunk], paths: list[Path], workers: int
) -> Generator[Path, None, None]:
    """The file of each chunk once it is there, those of an earlier run first."""
    done = [k for k, path in enumerate(paths) if _is_readable(path)]
    waiting = sorted(set(range(len(chunks))) - set(done))
    counts = [sum(piece.count for piece in chunk) for chunk in chunks]
    with Progress(sum(counts), "predict", unit="structures", done=sum(counts[k] for k in done)) as progress:
        for k in done:
            yield paths[k]
        for k in _run(model, coverage, {k: (chunks[k], paths[k]) for k in waiting}, workers):
            progress.step(counts[k])
            yield paths[k]


def _is_readable(path: Path) -> bool:
    try:
        Results.read(path)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile):
        return False
    return True


def _run(
    model: Predictor, coverage: float, tasks: dict[int, tuple[Chunk, Path]], workers: int
) -> Iterator[int]:
    """Predict chunks and say which is finished."""
    if workers == 1 or len(tasks) < 2:
        for k, (chunk, path) in tasks.items():
            _predict_chunk(model, coverage, chunk, path)
            yield k
        return
    with pool(min(workers, len(tasks)), model, coverage) as submit:
        pending = {submit(_predict_chunk, chunk, path): k for k, (chunk, path) in tasks.items()}
        for k, _ in finished(pending):
            yield k


def _predict_chunk(model: Predictor, coverage: float, chunk: Chunk, path: Path) -> None:
    dataset, files, skipped = read_chunk(chunk)
    # Graphs are as quickly built as read: a pool to screen is no data to train on again and again.
    prediction = model.predict(dataset, build_graphs(dataset, model.cutoff), coverage)
    Results(
        ids=dataset.ids,
        files=np.asarray(files, dtype=str),
        values=prediction.values,
        per_atom=prediction.per_atom,
        half_width=_or_nan(prediction.half_width, len(dataset)),
        strangeness=_or_nan(prediction.strangeness, len(dataset)),
        formulas=dataset.formulas.astype(str),
        unseen=_joined(prediction.unseen),
        unreferenced=_joined(prediction.unreferenced),
        too_close=_joined(prediction.too_close or [("?",)] * len(dataset)),
        skipped=np.asarray(skipped, dtype=str).reshape(-1, 3),
    ).write(path)


def _uncertainty(results: Results) -> dict[str, np.ndarray]:
    """Columns of a model that has intervals, or knows its domain."""
    columns = {} if np.isnan(results.half_width).all() else bounds(results.values, results.half_width)
    return columns if np.isnan(results.strangeness).all() else columns | {"strangeness": results.strangeness}


def _joined(names: list[tuple[str, ...]]) -> np.ndarray:
    return np.asarray([" ".join(some) for some in names], dtype=str)


def _or_nan(values: np.ndarray | None, n: int) -> np.ndarray:
    return np.full(n, np.nan) if values is None else values


def _require_sound(results: Results, known: dict[str, str]) -> None:
    """Raise an error for what could not be used, and for ids whose files are known already."""
    if len(results.skipped):
        *_, reason = results.skipped[0].tolist()
        more = f" ({len(results.skipped) - 1} more of the kind follow.)" if len(results.skipped) > 1 else ""
        raise InputError(f"{reason}{more} Or go on without what is bad: --skip-bad.")
    repeated = []
    for name, file in zip(results.ids.tolist(), results.files.tolist(), strict=True):
        if name in known:
            repeated.append((name, file))
        known.setdefault(name, file)
    if repeated:
        name, file = repeated[0]
        where = f"twice in {file}" if known[name] == file else f"in {known[name]} and in {file}"
        raise InputError(
            f"ids used more than once: {list_ids([name for name, _ in repeated])}; {name} stands {where}. "
            "Rename or remove the repeated structures, or keep the first of each: --skip-bad."
        )


_WARNINGS = (
    (
        "unseen",
        "contain elements that the model never saw (%s), the first is %s: their values are guesses, "
        "marked in the column unseen_species",
    ),
    (
        "unreferenced",
        "contain elements that no label of the target contained (%s), the first is %s: their reference "
        "energies are drawn from like elements and may be far off, marked in the column unreferenced_species",
    ),
    (
        "too_close",
        "have atoms nearer than any that the model learnt from (%s), the first is %s: the network "
        "extrapolates, marked in the column too_close",
    ),
)


def _warn(results: Results) -> None:
    for column, text in _WARNINGS:
        values = getattr(results, column)
        marked = (values != "") & (values != "?")
        # Of elements without any label there is nothing more to say.
        marked &= (results.unseen == "") | (column == "unseen")
        rows = np.flatnonzero(marked)
        if len(rows):
            names = list_ids(sorted(set(" ".join(np.unique(values[rows])).split())))
            log.warning(f"%d of %d structures {text}", len(rows), len(values), names, results.ids[rows[0]])
    is_isolated = np.isinf(results.strangeness)
    if len(isolated := np.flatnonzero(is_isolated)):
        log.warning(
            "%d of %d structures have an atom without any neighbour, the first is %s: the model knows its "
            "element alone, marked by an infinite strangeness",
            len(isolated),
            len(results.ids),
            results.ids[isolated[0]],
        )
    # One label in eight is strange to the others, so that of a graft this would be no news.
    far = np.flatnonzero((results.strangeness > 1) & np.isnan(results.half_width) & ~is_isolated)
    if len(far):
        log.warning(
            "%d of %d structures are unlike the crystals that the model learnt from, the first is %s: their "
            "values may be far off, marked by a strangeness above 1",
            len(far),
            len(results.ids),
            results.ids[far[0]],
        )


def _write(out: Path, results: Results, unit: str, sort: str, descending: bool, top: int | None) -> None:
    columns = {
        "id": results.ids,
        "prediction": results.values,
        "unit": np.full(len(results.ids), unit),
        "formula": results.formulas,
        "per_atom": results.per_atom,
        **_uncertainty(results),
        "unseen_species": results.unseen,
        "unreferenced_species": results.unreferenced,
        "too_close": results.too_close,
    }
    order = np.arange(len(results.ids))
    if sort != "none":
        key = -columns[sort] if descending else columns[sort]
        order = np.lexsort((results.ids, key))
        rank = np.empty_like(order)
        rank[order] = np.arange(1, len(order) + 1)
        columns = {"rank": rank, **columns}
    write_csv(
        out, list(columns), zip(*(column[order[:top]].tolist() for column in columns.values()), strict=True)
    )
