"""A predictor as users hold it: network, reference energies, and what its label means."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs import Batch, Graphs, graphs_of
from matgraft.models.calculator import MatgraftCalculator
from matgraft.models.compiled import CompiledSchNet
from matgraft.models.forces import Forces, derivatives
from matgraft.models.process import GaussianProcess
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
        Elements that no label of the target contained: their reference energy is a guess.
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
        Label units (per atom) per unit of network output; 0 for a model that does not use it.
    species : frozenset of str
        Elements that the network was trained on.
    card : dict
        Where the model comes from: data hash, exclusions, settings, errors, licence.
    process : GaussianProcess, optional
        On the network's features; its value, in label units per atom, is added.
    """

    network: SchNet
    label: Label
    references: References
    scale: float
    species: frozenset[str]
    card: dict = field(default_factory=dict)
    process: GaussianProcess | None = None

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
        dataset = _dataset(structures)
        composition = dataset.composition()
        graphs = graphs if graphs is not None else self.graphs(dataset)
        per_atom = self.per_atom(composition, graphs)
        return Prediction(
            values=self.label.from_per_atom(per_atom, dataset.natoms),
            per_atom=per_atom,
            unseen=self._unseen(composition),
            unreferenced=_elements(composition, self.references.missing),
        )

    def per_atom(self, composition: np.ndarray, graphs: Graphs) -> np.ndarray:
        """References plus network, per atom, for structures of these compositions and graphs; (n,)."""
        values = self.references.per_atom(composition)
        if self.scale:
            values += self.scale * (
                self.compiled.outputs(graphs, np.arange(len(graphs)))[:, 0]
                if self.compiled is not None
                else run_network(self.network, graphs)
            )
        if self.process is not None:
            values += self.process(self.features(graphs))
        return values

    def features(self, graphs: Graphs) -> np.ndarray:
        """Pooled features of the network after each interaction, shape (n, interactions * features)."""
        if self.compiled is not None:
            return self.compiled.features(graphs, np.arange(len(graphs)))
        return run_network(self.network, graphs, of="features")

    @cached_property
    def compiled(self) -> CompiledSchNet | None:
        """The network in one compiled call, or None where that would not be the same: filters that are not
        tabulated, other precision, other devices."""
        weights = self.network.embedding.weight
        plain = weights.device.type == "cpu" and weights.dtype == torch.float32
        return CompiledSchNet.of(self.network) if plain and self.network.spacing is not None else None

    def _unseen(self, composition: np.ndarray) -> list[tuple[str, ...]]:
        return _elements(composition, self._strange)

    @cached_property
    def _strange(self) -> np.ndarray:
        seen = [atomic_numbers[symbol] for symbol in self.species]
        return np.setdiff1d(np.arange(len(chemical_symbols)), seen)

    def forces(self, structures: Dataset | Atoms | Iterable[Atoms]) -> Forces:
        """Energies, forces and stresses of structures, many at once.

        The energy is that of :meth:`predict`, per cell. Of an energy per atom, such as a formation energy,
        the forces are those of the value times the number of atoms.

        Parameters
        ----------
        structures : Dataset, Atoms or iterable of Atoms

        Raises
        ------
        InputError
            If the label is not an energy in eV, or a structure has a coordinate that is not finite or a
            periodic cell without volume.
        """
        self.require_energy()
        dataset = _dataset(structures)
        composition = dataset.composition()
        values = _Values(self.network, self.scale, self.process)
        outputs, forces, strain = derivatives(values, self.cutoff, dataset)
        volume = np.where(dataset.pbc.all(axis=1), np.abs(np.linalg.det(dataset.cells)), np.nan)
        return Forces(
            energies=(self.references.per_atom(composition) + outputs) * dataset.natoms,
            forces=[forces[start:stop] for start, stop in pairwise(dataset.offsets)],
            stresses=full_3x3_to_voigt_6_stress(strain / volume[:, None, None]),
            unseen=self._unseen(composition),
        )

    def calculator(self) -> MatgraftCalculator:
        """This model as an ASE calculator with energy, forces and stress; see :meth:`forces`."""
        return MatgraftCalculator(self)

    def require_energy(self) -> None:
        """Raise InputError unless the label is an energy in eV, per cell or per atom."""
        if self.label.kind == "intensive" or self.label.unit not in ("eV", "eV/atom"):
            raise InputError(
                f"label {self.label.name!r} ({self.label.unit or 'no unit'}, {self.label.kind}) is not an "
                "energy in eV per cell or per atom, so it has no forces. Take a model of an energy; if this "
                "is one, train it with a Label that says so."
            )

    def save(self, folder: str | Path, further: Sequence[Model] = ()) -> Path:
        """Write weights (safetensors) and card (JSON) into a folder; nothing in it can execute code.

        Parameters
        ----------
        folder : path
        further : sequence of Model
            Models of other properties that share this network up to its last layer.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        network = self.network.joined([model.network for model in further]) if further else self.network
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        if self.process is not None:
            tensors |= self.process.tensors()
        card = {
            "format": FORMAT,
            "version": VERSION,
            "architecture": network.arch.as_dict(),
            **self._property(),
            "further": [model._property() for model in further],
            "species": sorted(self.species),
            "card": self.card,
        }
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            save_file(tensors, Path(partial) / WEIGHTS)
            (Path(partial) / CARD).write_text(json.dumps(card, indent=1) + "\n")
            for name in (WEIGHTS, CARD):
                os.replace(Path(partial) / name, folder / name)
        return folder

    def _property(self) -> dict:
        return {
            "label": asdict(self.label),
            "scale": self.scale,
            "references": {
                "energies": self.references.as_dict(),
                "fallback": self.references.fallback,
                "assumed": [chemical_symbols[z] for z in sorted(self.references.assumed)],
            },
        }

    def content_hash(self) -> str:
        """SHA-256 of weights, scale and references: what decides a prediction."""
        digest = hashlib.sha256(np.float64(self.scale).tobytes())
        digest.update(np.nan_to_num(self.references.energies, nan=self.references.fallback).tobytes())
        for tensor in self.network.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        if self.process is not None:
            for array in vars(self.process).values():
                digest.update(array.tobytes())
        return digest.hexdigest()

    def with_card(self, **entries) -> Model:
        """A copy whose card has more entries."""
        return replace(self, card={**self.card, **entries})


class _Values(nn.Module):
    """What a model adds to its references, per atom; gradients flow back to the distances."""

    def __init__(self, network: SchNet, scale: float, process: GaussianProcess | None):
        super().__init__()
        self.network, self.scale, self.process = network, scale, process

    def forward(self, graph: Batch) -> torch.Tensor:
        values = self.scale * self.network(graph)
        if self.process is not None:
            values = values + self.process.differentiable(self.network.features(graph))
        return values


def run_network(
    network: SchNet,
    graphs: Graphs,
    rows: np.ndarray | None = None,
    batch_size: int = 256,
    of: Literal["forward", "features"] = "forward",
) -> np.ndarray:
    """Network outputs (or features) for structures ``rows`` (default all), shape (n, ...), in order."""
    rows = np.arange(len(graphs)) if rows is None else np.asarray(rows)
    device = next(network.parameters()).device
    run = getattr(network, of)
    with torch.no_grad():
        parts = [run(graphs.batch(part).to(device)).cpu().numpy() for part in graphs.batches(rows, batch_size)]
    return np.concatenate(parts).astype(float) if parts else np.zeros(0)


def _dataset(structures: Dataset | Atoms | Iterable[Atoms]) -> Dataset:
    if isinstance(structures, Dataset):
        return structures
    return Dataset.from_atoms([structures] if isinstance(structures, Atoms) else structures)


def _elements(composition: np.ndarray, numbers: np.ndarray) -> list[tuple[str, ...]]:
    """Which of some elements each structure contains."""
    found: list[tuple[str, ...]] = [()] * len(composition)
    if not len(numbers):
        return found
    present = composition[:, numbers] > 0
    for i in np.flatnonzero(present.any(axis=1)):
        found[i] = tuple(chemical_symbols[z] for z in numbers[present[i]])
    return found


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
        A shipped model's name, or a folder that :meth:`Model.save`, ``finetune`` or ``pretrain`` wrote. One
        with several properties gives the first; ``NAME:LABEL`` names another.

    Raises
    ------
    InputError
        No such model; a truncated file; a file of a newer version; a pickle (never opened).
    """
    folder, label = _located(str(name)), None
    if folder is None and ":" in str(name):
        stem, label = str(name).rsplit(":", 1)
        folder = _located(stem)
    if folder is None:
        raise InputError(
            f"{name}: no model here (a folder with {WEIGHTS} and {CARD}), and no shipped model of that name. "
            f"Shipped: {', '.join(shipped_models()) or 'none'}."
        )
    return _load(folder, label)


def _located(name: str) -> Path | None:
    folder = Path(name)
    if name in shipped_models() and not folder.exists():
        folder = Path(str(resources.files("matgraft.models") / "shipped" / name))
    if folder.is_file():
        if folder.name not in (WEIGHTS, CARD):
            raise InputError(
                f"{folder}: not a matgraft model. A model is a folder with {WEIGHTS} and {CARD}; "
                "pickled files (.pt, .pth, .pkl) are never opened because they can run code."
            )
        folder = folder.parent
    return folder if (folder / CARD).is_file() and (folder / WEIGHTS).is_file() else None


def _load(folder: Path, wanted: str | None) -> Model:
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
        properties = [card, *card.get("further", [])]
        labels = [Label(**one["label"]) for one in properties]
        names = [label.name for label in labels]
        if wanted is not None and wanted not in names:
            raise InputError(f"{folder}: no property {wanted!r} in this model; there is {', '.join(names)}.")
        k = 0 if wanted is None else names.index(wanted)
        stored = properties[k]["references"]
        references = References.given(stored["energies"], stored.get("assumed", ()))
        model = Model(
            network=network,
            label=labels[k],
            references=replace(references, fallback=float(stored["fallback"])),
            scale=float(properties[k]["scale"]),
            species=frozenset(card["species"]),
            card=card["card"],
        )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{folder / CARD}: not a readable model card ({type(error).__name__}: {error})."
        ) from error
    try:
        tensors = load_file(folder / WEIGHTS)
        process = GaussianProcess.from_tensors(tensors)
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("process.")})
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder / WEIGHTS}: damaged, or not safetensors weights of this architecture ({reason}). "
            "Copy the model again; pickled weights are never opened."
        ) from error
    network = network.head(k) if network.arch.outputs > 1 else network
    network.eval()
    return replace(model, network=network, process=process)
