"""What the speed is measured on: real crystals, and prototypes that have lost their symmetry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal

from matgraft.data import Dataset
from matgraft.data.splits import exclude, keep_where
from matgraft.graphs import Graphs, build_graphs

CUTOFF = 5.0
CATIONS = (
    "Li",
    "Mg",
    "Ca",
    "Sr",
    "Ba",
    "Ti",
    "V",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Zn",
    "Zr",
    "Nb",
    "Al",
    "La",
)
ANIONS = ("O", "F", "S", "N", "Cl")
RATTLE, STRAIN = 0.06, 0.03
VOLUME_PER_ATOM = (9.2, 14.2)


@dataclass(frozen=True)
class Workload:
    """Structures under a name; ``symmetric`` if some of their atoms are equivalent."""

    name: str
    dataset: Dataset
    symmetric: bool = True

    @property
    def atoms(self) -> list[Atoms]:
        return list(self.dataset)

    def describe(self) -> dict:
        """How much work it is, per structure."""
        plain, merged = (build_graphs(self.dataset, CUTOFF, merge) for merge in (False, True))
        n = len(self.dataset)
        return {
            "structures": n,
            "atoms": round(float(self.dataset.natoms.mean()), 2),
            "directed_edges": round(float(directed_edges(plain).sum()) / n, 1),
            "merged_atoms": round(len(merged.species) / n, 2),
            "merged_pairs": round(len(merged.distance) / n, 1),
        }


def directed_edges(graphs: Graphs, weight: np.ndarray | None = None) -> np.ndarray:
    """Neighbours of all atoms of each structure, shape (n,); or the sum of ``weight`` over them."""
    first, second = (
        index + np.repeat(graphs.node_offsets[:-1], np.diff(graphs.pair_offsets))
        for index in (graphs.first, graphs.second)
    )
    count = graphs.multiplicity[first] * graphs.into_first.astype(float)
    count += np.where(first != second, graphs.multiplicity[second] * graphs.into_second, 0.0)
    total = np.concatenate([[0.0], np.cumsum(count if weight is None else count * weight)])
    return np.diff(total[graphs.pair_offsets])


def mp_crystals(n: int, seed: int = 0) -> Workload:
    """Materials Project crystals of at most 100 atoms, drawn at random, none excluded."""
    dataset = Dataset.read("mp-source", check=False)
    small = np.flatnonzero(dataset.natoms <= 100)
    return Workload("MP", dataset[np.sort(np.random.default_rng(seed).choice(small, n, replace=False))])


def oxides(n: int, seed: int = 0) -> Workload:
    """Oxides that come with the package: crystals with symmetry for where mp-source is not at hand."""
    dataset = Dataset.read("tmo-oxides", check=False)
    return Workload("oxides", dataset[np.random.default_rng(seed).choice(len(dataset), n, replace=False)])


def rattled_prototypes(n: int, seed: int = 0) -> Workload:
    """Prototypes with random elements and volumes, rattled and strained until no two atoms are equivalent."""
    rng = np.random.default_rng(seed)
    prototypes = list(_prototypes().values())
    structures = []
    for _ in range(n):
        atoms = prototypes[rng.integers(len(prototypes))].copy()
        chosen = {"X": rng.choice(ANIONS)}
        chosen["A"], chosen["B"] = rng.choice(CATIONS, 2, replace=False)
        atoms.symbols = [chosen[_ROLES[symbol]] for symbol in atoms.symbols]
        volume_per_atom = rng.uniform(*VOLUME_PER_ATOM)
        strain = np.eye(3) + rng.uniform(-STRAIN, STRAIN, (3, 3))
        scale = (volume_per_atom * len(atoms) / atoms.get_volume()) ** (1 / 3)
        atoms.set_cell(scale * atoms.cell.array @ strain, scale_atoms=True)
        atoms.rattle(RATTLE, rng=rng)
        structures.append(atoms)
    return Workload("R", Dataset.from_atoms(structures), symmetric=False)


# In the prototypes below: two cations and an anion that others take the place of.
_ROLES = {"Mg": "A", "Ti": "B", "O": "X"}


def _prototypes() -> dict[str, Atoms]:
    return {
        "rocksalt": bulk("MgO", "rocksalt", a=4.21, cubic=True) * (1, 1, 2),
        "zincblende": bulk("MgO", "zincblende", a=4.6, cubic=True) * (1, 1, 2),
        "wurtzite": bulk("MgO", "wurtzite", a=3.25, c=5.2) * (2, 2, 1),
        "caesium chloride": bulk("MgO", "cesiumchloride", a=2.9) * (2, 2, 2),
        "fluorite": bulk("MgOO", "fluorite", a=5.46, cubic=True),
        "rutile": crystal(
            ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]
        )
        * (1, 1, 3),
        "anatase": crystal(
            ["Ti", "O"], [(0, 0, 0), (0, 0, 0.208)], spacegroup=141, cellpar=[3.78, 3.78, 9.51, 90, 90, 90]
        ),
        "perovskite": crystal(
            ["Mg", "Ti", "O"],
            [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)],
            spacegroup=221,
            cellpar=[3.9, 3.9, 3.9, 90, 90, 90],
        )
        * (1, 2, 2),
        "spinel": crystal(
            ["Mg", "Ti", "O"],
            [(0.125, 0.125, 0.125), (0.5, 0.5, 0.5), (0.2625, 0.2625, 0.2625)],
            spacegroup=227,
            setting=2,
            cellpar=[8.1, 8.1, 8.1, 90, 90, 90],
            primitive_cell=True,
        ),
        "corundum": crystal(
            ["Ti", "O"],
            [(0, 0, 0.352), (0.306, 0, 0.25)],
            spacegroup=167,
            cellpar=[4.76, 4.76, 12.99, 90, 90, 120],
        ),
    }


def source_set(card: dict) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The crystals that a shipped source comes from, by its card; rows it learnt from and rows held out."""
    dataset = Dataset.read("mp-source", target=card["target"], missing="drop")
    kept, _ = exclude(dataset, Dataset.read("tmo-oxides"), card["exclude_elements"])
    dataset = dataset[kept & keep_where(dataset, card["keep"])]
    order = np.random.default_rng(card["seed"]).permutation(len(dataset))
    return dataset, order[: -card["n_val"]], order[-card["n_val"] :]
