"""Structures, labels, files and splits. Knows nothing of graphs or networks."""

from matgraft.data.dataset import Dataset, Label

__all__ = ["Dataset", "Label"]
