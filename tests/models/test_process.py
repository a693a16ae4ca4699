"""A Gaussian process on features: against scikit-learn, finite differences, and what symmetry demands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import Matern
from small import SMALL, seeded

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.graphs import build_graphs
from matgraft.models.files import load_model, load_source
from matgraft.models.model import Model
from matgraft.models.process import GaussianProcess
from matgraft.models.references import References

SPECIES = frozenset({"O", "Ti", "V", "Fe"})


def process_on(features: np.ndarray) -> GaussianProcess:
    rng = np.random.default_rng(1)
    spread = features.std()
    return GaussianProcess(
        centres=features.astype(np.float32),
        inverse_length=rng.uniform(0.2, 0.6, features.shape[1]).astype(np.float32) / spread,
        weights=rng.normal(size=len(features)),
    )


@pytest.fixture
def model(crystals):
    network = seeded(SMALL, 0)
    references = References.given(dict.fromkeys(SPECIES, -5.0))
    model = Model(network, Label("energy"), references, 0.5, SPECIES)
    return replace(model, process=process_on(model.features(build_graphs(crystals, 5.0))))


def test_mean_is_that_of_scikit_learns_kernel(model, crystals):
    features = model.features(model.graphs(crystals))[:20] + 0.01
    process = model.process
    kernel = Matern(nu=2.5)(features * process.inverse_length, process.centres * process.inverse_length)
    np.testing.assert_allclose(process(features), kernel @ process.weights, rtol=1e-6)
    in_torch = process.differentiable(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(in_torch, kernel @ process.weights, rtol=1e-6)


def test_features_of_compiled_code_are_those_of_torch(crystals):
    network = seeded(SMALL, 3)
    model = Model(network, Label("energy"), References.none(), 1.0, SPECIES)
    graphs = model.graphs(crystals)
    with torch.no_grad():
        in_torch = network.features(graphs.batch(np.arange(len(graphs)))).numpy()
    assert in_torch.shape == (len(crystals), SMALL.interactions * SMALL.features)
    np.testing.assert_allclose(model.features(graphs), in_torch, rtol=1e-4, atol=1e-5)


def test_a_structure_gets_the_same_number_alone_and_among_others(model, crystals):
    together = model.predict(crystals).per_atom
    alone = [float(model.predict(crystals.atoms(k)).per_atom[0]) for k in range(0, 60, 7)]
    np.testing.assert_array_equal(together[::7], alone)


def test_supercells_have_the_same_value_per_atom(model, crystals):
    cell = crystals.atoms(3)
    both = model.predict([cell, cell.repeat((2, 1, 2))]).per_atom
    assert both[0] == pytest.approx(both[1], abs=1e-5)


def test_forces_are_minus_the_slope_of_the_energy(model, crystals):
    model.network.double()
    model.network.spacing = None
    atoms = crystals.atoms(1)
    found = model.forces(atoms)
    assert found.energies[0] == pytest.approx(model.predict(atoms).values[0], abs=1e-5)
    step = 1e-4
    for k, axis in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[k, axis] += sign * step
            energies.append(model.forces(moved).energies[0])
        slope = (energies[0] - energies[1]) / (2 * step)
        assert found.forces[0][k, axis] == pytest.approx(-slope, rel=1e-5, abs=1e-7)


def test_saved_and_loaded(model, crystals, tmp_path):
    loaded = load_model(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(crystals).values, model.predict(crystals).values)
    assert loaded.content_hash() == model.content_hash() != replace(model, process=None).content_hash()


def test_a_model_without_its_network_has_references_and_process_alone(model, crystals):
    quiet = replace(model, scale=0.0)
    dataset = Dataset.from_atoms(list(crystals))
    expected = -5.0 + model.process(model.features(model.graphs(dataset)))
    np.testing.assert_allclose(quiet.predict(dataset).per_atom, expected)


def test_is_no_source_for_its_process_would_be_lost(model, tmp_path):
    folder = model.save(tmp_path / "model")
    with pytest.raises(InputError, match="Gaussian process on its features cannot be a source"):
        load_source(folder)
