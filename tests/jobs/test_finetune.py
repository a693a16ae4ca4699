"""The main job writes what it promises, and its baselines are what they say."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from matgraft.data import Dataset
from matgraft.errors import InputError
from matgraft.jobs.finetune import run_finetune
from matgraft.models.files import load_model

FILES = {
    "errors.png",
    "metrics.json",
    "model.json",
    "model.safetensors",
    "parity.png",
    "predictions.csv",
    "references.json",
    "settings.json",
    "training",
    "training.png",
}


def read_predictions(path):
    with open(path) as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("scheme", ["tl1", "tl2", "tl3"])
def test_writes_everything_and_beats_nothing_by_accident(salts, source, tmp_path, scheme):
    out = tmp_path / "out"
    result = run_finetune(salts, "energy", out, source=source, recipe=scheme, val="12", direct=True)
    assert {path.name for path in out.iterdir()} == FILES
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    assert (metrics["n_train"], metrics["n_val"]) == (48, 12)
    assert set(metrics["baselines"]) == {
        "references_alone",
        "composition_forest",
        "zero_shot_source",
        "source_plus_references",
        "direct",
    }
    keys = {"mae_ev", "mae_ev_per_atom", "rmse_ev", "within_chemical_accuracy"}
    assert keys <= set(metrics)
    assert all(keys <= set(scores) for scores in metrics["baselines"].values())
    rows = read_predictions(out / "predictions.csv")
    assert len(rows) == 12
    errors = [abs(float(row["target"]) - float(row["prediction"])) for row in rows]
    assert np.mean(errors) == pytest.approx(metrics["mae_ev"])
    # The source's label is 4 eV per atom above the target's.
    assert metrics["baselines"]["zero_shot_source"]["mae_ev_per_atom"] == pytest.approx(4.0, abs=0.2)
    assert metrics["baselines"]["source_plus_references"]["mae_ev_per_atom"] < 0.2


def test_saved_model_predicts_what_the_run_reported(salts, source, tmp_path):
    run_finetune(salts, "energy", tmp_path / "out", source=source, val="12")
    rows = read_predictions(tmp_path / "out" / "predictions.csv")
    dataset = Dataset.read(salts)
    where = {name: i for i, name in enumerate(dataset.ids)}
    held = dataset[[where[row["id"]] for row in rows]]
    predicted = load_model(tmp_path / "out").predict(held).values
    np.testing.assert_allclose(predicted, [float(row["prediction"]) for row in rows], atol=1e-4)


def test_repeating_gives_the_same_and_other_settings_are_refused(salts, source, tmp_path):
    first = run_finetune(salts, "energy", tmp_path / "out", source=source, val="12").metrics
    assert run_finetune(salts, "energy", tmp_path / "out", source=source, val="12").metrics == first
    with pytest.raises(InputError, match="seed differ"):
        run_finetune(salts, "energy", tmp_path / "out", source=source, val="12", seed=1)


def test_validation_file_and_id_list(salts, source, tmp_path):
    dataset = Dataset.read(salts)
    ids = dataset.ids[:9]
    (tmp_path / "val.txt").write_text("\n".join(ids))
    run_finetune(salts, "energy", tmp_path / "a", source=source, val=str(tmp_path / "val.txt"))
    assert {row["id"] for row in read_predictions(tmp_path / "a" / "predictions.csv")} == set(ids)
    from matgraft.data.writers import write

    write(dataset[:9], tmp_path / "val.extxyz")
    write(dataset[9:], tmp_path / "train.extxyz")
    run_finetune(
        tmp_path / "train.extxyz", "energy", tmp_path / "b", source=source, val=str(tmp_path / "val.extxyz")
    )
    assert {row["id"] for row in read_predictions(tmp_path / "b" / "predictions.csv")} == set(ids)
    with pytest.raises(InputError, match="cannot both train and validate"):
        run_finetune(salts, "energy", tmp_path / "c", source=source, val=str(tmp_path / "val.extxyz"))


def test_grouped_split_keeps_formulas_apart(salts, source, tmp_path):
    run_finetune(salts, "energy", tmp_path / "out", source=source, val="20", group="formula")
    dataset = Dataset.read(salts)
    held = {row["id"] for row in read_predictions(tmp_path / "out" / "predictions.csv")}
    inside = np.isin(dataset.ids, list(held))
    assert not set(dataset.formulas[inside]) & set(dataset.formulas[~inside])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "enthalpy"}, "Labels here: energy"),
        ({"recipe": "tl9"}, "no recipe named"),
        ({"source": None, "recipe": "tl1"}, "needs a source model"),
        ({"source": "nowhere"}, "Shipped"),
        ({"val": "60"}, "fewer"),
        ({"val": "nothing.extxyz"}, "nothing.extxyz"),
        ({"preset": "fast"}, "no preset named"),
        ({"arch": "arch9"}, "no architecture named"),
        ({"reference": "best"}, "auto, labels, residual, none"),
        ({"reference": "nothing.json"}, "nothing.json"),
        ({"source": None, "recipe": "direct", "reference": "residual"}, "needs a source model"),
    ],
)
def test_bad_requests_leave_nothing_behind(salts, source, tmp_path, options, message):
    settings = {"target": "energy", "source": source, "val": "12", **options}
    with pytest.raises(InputError, match=message):
        run_finetune(salts, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_given_reference_energies(salts, source, tmp_path):
    given = {"O": -4.0, "Ti": -5.0, "V": -5.0, "Fe": -5.0}
    (tmp_path / "references.json").write_text(json.dumps(given))
    options = {"source": source, "val": "12", "reference": str(tmp_path / "references.json")}
    run_finetune(salts, "energy", tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "references.json").read_text()) == given


def test_an_intensive_label(salts, source, tmp_path, crystals):
    from matgraft.data import Label
    from matgraft.data.writers import write

    gap = crystals.with_label(
        "bulk_modulus", np.linspace(1, 2, len(crystals)), Label("bulk_modulus", "GPa", "intensive")
    )
    write(gap, tmp_path / "gap.extxyz")
    metrics = run_finetune(
        tmp_path / "gap.extxyz", "bulk_modulus", tmp_path / "out", source=source, val="12"
    ).metrics
    assert {"mae", "rmse", "median"} <= set(metrics)
    assert metrics["unit"] == "GPa"
    assert metrics["reference"] in ("labels", "residual")
