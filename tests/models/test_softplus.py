"""The compiled shifted softplus against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from matgraft.models.softplus import shifted_softplus


def exact(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0.0) - np.log(2.0)  # eq. (20)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100_003])
def test_values_and_slopes_to_round_off(n):
    x = torch.cat([torch.linspace(-130, 130, n), torch.linspace(-4, 4, n)]).requires_grad_()
    y = shifted_softplus(x)
    seed = torch.linspace(-1, 2, 2 * n)
    (slope,) = torch.autograd.grad(y, x, grad_outputs=seed)
    wide = x.detach().double().numpy()
    np.testing.assert_allclose(y.detach().numpy(), exact(wide), rtol=2e-7, atol=2e-7)
    np.testing.assert_allclose(slope.numpy(), seed.numpy() / (1 + np.exp(-wide)), rtol=4e-7, atol=1e-37)


def test_shape_and_gradient_order_do_not_matter():
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert shifted_softplus(x).shape == (6, 9)
    torch.testing.assert_close(shifted_softplus(x.T), shifted_softplus(x).T)
    y = x.clone().requires_grad_()
    shifted_softplus(y).T.sum().backward()
    torch.testing.assert_close(y.grad, torch.sigmoid(x))


@pytest.mark.parametrize("n", [3, 32])
def test_what_is_not_a_number_stays_so(n):
    x = torch.full((n,), float("nan"))
    assert shifted_softplus(x).isnan().all()
    assert (shifted_softplus(torch.full((n,), float("inf"))) == float("inf")).all()
    torch.testing.assert_close(shifted_softplus(x.fill_(-math.inf)), torch.full((n,), -math.log(2.0)))


def test_float64_takes_the_plain_path():
    x = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(shifted_softplus, (x,))
