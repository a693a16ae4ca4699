"""Predicting files."""

from __future__ import annotations

import csv
import logging

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from matgraft.data import Dataset
from matgraft.jobs.predict import predict
from matgraft.models.model import load_model


def test_predictions_csv(salts, source, tmp_path):
    predict(source, [salts], tmp_path / "new" / "p.csv")
    with open(tmp_path / "new" / "p.csv") as handle:
        rows = list(csv.DictReader(handle))
    dataset = Dataset.read(salts)
    assert [row["id"] for row in rows] == dataset.ids.tolist()
    np.testing.assert_allclose(
        [float(row["prediction"]) for row in rows], load_model(source).predict(dataset).values
    )
    assert {row["unit"] for row in rows} == {"eV"}


def test_unseen_species_are_marked_and_warned_about(source, tmp_path, caplog):
    for symbol in ("Ti", "Ag"):
        write(tmp_path / f"{symbol}O.cif", bulk(f"{symbol}O", "rocksalt", a=4.4))
    with caplog.at_level(logging.WARNING):
        predict(source, [tmp_path / "TiO.cif", tmp_path / "AgO.cif"], tmp_path / "p.csv")
    assert "Ag" in caplog.text
    with open(tmp_path / "p.csv") as handle:
        marks = {row["formula"]: row["unseen_species"] for row in csv.DictReader(handle)}
    assert marks == {"OTi": "", "AgO": "Ag"}


def test_many_structures_one_by_one_agree(salts, source):
    model, dataset = load_model(source), Dataset.read(salts)
    whole = model.predict(dataset).values
    single = [model.predict(atoms).values[0] for atoms in dataset]
    assert single == pytest.approx(whole, abs=1e-4)
