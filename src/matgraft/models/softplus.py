"""The shifted softplus, eq. (20), with a compiled kernel beside torch's."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch.autograd.function import once_differentiable
from torch.nn import functional

from matgraft.lanes import (
    LANES,
    fma,
    larger,
    load,
    magnitude,
    product,
    quotient,
    rounded,
    splat,
    store,
    two_to_the,
)


def shifted_softplus(x: torch.Tensor) -> torch.Tensor:
    """``ssp(x) = ln(0.5 e^x + 0.5)``."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return _ShiftedSoftplus.apply(x)
    return functional.softplus(x) - math.log(2.0)


class _ShiftedSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        ssp(x.detach().numpy().reshape(-1), out.numpy().reshape(-1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        _backward(
            grad.contiguous().numpy().reshape(-1), x.detach().numpy().reshape(-1), out.numpy().reshape(-1)
        )
        return out


_LN_2 = np.float32(math.log(2.0))


@njit(cache=True)
def _exp(x):
    """``e^x`` for ``x <= 0``: a power of two times a Taylor polynomial on half a binade either side."""
    x = larger(x, splat(np.float32(-87.0)))
    whole = rounded(product(x, splat(np.float32(1.4426950408889634))))
    # ln 2 in two parts, the first of them short enough that its multiples are exact.
    y = fma(whole, splat(np.float32(-0.693359375)), x)
    y = fma(whole, splat(np.float32(2.12194440e-4)), y)
    p = splat(np.float32(1 / 5040))
    p = fma(p, y, splat(np.float32(1 / 720)))
    p = fma(p, y, splat(np.float32(1 / 120)))
    p = fma(p, y, splat(np.float32(1 / 24)))
    p = fma(p, y, splat(np.float32(1 / 6)))
    p = fma(p, y, splat(np.float32(0.5)))
    p = fma(p, y, splat(np.float32(1.0)))
    p = fma(p, y, splat(np.float32(1.0)))
    return product(p, two_to_the(whole))


@njit(cache=True)
def _tail(x):
    """``e^-|x|``."""
    return _exp(product(magnitude(x), splat(np.float32(-1.0))))


@njit(cache=True)
def _ssp(x, y):
    """``max(x, 0) + ln(1 + y) - ln 2`` with ``y = e^-|x|`` and ``ln(1 + y) = 2 artanh(y / (2 + y))``."""
    u = quotient(y, fma(y, splat(np.float32(1.0)), splat(np.float32(2.0))))
    square = product(u, u)
    p = splat(np.float32(2 / 13))
    p = fma(p, square, splat(np.float32(2 / 11)))
    p = fma(p, square, splat(np.float32(2 / 9)))
    p = fma(p, square, splat(np.float32(2 / 7)))
    p = fma(p, square, splat(np.float32(2 / 5)))
    p = fma(p, square, splat(np.float32(2 / 3)))
    p = fma(p, square, splat(np.float32(2.0)))
    above = fma(splat(np.float32(1.0)), larger(x, splat(np.float32(0.0))), splat(-_LN_2))
    return fma(p, u, above)


@njit(cache=True)
def _logistic(x, y):
    """The derivative, ``1 / (1 + e^-x)``, from ``y = e^-|x|``, so that nothing overflows."""
    one = splat(np.float32(1.0))
    small = quotient(y, fma(y, one, one))
    # 1 - small where x > 0: the sign enters as a number, because lanes know no branches.
    sign = larger(quotient(x, larger(magnitude(x), splat(np.float32(1e-30)))), splat(np.float32(0.0)))
    return fma(sign, fma(splat(np.float32(-2.0)), small, one), small)


@njit(cache=True)
def ssp(x, out):
    """Shifted softplus of a flat float32 array."""
    whole = len(x) - len(x) % LANES
    for k in range(0, whole, LANES):
        v = load(x, k)
        store(out, k, _ssp(v, _tail(v)))
    for k in range(whole, len(x)):
        out[k] = max(x[k], np.float32(0.0)) + np.log1p(np.exp(-abs(x[k]))) - _LN_2


@njit(cache=True)
def ssp_and_slope(x, out, slope):
    """Shifted softplus of a flat float32 array, and its derivative; ``out`` may be ``x``."""
    whole = len(x) - len(x) % LANES
    for k in range(0, whole, LANES):
        v = load(x, k)
        y = _tail(v)
        store(out, k, _ssp(v, y))
        store(slope, k, _logistic(v, y))
    for k in range(whole, len(x)):
        slope[k] = np.float32(1.0) / (np.float32(1.0) + np.exp(-x[k]))
        out[k] = max(x[k], np.float32(0.0)) + np.log1p(np.exp(-abs(x[k]))) - _LN_2


@njit(cache=True)
def _backward(grad, x, out):
    whole = len(x) - len(x) % LANES
    for k in range(0, whole, LANES):
        v = load(x, k)
        store(out, k, product(load(grad, k), _logistic(v, _tail(v))))
    for k in range(whole, len(x)):
        out[k] = grad[k] / (np.float32(1.0) + np.exp(-x[k]))
