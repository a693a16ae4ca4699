"""Several models as one: the weighted mean of what they say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from matgraft.data import Dataset, Label
from matgraft.graphs import Graphs
from matgraft.models.intervals import Intervals
from matgraft.models.model import CARD, VERSION, Model, derivatives_of
from matgraft.models.predictor import INTERVALS, Predictor
from matgraft.models.references import References
from matgraft.whole import whole

BLEND = "matgraft-blend"
MEMBERS = "members"


@dataclass(frozen=True)
class Blend(Predictor):
    """Convex combination of models of one label.

    Attributes
    ----------
    members : tuple of Model
    weights : tuple of float
        Not negative; their sum is 1.
    card : dict
    intervals : Intervals, optional
    """

    members: tuple[Model, ...]
    weights: tuple[float, ...]
    card: dict = field(default_factory=dict)
    intervals: Intervals | None = None

    @classmethod
    def of(cls, members: Sequence[Model], weights: Sequence[float], card: dict) -> Predictor:
        """A blend; of a single model, that model."""
        return (
            cls(tuple(members), tuple(weights), card) if len(members) > 1 else replace(members[0], card=card)
        )

    @property
    def label(self) -> Label:  # type: ignore[override]
        return self.members[0].label

    @property
    def cutoff(self) -> float:
        return self.members[0].cutoff

    @cached_property
    def species(self) -> frozenset[str]:  # type: ignore[override]
        """Elements that every network in it was trained on."""
        return frozenset.intersection(*(member.species for member in self._networks))

    @cached_property
    def references(self) -> References:  # type: ignore[override]
        """Mean of the members' references; an element is known if all of them know it."""
        energies = self._mean([member.references.energies for member in self.members])
        assumed = frozenset().union(*(member.references.assumed for member in self.members))
        return References(
            energies,
            float(self._mean([member.references.fallback for member in self.members])),
            assumed & frozenset(np.flatnonzero(~np.isnan(energies)).tolist()),
        )

    @cached_property
    def closest(self) -> np.ndarray | None:  # type: ignore[override]
        """Distances that every network in it has seen that knows the pair at all."""
        known = [member.closest for member in self._networks if member.closest is not None]
        if len(known) < len(self._networks):
            return None
        seen = np.max([np.where(np.isfinite(one), one, -np.inf) for one in known], axis=0)
        return np.where(np.isfinite(seen), seen, np.inf).astype(np.float32)

    def per_atom(self, composition: np.ndarray, graphs: Graphs) -> np.ndarray:
        return self._said(composition, graphs, features_of=None)[0]

    def features(self, graphs: Graphs) -> np.ndarray:
        """Those of the member with the greatest weight."""
        return self.members[self._first].features(graphs)

    def with_features(self, composition: np.ndarray, graphs: Graphs) -> tuple[np.ndarray, np.ndarray]:
        return self._said(composition, graphs, features_of=self._first)

    def _said(
        self, composition: np.ndarray, graphs: Graphs, features_of: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean, and the features of one member; members of one network run it once."""
        values, kept = np.zeros(len(graphs)), np.zeros((len(graphs), 0))
        for alike in self._alike:
            # One that has a use for all that the others need, and so runs it.
            runner = max(
                (self.members[k] for k in alike), key=lambda one: (one.process is not None, one.scale)
            )
            outputs, features = runner.run(graphs, features=features_of in alike)
            if features_of in alike:
                kept = features
            for k in alike:
                values += self.weights[k] * self.members[k].said(composition, outputs, features)
        return values, kept

    @cached_property
    def _alike(self) -> list[list[int]]:
        """Members by network."""
        found: dict[str, list[int]] = {}
        for k, member in enumerate(self.members):
            digest = hashlib.sha256(repr((member.network.arch, member.network.spacing)).encode())
            digest.update(member.network.weights())
            found.setdefault(digest.hexdigest(), []).append(k)
        return list(found.values())

    @cached_property
    def _networks(self) -> list[Model]:
        """Members whose network has a say; those of reference energies alone have none that could err."""
        return [one for one in self.members if one.scale or one.process is not None] or list(self.members)

    @property
    def _first(self) -> int:
        return int(np.argmax(self.weights))

    def derivatives(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = [
            derivatives_of([self.members[k] for k in alike], [self.weights[k] for k in alike], dataset)
            for alike in self._alike
        ]
        values, forces, strain = (sum(part, start=np.zeros(())) for part in zip(*parts, strict=True))
        return values, forces, strain

    def _mean(self, values: Sequence) -> np.ndarray:
        return sum((w * value for w, value in zip(self.weights, values, strict=True)), start=np.zeros(()))

    def save(self, folder: str | Path) -> Path:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # The card comes last: without it the folder is no model.
        (folder / CARD).unlink(missing_ok=True)
        shutil.rmtree(folder / MEMBERS, ignore_errors=True)
        self.save_bounds(folder)
        for k, member in enumerate(self.members):
            member.save(folder / MEMBERS / str(k))
        card = {"format": BLEND, "version": VERSION, "weights": self.weights, "card": self.card}
        with whole(folder / CARD) as partial:
            partial.write_text(json.dumps(card, indent=1) + "\n")
        return folder

    def description(self) -> dict:
        return {
            "members": [
                {"weight": weight, **member.description()}
                for weight, member in zip(self.weights, self.members, strict=True)
            ]
        }

    def _bounds(self) -> dict[str, dict[str, torch.Tensor]]:
        """Intervals alone: the rest follows from the members."""
        return {INTERVALS: super()._bounds()[INTERVALS]}

    def bounds_hash(self) -> str:
        hashes = [super().bounds_hash(), *(member.bounds_hash() for member in self.members)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def content_hash(self) -> str:
        digest = hashlib.sha256(np.asarray(self.weights, dtype=np.float64).tobytes())
        for member in self.members:
            digest.update(member.content_hash().encode())
        return digest.hexdigest()
