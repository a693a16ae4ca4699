"""A Gaussian process on the pooled features of a network: what it adds to the network's own output."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable


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
        """The same in torch, so that gradients flow through it, once."""
        return _Mean.apply(features, self)

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


def matern(distance: np.ndarray) -> np.ndarray:
    """The kernel at distances in length scales; 1 at zero."""
    scaled = 5**0.5 * distance
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


class _Mean(torch.autograd.Function):
    """The posterior mean with its gradient, neither of which needs an array of structures by centres."""

    @staticmethod
    def forward(ctx, features, process):
        arrays = (process.centres, process.inverse_length, process.weights)
        values, gradient = _mean_and_gradient(features.detach().cpu().numpy(), *arrays)
        ctx.save_for_backward(torch.from_numpy(gradient).to(features))
        return torch.from_numpy(values).to(features)

    @staticmethod
    @once_differentiable
    def backward(ctx, above):
        (gradient,) = ctx.saved_tensors
        return above[:, None] * gradient, None


# A sum in any order may be vectorised.
@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _distance(one, other, inverse_length):
    square = 0.0
    for k in range(len(inverse_length)):
        difference = (one[k] - other[k]) * inverse_length[k]
        square += difference * difference
    return np.sqrt(square)


# One structure at a time: a matrix product would round by the number of structures asked about together.
@njit(cache=True)
def _mean(features, centres, inverse_length, weights):
    out = np.zeros(len(features))
    for i in range(len(features)):
        for j in range(len(centres)):
            scaled = np.sqrt(5.0) * _distance(features[i], centres[j], inverse_length)
            out[i] += weights[j] * (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
    return out


@njit(cache=True)
def _mean_and_gradient(features, centres, inverse_length, weights):
    out, gradient = np.zeros(len(features)), np.zeros(features.shape)
    for i in range(len(features)):
        for j in range(len(centres)):
            scaled = np.sqrt(5.0) * _distance(features[i], centres[j], inverse_length)
            decayed = weights[j] * np.exp(-scaled)
            out[i] += decayed * (1.0 + scaled + scaled * scaled / 3.0)
            slope = -5.0 / 3.0 * decayed * (1.0 + scaled)
            for k in range(len(inverse_length)):
                gradient[i, k] += slope * inverse_length[k] ** 2 * (features[i, k] - centres[j, k])
    return out, gradient
