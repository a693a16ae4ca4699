"""Inference in one compiled call: no autograd, no tensor per operation, filters tabulated once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

from matgraft.graphs import Graphs
from matgraft.graphs.graphs import gathered
from matgraft.lanes import CHANNELS
from matgraft.models.cfconv import convolution, sort_by_cell
from matgraft.models.dense import ROWS_AT_ONCE, dense, filled, packed
from matgraft.models.schnet import SchNet
from matgraft.models.softplus import ssp
from matgraft.models.table import Knots, table_error

log = logging.getLogger(__name__)

TABLE_ERROR = 2e-6
"""Largest difference between a tabulated and an exact filter, as a share of the filter's largest value."""
_FINEST = 0.0025
_NODES = 256
"""Structures go through the network together up to so many nodes: more share each row of a table, fewer keep
their features near the core."""


@dataclass(frozen=True)
class CompiledSchNet:
    """Weights of a network, laid out for :func:`_pooled`, widths filled up.

    Attributes
    ----------
    weights : tuple
        Arrays, and the inverse of the tables' step.
    n_outputs : int
    n_features : int
        Of each atom after each interaction.
    mean : bool
        Whether outputs are means over atoms, not sums.
    spacing : float
        Distance between the knots of the filter tables, in Angstrom.
    table_error : float
        Their error as a share of the largest filter value, measured between the knots.
    """

    weights: tuple
    n_outputs: int
    n_features: int
    mean: bool
    spacing: float
    table_error: float

    @classmethod
    def of(cls, network: SchNet) -> CompiledSchNet:
        """Prepare a network; the tables are refined until they are accurate to :data:`TABLE_ERROR`."""
        arch = network.arch
        spacing = network.spacing or 0.01
        double = copy.deepcopy(network).double()
        with torch.no_grad():
            while (error := table_error(double.filters_at, arch.cutoff, spacing)) > TABLE_ERROR:
                if spacing <= _FINEST:
                    log.warning(
                        "tabulated filters are off by %.1e of their largest value even %.4f Angstrom apart; "
                        "set network.spacing = None for exact ones", error, spacing,
                    )  # fmt: skip
                    break
                spacing /= 2
            tables = double.tables(Knots.between(0.0, arch.cutoff, spacing))
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}

        def matrix(name: str) -> np.ndarray:
            return packed(filled(tensors[f"{name}.weight"].T, (0, 1), CHANNELS))

        def vector(name: str) -> np.ndarray:
            return filled(tensors[f"{name}.bias"], (0,), CHANNELS)

        def layers(part: Callable[[str], np.ndarray], name: str) -> np.ndarray:
            return np.stack([part(f"interactions.{t}.{name}") for t in range(arch.interactions)])

        embedding = filled(tensors["embedding.weight"], (1,), CHANNELS)
        into = layers(matrix, "atomwise_in")
        coefficients = np.stack([table.coefficients.numpy() for table in tables]).astype(np.float32)
        weights = (
            embedding,
            # The first atom-wise layer acts on species alone.
            embedding @ filled(tensors["interactions.0.atomwise_in.weight"].T, (0, 1), CHANNELS),
            into,
            filled(coefficients, (2,), CHANNELS),
            layers(matrix, "atomwise_out.0"),
            layers(vector, "atomwise_out.0"),
            layers(matrix, "atomwise_out.2"),
            layers(vector, "atomwise_out.2"),
            matrix("output.0"),
            vector("output.0"),
            matrix("output.2"),
            vector("output.2"),
            np.float32(1.0 / tables[0].knots.step),
        )
        return cls(weights, arch.outputs, arch.features, arch.pooling == "mean", spacing, error)

    def outputs(self, graphs: Graphs, rows: np.ndarray) -> np.ndarray:
        """Network outputs for structures ``rows``, shape (n, outputs)."""
        return self._run(graphs, rows, 0)[0]

    def features(self, graphs: Graphs, rows: np.ndarray) -> np.ndarray:
        """What :meth:`SchNet.features` gives for structures ``rows``, shape (n, interactions * features)."""
        return self.both(graphs, rows)[1]

    def both(self, graphs: Graphs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`outputs` and :meth:`features` of one run."""
        interactions = len(self.weights[2])
        outputs, features = self._run(graphs, rows, interactions)
        return outputs, features.reshape(-1, interactions * self.n_features)

    def _run(self, graphs: Graphs, rows: np.ndarray, layers: int) -> tuple[np.ndarray, np.ndarray]:
        """Outputs, and pooled features of the first ``layers`` interactions."""
        return _pooled(
            np.asarray(rows, dtype=np.int64),
            graphs.natoms,
            graphs.node_offsets,
            graphs.pair_offsets,
            graphs.species,
            graphs.multiplicity,
            graphs.first,
            graphs.second,
            graphs.distance,
            graphs.into_first,
            graphs.into_second,
            self.n_outputs,
            (layers, self.n_features),
            self.mean,
            self.weights,
        )


@njit(cache=True)
def _per_node(species, first, second, distance, into_first, into_second, weights, features):
    """The whole network but the sum over atoms; shape (n_nodes, n_outputs or more).

    ``features``, of shape (layers, n_nodes, n_features), gets those after the first interactions.
    """
    embedding, entry, w_in, tables, w_1, b_1, w_2, b_2, w_hidden, b_hidden, w_last, b_last, inverse = weights
    width = tables.shape[2]
    n = len(species)
    by_cell = sort_by_cell(
        first, second, distance, into_first, into_second, np.float32(0), inverse, tables.shape[1] - 3
    )
    x = np.empty((n, embedding.shape[1]), dtype=np.float32)
    y = np.empty((n, width), dtype=np.float32)
    for i in range(n):
        x[i] = embedding[species[i]]
        y[i] = entry[species[i]]
    no_bias = np.zeros(width, dtype=np.float32)
    summed = np.empty((n, width), dtype=np.float32)
    inner = np.empty((ROWS_AT_ONCE, b_1.shape[1]), dtype=np.float32)
    change = np.empty((ROWS_AT_ONCE, x.shape[1]), dtype=np.float32)
    for layer in range(len(w_in)):
        summed[:] = 0
        convolution(y, tables[layer], by_cell, summed)
        for a in range(0, n, ROWS_AT_ONCE):
            b = min(a + ROWS_AT_ONCE, n)
            dense(summed[a:b], w_1[layer], b_1[layer], inner[: b - a])
            ssp(inner[: b - a].reshape(-1), inner[: b - a].reshape(-1))
            dense(inner[: b - a], w_2[layer], b_2[layer], change[: b - a])
            x[a:b] += change[: b - a]
            if layer < len(features):
                features[layer, a:b] = x[a:b, : features.shape[2]]
            if layer + 1 < len(w_in):
                dense(x[a:b], w_in[layer + 1], no_bias, y[a:b])
    out = np.empty((n, len(b_last)), dtype=np.float32)
    hidden = np.empty((ROWS_AT_ONCE, len(b_hidden)), dtype=np.float32)
    for a in range(0, n, ROWS_AT_ONCE):
        b = min(a + ROWS_AT_ONCE, n)
        dense(x[a:b], w_hidden, b_hidden, hidden[: b - a])
        ssp(hidden[: b - a].reshape(-1), hidden[: b - a].reshape(-1))
        dense(hidden[: b - a], w_last, b_last, out[a:b])
    return out


@njit(cache=True)
def _pooled(
    rows,
    natoms,
    node_offsets,
    pair_offsets,
    species,
    multiplicity,
    first,
    second,
    distance,
    into_first,
    into_second,
    n_outputs,
    shape,
    mean,
    weights,
):
    layers, n_features = shape
    out = np.zeros((len(rows), n_outputs))
    pooled = np.zeros((len(rows), layers, n_features))
    start = 0
    while start < len(rows):
        stop, n_nodes = start, 0
        while stop < len(rows):
            row = rows[stop]
            more = node_offsets[row + 1] - node_offsets[row]
            if stop > start and n_nodes + more > _NODES:
                break
            n_nodes += more
            stop += 1
        part = gathered(
            rows[start:stop], node_offsets, pair_offsets, species, multiplicity, first, second, distance,
            into_first, into_second,
        )  # fmt: skip
        z, m, structure, a, b, d, m_a, m_b = part
        features = np.empty((layers, n_nodes, n_features), dtype=np.float32)
        values = _per_node(z, a, b, d, m_a, m_b, weights, features)
        for node in range(n_nodes):
            k = start + structure[node]
            for o in range(n_outputs):
                out[k, o] += m[node] * values[node, o]
            for t in range(layers):
                for f in range(n_features):
                    pooled[k, t, f] += m[node] * features[t, node, f]
        if mean:
            for k in range(start, stop):
                out[k] /= natoms[rows[k]]
                pooled[k] /= natoms[rows[k]]
        start = stop
    return out, pooled
