"""Graphs on disk, found again by what they were built from."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from matgraft.graphs.graphs import Graphs, build_graphs
from matgraft.graphs.quotient import TOLERANCE

if TYPE_CHECKING:
    from matgraft.data import Dataset

log = logging.getLogger(__name__)

_LAYOUT = 3
_WORTH_KEEPING = 2000
"""Structures below which building is as fast as reading."""


def cache_folder() -> Path:
    """Where graphs are kept: ``$MATGRAFT_CACHE`` or ``~/.cache/matgraft``."""
    return Path(os.environ.get("MATGRAFT_CACHE", Path.home() / ".cache" / "matgraft"))


def graphs_of(dataset: Dataset, cutoff: float, *, cache: bool | None = None) -> Graphs:
    """Graphs of a data set, from the cache if it holds them.

    Parameters
    ----------
    dataset : Dataset
    cutoff : float
        In Angstrom.
    cache : bool, optional
        Default: only sets of some thousand structures, where reading beats building.

    Notes
    -----
    The key is a hash of the structures, the cutoff and the version of the layout: changed data never
    meet stale graphs. The log says when graphs come from the cache.
    """
    if not (len(dataset) >= _WORTH_KEEPING if cache is None else cache):
        return build_graphs(dataset, cutoff)
    settings = f"{_LAYOUT} {cutoff!r} {TOLERANCE!r} {dataset.content_hash()}"
    folder = cache_folder() / "graphs" / hashlib.sha256(settings.encode()).hexdigest()[:32]
    names = [f.name for f in fields(Graphs)]
    if folder.is_dir():
        try:
            arrays = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names
            }
        except (OSError, ValueError, EOFError) as error:
            log.warning("graph cache %s is damaged (%s); building anew", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            log.info("graphs of %d structures from the cache %s", len(dataset), folder)
            return Graphs(**arrays)
    graphs = build_graphs(dataset, cutoff)
    _keep(graphs, folder, names)
    return graphs


def _keep(graphs: Graphs, folder: Path, names: list[str]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for name in names:
                np.save(partial / f"{name}.npy", getattr(graphs, name))
            partial.rename(folder)
            log.info("graphs kept in %s", folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        log.warning("graphs not kept: %s", error)
