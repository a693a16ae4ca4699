"""Settings of users: what is wrong with them is said with the remedy."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from matgraft.dft.protocols import PROTOCOLS, Protocol, protocol
from matgraft.errors import InputError
from matgraft.settings import said
from matgraft.training.recipe import DIRECT


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            DIRECT,
            {"learning_rate": 1e-3},
            "training settings: no setting 'learning_rate'; there are epochs, ",
        ),
        (DIRECT, {"epoch": 3}, "training settings: no setting 'epoch'; did you mean 'epochs'?"),
        (DIRECT, {"epochs": 0}, "training settings: epochs: Input should be greater than 0."),
        (DIRECT, {"rate_min": 1.0}, "training settings: rate_min 1.0 is above rate 0.001."),
        (PROTOCOLS["fast"], {"ecutwf": 50}, "protocol: no setting 'ecutwf'; did you mean 'ecutwfc'?"),
        (PROTOCOLS["fast"], {"smearing": "hot"}, "protocol: smearing: Input should be 'gaussian', 'fd', "),
        (PROTOCOLS["fast"], {"hubbard_u": {"Fee": 4}}, "protocol: hubbard_u: no element 'Fee'."),
        (PROTOCOLS["fast"], {"hubbard_u": {"Fe": "four"}}, "protocol: hubbard_u.Fe: Input should be a valid"),
        (
            PROTOCOLS["fast"],
            {"kspacing": float("inf")},
            "protocol: kspacing: Input should be a finite number.",
        ),
    ],
)
def test_what_does_not_fit_is_named(settings, changes, message):
    with pytest.raises(InputError) as caught:
        settings.changed(**changes)
    assert str(caught.value).startswith(message)


def test_changed_settings_are_a_copy():
    changed = PROTOCOLS["fast"].changed(kspacing=0.4, order="none")
    assert (changed.kspacing, changed.order, changed.ecutwfc) == (0.4, "none", PROTOCOLS["fast"].ecutwfc)
    assert PROTOCOLS["fast"].order == "ferromagnetic"
    with pytest.raises(ValidationError, match="frozen"):
        changed.kspacing = 0.1


def test_a_missing_setting_is_named():
    with pytest.raises(ValidationError) as caught:
        Protocol(ecutwfc=40)
    assert said(caught.value, Protocol) == "kspacing: Field required."


def test_a_protocol_from_a_file_is_called_like_it(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"ecutwfc": 50, "kspacing": 0.3}')
    assert protocol(str(path)) == Protocol(name="mine", ecutwfc=50, kspacing=0.3)
    path.write_text(json.dumps(PROTOCOLS["moderate"].model_dump()))
    assert protocol(str(path)) == PROTOCOLS["moderate"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable JSON file"),
        (b"{'ecutwfc': 50}", "not a readable JSON file"),
        (b"[1, 2]", "not a readable JSON file"),
        (b'"fast"', "not a readable JSON file"),
        ('{"name": "für"}'.encode("latin-1"), "not a readable JSON file"),
        (b'{"ecutwfc": 50}', "kspacing: Field required."),
        (b'{"ecutwf": 50}', "no setting 'ecutwf'; did you mean 'ecutwfc'?"),
        (b'{"ecutwfc": -1, "kspacing": 0.3}', "ecutwfc: Input should be greater than 0."),
        (b'{"ecutwfc": Infinity, "kspacing": 0.3}', "ecutwfc: Input should be a finite number."),
        (
            b'{"ecutwfc": 50, "kspacing": 0.3, "functional": "PBE0"}',
            "no setting 'functional'; there are name, ",
        ),
    ],
)
def test_files_that_hold_no_protocol(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        protocol(str(path))
    assert str(caught.value).startswith(f"{path}: {message}")


def test_names_that_stand_for_no_protocol(tmp_path):
    with pytest.raises(
        InputError, match="no protocol named 'exact'; there are fast, moderate, precise, or a"
    ):
        protocol("exact")
    with pytest.raises(InputError, match=r"nowhere\.json: not a readable JSON file"):
        protocol(str(tmp_path / "nowhere.json"))
