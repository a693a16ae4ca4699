"""The command line: exit codes, files, messages."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import run
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.data.writers import write
from matgraft.models.model import Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    species = frozenset({"O", "Ti", "V", "Fe"})
    references = References.given(dict.fromkeys(species, -1.0))
    model = Model(SchNet(SMALL), Label("e", "eV/atom", "atom"), references, 0.1, species, {"name": "tiny"})
    return model.save(tmp_path_factory.mktemp("models") / "tiny")


VERBS = ("finetune", "predict", "fields", "pretrain", "benchmark")
GROUPED = (
    "data info", "data list", "data convert", "data split", "models list", "models show", "paper run",
    "paper report",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS + GROUPED)
def test_every_verb_helps_with_an_example(verb):
    result = run(*verb.split(), "--help")
    assert result.returncode == 0
    assert f"matgraft {verb} " in result.stdout or f"matgraft {verb}\n" in result.stdout


def test_finetune_predict_and_show(salts, source, tmp_path):
    out = tmp_path / "graft"
    result = run(
        "finetune",
        salts,
        "--target",
        "energy",
        "--source",
        source,
        "--scheme",
        "tl3",
        "--val",
        "12",
        "--out",
        out,
    )
    assert result.returncode == 0, result.stderr
    assert "source + robust references" in result.stdout
    assert "tl3 30/" in result.stderr or "epochs" in result.stderr
    result = run("predict", out, salts, "--out", tmp_path / "p.csv", "--json")
    assert json.loads(result.stdout)["n"] == 60
    with open(tmp_path / "p.csv") as handle:
        assert len(list(csv.DictReader(handle))) == 60
    shown = json.loads(run("models", "show", out, "--json").stdout)
    assert shown["n_train"] == 48
    assert shown["scheme"]["name"] == "tl3"


def test_predict_ranks_and_skips(crystals, source, tmp_path):
    (tmp_path / "pool").mkdir()
    write(crystals, tmp_path / "pool" / "a.extxyz")
    (tmp_path / "pool" / "b.cif").write_text("nothing")
    options = ("predict", source, "pool", "--out", "p.csv", "--sort", "prediction", "--top", "5")
    result = run(*options, folder=tmp_path)
    assert result.returncode == 2
    assert "b.cif" in result.stderr
    assert "--skip-bad" in result.stderr
    result = run(*options, "--skip-bad", "--workers", "2", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "60 structures" in result.stdout
    assert "1 skipped, with the reasons: p.skipped.csv" in result.stdout
    with open(tmp_path / "p.csv") as handle:
        assert [row["rank"] for row in csv.DictReader(handle)] == ["1", "2", "3", "4", "5"]


@pytest.mark.slow
def test_killed_prediction_goes_on(crystals, source, tmp_path):
    """A kill leaves neither half a table nor workers that wait for ever, and no chunk is computed twice."""
    parts = [replace(crystals, ids=np.asarray([f"{k}-{i}" for i in range(60)])) for k in range(100)]
    write(Dataset.concatenate(parts), tmp_path / "a.extxyz")
    command = [sys.executable, "-m", "matgraft", "predict", source, "a.extxyz", "--out", "p.csv"]
    process = subprocess.Popen([*command, "--workers", "2"], cwd=tmp_path, stderr=subprocess.PIPE)
    kept = tmp_path / "p.csv.part"
    while len(list(kept.glob("[0-9]*.npz"))) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    # The pipe closes when the last of the processes that hold it has ended.
    process.communicate(timeout=60)
    assert not (tmp_path / "p.csv").exists()
    finished = len(list(kept.glob("[0-9]*.npz")))
    result = run("predict", source, "a.extxyz", "--out", "p.csv", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"predict {1000 * finished}/6000 structures" in result.stderr
    with open(tmp_path / "p.csv") as handle:
        assert len(list(csv.DictReader(handle))) == 6000
    assert not kept.exists()


def test_data_verbs(salts, tmp_path):
    summary = json.loads(run("data", "info", salts, "--json").stdout)
    assert summary["n"] == 60
    assert summary["labels"]["energy"]["kind"] == "cell"
    assert run("data", "convert", salts, tmp_path / "salts.db").returncode == 0
    converted = json.loads(run("data", "info", tmp_path / "salts.db", "--json").stdout)
    assert converted["labels"] == summary["labels"]
    result = run("data", "split", salts, "--val", "20", "--group", "formula", "--out", tmp_path / "split")
    assert result.returncode == 0, result.stderr
    assert json.loads(run("data", "info", tmp_path / "split" / "val.extxyz", "--json").stdout)["n"] == 20
    assert run("data", "split", salts, "--out", tmp_path / "split").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "nowhere.extxyz", "--target", "energy"], "nowhere.extxyz"),
        (["finetune", "{salts}", "--target", "gap"], "Labels here: energy"),
        (["finetune", "{salts}", "--target", "energy", "--source", "nowhere"], "Shipped"),
        (["finetune", "{salts}", "--target", "energy", "--label-kind", "atom"], "--label-kind cell"),
        (["finetune", "{salts}", "--target", "energy", "--val", "60"], "validation"),
        (["benchmark", "{salts}", "--target", "energy", "--sizes", "ten"], "whole numbers"),
        (["benchmark", "{salts}", "--target", "energy", "--sizes", "500", "--val-size", "9"], "500"),
        (["pretrain", "{salts}", "--target", "energy", "--keep", "volume<1"], "natoms"),
        (["pretrain", "{salts}", "--target", "energy", "--exclude-elements", "Xx"], "Xx"),
        (["finetune", "{salts}"], "Missing option"),
    ],
)
def test_bad_input_exits_with_2_and_leaves_nothing(salts, tmp_path, arguments, message):
    result = run(*[argument.format(salts=salts) for argument in arguments], "--out", tmp_path / "out")
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_predict_with_a_bad_model_writes_nothing(salts, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04.")
    result = run("predict", tmp_path / "model.pt", salts, "--out", tmp_path / "p.csv")
    assert result.returncode == 2
    assert "never opened" in result.stderr
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--table", "9"), "no table 9; there are 1, 2"),
        (("run", "--figure", "2"), "no figure 2; there are 1, 3, 4"),
        (("report",), "no such folder"),
    ],
)
def test_bad_requests_to_the_study_leave_nothing_behind(tmp_path, arguments, message):
    result = run("paper", *arguments, "--out", tmp_path / "study")
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "study").exists()


def test_what_the_system_refuses_is_an_error_without_a_traceback(salts, source, tmp_path):
    graft = (salts, "--target", "energy", "--source", source, "--out", tmp_path / "o")
    for arguments in (
        ("predict", source, salts, "--out", salts / "p.csv"),
        ("data", "convert", salts, tmp_path / ("n" * 300 + ".extxyz")),
        ("finetune", *graft, "--seed", "-1"),
        ("finetune", *graft, "--val", "nan"),
        ("benchmark", *graft, "--sizes", ""),
    ):
        result = run(*arguments)
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
