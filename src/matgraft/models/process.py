"""A Gaussian process on the pooled features of a network: what it adds to the network's own output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit


@dataclass(frozen=True)
class GaussianProcess:
    """Posterior mean with a Matern kernel (nu = 5/2), ``f(x) = sum_i a_i k(|s (x - c_i)|)``.

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), eqs. (2.25) and (4.17).

    Attributes
    ----------
    centres : ndarray of float32, shape (n, d)
        Features of the structures it was fitted to.
    inverse_length : ndarray of float32, shape (d,)
        One over the length scale of each feature.
    weights : ndarray of float64, shape (n,)
        Label units, amplitude of the kernel included.
    """

    centres: np.ndarray
    inverse_length: np.ndarray
    weights: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Mean for structures of these features, shape (m, d); returns shape (m,)."""
        return _mean(features, self.centres, self.inverse_length, self.weights)

    def differentiable(self, features: torch.Tensor) -> torch.Tensor:
        """The same in torch, so that gradients flow through it."""
        centres, inverse, weights = (
            torch.as_tensor(array, dtype=features.dtype, device=features.device)
            for array in vars(self).values()
        )
        difference = (features[:, None, :] - centres) * inverse
        # The root of zero has no derivative, and the kernel is flat there.
        distance = difference.square().sum(dim=2).clamp(min=1e-12).sqrt()
        return matern(distance) @ weights

    def tensors(self) -> dict[str, torch.Tensor]:
        """Arrays by name, to be stored."""
        return {f"process.{name}": torch.from_numpy(array) for name, array in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> GaussianProcess | None:
        """What :meth:`tensors` gave, or None if it is not among these."""
        mine = {
            name.removeprefix("process."): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith("process.")
        }
        return cls(**mine) if mine else None


def matern(distance: Any) -> Any:
    """The kernel at distances (array or tensor) in length scales; 1 at zero."""
    scaled = 5**0.5 * distance
    exp = torch.exp if isinstance(scaled, torch.Tensor) else np.exp
    return (1 + scaled + scaled**2 / 3) * exp(-scaled)


# One structure at a time: a matrix product would round by the number of structures asked about together.
@njit(cache=True)
def _mean(features, centres, inverse_length, weights):
    out = np.zeros(len(features))
    for i in range(len(features)):
        for j in range(len(centres)):
            square = 0.0
            for k in range(len(inverse_length)):
                difference = (features[i, k] - centres[j, k]) * inverse_length[k]
                square += difference * difference
            scaled = np.sqrt(5.0 * square)
            out[i] += weights[j] * (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
    return out
