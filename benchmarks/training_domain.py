"""What the shipped sources met in training: how near atoms come, what their networks say, what is alike.

    python benchmarks/training_domain.py

Adds ``closest.safetensors``, ``domain.safetensors`` and the card's ``span`` to each shipped model that lacks
them; ``pretrain`` does so by itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from workloads import source_set

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.graphs.closest import closest
from matgraft.models import files
from matgraft.models.damping import spanned
from matgraft.models.domain import Domain, sample
from matgraft.models.files import load_source, shipped_models
from matgraft.models.model import CARD, Model

SHIPPED = Path(files.__file__).parent / "shipped"
AT_ONCE = 2000


def properties(name: str) -> list[Model]:
    """A shipped model for each of its labels."""
    card = json.loads((SHIPPED / name / CARD).read_text())
    return [load_source(f"{name}:{one['label']['name']}") for one in (card, *card["further"])]


def met(models: list[Model], dataset: Dataset, train: np.ndarray, held: np.ndarray) -> list[Model]:
    """The same with what they met."""
    distances, spans = None, [one.span for one in models]
    for part in parts(train):
        graphs = build_graphs(dataset[part], models[0].cutoff)
        found = closest(graphs)
        distances = found if distances is None else np.minimum(distances, found)
        spans = [
            spanned(one.run(graphs, features=False)[0], span) for one, span in zip(models, spans, strict=True)
        ]
    learnt = sample(train, models[0].card["seed"])
    domain = Domain.of(*(features(models[0], dataset, rows) for rows in (learnt, held)))
    return [
        replace(one, closest=distances, span=span, domain=domain)
        for one, span in zip(models, spans, strict=True)
    ]


def features(model: Model, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([model.features(build_graphs(dataset[part], model.cutoff)) for part in parts(rows)])


def parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, len(rows) // AT_ONCE)


def main() -> None:
    for name in shipped_models():
        models = properties(name)
        if all(None not in (one.span, one.domain) and one.closest is not None for one in models):
            continue
        first, *further = met(models, *source_set(models[0].card))
        first.save(SHIPPED / name, further)
        print(name, *((one.label.name, one.span) for one in (first, *further)), flush=True)


if __name__ == "__main__":
    main()
