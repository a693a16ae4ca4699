"""SchNet for periodic crystals (Schuett et al. 2017), in the order of the study's section 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import nn

from matgraft.graphs import Batch
from matgraft.models.cfconv import cfconv
from matgraft.models.fused import fused_schnet, fusible
from matgraft.models.radial import GaussianBasis, cosine_cutoff
from matgraft.models.softplus import shifted_softplus
from matgraft.models.table import Knots, Table

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
    outputs : int
        Properties that share everything but the last layer.
    """

    interactions: int = 6
    features: int = 128
    filters: int = 128
    cutoff: float = 5.0
    radial: Literal["compact", "published"] = "compact"
    pooling: Literal["mean", "sum"] = "mean"
    outputs: int = 1

    def as_dict(self) -> dict:
        return asdict(self)


ARCHITECTURES = {
    "arch1": Architecture(),
    "arch2": Architecture(interactions=4, features=30, filters=30),
    "wide": Architecture(features=192, filters=192),
}
"""The study's two networks, and the one that has the accuracy of the source models that ship."""


class ShiftedSoftplus(nn.Module):
    """``ssp(x) = ln(0.5 e^x + 0.5)``, eq. (20)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shifted_softplus(x)


class FilterNetwork(nn.Module):
    """The filter ``W(d)`` of eq. (15): two dense layers on the radial basis, times the smooth cutoff."""

    def __init__(self, n_basis: int, filters: int):
        super().__init__()
        self.dense = nn.Sequential(
            nn.Linear(n_basis, filters), ShiftedSoftplus(), nn.Linear(filters, filters)
        )

    def forward(self, radial: torch.Tensor, envelope: torch.Tensor) -> torch.Tensor:
        return self.dense(radial) * envelope


class Interaction(nn.Module):
    """Interaction block (Fig. 5, middle): the refinement ``v`` of eq. (18)."""

    def __init__(self, arch: Architecture, n_basis: int):
        super().__init__()
        self.atomwise_in = nn.Linear(arch.features, arch.filters, bias=False)
        self.filter = FilterNetwork(n_basis, arch.filters)
        self.atomwise_out = nn.Sequential(
            nn.Linear(arch.filters, arch.features), ShiftedSoftplus(), nn.Linear(arch.features, arch.features)
        )

    def forward(self, x: torch.Tensor, graph: Batch, filters: torch.Tensor | Table) -> torch.Tensor:
        return self.atomwise_out(cfconv(self.atomwise_in(x), graph, filters))


class SchNet(nn.Module):
    """From species and distances to one number (or several) per structure.

    Parameters
    ----------
    arch : Architecture

    Attributes
    ----------
    spacing : float or None
        None evaluates the filters for every pair. A number tabulates them: values that far apart (Angstrom)
        on a cubic spline (:class:`matgraft.models.table.Table`), through which gradients flow.
    """

    def __init__(self, arch: Architecture):
        super().__init__()
        self.arch = arch
        self.spacing: float | None = 0.01
        self.basis = (
            GaussianBasis.published() if arch.radial == "published" else GaussianBasis.compact(arch.cutoff)
        )
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, arch.features)
        self.interactions = nn.ModuleList(
            Interaction(arch, len(self.basis)) for _ in range(arch.interactions)
        )
        self.output = nn.Sequential(
            nn.Linear(arch.features, arch.features // 2),
            ShiftedSoftplus(),
            nn.Linear(arch.features // 2, arch.outputs),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def filters(self, graph: Batch) -> list[torch.Tensor] | list[Table]:
        """``W`` of each interaction: of every pair, or as a table over the distances that occur."""
        if self.spacing is None:
            return self.filters_at(graph.distance)
        return self.tables(self.knots(graph))

    def knots(self, graph: Batch) -> Knots:
        """Where tabulated filters are evaluated: from the smallest distance that occurs up to the cutoff."""
        assert self.spacing is not None
        shortest = float(graph.distance.detach().min()) if len(graph.distance) else self.arch.cutoff
        return Knots.between(shortest, self.arch.cutoff, self.spacing)

    def tables(self, knots: Knots) -> list[Table]:
        """``W`` of each interaction as a spline."""
        values = self.filters_at(knots.distances(like=self.embedding.weight))
        return [Table.through(one, knots) for one in values]

    def filters_at(self, distance: torch.Tensor) -> list[torch.Tensor]:
        """``W`` of each interaction at some distances, each of shape (n, n_filters)."""
        radial, envelope = self.basis(distance), cosine_cutoff(distance, self.arch.cutoff)[:, None]
        return [interaction.filter(radial, envelope) for interaction in self.interactions]  # type: ignore[operator]

    def representations(self, graph: Batch) -> Iterator[torch.Tensor]:
        """Features of each node after each interaction, shape (n_nodes, features)."""
        filters = self.filters(graph)
        x = self.embedding(graph.species)  # eq. (17)
        for interaction, w in zip(self.interactions, filters, strict=True):  # eq. (18)
            x = x + interaction(x, graph, w)
            yield x

    def features(self, graph: Batch) -> torch.Tensor:
        """Pooled features after each interaction, shape (n_structures, interactions * features)."""
        return self.both(graph)[1]

    def both(self, graph: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What :meth:`forward` and :meth:`features` give, for the price of one."""
        layers = list(self.representations(graph))
        features = torch.cat([self.pool(x, graph) for x in layers], dim=1)
        return self.read_out(layers[-1], graph), features

    def pool(self, per_atom: torch.Tensor, graph: Batch) -> torch.Tensor:
        """Sum or mean over atoms of each structure, shape (n_structures, ...)."""
        weighted = per_atom * graph.multiplicity[:, None]
        total = per_atom.new_zeros(len(graph.natoms), per_atom.shape[1]).index_add_(
            0, graph.structure, weighted
        )
        return total / graph.natoms[:, None] if self.arch.pooling == "mean" else total

    def forward(self, graph: Batch) -> torch.Tensor:
        """Prediction for each structure, shape (n_structures,), or (n_structures, outputs) of several."""
        if fusible(self, graph):
            return self._squeezed(fused_schnet(self, graph, self.knots(graph)))
        *_, x = self.representations(graph)
        return self.read_out(x, graph)

    def read_out(self, x: torch.Tensor, graph: Batch) -> torch.Tensor:
        """Prediction from the features of each node after the last interaction, (n_nodes, features)."""
        return self._squeezed(self.pool(self.output(x), graph))

    def _squeezed(self, values: torch.Tensor) -> torch.Tensor:
        return values[:, 0] if self.arch.outputs == 1 else values

    def weights(self) -> bytes:
        """All parameters, one after the other: equal for equal networks of one architecture."""
        return b"".join(tensor.cpu().numpy().tobytes() for tensor in self.state_dict().values())

    def head(self, k: int) -> SchNet:
        """The network of the ``k``-th property alone; a copy."""
        return self._with_heads({name: self.get_parameter(name)[k : k + 1] for name in _LAST_LAYER})

    def joined(self, others: Sequence[SchNet]) -> SchNet:
        """One network for this property and those of ``others``, unlike in the last layer only; a copy."""
        heads = (self, *others)
        return self._with_heads(
            {name: torch.cat([head.get_parameter(name) for head in heads]) for name in _LAST_LAYER}
        )

    def _with_heads(self, last_layer: dict[str, torch.Tensor]) -> SchNet:
        outputs = len(last_layer[_LAST_LAYER[0]])
        network = SchNet(replace(self.arch, outputs=outputs))
        network.load_state_dict(self.state_dict() | last_layer)
        network.spacing = self.spacing
        return network


_LAST_LAYER = ("output.2.weight", "output.2.bias")
