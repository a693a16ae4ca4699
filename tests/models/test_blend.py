"""Blends: the weighted mean of their members, in every respect."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from small import SMALL, seeded

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs import build_graphs
from matgraft.graphs.closest import closest
from matgraft.models.blend import MEMBERS, Blend
from matgraft.models.files import load_model, load_source
from matgraft.models.model import CARD, Model
from matgraft.models.references import References
from matgraft.models.schnet import SchNet
from matgraft.training.process import fit_process

WEIGHTS = (0.75, 0.25)
filters = SchNet.filters


@pytest.fixture
def members():
    species = (frozenset({"O", "Ti", "V", "Fe"}), frozenset({"O", "Ti", "V", "Fe", "Ag"}))
    return [
        Model(seeded(SMALL, k), Label("energy"), References.given(dict.fromkeys(some, -4.0 - k)), 0.5, some)
        for k, some in enumerate(species)
    ]


@pytest.fixture
def blend(members):
    return Blend.of(members, WEIGHTS, {"name": "both"})


def mean(values):
    return WEIGHTS[0] * values[0] + WEIGHTS[1] * values[1]


def test_predictions_forces_and_stress_are_means(blend, members, crystals):
    some = crystals[:5]
    np.testing.assert_allclose(
        blend.predict(some).values, mean([member.predict(some).values for member in members])
    )
    found, parts = blend.forces(some), [member.forces(some) for member in members]
    np.testing.assert_allclose(found.energies, mean([part.energies for part in parts]))
    np.testing.assert_allclose(found.forces[2], mean([part.forces[2] for part in parts]), atol=1e-7)
    np.testing.assert_allclose(found.stresses, mean([part.stresses for part in parts]), atol=1e-7)
    atoms = some.atoms(0)
    atoms.calc = blend.calculator()
    assert atoms.get_potential_energy() == pytest.approx(found.energies[0], abs=1e-4)


@pytest.mark.parametrize("spacing", [0.01, None])
def test_members_of_one_network_run_it_once(members, crystals, monkeypatch, spacing):
    source, other = members
    source.network.spacing = spacing
    graphs = build_graphs(crystals, source.cutoff)
    composition, features = crystals.composition(), source.features(graphs)
    shift, process = fit_process(composition, features[:, 0], features)
    same = [
        replace(source, network=copy.deepcopy(source.network), scale=0.0),
        replace(source, network=copy.deepcopy(source.network), scale=0.0, process=process),
        replace(source, references=source.references + shift),
    ]
    weights = (0.1, 0.2, 0.3, 0.4)
    blend = Blend.of([*same, other], weights, {})
    expected = sum(
        w * one.per_atom(composition, graphs) for w, one in zip(weights, [*same, other], strict=True)
    )
    runs = []
    run = Model.run
    monkeypatch.setattr(Model, "run", lambda *args, **kwargs: runs.append(args[0]) or run(*args, **kwargs))
    np.testing.assert_allclose(blend.per_atom(composition, graphs), expected, rtol=1e-6)
    assert len(runs) == 2
    values, found = blend.with_features(composition, graphs)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_array_equal(found, other.features(graphs))
    assert len(runs) == 4
    some = crystals[:5]
    expected = [
        sum(w * part for w, part in zip(weights, parts, strict=True))
        for parts in zip(*(one.derivatives(some) for one in [*same, other]), strict=True)
    ]
    runs.clear()
    monkeypatch.setattr(SchNet, "filters", lambda *args: runs.append(args[0]) or filters(*args))
    for found, wanted in zip(blend.derivatives(some), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert len(runs) <= 2


def test_reference_energies_alone_know_no_distance_and_no_species(members):
    squeezed = Dataset.from_atoms([bulk("AgO", "rocksalt", a=2.0)])
    network = replace(
        members[1], closest=closest(members[1].graphs(Dataset.from_atoms([bulk("AgO", "rocksalt", a=4.6)])))
    )
    alone = replace(members[0], scale=0.0, closest=np.full_like(network.closest, np.inf))
    prediction = Blend.of([network, alone], WEIGHTS, {}).predict(squeezed)
    assert prediction.too_close == network.predict(squeezed).too_close == [("Ag-Ag", "Ag-O", "O-O")]
    assert (prediction.unseen, prediction.unreferenced) == ([()], [("Ag",)])
    far = replace(members[0], closest=network.closest + 1.0)
    assert Blend.of([network, far], WEIGHTS, {}).closest.tolist() == far.closest.tolist()


def test_an_element_is_known_if_all_members_know_it(blend):
    silver = Dataset.from_atoms([bulk("AgO", "rocksalt", a=4.6)])
    prediction = blend.predict(silver)
    assert (prediction.unseen, prediction.unreferenced) == ([("Ag",)], [("Ag",)])


def test_an_element_that_one_member_only_assumes_is_told(members, crystals):
    """Oxygen is in labels of one member alone."""
    assuming = replace(members[0], references=replace(members[0].references, assumed=frozenset({8})))
    for order in ([assuming, members[1]], [members[1], assuming]):
        assert Blend.of(order, WEIGHTS, {}).predict(crystals[:2]).unreferenced == [("O",), ("O",)]


def test_saved_and_loaded(blend, crystals, tmp_path):
    loaded = load_model(blend.save(tmp_path / "blend"))
    np.testing.assert_array_equal(loaded.predict(crystals).values, blend.predict(crystals).values)
    assert (loaded.card, loaded.content_hash()) == (blend.card, blend.content_hash())
    assert loaded.bounds_hash() == blend.bounds_hash()
    # What follows from the members is kept with them alone.
    assert {path.name for path in (tmp_path / "blend").iterdir()} == {CARD, MEMBERS}
    again = Blend.of(blend.members, (0.5, 0.5), {})
    assert load_model(again.save(tmp_path / "blend")).weights == (0.5, 0.5)


def test_of_one_model_is_that_model(members):
    only = Blend.of(members[:1], (1.0,), {"name": "one"})
    assert isinstance(only, Model)
    assert only.card == {"name": "one"}


def test_is_no_source_but_its_members_are(blend, tmp_path):
    folder = blend.save(tmp_path / "blend")
    with pytest.raises(InputError, match="blend of several models cannot be a source"):
        load_source(folder)
    assert load_source(folder / "members" / "1").content_hash() == blend.members[1].content_hash()


def test_half_written_is_no_model(blend, tmp_path):
    folder = blend.save(tmp_path / "blend")
    (folder / CARD).unlink()
    with pytest.raises(InputError, match="no model here"):
        load_model(folder)
    blend.save(folder)
    (folder / "members" / "1" / CARD).unlink()
    with pytest.raises(InputError, match="members/1"):
        load_model(folder)
