"""Saved models: same predictions, no code, and clear refusals."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.data import atomic_numbers
from small import SMALL

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.models.files import load_model, shipped_models
from matgraft.models.model import CARD, WEIGHTS, Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet


@pytest.fixture
def model():
    torch.manual_seed(0)
    species = frozenset({"O", "Ti", "V", "Fe"})
    return Model(
        SchNet(SMALL),
        Label("energy"),
        References.given(dict.fromkeys(species, -5.0)),
        0.5,
        species,
        {"name": "tiny"},
    )


def test_round_trip(model, crystals, tmp_path):
    assert load_model(model.save(tmp_path / "model")).span is None
    model = replace(model, span=(-0.25, 1 / 3))
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.span == model.span
    np.testing.assert_array_equal(loaded.predict(crystals).values, model.predict(crystals).values)
    assert (loaded.label, loaded.species, loaded.card) == (model.label, model.species, model.card)


def test_what_stands_for_unknown_elements_is_saved_and_part_of_the_hash(model, tmp_path):
    silver = Dataset.from_atoms([bulk("AgO", "rocksalt", a=4.6)])
    model = replace(model, references=References.given({"O": -3.0, "Ti": -8.0}))
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.references.fallback == -5.5
    np.testing.assert_array_equal(loaded.predict(silver).values, model.predict(silver).values)
    assert loaded.content_hash() == model.content_hash()
    other = replace(model, references=replace(model.references, fallback=-5.0))
    assert other.predict(silver).per_atom[0] == pytest.approx(model.predict(silver).per_atom[0] + 0.25)
    assert other.content_hash() != model.content_hash()


def test_predicts_atoms_dataset_and_list_alike(model, crystals):
    whole = model.predict(crystals).values
    assert model.predict(crystals.atoms(3)).values[0] == pytest.approx(whole[3], abs=1e-5)
    np.testing.assert_allclose(model.predict(list(crystals)).values, whole, atol=1e-5)
    np.testing.assert_allclose(model.predict(crystals).per_atom * crystals.natoms, whole)


def test_marks_unseen_species(model):
    dataset = Dataset.from_atoms([bulk("TiO", "rocksalt", a=4.2), bulk("AgO", "rocksalt", a=4.6)])
    prediction = model.predict(dataset)
    assert prediction.unseen == [(), ("Ag",)]
    assert prediction.unreferenced == [(), ("Ag",)]


def test_unknown_elements_start_as_the_mean_of_their_neighbours(model, crystals):
    model = replace(model, species=model.species | {"Mo", "Zn", "Na", "U"})
    before = model.network.embedding.weight.detach().clone()
    acquainted = model.acquainted()
    after = acquainted.network.embedding.weight.detach()
    near = [atomic_numbers[symbol] for symbol in ("Ti", "V", "Fe", "Mo")]
    torch.testing.assert_close(after[atomic_numbers["Cr"]], before[near].mean(0))
    known = [0, *(atomic_numbers[symbol] for symbol in model.species)]
    assert torch.equal(after[known], before[known])
    assert torch.equal(model.network.embedding.weight, before)
    assert acquainted.species == model.species
    np.testing.assert_array_equal(acquainted.predict(crystals).values, model.predict(crystals).values)


def test_truncated_weights(model, tmp_path):
    folder = model.save(tmp_path / "model")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load_model(folder)


def test_weights_of_another_architecture(model, tmp_path):
    folder = model.save(tmp_path / "model")
    card = json.loads((folder / CARD).read_text())
    card["architecture"]["features"] = 32
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match="not safetensors weights of this architecture"):
        load_model(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "matgraft-model"}', '{"format": "other", "version": 1}']
)
def test_bad_card(model, tmp_path, text):
    folder = model.save(tmp_path / "model")
    (folder / CARD).write_text(text)
    with pytest.raises(InputError, match=r"model\.json"):
        load_model(folder)


def test_newer_version(model, tmp_path):
    folder = model.save(tmp_path / "model")
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(InputError, match="newer matgraft"):
        load_model(folder)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["model.pt", "model.pkl"])
def test_a_pickle_is_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(InputError, match="never opened"):
        load_model(tmp_path / name)


def test_a_pickle_disguised_as_weights_is_never_opened(model, tmp_path):
    folder = model.save(tmp_path / "model")
    (folder / WEIGHTS).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(InputError, match="pickled weights are never opened"):
        load_model(folder)


def test_no_such_model_lists_the_shipped_ones(tmp_path):
    with pytest.raises(InputError, match="Shipped"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_shipped_models_open_and_say_what_they_are(name):
    model = load_model(name)
    assert model.card["name"] == name
    assert {"data_hash", "exclude_elements", "history", "licence", "metrics", "recipe"} <= set(model.card)
    assert ("Cr" in model.species) == (name != "mp-schnet-no-crmn")
    assert model.card["metrics"]["validation"]["mae_ev_per_atom"] <= 0.05


def test_what_no_network_can_be_asked_is_an_error(model):
    lost, empty = bulk("Fe", cubic=True), bulk("Fe")[:0]
    lost.positions[1, 2] = np.nan
    for atoms, words in ((lost, "NaN or infinite"), (empty, "no atoms")):
        for ask in (model.predict, model.forces):
            with pytest.raises(InputError, match=words):
                ask(atoms)
    for coverage in (0.0, 1.0, np.nan):
        with pytest.raises(InputError, match="no probability"):
            model.predict(bulk("Fe"), coverage=coverage)


def test_files_can_be_read_by_whom_the_mask_allows(model, tmp_path):
    folder = replace(model, closest=np.ones((119, 119), dtype=np.float32)).save(tmp_path / "model")
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {(tmp_path / "plain").stat().st_mode}
