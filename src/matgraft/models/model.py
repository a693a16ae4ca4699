"""A network, reference energies, and what its label means."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from safetensors.torch import save as serialized
from torch import nn

from matgraft.data import Dataset, Label
from matgraft.graphs import Batch, Graphs
from matgraft.models.compiled import CompiledSchNet
from matgraft.models.damping import damped
from matgraft.models.domain import Domain
from matgraft.models.elements import likeness
from matgraft.models.forces import derivatives
from matgraft.models.intervals import Intervals
from matgraft.models.predictor import Predictor
from matgraft.models.process import GaussianProcess
from matgraft.models.references import References
from matgraft.models.schnet import SchNet
from matgraft.whole import whole

FORMAT = "matgraft-model"
VERSION = 1
WEIGHTS, CARD = "model.safetensors", "model.json"
NEIGHBOURS = 4
"""Known elements that an unknown one is taken for the mean of."""


@dataclass(frozen=True)
class Model(Predictor):
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
    intervals : Intervals, optional
    closest : ndarray, shape (119, 119), optional
        Smallest distances of pairs of elements in training.
    span : tuple of float, optional
        Least and greatest output of the network in training; see :func:`matgraft.models.damping.damped`.
    domain : Domain, optional
    """

    network: SchNet
    label: Label
    references: References
    scale: float
    species: frozenset[str]
    card: dict = field(default_factory=dict)
    process: GaussianProcess | None = None
    intervals: Intervals | None = None
    closest: np.ndarray | None = None
    span: tuple[float, float] | None = None
    domain: Domain | None = None

    @property
    def cutoff(self) -> float:
        return self.network.arch.cutoff

    def per_atom(self, composition: np.ndarray, graphs: Graphs) -> np.ndarray:
        """References plus network, per atom, for structures of these compositions and graphs; (n,)."""
        return self.said(composition, *self.run(graphs, features=False))

    def with_features(self, composition: np.ndarray, graphs: Graphs) -> tuple[np.ndarray, np.ndarray]:
        outputs, features = self.run(graphs, features=True)
        return self.said(composition, outputs, features), features

    def run(self, graphs: Graphs, features: bool) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of the network, shape (n,), and its features, shape (n, interactions * features).

        A network that the model makes no use of is not run, and its outputs are zero; features are left empty
        unless they are asked for, or a process needs them.
        """
        features = features or self.process is not None
        if not features and not self.scale:
            return np.zeros(len(graphs)), np.zeros((len(graphs), 0))
        if self.compiled is None:
            outputs = run_network(self.network, graphs)
            return outputs, self.features(graphs) if features else np.zeros((len(graphs), 0))
        rows = np.arange(len(graphs))
        if features:
            outputs, found = self.compiled.both(graphs, rows)
        else:
            outputs, found = self.compiled.outputs(graphs, rows), np.zeros((len(graphs), 0))
        return outputs[:, 0], found

    def said(self, composition: np.ndarray, outputs: np.ndarray, features: np.ndarray) -> np.ndarray:
        """What this model makes of its network's :meth:`run`: values per atom, shape (n,)."""
        credible = damped(torch.from_numpy(outputs), self.span).numpy()
        values = self.references.per_atom(composition) + self.scale * credible
        return values if self.process is None else values + self.process(features)

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

    def acquainted(self) -> Model:
        """The same for the elements that it knows, with a guess for all others: a start for a graft.

        Embeddings of elements that training never showed are still random. Each becomes the mean of those of
        the :data:`NEIGHBOURS` known elements that are nearest in the periodic table.
        """
        network = copy.deepcopy(self.network)
        embedding = network.embedding.weight.detach()
        known = np.array(sorted(atomic_numbers[symbol] for symbol in self.species))
        strange = np.setdiff1d(np.arange(1, len(embedding)), known)
        nearest = np.argsort(-likeness()[np.ix_(strange, known)], axis=1, kind="stable")[:, :NEIGHBOURS]
        embedding[strange] = embedding[known[nearest]].mean(dim=1)
        return replace(self, network=network)

    def derivatives(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return derivatives_of([self], [1.0], dataset)

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
        self.save_bounds(folder)
        with whole(folder / CARD) as about, whole(folder / WEIGHTS) as weights:
            # Unlike save_file, which lets nobody else read it.
            weights.write_bytes(serialized(tensors))
            about.write_text(json.dumps(card, indent=1) + "\n")
        return folder

    def _property(self) -> dict:
        return {
            "label": asdict(self.label),
            "scale": self.scale,
            "span": self.span,
            "references": {
                "energies": self.references.as_dict(),
                "fallback": self.references.fallback,
                "assumed": [chemical_symbols[z] for z in sorted(self.references.assumed)],
            },
        }

    def description(self) -> dict:
        return {
            "architecture": self.network.arch.as_dict(),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "span": self.span and list(self.span),
        }

    def content_hash(self) -> str:
        """SHA-256 of weights, scale and references: what decides a prediction in the domain."""
        digest = hashlib.sha256(np.float64(self.scale).tobytes())
        digest.update(np.nan_to_num(self.references.energies, nan=self.references.fallback).tobytes())
        digest.update(self.network.weights())
        if self.process is not None:
            for array in vars(self.process).values():
                digest.update(array.tobytes())
        return digest.hexdigest()


def derivatives_of(
    models: Sequence[Model], weights: Sequence[float], dataset: Dataset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:meth:`Model.derivatives` of a weighted sum of models that have the same network, which runs once."""
    values, forces, strain = derivatives(_Values(models, weights), models[0].cutoff, dataset)
    composition = dataset.composition()
    for weight, model in zip(weights, models, strict=True):
        values += weight * model.references.per_atom(composition)
    return values, forces, strain


class _Values(nn.Module):
    """What models of one network add to their references, per atom; gradients flow back to the distances."""

    def __init__(self, models: Sequence[Model], weights: Sequence[float]):
        super().__init__()
        self.network, self.models, self.weights = models[0].network, models, weights

    def forward(self, graph: Batch) -> torch.Tensor:
        if any(model.process is not None for model in self.models):
            outputs, features = self.network.both(graph)
        else:
            outputs, features = self.network(graph), graph.distance.new_zeros(0)
        values = torch.zeros_like(outputs)
        for weight, model in zip(self.weights, self.models, strict=True):
            values = values + weight * model.scale * damped(outputs, model.span)
            if model.process is not None:
                values = values + weight * model.process.differentiable(features)
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
        parts = [
            run(graphs.batch(part).to(device)).cpu().numpy() for part in graphs.batches(rows, batch_size)
        ]
    return np.concatenate(parts).astype(float) if parts else np.zeros(0)
