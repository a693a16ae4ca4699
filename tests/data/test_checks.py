from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from matgraft.data import Dataset, Label, catalogue
from matgraft.data.checks import check_label, check_structures
from matgraft.data.formats.npz import read_npz
from matgraft.errors import InputError


def refused(ds: Dataset, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_structures(ds)
    for word in ("salts", *words):
        assert word in str(caught.value)


def with_atoms(dataset: Dataset, atoms: Atoms) -> Dataset:
    return Dataset.from_atoms([*dataset, atoms], ids=[*dataset.ids, "odd"], source="salts")


def test_good_structures_pass(dataset):
    check_structures(dataset)


def test_molecule_without_cell_passes():
    check_structures(Dataset.from_atoms([molecule("H2O"), molecule("H2"), Atoms("He")]))


def test_slab_without_third_vector_passes():
    slab = bulk("Cu", cubic=True)
    slab.cell[2] = 0
    slab.pbc = (True, True, False)
    check_structures(Dataset.from_atoms([slab]))


def test_empty_set(dataset):
    refused(dataset[[]], "no structures")


def test_structure_without_atoms(dataset):
    refused(with_atoms(dataset, Atoms(cell=[3, 3, 3], pbc=True)), "odd", "no atoms")


def test_repeated_ids(dataset):
    refused(replace(dataset, ids=np.array(["a", "b", "a"])), "more than once: a")


@pytest.mark.parametrize("number", [0, 119, 200])
def test_unknown_species(dataset, number):
    numbers = dataset.numbers.copy()
    numbers[3] = number
    refused(replace(dataset, numbers=numbers), "mp 7", "unknown species", str(number))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinate_not_finite(dataset, value):
    positions = dataset.positions.copy()
    positions[-1, 1] = value
    refused(replace(dataset, positions=positions), dataset.ids[2], "NaN or infinite")


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_cell_not_finite(dataset, value):
    cells = dataset.cells.copy()
    cells[1, 0, 0] = value
    refused(replace(dataset, cells=cells), "mp 7", "NaN or infinite")


@pytest.mark.parametrize(
    "cell",
    [np.zeros((3, 3)), np.diag([4.0, 4.0, 0.0]), [[4.0, 0, 0], [0, 4, 0], [4, 4, 0]], np.diag([4, 4, 0.01])],
)
def test_singular_cell(dataset, cell):
    refused(with_atoms(dataset, Atoms("Fe", cell=cell, pbc=True)), "odd", "singular cell")


def test_periodic_direction_without_extent_beside_one_that_is_not_periodic(dataset):
    odd = Atoms("Fe", cell=[[0, 0, 0], [0, 0, 0], [0, 0, 5]], pbc=(True, False, True))
    refused(with_atoms(dataset, odd), "odd", "singular cell")


def test_overlap(dataset):
    atoms = Atoms("FeO", [[0, 0, 0], [0.3, 0.2, 0]], cell=[4, 4, 4], pbc=True)
    refused(with_atoms(dataset, atoms), "odd", "0 Fe", "1 O", "0.36 Angstrom")


def test_of_two_overlaps_the_nearest_is_told(dataset):
    places = [[0, 0, 0], [0.2, 0, 0], [2, 2, 0], [2, 2.3, 0]]
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        atoms = Atoms("Fe4", [places[k] for k in order], cell=[5, 5, 5], pbc=True)
        refused(with_atoms(dataset, atoms), "0.20 Angstrom")


def test_overlap_through_a_periodic_face(dataset):
    cell = [[4, 0, 0], [9, 4, 0], [1, 30, 5]]
    atoms = Atoms("FeO", scaled_positions=[[0.01, 0.5, 0.5], [0.99, 0.5, 0.5]], cell=cell, pbc=True)
    refused(with_atoms(dataset, atoms), "odd", "0.08 Angstrom")
    atoms.pbc = False
    check_structures(Dataset.from_atoms([atoms]))


def test_overlap_with_own_image(dataset):
    cell = [[4, 0, 0], [4, 0.3, 0], [0, 0, 4]]
    refused(with_atoms(dataset, Atoms("Fe", cell=cell, pbc=True)), "0 Fe and 0 Fe", "0.30 Angstrom")


def test_atom_outside_the_cell(dataset):
    atoms = Atoms("FeO", [[0, 0, 0], [12.1, -8, 4]], cell=[4, 4, 4], pbc=True)
    refused(with_atoms(dataset, atoms), "0.10 Angstrom")


def test_hydrogen_may_come_closer():
    check_structures(Dataset.from_atoms([Atoms("OH", [[0, 0, 0], [0.45, 0, 0]], cell=[4, 4, 4], pbc=True)]))


def test_overlaps_agree_with_ase_neighbour_list():
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(40):
        cell = rng.normal(size=(3, 3)) * 3
        atoms = Atoms("Fe6", rng.normal(size=(6, 3)) * 3, cell=cell, pbc=rng.random(3) < 0.7)
        ds = Dataset.from_atoms([atoms])
        heights = abs(np.linalg.det(cell)) / np.linalg.norm(
            np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1
        )
        if heights.min() < 1:
            continue
        overlapping = len(neighbor_list("i", atoms, 0.5)) > 0
        outcomes.append(overlapping)
        if overlapping:
            with pytest.raises(InputError, match="overlap"):
                check_structures(ds)
        else:
            check_structures(ds)
    assert 5 < sum(outcomes) < len(outcomes) - 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_label_not_finite(dataset, value):
    bad = dataset.with_label("energy", [-1.0, value, -2.0])
    with pytest.raises(InputError, match=r"salts: structure mp 7: label 'energy' is NaN or infinite"):
        check_label(bad, "energy")


def test_missing_label_lists_those_that_exist(dataset):
    with pytest.raises(InputError, match=r"no label named 'volume'. Labels here: energy, gap"):
        check_label(dataset, "volume")


@pytest.fixture(scope="module")
def oxides() -> Dataset:
    return catalogue.load("tmo-oxides")


@pytest.mark.parametrize("size", [40, 200, 663])
def test_energy_per_atom_stated_per_cell(oxides, size):
    part = oxides[np.random.default_rng(0).choice(663, size, replace=False)]
    wrong = part.with_label("energy", part.values("energy") / part.natoms, Label("energy", kind="cell"))
    with pytest.raises(InputError, match="looks like a value per atom") as caught:
        check_label(wrong, "energy")
    assert "--label-kind atom (or cell|atom|intensive)" in str(caught.value)
    assert "--no-label-check" in str(caught.value)
    assert "tmo-oxides" in str(caught.value)


@pytest.mark.parametrize("size", [40, 200, 663])
def test_energy_per_cell_stated_per_atom(oxides, size):
    part = oxides[np.random.default_rng(0).choice(663, size, replace=False)]
    wrong = part.with_label("energy", part.values("energy"), Label("energy", "eV/atom", "atom"))
    with pytest.raises(InputError, match=r"looks like a value per cell.*--label-kind cell"):
        check_label(wrong, "energy")


@pytest.mark.parametrize(
    "stray", [lambda y: 27.2 * y, lambda y: -y, lambda y: y + 1e4], ids=["unit", "sign", "far"]
)
@pytest.mark.parametrize("kind", ["cell", "atom"])
def test_one_stray_label_changes_no_verdict(oxides, kind, stray):
    for seed in range(10):
        part = oxides[np.random.default_rng(seed).choice(663, 30, replace=False)]
        cell, atom = part.values("energy").copy(), part.values("energy") / part.natoms
        cell[seed], atom[seed] = stray(cell[seed]), stray(atom[seed])
        right, wrong = (cell, atom) if kind == "cell" else (atom, cell)
        label = Label("energy", "eV" if kind == "cell" else "eV/atom", kind)
        check_label(part.with_label("energy", right, label), "energy")
        with pytest.raises(InputError, match="looks like a value per"):
            check_label(part.with_label("energy", wrong, label), "energy")


def test_stated_intensive_labels_are_left_alone_and_guessed_ones_are_not(oxides):
    check_label(oxides.with_label("x", oxides.values("energy"), Label("x", "GPa", "intensive")), "x")
    check_label(oxides.with_label("x", oxides.values("energy") / oxides.natoms), "x")
    with pytest.raises(InputError, match=r"does not depend on size.*--label-kind cell"):
        check_label(oxides.with_label("x", oxides.values("energy")), "x")


def test_silent_where_the_set_says_nothing(oxides):
    per_atom = oxides.with_label("energy", oxides.values("energy") / oxides.natoms, Label("energy"))
    check_label(per_atom[:19], "energy")
    check_label(per_atom[np.flatnonzero(oxides.natoms == 28)], "energy")


def no_false_alarm(ds: Dataset, repeats: int) -> None:
    rng = np.random.default_rng(0)
    for name, spec in ds.specs.items():
        known = np.flatnonzero(np.isfinite(ds.labels[name]))
        check_label(ds[known], name)
        for _ in range(repeats if spec.kind != "intensive" else 0):
            check_label(ds[rng.choice(known, 40, replace=False)], name)


def test_no_false_alarm_on_shipped_set(oxides):
    no_false_alarm(oxides, 30)


@pytest.mark.parametrize("file", ["tio2_qe_pbe", "jarvis_oxides_optb88", "mp_source"])
def test_no_false_alarm_on_large_sets(file, shared):
    path = shared / f"{file}.npz"
    ds = read_npz(path, catalogue.labels_of(path.name))
    check_structures(ds)
    # Copies of all sixty thousand for each draw would dominate the time.
    no_false_alarm(ds if len(ds) < 10000 else ds[::12], 15)
