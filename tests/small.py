"""A network that trains in a second."""

from matgraft.models.schnet import Architecture

SMALL = Architecture(interactions=2, features=16, filters=16)
