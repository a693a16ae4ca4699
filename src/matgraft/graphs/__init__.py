"""Crystal graphs: neighbour lists, merged equivalent atoms, batches, cache."""

from matgraft.graphs.cache import graphs_of
from matgraft.graphs.graphs import Batch, Graphs, build_graphs
from matgraft.graphs.neighbours import neighbour_list

__all__ = ["Batch", "Graphs", "build_graphs", "graphs_of", "neighbour_list"]
