"""A predictor as users hold it: network, reference energies, and what its label means."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs import Graphs, graphs_of
from matgraft.models.references import References
from matgraft.models.schnet import Architecture, SchNet

FORMAT = "matgraft-model"
VERSION = 1
WEIGHTS, CARD = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Prediction:
    """What a model says of ``n`` structures.

    Attributes
    ----------
    values : ndarray, shape (n,)
        In the label's unit, per cell if the label is.
    per_atom : ndarray, shape (n,)
        The same divided by the number of atoms (or equal to it, for labels that are not per cell).
    unseen : list of tuple of str, length n
        Elements that no training structure of source or target contained: the value is a guess.
    unreferenced : list of tuple of str, length n
        Elements without a reference energy of their own: the target's labels did not contain them.
    """

    values: np.ndarray
    per_atom: np.ndarray
    unseen: list[tuple[str, ...]]
    unreferenced: list[tuple[str, ...]]


@dataclass(frozen=True)
class Model:
    """SchNet with reference energies.

    Attributes
    ----------
    network : SchNet
    label : Label
        What the model predicts.
    references : References
    scale : float
        Label units (per atom) per unit of network output.
    species : frozenset of str
        Elements that the network was trained on.
    card : dict
        Where the model comes from: data hash, exclusions, settings, errors, licence.
    """

    network: SchNet
    label: Label
    references: References
    scale: float
    species: frozenset[str]
    card: dict = field(default_factory=dict)

    @property
    def cutoff(self) -> float:
        return self.network.arch.cutoff

    def graphs(self, dataset: Dataset) -> Graphs:
        """Graphs of a data set with this model's cutoff."""
        return graphs_of(dataset, self.cutoff)

    def predict(
        self, structures: Dataset | Atoms | Iterable[Atoms], graphs: Graphs | None = None
    ) -> Prediction:
        """Predict structures.

        Parameters
        ----------
        structures : Dataset, Atoms or iterable of Atoms
        graphs : Graphs, optional
            Their graphs, if they are at hand.
        """
        if isinstance(structures, Atoms):
            structures = [structures]
        dataset = structures if isinstance(structures, Dataset) else Dataset.from_atoms(structures)
        composition = dataset.composition()
        graphs = graphs if graphs is not None else self.graphs(dataset)
        per_atom = self.per_atom(composition, graphs)
        seen = np.zeros(len(chemical_symbols), dtype=bool)
        seen[[atomic_numbers[symbol] for symbol in self.species]] = True
        referenced = ~np.isnan(self.references.energies)
        return Prediction(
            values=self.label.from_per_atom(per_atom, dataset.natoms),
            per_atom=per_atom,
            unseen=_elements(composition[:, ~seen] > 0, np.flatnonzero(~seen)),
            unreferenced=_elements(composition[:, ~referenced] > 0, np.flatnonzero(~referenced)),
        )

    def per_atom(self, composition: np.ndarray, graphs: Graphs) -> np.ndarray:
        """References plus network, per atom, for structures of these compositions and graphs; (n,)."""
        return self.references.per_atom(composition) + self.scale * run_network(self.network, graphs)

    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors) and card (JSON) into a folder; nothing in it can execute code."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()
        }
        card = {
            "format": FORMAT,
            "version": VERSION,
            "label": asdict(self.label),
            "architecture": self.network.arch.as_dict(),
            "scale": self.scale,
            "references": {"energies": self.references.as_dict(), "fallback": self.references.fallback},
            "species": sorted(self.species),
            "card": self.card,
        }
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            save_file(tensors, Path(partial) / WEIGHTS)
            (Path(partial) / CARD).write_text(json.dumps(card, indent=1) + "\n")
            for name in (WEIGHTS, CARD):
                os.replace(Path(partial) / name, folder / name)
        return folder

    def content_hash(self) -> str:
        """SHA-256 of weights, scale and references: what decides a prediction."""
        digest = hashlib.sha256(np.float64(self.scale).tobytes())
        digest.update(np.nan_to_num(self.references.energies, nan=self.references.fallback).tobytes())
        for tensor in self.network.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def with_card(self, **entries) -> Model:
        """A copy whose card has more entries."""
        return replace(self, card={**self.card, **entries})


def run_network(
    network: SchNet, graphs: Graphs, rows: np.ndarray | None = None, batch_size: int = 256
) -> np.ndarray:
    """Network outputs for structures ``rows`` (default all), shape (n,), in order."""
    rows = np.arange(len(graphs)) if rows is None else np.asarray(rows)
    device = next(network.parameters()).device
    with torch.no_grad():
        parts = [
            network(graphs.batch(part).to(device)).cpu().numpy() for part in graphs.batches(rows, batch_size)
        ]
    return np.concatenate(parts).astype(float) if parts else np.zeros(0)


def _elements(present: np.ndarray, numbers: np.ndarray) -> list[tuple[str, ...]]:
    return [tuple(chemical_symbols[z] for z in numbers[row]) for row in present]


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("matgraft.models") / "shipped"
    return (
        sorted(entry.name for entry in folder.iterdir() if (entry / CARD).is_file())
        if folder.is_dir()
        else []
    )


def load_model(name: str | Path) -> Model:
    """Open a model.

    Parameters
    ----------
    name : str or Path
        A shipped model's name, or a folder that :meth:`Model.save`, ``finetune`` or ``pretrain`` wrote.

    Raises
    ------
    InputError
        No such model; a truncated file; a file of a newer version; a pickle (never opened).
    """
    folder = Path(name)
    if str(name) in shipped_models() and not folder.exists():
        folder = Path(str(resources.files("matgraft.models") / "shipped" / str(name)))
    if folder.is_file():
        if folder.name not in (WEIGHTS, CARD):
            raise InputError(
                f"{folder}: not a matgraft model. A model is a folder with {WEIGHTS} and {CARD}; "
                "pickled files (.pt, .pth, .pkl) are never opened because they can run code."
            )
        folder = folder.parent
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{name}: no model here (a folder with {WEIGHTS} and {CARD}), and no shipped model of that name. "
            f"Shipped: {', '.join(shipped_models()) or 'none'}."
        )
    return _load(folder)


def _load(folder: Path) -> Model:
    try:
        card = json.loads((folder / CARD).read_text())
        if card["format"] != FORMAT:
            raise InputError(f"{folder / CARD}: format {card['format']!r} is not {FORMAT!r}.")
        if card["version"] > VERSION:
            raise InputError(
                f"{folder / CARD}: written by a newer matgraft (model version {card['version']}, "
                f"this one reads up to {VERSION}). Upgrade matgraft."
            )
        network = SchNet(Architecture(**card["architecture"]))
        references = References.given(card["references"]["energies"])
        model = Model(
            network=network,
            label=Label(**card["label"]),
            references=replace(references, fallback=float(card["references"]["fallback"])),
            scale=float(card["scale"]),
            species=frozenset(card["species"]),
            card=card["card"],
        )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{folder / CARD}: not a readable model card ({type(error).__name__}: {error})."
        ) from error
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS}: damaged, or not safetensors weights of this architecture ({reason}). "
            "Copy the model again; pickled weights are never opened."
        ) from error
    network.eval()
    return model
