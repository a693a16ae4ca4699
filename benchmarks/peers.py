"""The same network in several libraries: here, in SchNetPack, in PyG.

SchNetPack comes from a source tree, PyG (``torch_geometric``) from its wheel. Weights are copied from here.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from ase import Atoms

from matgraft.data import Dataset
from matgraft.graphs import Batch, build_graphs
from matgraft.models.radial import GaussianBasis
from matgraft.models.schnet import Architecture, SchNet

SEED = 0


def seeded(arch: Architecture) -> SchNet:
    """A fresh network, but with biases other than zero: a mislaid one has to show."""
    torch.manual_seed(SEED)
    model = SchNet(arch)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def radial_basis(arch: Architecture) -> GaussianBasis:
    """The Gaussians that networks of this architecture use."""
    return GaussianBasis.published() if arch.radial == "published" else GaussianBasis.compact(arch.cutoff)


class Side(Protocol):
    """One library's network on a set of structures whose neighbour lists are at hand."""

    @property
    def network(self) -> torch.nn.Module:
        """The parameters to train."""

    def batch(self, rows: np.ndarray) -> Any:
        """Structures ``rows`` side by side, as the network takes them."""

    def energies(self, batch: Any) -> torch.Tensor:
        """Network output per structure, shape (n,)."""


class Matgraft:
    """A :class:`Side` of this package.

    Parameters
    ----------
    model : SchNet
    dataset : Dataset
    spacing : float or None
        Of the tabulated filters, in Angstrom; None evaluates the filter for every pair.
    merge : bool
        Whether equivalent atoms are one node.
    """

    def __init__(self, model: SchNet, dataset: Dataset, spacing: float | None, merge: bool = True):
        self.network = deepcopy(model)
        self.network.spacing = spacing
        self.graphs = build_graphs(dataset, model.arch.cutoff, merge)

    def batch(self, rows: np.ndarray) -> Batch:
        return self.graphs.batch(rows)

    def energies(self, batch: Batch) -> torch.Tensor:
        return self.network(batch)


class SchNetPack:
    """SchNetPack's modules, one after the other, around a network from here."""

    def __init__(self, checkout: Path):
        source = checkout / "src" / "schnetpack"
        # The packages' own __init__ pull in the training side (Lightning, Hydra), of which nothing is used.
        for name in (
            "schnetpack",
            "schnetpack.transform",
            "schnetpack.data",
            "schnetpack.interfaces",
            "schnetpack.md",
        ):
            package = ModuleType(name)
            package.__path__ = [str(source.joinpath(*name.split(".")[1:]))]
            sys.modules[name] = package
        import schnetpack.nn as spk_nn
        from schnetpack import properties, transform
        from schnetpack.atomistic.atomwise import Atomwise
        from schnetpack.atomistic.distances import PairwiseDistances
        from schnetpack.data.loader import _atoms_collate_fn
        from schnetpack.representation.schnet import SchNet as Representation
        from schnetpack.transform.base import Transform
        from schnetpack.transform.casting import CastTo32, CastTo64
        from schnetpack.transform.neighborlist import ASENeighborList, MatScipyNeighborList

        # What its AtomsConverter imports from those packages; stresses are not asked for.
        transform.CastTo32, transform.CastTo64, transform.Transform = CastTo32, CastTo64, Transform
        sys.modules["schnetpack.md.utils"] = stand_in = ModuleType("schnetpack.md.utils")
        stand_in.activate_model_stress = None  # type: ignore[attr-defined]
        from schnetpack.interfaces.ase_interface import AtomsConverter

        self.nn, self.properties, self.collate = spk_nn, properties, _atoms_collate_fn
        self.Representation, self.Atomwise, self.PairwiseDistances = (
            Representation,
            Atomwise,
            PairwiseDistances,
        )
        self.ASENeighborList, self.MatScipyNeighborList = ASENeighborList, MatScipyNeighborList
        self.AtomsConverter = AtomsConverter
        self.casts = {torch.float32: CastTo32(), torch.float64: CastTo64()}
        tree = ast.parse((source / "__init__.py").read_text())
        self.version = next(
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__version__"
        )
        self.commit = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            # Not that of a repository around it.
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(checkout.resolve().parent)},
        ).stdout.strip()

    def network(self, model: SchNet) -> torch.nn.Sequential:
        """Distances, representation and output with the weights of ``model``."""
        arch, basis = model.arch, radial_basis(model.arch)
        radial = self.nn.GaussianRBF(n_rbf=len(basis), cutoff=float(basis.centres[-1]))
        if arch.radial == "published":
            radial.widths.fill_((2 * basis.gamma) ** -0.5)
        representation = self.Representation(
            n_atom_basis=arch.features,
            n_interactions=arch.interactions,
            radial_basis=radial,
            cutoff_fn=self.nn.CosineCutoff(arch.cutoff),
            n_filters=arch.filters,
            activation=self.nn.shifted_softplus,
            nuclear_embedding=torch.nn.Embedding(*model.embedding.weight.shape),
        )
        output = self.Atomwise(
            n_in=arch.features,
            activation=self.nn.shifted_softplus,
            aggregation_mode="avg" if arch.pooling == "mean" else "sum",
            output_key="energy",
        )
        names = {"embedding.weight": "embedding.weight"}
        for t in range(arch.interactions):
            here, there = f"interactions.{t}", f"interactions.{t}"
            names[f"{there}.in2f.weight"] = f"{here}.atomwise_in.weight"
            for layer, kind in ((0, "weight"), (0, "bias"), (1, "weight"), (1, "bias")):
                names[f"{there}.filter_network.{layer}.{kind}"] = f"{here}.filter.dense.{2 * layer}.{kind}"
                names[f"{there}.f2out.{layer}.{kind}"] = f"{here}.atomwise_out.{2 * layer}.{kind}"
        weights = model.state_dict()
        missing, unexpected = representation.load_state_dict(
            {there: weights[here] for there, here in names.items()}, strict=False
        )
        parameters = {name for name, _ in representation.named_parameters()}
        if unexpected or parameters & set(missing):
            raise SystemExit("SchNetPack's parameters have other names than in the version compared so far.")
        output.load_state_dict(
            {
                f"outnet.{layer}.{kind}": weights[f"output.{2 * layer}.{kind}"]
                for layer in (0, 1)
                for kind in ("weight", "bias")
            }
        )
        return torch.nn.Sequential(self.PairwiseDistances(), representation, output)

    def raw(self, structures: list[Atoms]) -> list[dict[str, torch.Tensor]]:
        """Structures as its transforms take them, without neighbours, in float64."""
        p = self.properties
        return [
            {
                p.idx: torch.tensor([i]),
                p.n_atoms: torch.tensor([len(atoms)]),
                p.Z: torch.from_numpy(atoms.numbers),
                p.R: torch.from_numpy(atoms.positions),
                p.cell: torch.from_numpy(atoms.cell.array)[None],
                p.pbc: torch.from_numpy(atoms.pbc),
            }
            for i, atoms in enumerate(structures)
        ]

    def items(
        self, structures: list[Atoms], find: Callable, dtype: torch.dtype = torch.float32
    ) -> list[dict[str, torch.Tensor]]:
        """Structures with the neighbours that ``find`` (one of its neighbour lists) sees."""
        return [self.casts[dtype](find(item)) for item in self.raw(structures)]

    def energies(self, model: SchNet, structures: list[Atoms], dtype: torch.dtype) -> np.ndarray:
        inputs = self.items(structures, self.ASENeighborList(model.arch.cutoff), dtype)
        network = self.network(model).to(dtype)
        with torch.no_grad():
            # One at a time: a large batch would hold the filters of all its pairs at once.
            return np.concatenate(
                [network(self.collate([item]))["energy"].double().numpy() for item in inputs]
            )

    def side(self, model: SchNet, structures: list[Atoms]) -> _SchNetPackSide:
        """A :class:`Side`, its neighbour lists held in memory."""
        return _SchNetPackSide(self, model, structures)

    def converter(self, cutoff: float) -> Callable:
        """From ASE structures to the network's input, neighbour list included."""
        return self.AtomsConverter(neighbor_list=self.MatScipyNeighborList(cutoff))


class _SchNetPackSide:
    def __init__(self, peer: SchNetPack, model: SchNet, structures: list[Atoms]):
        self.network, self.collate = peer.network(model), peer.collate
        self.items = peer.items(structures, peer.MatScipyNeighborList(model.arch.cutoff))

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return self.collate([self.items[row] for row in rows])

    def energies(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network(batch)["energy"]


class PyG:
    """A :class:`Side` of PyG's SchNet with the weights of ``model``, served with periodic edges.

    Its neighbour search knows no cells, so that its ``interaction_graph`` hands out what was found before.
    """

    def __init__(self, model: SchNet, structures: list[Atoms]):
        from matscipy.neighbours import neighbour_list
        from torch_geometric.data import Batch as DataBatch
        from torch_geometric.data import Data
        from torch_geometric.nn.models import SchNet as Network

        arch, basis = model.arch, radial_basis(model.arch)
        self.network = Network(
            hidden_channels=arch.features,
            num_filters=arch.filters,
            num_interactions=arch.interactions,
            num_gaussians=len(basis),
            cutoff=arch.cutoff,
            interaction_graph=lambda pos, batch: self.edges,
            readout=arch.pooling,
        )
        expansion = self.network.distance_expansion
        expansion.offset, expansion.coeff = basis.centres.clone(), -basis.gamma
        self._copy(model)
        self.edges: tuple[torch.Tensor, torch.Tensor]
        self.collate, self.items = DataBatch.from_data_list, []
        for atoms in structures:
            centre, neighbour, distance = neighbour_list("ijd", atoms, arch.cutoff)
            self.items.append(
                Data(
                    z=torch.from_numpy(atoms.numbers),
                    pos=torch.from_numpy(atoms.positions).float(),
                    edge_index=torch.from_numpy(np.stack([neighbour, centre])).long(),
                    edge_weight=torch.from_numpy(distance).float(),
                )
            )

    @staticmethod
    def installed() -> bool:
        return find_spec("torch_geometric") is not None

    def _copy(self, model: SchNet) -> None:
        there = self.network
        pairs: list[tuple[Any, Any]] = [(there.lin1, model.output[0]), (there.lin2, model.output[2])]
        interactions: Iterable[Any] = model.interactions
        for block, interaction in zip(there.interactions, interactions, strict=True):
            pairs += [
                (block.conv.lin1, interaction.atomwise_in),
                (block.mlp[0], interaction.filter.dense[0]),
                (block.mlp[2], interaction.filter.dense[2]),
                (block.conv.lin2, interaction.atomwise_out[0]),
                (block.lin, interaction.atomwise_out[2]),
            ]
        for layer, source in pairs:
            layer.load_state_dict(source.state_dict())
        with torch.no_grad():
            there.embedding.weight.copy_(model.embedding.weight[: len(there.embedding.weight)])

    def batch(self, rows: np.ndarray) -> Any:
        return self.collate([self.items[row] for row in rows])

    def energies(self, batch: Any) -> torch.Tensor:
        self.edges = batch.edge_index, batch.edge_weight
        return self.network(batch.z, batch.pos, batch.batch)[:, 0]
