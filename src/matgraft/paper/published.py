"""What Krawczuk and Venturi published.

Improving neural network predictions of material properties with limited data using transfer learning,
J. Machine Learning for Modeling and Computing (2020). Errors are mean absolute errors of free energies of
cells in eV, on labels of their own that were never published.
"""

from __future__ import annotations

TABLE1 = {"arch1": 0.563, "arch1 + L2": 0.551, "arch2": 1.175, "arch2 + L2": 1.005}
"""Direct training with 400 labels, by architecture."""

WITHIN = (47, 117)
"""Predictions within chemical accuracy, and all: the best direct training of Table 1."""

TABLE2 = {
    "direct": {100: 0.939, 200: 0.762, 400: 0.551},
    "tl1": {100: 0.929, 200: 0.691, 400: 0.477},
    "tl2": {100: 0.943, 200: 0.703, 400: 0.482},
    "tl3": {100: 1.191, 200: 0.847, 400: 0.686},
}
"""Scheme, then number of labels: oxides of Fe, Ti, V."""

TABLE3 = {
    "direct": {125: 1.355, 250: 0.827, 500: 0.730},
    "tl1": {125: 1.083, 250: 0.753, 500: 0.744},
    "tl2": {125: 1.067, 250: 0.751, 500: 0.730},
}
"""The same with oxides of Cr and Mn, which the source has not seen."""

TABLE4 = {
    "direct": {125: 7182.0, 250: 5008.0, 500: 3626.0},
    "tl1": {125: 214495.0, 250: 210736.0, 500: 209751.0},
}
"""Seconds of training on a Titan RTX; for TL1 with the training of the source."""

DFT_SECONDS = {"mean": 27 * 60.0, "least": 5.0, "most": 20 * 3600.0, "n": 1300}
"""Calculations of oxides with 30 atoms on average, on 16 cores (Fig. 3)."""

SAVED_HOURS = {"direct": 135.0, "tl1": 78.0}
"""Fig. 12: computing time saved by a network with 500 labels over 300 further DFT calculations."""
