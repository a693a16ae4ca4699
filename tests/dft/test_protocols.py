"""Protocols are what docs/dft.md says they are: whoever changes one changes what all its labels mean."""

from __future__ import annotations

import pytest

from matgraft.dft.protocols import PROTOCOLS, Protocol


@pytest.mark.parametrize(
    ("name", "ecutwfc", "kspacing", "conv_thr"),
    [("fast", 70, 0.5, 1e-6), ("moderate", 96, 0.25, 1e-7), ("precise", 120, 0.15, 1e-9)],
)
def test_protocols_never_change(name, ecutwfc, kspacing, conv_thr):
    assert PROTOCOLS[name].model_dump() == {
        "name": name, "ecutwfc": ecutwfc, "kspacing": kspacing, "conv_thr": conv_thr, "smearing": "gaussian",
        "degauss": 0.015, "order": "ferromagnetic", "hubbard_u": {}, "forces": False,
    }  # fmt: skip


def test_defaults_never_change():
    """Keys leave them out, so that another default would be taken for the old one."""
    assert Protocol(ecutwfc=1, kspacing=1).model_dump() == {
        "name": "custom", "ecutwfc": 1, "kspacing": 1, "conv_thr": 1e-7, "smearing": "gaussian",
        "degauss": 0.015, "order": "ferromagnetic", "hubbard_u": {}, "forces": False,
    }  # fmt: skip
