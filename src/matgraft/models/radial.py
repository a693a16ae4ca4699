"""Radial basis functions and the smooth cutoff."""

from __future__ import annotations

import math

import torch
from torch import nn


class GaussianBasis(nn.Module):
    """Gaussians on evenly spaced centres, eq. (16): ``exp(-gamma (d - mu_k)^2)``.

    Parameters
    ----------
    start, stop : float
        First and last centre, in Angstrom.
    size : int
        Number of centres.
    gamma : float
        In 1/Angstrom^2.
    """

    def __init__(self, start: float, stop: float, size: int, gamma: float):
        super().__init__()
        self.gamma = gamma
        self.centres: torch.Tensor
        self.register_buffer("centres", torch.linspace(start, stop, size), persistent=False)

    @classmethod
    def published(cls) -> GaussianBasis:
        """0 to 30 Angstrom every 0.1 Angstrom, gamma 10 (Schuett et al. 2017; the study's eq. 16)."""
        return cls(0.0, 30.0, 301, 10.0)

    @classmethod
    def compact(cls, cutoff: float, size: int = 50) -> GaussianBasis:
        """``size`` centres from 0 to the cutoff, as wide as they are apart (SchNetPack's default)."""
        return cls(0.0, cutoff, size, 0.5 * ((size - 1) / cutoff) ** 2)

    def __len__(self) -> int:
        return len(self.centres)

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """Distances, shape (n,), to basis values, shape (n, size)."""
        return torch.exp(-self.gamma * (distance[:, None] - self.centres) ** 2)


def cosine_cutoff(distance: torch.Tensor, cutoff: float) -> torch.Tensor:
    """``(1 + cos(pi d / cutoff)) / 2``: falls smoothly to zero at the cutoff.

    Not clipped beyond it (edges end at the cutoff), so that a table of it can be interpolated up to the end.
    """
    return 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0)
