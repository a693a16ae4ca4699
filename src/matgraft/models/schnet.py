"""SchNet for periodic crystals (Schuett et al. 2017), in the order of the study's section 3."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from matgraft.graphs import Batch
from matgraft.models.cfconv import cfconv
from matgraft.models.radial import GaussianBasis, cosine_cutoff

MAX_ATOMIC_NUMBER = 118


@dataclass(frozen=True)
class Architecture:
    """Shape of a network.

    Attributes
    ----------
    interactions, features, filters : int
        Interaction blocks, length of the embedding, width of the filters.
    cutoff : float
        In Angstrom.
    radial : {"compact", "published"}
        50 Gaussians up to the cutoff, or the published 0 to 30 Angstrom every 0.1, gamma 10.
    pooling : {"mean", "sum"}
        Per atom, or per cell.
    """

    interactions: int = 6
    features: int = 128
    filters: int = 128
    cutoff: float = 5.0
    radial: Literal["compact", "published"] = "compact"
    pooling: Literal["mean", "sum"] = "mean"

    def as_dict(self) -> dict:
        return asdict(self)


ARCHITECTURES = {
    "arch1": Architecture(),
    "arch2": Architecture(interactions=4, features=30, filters=30),
}


class ShiftedSoftplus(nn.Module):
    """``ssp(x) = ln(0.5 e^x + 0.5)``, eq. (20)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.softplus(x) - math.log(2.0)


class FilterNetwork(nn.Module):
    """The filter ``W(d)`` of eq. (15): radial basis, two dense layers, smooth cutoff."""

    def __init__(self, basis: GaussianBasis, filters: int, cutoff: float):
        super().__init__()
        self.basis, self.cutoff = basis, cutoff
        self.dense = nn.Sequential(
            nn.Linear(len(basis), filters), ShiftedSoftplus(), nn.Linear(filters, filters)
        )

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        return self.dense(self.basis(distance)) * cosine_cutoff(distance, self.cutoff)[:, None]


class Interaction(nn.Module):
    """Interaction block (Fig. 5, middle): the refinement ``v`` of eq. (18)."""

    def __init__(self, arch: Architecture, basis: GaussianBasis):
        super().__init__()
        self.cutoff = arch.cutoff
        self.atomwise_in = nn.Linear(arch.features, arch.filters, bias=False)
        self.filter = FilterNetwork(basis, arch.filters, arch.cutoff)
        self.atomwise_out = nn.Sequential(
            nn.Linear(arch.filters, arch.features), ShiftedSoftplus(), nn.Linear(arch.features, arch.features)
        )

    def forward(self, x: torch.Tensor, graph: Batch, spacing: float | None) -> torch.Tensor:
        return self.atomwise_out(cfconv(self.atomwise_in(x), graph, self.filter, self.cutoff, spacing))


class SchNet(nn.Module):
    """From species and distances to one number per structure.

    Parameters
    ----------
    arch : Architecture

    Attributes
    ----------
    spacing : float or None
        How the filters are evaluated: see :func:`matgraft.models.cfconv.cfconv`.
    """

    def __init__(self, arch: Architecture):
        super().__init__()
        self.arch = arch
        self.spacing: float | None = 0.01
        basis = (
            GaussianBasis.published() if arch.radial == "published" else GaussianBasis.compact(arch.cutoff)
        )
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, arch.features)
        self.interactions = nn.ModuleList(Interaction(arch, basis) for _ in range(arch.interactions))
        self.output = nn.Sequential(
            nn.Linear(arch.features, arch.features // 2), ShiftedSoftplus(), nn.Linear(arch.features // 2, 1)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def representation(self, graph: Batch) -> torch.Tensor:
        """Features of each node after the last interaction, shape (n_nodes, features)."""
        x = self.embedding(graph.species)  # eq. (17)
        for interaction in self.interactions:
            x = x + interaction(x, graph, self.spacing)  # eq. (18)
        return x

    def pool(self, per_atom: torch.Tensor, graph: Batch) -> torch.Tensor:
        """Sum or mean over atoms of each structure, shape (n_structures, ...)."""
        weighted = per_atom * graph.multiplicity[:, None]
        total = per_atom.new_zeros(len(graph.natoms), per_atom.shape[1]).index_add_(
            0, graph.structure, weighted
        )
        return total / graph.natoms[:, None] if self.arch.pooling == "mean" else total

    def forward(self, graph: Batch) -> torch.Tensor:
        """Prediction for each structure, shape (n_structures,)."""
        return self.pool(self.output(self.representation(graph)), graph)[:, 0]
