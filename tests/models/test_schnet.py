"""SchNet against the study's equations, written out in numpy, and against its symmetries."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from small import seeded

from matgraft.data import Dataset
from matgraft.graphs import build_graphs
from matgraft.models.radial import GaussianBasis, cosine_cutoff
from matgraft.models.schnet import ARCHITECTURES, Architecture, SchNet, ShiftedSoftplus

CUTOFF = 5.0
FEW = settings(max_examples=8, deadline=None, derandomize=True)


def rutile() -> Atoms:
    cell = [4.594, 4.594, 2.959, 90, 90, 90]
    return crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=cell)


def structures() -> dict[str, Atoms]:
    rng = np.random.default_rng(9)
    rattled = bulk("FeO", "rocksalt", a=4.33, cubic=True)
    rattled.positions += rng.normal(0, 0.1, rattled.positions.shape)
    skewed = Atoms(
        "VO2",
        positions=[[0.1, 0, 0], [1.9, 0.2, 0.3], [0.3, 1.6, 1.4]],
        cell=[[2.4, 0, 0], [4.4, 2.6, 0], [-5.1, 3.9, 3.1]],
        pbc=True,
    )
    slab = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    slab.pbc = (True, True, False)
    return {
        "rutile": rutile(),
        "rock salt": bulk("MgO", "rocksalt", a=4.21),
        "rattled": rattled,
        "skewed": skewed,
        "tiny": Atoms("Cu", cell=[[1.6, 0, 0], [0.3, 1.7, 0], [0.2, -0.4, 1.8]], pbc=True),
        "slab": slab,
        "molecule": Atoms("OH2", positions=[[0, 0, 0.1], [0.76, 0, -0.47], [-0.76, 0, -0.47]]),
        "outside": Atoms(
            "CoO", positions=[[9.0, -7.0, 0.2], [1.5, 1.4, 12.0]], cell=np.eye(3) * 3.4, pbc=True
        ),
        "isolated": Atoms("NiO", positions=[[0, 0, 0], [0, 0, 9.0]], cell=np.eye(3) * 18, pbc=True),
    }


STRUCTURES = structures()
CRYSTALS = ["rutile", "rattled", "skewed"]


def network(
    name: str = "arch2", radial: str = "compact", pooling: str = "mean", spacing: float | None = None
) -> SchNet:
    """A seeded network.

    Neighbours count for less than in a fresh network: an atom of the tiny cells has a hundred of them, and
    energies of thousands would leave no digits to compare.
    """
    arch = replace(ARCHITECTURES[name], cutoff=CUTOFF, radial=radial, pooling=pooling)
    model = seeded(arch, seed=13)
    for interaction in model.interactions:
        interaction.atomwise_in.weight.data *= 0.3
    model.spacing = spacing
    return model


def energies(model: SchNet, structures: list[Atoms], merge_equivalent: bool = True) -> np.ndarray:
    graphs = build_graphs(Dataset.from_atoms(structures), CUTOFF, merge_equivalent)
    with torch.no_grad():
        return model(graphs.batch(np.arange(len(structures)))).numpy()


# ------------------------------------------------------------------ the equations, in float64


def images_within(atoms: Atoms) -> list[tuple[int, int, float]]:
    """Every (i, j, distance) below the cutoff, found by trying more than enough lattice translations."""
    vectors = atoms.cell.array[atoms.pbc]
    spread = np.ptp(atoms.positions, axis=0)
    radius = CUTOFF + np.linalg.norm(spread)
    # Rows of the pseudo-inverse are the reciprocal vectors: one over the distance of lattice planes.
    reciprocal = np.linalg.pinv(vectors).T if len(vectors) else []
    counts = [int(np.ceil(radius * np.linalg.norm(vector))) for vector in reciprocal]
    shifts = np.array(list(product(*(range(-n, n + 1) for n in counts))), dtype=float) @ vectors
    found = []
    for i, j in product(range(len(atoms)), repeat=2):
        d = np.linalg.norm(atoms.positions[j] + shifts - atoms.positions[i], axis=1)
        found += [(i, j, r) for r in d if 1e-12 < r < CUTOFF]
    return found


def ssp(x: np.ndarray) -> np.ndarray:
    return np.log(0.5 * np.exp(x) + 0.5)  # eq. (20)


def radial_basis(d: np.ndarray, radial: str) -> np.ndarray:
    """eq. (16)"""
    if radial == "published":
        centres, gamma = 0.1 * np.arange(301), 10.0
    else:
        centres = CUTOFF * np.arange(50) / 49
        gamma = 1 / (2 * (CUTOFF / 49) ** 2)
    return np.exp(-gamma * (d[:, None] - centres) ** 2)


def by_the_equations(model: SchNet, atoms: Atoms) -> float:
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    edges = images_within(atoms)
    d = np.array([r for _, _, r in edges])
    basis = radial_basis(d, model.arch.radial)
    smooth = 0.5 * (1 + np.cos(np.pi * d / CUTOFF))
    x = w["embedding.weight"][atoms.numbers]  # eq. (17)
    for t in range(model.arch.interactions):
        block = f"interactions.{t}"
        y = dense(x, f"{block}.atomwise_in")  # eq. (19)
        hidden = ssp(dense(basis, f"{block}.filter.dense.0"))
        filters = dense(hidden, f"{block}.filter.dense.2") * smooth[:, None]
        sums = np.zeros_like(y)
        for (i, j, _), filter_ in zip(edges, filters, strict=True):
            sums[i] += y[j] * filter_  # eq. (15)
        x = x + dense(ssp(dense(sums, f"{block}.atomwise_out.0")), f"{block}.atomwise_out.2")  # eq. (18)
    per_atom = dense(ssp(dense(x, "output.0")), "output.2")[:, 0]
    return per_atom.mean() if model.arch.pooling == "mean" else per_atom.sum()  # eq. (21)


@pytest.mark.parametrize("radial", ["compact", "published"])
@pytest.mark.parametrize("name", ["arch1", "arch2"])
def test_energy_by_the_equations(name, radial):
    expected = np.array([by_the_equations(network(name, radial), atoms) for atoms in STRUCTURES.values()])
    assert np.ptp(expected) > 0.1
    for merge in (True, False):
        for spacing, bound in ((None, 1e-5), (0.01, 1e-5), (0.02, 3e-5)):
            got = energies(network(name, radial, spacing=spacing), list(STRUCTURES.values()), merge)
            np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def test_sum_pooling_by_the_equations():
    model = network(pooling="sum")
    for atoms in STRUCTURES.values():
        expected = by_the_equations(model, atoms)
        for merge in (True, False):
            assert energies(model, [atoms], merge)[0] == pytest.approx(expected, abs=1e-5 * len(atoms))


def test_in_float64_only_the_stored_distances_are_rounded():
    model = network("arch1").double()
    graphs = build_graphs(Dataset.from_atoms(list(STRUCTURES.values())), CUTOFF)
    with torch.no_grad():
        got = model(graphs.batch(np.arange(len(STRUCTURES))).to(dtype=torch.float64)).numpy()
    expected = [by_the_equations(model, atoms) for atoms in STRUCTURES.values()]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


# ------------------------------------------------------------------ symmetries


@pytest.mark.parametrize("spacing", [None, 0.02])
def test_merging_changes_nothing(spacing):
    for name in ("arch1", "arch2"):
        model = network(name, spacing=spacing)
        crystals = [atoms.repeat(r) for atoms in STRUCTURES.values() for r in ((1, 1, 1), atoms.pbc + 1)]
        np.testing.assert_allclose(
            energies(model, crystals, True), energies(model, crystals, False), atol=1e-5
        )


@pytest.mark.parametrize("spacing", [None, 0.02])
def test_batching_changes_nothing(spacing):
    model = network(spacing=spacing)
    everything = list(STRUCTURES.values())
    alone = [energies(model, [atoms])[0] for atoms in everything]
    np.testing.assert_allclose(energies(model, everything), alone, atol=2e-6)
    np.testing.assert_allclose(energies(model, everything[::-1])[::-1], alone, atol=2e-6)


@pytest.mark.parametrize("merge", [True, False])
@FEW
@given(name=st.sampled_from(CRYSTALS), data=st.data())
def test_permutation(merge, name, data):
    atoms = STRUCTURES[name]
    order = data.draw(st.permutations(range(len(atoms))))
    before, after = energies(network(), [atoms, atoms[order]], merge)
    assert after == pytest.approx(before, abs=2e-6)


@FEW
@given(name=st.sampled_from(CRYSTALS), seed=st.integers(0, 1000), mirror=st.booleans())
def test_rotation_and_reflection(name, seed, mirror):
    atoms = STRUCTURES[name].copy()
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix() * (-1 if mirror else 1)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn)
    turned.set_positions(atoms.positions @ turn)
    before, after = energies(network(spacing=0.02), [atoms, turned])
    assert after == pytest.approx(before, abs=2e-6)


@FEW
@given(
    name=st.sampled_from(CRYSTALS),
    by=st.tuples(*[st.floats(-30, 30)] * 3),
    images=st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=12, max_size=12),
)
def test_translation_of_all_atoms_and_of_single_ones_by_lattice_vectors(name, by, images):
    atoms = STRUCTURES[name]
    moved = atoms.copy()
    moved.positions += np.array(by) + np.array(images[: len(atoms)]) @ atoms.cell.array
    before, after = energies(network(spacing=0.02), [atoms, moved])
    assert after == pytest.approx(before, abs=2e-6)


@FEW
@given(name=st.sampled_from(CRYSTALS), shear=st.tuples(*[st.integers(-2, 2)] * 3))
def test_choice_of_lattice_vectors(name, shear):
    atoms = STRUCTURES[name]
    other = atoms.copy()
    mix = np.eye(3)
    mix[1, 0], mix[2, 0], mix[2, 1] = shear
    other.set_cell(mix @ atoms.cell.array)
    before, after = energies(network(spacing=0.02), [atoms, other])
    assert after == pytest.approx(before, abs=2e-6)


@pytest.mark.parametrize("merge", [True, False])
@FEW
@given(name=st.sampled_from(CRYSTALS), repeat=st.tuples(*[st.integers(1, 2)] * 3))
def test_supercell(merge, name, repeat):
    atoms = STRUCTURES[name]
    pair = [atoms, atoms.repeat(repeat)]
    mean = energies(network(pooling="mean"), pair, merge)
    assert mean[1] == pytest.approx(mean[0], abs=3e-6)
    total = energies(network(pooling="sum"), pair, merge)
    assert total[1] == pytest.approx(np.prod(repeat) * total[0], abs=3e-6 * len(pair[1]))
    assert total[0] == pytest.approx(len(atoms) * mean[0], abs=3e-6 * len(atoms))


def test_energy_is_continuous_where_a_neighbour_enters():
    dimers = [Atoms("TiO", positions=[[0, 0, 0], [0, 0, CUTOFF + by]]) for by in (-1e-4, 1e-4)]
    for spacing in (None, 0.02):
        inside, beyond = energies(network(spacing=spacing), dimers)
        assert inside == pytest.approx(beyond, abs=1e-6)


def test_gradients_do_not_depend_on_merging():
    crystals = [STRUCTURES["rutile"].repeat((2, 1, 1)), STRUCTURES["rattled"], STRUCTURES["isolated"]]
    model = network(spacing=0.02)
    gradients = []
    for merge in (True, False):
        batch = build_graphs(Dataset.from_atoms(crystals), CUTOFF, merge).batch(np.arange(3))
        gradients.append(torch.autograd.grad(model(batch).square().sum(), list(model.parameters())))
    for merged, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ parts


def test_structures_without_pairs_depend_on_species_alone():
    lone = [Atoms("He"), Atoms("He", cell=np.eye(3) * 11, pbc=True), Atoms("Ne")]
    for spacing in (None, 0.02):
        model = network(spacing=spacing)
        got = energies(model, lone)
        assert got[0] == pytest.approx(got[1], abs=1e-6)
        assert got[0] != pytest.approx(got[2], abs=1e-2)
        batch = build_graphs(Dataset.from_atoms(lone), CUTOFF).batch(np.arange(3))
        torch.autograd.grad(model(batch).sum(), list(model.parameters()), allow_unused=True)


def test_published_radial_basis():
    basis = GaussianBasis.published()
    assert len(basis) == 301
    assert basis.gamma == 10.0
    np.testing.assert_allclose(basis.centres.numpy(), np.arange(301) * 0.1, atol=2e-6)
    d = np.array([0.0, 1.234, 4.999, 30.0])
    values = basis(torch.tensor(d, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(values, radial_basis(d, "published"), atol=1e-5)


def test_compact_radial_basis_is_as_wide_as_its_centres_are_apart():
    basis = GaussianBasis.compact(CUTOFF)
    assert len(basis) == 50
    assert basis.centres[0] == 0.0
    assert basis.centres[-1] == CUTOFF
    d = np.linspace(0, CUTOFF, 7)
    np.testing.assert_allclose(
        basis(torch.tensor(d, dtype=torch.float32)).numpy(), radial_basis(d, "compact"), atol=1e-5
    )
    assert basis(basis.centres[:1])[0, 1].item() == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_cosine_cutoff():
    values = cosine_cutoff(torch.tensor([0.0, 2.5, 5.0], dtype=torch.float64), CUTOFF)
    np.testing.assert_allclose(values.numpy(), [1.0, 0.5, 0.0], atol=1e-15)


def test_shifted_softplus_is_eq_20():
    act = ShiftedSoftplus()
    assert act(torch.zeros(1)).item() == 0.0
    x = torch.linspace(-20, 20, 81, dtype=torch.float64)
    np.testing.assert_allclose(act(x).numpy(), ssp(x.numpy()), rtol=0, atol=1e-12)


def test_sizes_of_the_two_architectures():
    for name, (interactions, width) in {"arch1": (6, 128), "arch2": (4, 30)}.items():
        model = SchNet(ARCHITECTURES[name])
        assert len(model.interactions) == interactions
        assert model.embedding.weight.shape == (119, width)
        assert model.interactions[0].filter.dense[0].weight.shape == (width, 50)
        assert model.interactions[0].atomwise_in.bias is None
        assert model.output[0].weight.shape == (width // 2, width)
        published = SchNet(Architecture(interactions, width, width, radial="published"))
        assert published.interactions[0].filter.dense[0].weight.shape == (width, 301)


def test_radial_basis_is_not_part_of_the_weights():
    assert not [name for name in SchNet(ARCHITECTURES["arch2"]).state_dict() if "centres" in name]
