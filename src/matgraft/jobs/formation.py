"""Defect formation energies: what models say of them, and what DFT says."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from matgraft.data import Dataset, Label
from matgraft.data.checks import list_ids
from matgraft.dft.protocols import Protocol
from matgraft.dft.protocols import protocol as named_protocol
from matgraft.errors import InputError
from matgraft.evaluation.plots import parity
from matgraft.evaluation.tables import Table
from matgraft.graphs import build_graphs
from matgraft.jobs.dope import NOTHING, shown
from matgraft.jobs.folder import not_over, write_csv
from matgraft.jobs.predict import CHUNK
from matgraft.models.files import load_model
from matgraft.models.predictor import Predictor

log = logging.getLogger(__name__)

FACTS = ("id", "pristine", "removed", "added", "atoms", "unit")
DFT = "dft"
"""Columns that every file has, and the one of DFT."""
PARITY = 4
"""Methods that one picture holds."""


@dataclass(frozen=True)
class Report:
    """Formation energies of defects.

    Attributes
    ----------
    columns : dict of str to list
        What the CSV file holds; None where there is no value.
    n : int
        Defects.
    without_dft : list of str
        Ids of the defects for which DFT was asked and has no answer.
    mae : dict of str to float
        Mean absolute difference of each model from DFT in eV, where both exist.
    table : Table
    out : Path
    picture : Path, optional
    """

    columns: dict[str, list]
    n: int
    without_dft: list[str]
    mae: dict[str, float]
    table: Table
    out: Path
    picture: Path | None = None


@dataclass(frozen=True)
class Exchange:
    """Defects as pairs of rows of a data set.

    Attributes
    ----------
    defect, pristine : ndarray of int, shape (n,)
    added : ndarray of int, shape (n, 119)
        Atoms of each element that the defect has more than the pristine cell; negative where it has fewer.
    """

    defect: np.ndarray
    pristine: np.ndarray
    added: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> Exchange:
        """The defects that the column ``pristine`` names the perfect crystal of."""
        source = dataset.source or "dataset"
        found = {**dataset.labels, **dataset.columns}.get("pristine")
        if found is None:
            raise InputError(
                f"{source}: no column 'pristine' that says which structure a defect was made in. Write the "
                "file with matgraft dope, or add to each defect the id of its pristine cell."
            )
        row = {name: i for i, name in enumerate(dataset.ids.tolist())}
        # Numbers, blank in the perfect crystals, are read as a label.
        numbers = found.dtype.kind == "f"
        named = np.array([("" if np.isnan(v) else f"{v:.0f}") if numbers else str(v) for v in found])
        defect = np.flatnonzero((named != "") & (named != dataset.ids))
        if not len(defect):
            raise InputError(f"{source}: no defects, for the column 'pristine' is blank everywhere.")
        lost = [i for i in defect if named[i] not in row]
        if lost:
            raise InputError(
                f"{source}: the pristine cell of {list_ids(dataset.ids[lost])} is missing: no structure "
                f"{named[lost[0]]}. Put it into the same file."
            )
        pristine = np.asarray([row[named[i]] for i in defect])
        composition = dataset.composition()
        return cls(defect, pristine, composition[defect] - composition[pristine])

    def energies(self, total: np.ndarray, potentials: np.ndarray) -> np.ndarray:
        """Formation energies in eV, shape (n,).

        Parameters
        ----------
        total : ndarray, shape (m,)
            Energy of every structure of the data set in eV per cell.
        potentials : ndarray, shape (119,)
            Chemical potentials in eV per atom.
        """
        return total[self.defect] - total[self.pristine] - self.added @ potentials

    def elements(self, sign: int) -> list[str]:
        """Elements that were added (1) or removed (-1), such as ``Fe`` or ``O2``."""
        several = [[(z, sign * row[z]) for z in np.flatnonzero(sign * row > 0)] for row in self.added]
        return [
            " ".join(f"{chemical_symbols[z]}{n if n > 1 else ''}" for z, n in one) or NOTHING
            for one in several
        ]


def formation_energies(
    doped: str | Path | Sequence[str | Path] | Dataset,
    out: str | Path,
    *,
    models: Sequence[str | Path] | Mapping[str, str | Path | Predictor] = (),
    store: str | None = None,
    protocol: str | Protocol = "moderate",
    pseudopotentials: str | Path | None = None,
    chemical_potentials: Mapping[str, float] | None = None,
) -> Report:
    """Write the formation energy of each neutral defect by every model, and by DFT, side by side.

    ``E_f = E(defect) - E(pristine) + sum(mu, removed) - sum(mu, added)`` (Zhang and Northrup, Phys. Rev.
    Lett. 67, 2339, 1991, without charge). Without chemical potentials it is the plain difference of Krawczuk
    and Venturi (2020): it ranks sites for one exchange of atoms, and says nothing across different ones. Both
    cells are taken as they are, not relaxed.

    Energies per atom are multiplied by the number of atoms. A model of energies of formation from the
    elements (its label has ``form`` in its name) has another zero than one of total energies: its plain
    difference is already that with the pure elements as reservoirs, and chemical potentials must be relative
    to them. The energies of the elements, which would turn one into the other, are not part of a model, so
    both kinds side by side, or such a model beside DFT, are refused. Total energies of different codes and
    pseudopotentials differ in zero as well: compare a model with the DFT that its labels come from.

    The half width of a difference is that of both cells in quadrature, which is right for independent normal
    errors. These are not independent: a defect and its pristine cell share most atoms, and errors in common
    cancel. So it is no calibrated interval, and as a rule too wide.

    Parameters
    ----------
    doped : path, sequence of paths, or Dataset
        Pristine and defective cells with the column ``pristine``, from :func:`matgraft.jobs.dope.dope`. What
        was removed and added is taken from the compositions.
    out : path
        A CSV file; beside it a picture ``.png`` of up to four models against DFT, where there is DFT.
    models : sequence of path, or mapping of name to path or Predictor
    store : str, optional
        File or address of a store of DFT labels, of which free energies are taken. Defects without one have
        an empty cell and are counted.
    protocol : str or Protocol
        Of the DFT labels.
    pseudopotentials : path, optional
        Folder of those that the DFT labels were made with, unless with those that are shipped.
    chemical_potentials : mapping of str to float, optional
        In eV per atom.

    Raises
    ------
    InputError
        If neither model nor store is given, a model's label is no energy in eV or one above the hull, zeros
        are mixed, a chemical potential is missing or unknown, or a pristine cell is not in the file.
    """
    out = not_over(out, doped, store, *_named(models))
    if out.suffix.lower() == ".png":
        raise InputError(f"{out}: this will be a table, and a picture beside it. Name it with .csv.")
    if out.is_dir():
        raise InputError(f"{out}: a folder is in the way of the CSV file. Choose another name for --out.")
    predictors = _opened(models)
    if not predictors and store is None:
        raise InputError("neither a model nor a store of DFT labels. Add --model or --store.")
    settings = named_protocol(protocol) if isinstance(protocol, str) else protocol
    labels = {name: model.label for name, model in predictors.items()}
    _require_one_zero(labels, None if store is None else str(settings))
    dataset = doped if isinstance(doped, Dataset) else Dataset.read(doped)
    exchange = Exchange.of(dataset)
    potentials = _potentials(chemical_potentials, exchange, dataset)

    found = {name: _by_model(model, dataset, exchange, potentials) for name, model in predictors.items()}
    if store is not None:
        from matgraft.dft.store import energies_of

        total = np.asarray(energies_of(store, dataset, settings, pseudopotentials), dtype=float)
        found[DFT] = Energies(exchange.energies(total, potentials))
    return _report(out, dataset, exchange, found)


@dataclass(frozen=True)
class Energies:
    """Formation energies by one method in eV, shape (n,), and other columns that the method has to say."""

    values: np.ndarray
    remarks: dict[str, np.ndarray] = field(default_factory=dict)


def _by_model(model: Predictor, dataset: Dataset, exchange: Exchange, potentials: np.ndarray) -> Energies:
    parts = [dataset[start : start + CHUNK] for start in range(0, len(dataset), CHUNK)]
    predictions = [model.predict(part, build_graphs(part, model.cutoff)) for part in parts]
    per_atom = np.concatenate([prediction.per_atom for prediction in predictions])
    remarks = {}
    if model.intervals is not None:
        half_width = np.concatenate([prediction.half_width for prediction in predictions])
        if model.label.kind == "atom":
            half_width = half_width * dataset.natoms
        remarks["half_width"] = np.hypot(half_width[exchange.defect], half_width[exchange.pristine])
    if model.intervals is not None or model.domain is not None:
        strangeness = np.concatenate([prediction.strangeness for prediction in predictions])
        remarks["strangeness"] = np.maximum(strangeness[exchange.defect], strangeness[exchange.pristine])
    for name in ("unseen", "unreferenced"):
        symbols = [set(one) for prediction in predictions for one in getattr(prediction, name)]
        pairs = zip(exchange.defect, exchange.pristine, strict=True)
        remarks[f"{name}_species"] = np.asarray([" ".join(sorted(symbols[i] | symbols[k])) for i, k in pairs])
    return Energies(exchange.energies(per_atom * dataset.natoms, potentials), remarks)


def _named(models: Sequence[str | Path] | Mapping[str, str | Path | Predictor]) -> list:
    return list(models.values() if isinstance(models, Mapping) else models)


def _opened(models: Sequence[str | Path] | Mapping[str, str | Path | Predictor]) -> dict[str, Predictor]:
    if not isinstance(models, Mapping):
        short = [Path(model).name for model in models]
        names = short if len({*short}) == len(short) else [str(model) for model in models]
        if len({*names}) < len(names):
            raise InputError(f"models {', '.join(names)}: one is named twice.")
        models = dict(zip(names, models, strict=True))
    if taken := {*FACTS, DFT} & {*models}:
        raise InputError(
            f"a model cannot be called {taken.pop()!r}, as another column is. Rename its folder."
        )
    return {
        name: model if isinstance(model, Predictor) else load_model(model) for name, model in models.items()
    }


def _require_one_zero(labels: Mapping[str, Label], dft: str | None) -> None:
    """Raise InputError unless all energies are in eV and count from the same zero, as far as labels say.

    Parameters
    ----------
    labels : mapping of str to Label
        Of the models.
    dft : str, optional
        Level of theory of DFT beside them.
    """
    for name, label in labels.items():
        if not label.is_energy or "hull" in label.name.lower():
            raise InputError(
                f"model {name}: its label {label.name!r} ({label.unit or 'no unit'}, {label.kind}) is not an "
                "energy in eV per cell or per atom with a fixed zero, so differences mean nothing. Take a "
                "model of total energies."
            )
    formed = [name for name, label in labels.items() if "form" in label.name.lower()]
    if formed and (dft is not None or len(formed) < len(labels)):
        raise InputError(
            f"model {', '.join(formed)}: energies of formation from the elements have another zero than "
            "total energies, so a defect that exchanges atoms has another energy there. Take models of total "
            "energies (such as mp-schnet-total-energy), or ask for this kind alone, without DFT."
        )
    levels = {label.level_of_theory for label in labels.values()} - {""}
    if dft is not None and levels:
        levels.add(dft)
    if len(levels) > 1:
        log.warning(
            "energies of different levels of theory (%s): their zeros may differ, and with them the energies "
            "and the chemical potentials that belong to them",
            "; ".join(sorted(levels)),
        )


def _potentials(given: Mapping[str, float] | None, exchange: Exchange, dataset: Dataset) -> np.ndarray:
    """Chemical potentials by atomic number, shape (119,); none at all are zero."""
    values = np.zeros(len(chemical_symbols))
    if not given:
        return values
    for symbol, value in given.items():
        if symbol not in chemical_symbols[1:] or not np.isfinite(value):
            raise InputError(
                f"chemical potentials: {symbol!r}: {value!r} is not an element with a finite energy in eV."
            )
        values[atomic_numbers[symbol]] = value
    exchanged = np.flatnonzero(exchange.added.any(axis=0))
    lacking = [z for z in exchanged if chemical_symbols[z] not in given]
    if lacking:
        concerned = exchange.defect[exchange.added[:, lacking].any(axis=1)]
        raise InputError(
            f"no chemical potential of {', '.join(chemical_symbols[z] for z in lacking)}, which "
            f"{list_ids(dataset.ids[concerned])} exchange. Give all that is exchanged, or none for plain "
            "differences."
        )
    return values


def read_potentials(words: Sequence[str]) -> dict[str, float]:
    """Chemical potentials in eV from words such as ``O=-4.95`` and JSON files such as ``{"O": -4.95}``.

    Raises
    ------
    InputError
        For a word that is neither.
    """
    values: dict[str, float] = {}
    apart = [[word] if Path(word).is_file() else word.split(",") for word in words]
    for word in chain.from_iterable(apart):
        symbol, sign, value = word.partition("=")
        try:
            if sign and not Path(word).is_file():
                values[symbol.strip()] = float(value)
            else:
                values |= {key: float(entry) for key, entry in json.loads(Path(word).read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(
                f"chemical potential {word!r}: neither a word such as O=-4.95 (eV) nor a JSON file such as "
                f'{{"O": -4.95}} ({error}).'
            ) from error
    return values


def _report(out: Path, dataset: Dataset, exchange: Exchange, found: Mapping[str, Energies]) -> Report:
    ids = dataset.ids[exchange.defect]
    facts = (
        ids.tolist(),
        dataset.ids[exchange.pristine].tolist(),
        exchange.elements(-1),
        exchange.elements(1),
        dataset.natoms[exchange.defect].tolist(),
        ["eV"] * len(ids),
    )
    columns: dict[str, list] = dict(zip(FACTS, facts, strict=True))
    screen = {name: columns[name] for name in ("id", "removed", "added")}
    for name, energies in found.items():
        columns[name] = _cells(energies.values)
        columns |= {f"{name}_{remark}": _cells(values) for remark, values in energies.remarks.items()}
        screen[name] = _decimals(energies.values)
    models = {name: energies.values for name, energies in found.items() if name != DFT}
    without, mae, picture = [], {}, None
    if DFT in found:
        target = found[DFT].values
        known = np.isfinite(target)
        without = ids[~known].tolist()
        if without:
            log.warning(
                "%d of %d defects have no DFT label of these settings, or their pristine cell has none: %s",
                len(without),
                len(ids),
                list_ids(without),
            )
        for name, values in models.items():
            columns[f"{name}_minus_{DFT}"] = _cells(values - target)
            screen[f"{name} - {DFT}"] = _decimals(values - target)
        if known.any():
            mae = {name: float(np.abs(values - target)[known].mean()) for name, values in models.items()}
    unseen = _together([energies.remarks.get("unseen_species") for energies in found.values()])
    if any(unseen):
        screen["unseen species"] = unseen
    out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(out, list(columns), zip(*columns.values(), strict=True))
    if mae:
        drawn = {name: models[name][known] for name in list(models)[:PARITY]}
        picture = parity(out.with_suffix(".png"), target[known], drawn, "eV", "Defect formation energy")
    caption = ", ".join(f"{name} differs by {error:.3f} eV (mean absolute)" for name, error in mae.items())
    rows = list(zip(*screen.values(), strict=True))
    return Report(columns, len(ids), without, mae, shown(list(screen), rows, out, caption), out, picture)


def _cells(values: np.ndarray) -> list:
    """Plain values, None for NaN."""
    return [None if value != value else value for value in values.tolist()]


def _decimals(values: np.ndarray) -> list[str | None]:
    return [None if np.isnan(value) else f"{value:.3f}" for value in values]


def _together(remarks: Sequence[np.ndarray | None]) -> list[str]:
    """Words of several remarks on each defect, each once."""
    given = [remark.tolist() for remark in remarks if remark is not None]
    return [" ".join(sorted(set(" ".join(words).split()))) for words in zip(*given, strict=True)]
