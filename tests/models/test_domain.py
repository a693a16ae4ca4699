"""The applicability domain of a source: against principal components and distances in double precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from sklearn.decomposition import PCA
from small import SMALL, seeded

from matgraft.data import Dataset, Label
from matgraft.errors import InputError
from matgraft.models.blend import Blend
from matgraft.models.domain import AXES, LANDMARKS, Domain
from matgraft.models.files import load_model, shipped_models
from matgraft.models.model import Model
from matgraft.models.references import References


@pytest.fixture
def features() -> np.ndarray:
    """Two clouds in a hundred dimensions, half of which hardly vary."""
    clouds = np.random.default_rng(0).normal(size=(3000, 100)) * np.geomspace(3.0, 1e-3, 100)
    clouds[::2, :5] += 20.0
    return clouds


def test_distances_are_those_to_the_nearest_landmark_along_principal_components(features):
    learnt, held, asked = features[:2000], features[2000:2500], features[2500:] * 1.5
    domain = Domain.of(learnt, held)
    axes = PCA(AXES, svd_solver="full").fit(learnt)
    landmarks = axes.transform(learnt[:LANDMARKS])

    def nearest(some: np.ndarray) -> np.ndarray:
        away = axes.transform(some)[:, None] - landmarks
        return np.sqrt((away**2).sum(axis=2)).min(axis=1)

    expected = nearest(asked) / np.quantile(nearest(held), 0.99)
    np.testing.assert_allclose(domain.strangeness(asked), expected, rtol=1e-4)
    assert (domain.strangeness(held) > 1).mean() == pytest.approx(0.01, abs=0.003)


def test_between_two_clouds_is_outside(features):
    domain = Domain.of(features[:2000], features[2000:])
    between = features[2001::2].copy()
    between[:, :5] += 10.0
    assert domain.strangeness(between).min() > 1


def test_the_answer_for_one_does_not_depend_on_the_others(features):
    domain = Domain.of(features[:2000], features[2000:])
    alone = [domain.strangeness(row[None])[0] for row in features[2000:2040]]
    assert alone == domain.strangeness(features[2000:2040]).tolist()


def test_features_that_are_no_numbers_are_infinitely_far(features):
    domain = Domain.of(features[:200], features[2000:])
    bad = features[:4].copy()
    bad[0, 3], bad[1, 3], bad[2, 3] = np.nan, np.inf, -1e30
    assert np.isinf(domain.strangeness(bad)).tolist() == [True, True, True, False]


def test_few_crystals_and_twins_span_a_domain():
    same = np.ones((12, 40))
    domain = Domain.of(same, same)
    assert domain.strangeness(same).tolist() == [0.0] * 12
    assert domain.strangeness(same + 1.0).min() > 1


def test_is_kept_beside_the_model_and_decides_no_value(features, tmp_path, crystals):
    references = References.given({"O": -4.0, "Ti": -5.0, "V": -5.0, "Fe": -5.0})
    plain = Model(seeded(SMALL, 0), Label("energy"), references, 0.5, frozenset({"O", "Ti", "V", "Fe"}))
    of_crystals = plain.features(plain.graphs(crystals))
    model = replace(plain, domain=Domain.of(of_crystals[:40], of_crystals[40:]))
    loaded = load_model(model.save(tmp_path / "model"))
    assert loaded.bounds_hash() == model.bounds_hash() != plain.bounds_hash()
    assert loaded.content_hash() == plain.content_hash()
    found, before = loaded.predict(crystals), plain.predict(crystals)
    assert before.strangeness is None
    np.testing.assert_array_equal(found.values, before.values)
    np.testing.assert_array_equal(found.strangeness, model.domain.strangeness(of_crystals))
    assert found.half_width is None
    assert np.isinf(model.predict(Atoms("OTi", positions=[[0, 0, 0], [0, 0, 30]])).strangeness).all()
    assert Blend((model, model), (0.5, 0.5)).predict(crystals).strangeness is None
    (tmp_path / "model" / "domain.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"domain\.safetensors: damaged"):
        load_model(tmp_path / "model")
    plain.save(tmp_path / "model")
    assert load_model(tmp_path / "model").domain is None


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_shipped_sources_know_crystals_from_squeezed_ones(name):
    model = load_model(name)
    crystals = (
        ("Si", "diamond", 5.43),
        ("Fe", "bcc", 2.83),
        ("MgO", "rocksalt", 4.21),
        ("NaCl", "rocksalt", 5.64),
    )

    def strangeness(scale: float) -> np.ndarray:
        atoms = [bulk(formula, structure, a=scale * a) for formula, structure, a in crystals]
        return model.predict(Dataset.from_atoms(atoms)).strangeness

    assert strangeness(1.0).max() < 1.5
    assert strangeness(0.7).min() > 2
