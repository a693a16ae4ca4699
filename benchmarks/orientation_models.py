"""CHGNet and MACE, timed on request; runs in an interpreter of its own, without matgraft.

``speed.py`` starts it with a file of structures and sends lines such as
``{"model": "CHGNet", "work": "batch", "rows": [0, 1]}``; it answers each with CPU and wall seconds. MACE's
published weights are not part of its wheel: a ScaleShiftMACE of the size of MACE-MP-0 medium with random
weights costs the same.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib.metadata import version

import ase.io
import numpy as np
import torch
from ase import Atoms

# All that occurs in the Materials Project: up to plutonium, without Po, At, Rn, Fr and Ra.
ELEMENTS = [z for z in range(1, 95) if z not in range(84, 89)]


class CHGNetModel:
    def __init__(self, structures: list[Atoms]):
        from chgnet.model import CHGNet
        from pymatgen.io.ase import AseAtomsAdaptor

        self.model = CHGNet.load(use_device="cpu", verbose=False)
        self.structures = [AseAtomsAdaptor.get_structure(atoms) for atoms in structures]
        self.graphs = [self.model.graph_converter(structure) for structure in self.structures]
        self.about = f"CHGNet {version('chgnet')}, published weights"

    def single(self, row: int) -> None:
        self.model.predict_structure(self.structures[row], task="e")

    def batch(self, rows: list[int]) -> None:
        self.model.predict_graph([self.graphs[row] for row in rows], task="e", batch_size=len(rows))


class MACEModel:
    def __init__(self, structures: list[Atoms]):
        # e3nn keeps a table of constants in a torch file, in which nothing but a slice is unusual.
        torch.serialization.add_safe_globals([slice])
        from e3nn import o3
        from mace import data, modules, tools

        block = modules.RealAgnosticResidualInteractionBlock
        torch.manual_seed(0)
        self.model = modules.ScaleShiftMACE(
            r_max=6.0,
            num_bessel=10,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps("128x0e + 128x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=60.0,
            atomic_numbers=ELEMENTS,
            correlation=3,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        table = tools.AtomicNumberTable(ELEMENTS)
        self.graph_of = lambda atoms: data.AtomicData.from_config(
            data.config_from_atoms(atoms), z_table=table, cutoff=6.0
        )
        self.collate = tools.torch_geometric.Batch.from_data_list
        self.structures, self.graphs = structures, [self.graph_of(atoms) for atoms in structures]
        self.about = f"mace-torch {version('mace-torch')}, size of MACE-MP-0 medium, random weights"

    def _energies(self, graphs: list) -> None:
        with torch.no_grad():
            self.model(self.collate(graphs).to_dict(), compute_force=False)["energy"].tolist()

    def single(self, row: int) -> None:
        self._energies([self.graph_of(self.structures[row])])

    def batch(self, rows: list[int]) -> None:
        self._energies([self.graphs[row] for row in rows])


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    # What the packages print must not be mistaken for answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    structures = list(ase.io.iread(sys.argv[1]))
    models, about = {}, {}
    for name, kind in (("CHGNet", CHGNetModel), ("MACE", MACEModel)):
        try:
            models[name] = kind(structures)
        except ImportError as error:
            about[name] = f"not measured: {error}"
        else:
            parameters = sum(parameter.numel() for parameter in models[name].model.parameters())
            about[name] = f"{models[name].about}, {parameters:,} parameters"
    print(json.dumps({"about": about, "models": list(models)}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        model, rows = models[request["model"]], request["rows"]
        wall, cpu = time.perf_counter(), time.process_time()
        if request["work"] == "batch":
            model.batch(rows)
        else:
            for row in rows:
                model.single(row)
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
