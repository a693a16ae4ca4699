"""Networks for tests."""

import torch

from matgraft.models.schnet import Architecture, SchNet

SMALL = Architecture(interactions=2, features=16, filters=16)
"""Trains in a second."""


def seeded(arch: Architecture, seed: int, std: float = 0.2) -> SchNet:
    """A fresh network whose biases are random too, so that none can be mislaid unnoticed."""
    torch.manual_seed(seed)
    network = SchNet(arch)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=std)
    return network
