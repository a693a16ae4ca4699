"""What a network says where it knows nothing: no more than its training makes credible.

Of crystals squeezed to half their lengths a network says thousands of eV per atom, or minus twenty: filters
at distances that no crystal had are whatever the random start left there.
"""

from __future__ import annotations

import numpy as np
import torch


def damped(outputs: torch.Tensor, span: tuple[float, float] | None) -> torch.Tensor:
    """Outputs of a network, unchanged in the domain and little increased far outside.

    Outputs in training lay in ``span``, of width ``w``. One more crystal of the same kind lies outside with
    probability ``2 / (n + 1)`` after ``n``, but not far: up to one more width on either side is believed as
    it is, and of an excess ``e`` over that, ``w log(1 + e / w)``. The slope is continuous and never zero, so
    that forces do not vanish.

    Parameters
    ----------
    outputs : Tensor, shape (...)
    span : tuple of float, optional
        Least and greatest output in training; None damps nothing.
    """
    if span is None:
        return outputs
    low, high = span
    width = max(high - low, torch.finfo(outputs.dtype).tiny ** 0.5)
    believed = outputs.clamp(low - width, high + width)
    excess = outputs - believed
    return torch.where(
        excess == 0, outputs, believed + excess.sign() * width * torch.log1p(excess.abs() / width)
    )


def spanned(outputs: np.ndarray, known: tuple[float, float] | None = None) -> tuple[float, float]:
    """Least and greatest of some outputs, and of those in a span known before."""
    low, high = known or (np.inf, -np.inf)
    return min(low, float(outputs.min())), max(high, float(outputs.max()))
