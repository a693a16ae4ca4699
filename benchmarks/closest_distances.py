"""How near the atoms of the crystals are that the shipped sources learnt from.

    python benchmarks/closest_distances.py

Writes ``closest.safetensors`` beside each shipped model that has none; ``pretrain`` does so by itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from workloads import source_set

from matgraft.graphs import build_graphs
from matgraft.graphs.closest import closest
from matgraft.models import files
from matgraft.models.files import load_source, shipped_models

SHIPPED = Path(files.__file__).parent / "shipped"
AT_ONCE = 2000


def main() -> None:
    done: dict[str, np.ndarray] = {}
    for name in shipped_models():
        model = load_source(name)
        if model.closest is not None:
            continue
        key = model.card["data_hash"]
        if key not in done:
            dataset, train, _ = source_set(model.card)
            parts = np.array_split(train, len(train) // AT_ONCE)
            tables = [closest(build_graphs(dataset[np.sort(part)], model.cutoff)) for part in parts]
            done[key] = np.min(tables, axis=0)
        replace(model, closest=done[key]).save_bounds(SHIPPED / name)
        print(name, int(np.isfinite(done[key][np.triu_indices(119)]).sum()), "pairs of elements", flush=True)


if __name__ == "__main__":
    main()
