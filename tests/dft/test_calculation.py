"""From structures to input files: what decides a label is in the key, and in the file that pw.x reads."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from ase.io import read
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from matgraft.dft import calculation as module
from matgraft.dft.calculation import (
    FEW,
    LADDER,
    MOMENTS,
    MOST_SPECIES,
    SHELLS,
    Calculation,
    Unfit,
    alternating,
    grouped,
    key_of,
)
from matgraft.dft.protocols import Protocol
from matgraft.dft.pseudopotentials import library
from matgraft.errors import InputError

PLAIN = Protocol(name="plain", ecutwfc=40, kspacing=0.5)
AFM = PLAIN.changed(order="antiferromagnetic")
SALT = bulk("MnO", "rocksalt", a=4.44)


def of(atoms: Atoms, protocol: Protocol = PLAIN) -> Calculation:
    return Calculation.of(atoms, protocol, library())


def namelists(deck: str) -> dict[str, str]:
    """Every ``key = value`` of an input file."""
    pairs = [line.split("=") for line in deck.splitlines() if "=" in line]
    return {key.strip(): value.strip().strip("'") for key, value in pairs}


def card(deck: str, name: str, n: int) -> list[list[str]]:
    """The first lines after the name of a card, as words."""
    return [line.split() for line in deck[deck.index(name) :].splitlines()[1 : n + 1]]


def distorted(seed: int = 0) -> Atoms:
    """A triclinic oxide of no symmetry."""
    rng = np.random.default_rng(seed)
    atoms = bulk("TiO", "rocksalt", a=4.2).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell.array + rng.normal(0, 0.2, (3, 3)), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


# ------------------------------------------------------------------------------------------------- deck


@pytest.mark.parametrize("atoms", [bulk("Si", a=5.43), SALT, distorted()], ids=["Si2", "MnO", "Ti2O2"])
def test_the_input_file_holds_the_structure(atoms):
    again = read(io.StringIO(of(atoms).deck()), format="espresso-in")
    assert again.get_chemical_symbols() == atoms.get_chemical_symbols()
    assert again.pbc.all()
    np.testing.assert_allclose(again.cell.cellpar(), atoms.cell.cellpar(), atol=1e-8)
    distances = [one.get_all_distances(mic=True, vector=False) for one in (again, atoms)]
    np.testing.assert_allclose(*distances, atol=1e-8)
    assert again.get_volume() == pytest.approx(atoms.get_volume())


def test_the_input_file_holds_the_settings():
    protocol = PLAIN.changed(smearing="fd", degauss=0.02, conv_thr=1e-8, forces=True)
    deck = of(SALT, protocol).deck(max_seconds=90)
    said = namelists(deck)
    assert float(said["ecutwfc"]) == 40
    assert float(said["ecutrho"]) == 160
    assert float(said["degauss"]) == 0.02
    # Per atom in the protocol, per cell in pw.x.
    assert float(said["conv_thr"]) == pytest.approx(2e-8)
    assert float(said["max_seconds"]) == 90
    assert (said["occupations"], said["smearing"]) == ("smearing", "fd")
    assert (said["calculation"], said["tprnfor"], said["disk_io"]) == ("scf", ".true.", "none")
    assert (said["nat"], said["ntyp"], said["nspin"]) == ("2", "2", "2")
    assert card(deck, "K_POINTS automatic", 1) == [["5", "5", "5", "0", "0", "0"]]
    assert [line[::2] for line in card(deck, "ATOMIC_SPECIES", 2)] == [["Mn", "Mn.upf"], ["O", "O.upf"]]
    assert "max_seconds" not in of(SALT).deck()
    assert namelists(of(SALT).deck())["tprnfor"] == ".false."


def test_moments_are_shares_of_the_valence_electrons():
    said = namelists(of(SALT).deck())
    assert float(said["starting_magnetization(1)"]) == pytest.approx(4 / 15)
    assert float(said["starting_magnetization(2)"]) == 0
    huge = bulk("Fe", "bcc", a=2.87)
    huge.set_initial_magnetic_moments([99.0])
    assert float(namelists(of(huge).deck())["starting_magnetization(1)"]) == 1
    assert namelists(of(bulk("Si", a=5.43)).deck())["nspin"] == "1"


def test_sublattices_are_species_of_their_own():
    one = of(SALT.repeat((2, 2, 1)), AFM)
    deck = one.deck()
    said = namelists(deck)
    assert said["ntyp"] == "3"
    species = [line[0] for line in card(deck, "ATOMIC_SPECIES", 3)]
    shares = {name: float(said[f"starting_magnetization({i})"]) for i, name in enumerate(species, 1)}
    found = [shares[line[0]] for line in card(deck, "ATOMIC_POSITIONS", 8)]
    np.testing.assert_allclose(found, one.moments / np.where(one.numbers == 8, 6, 15))


def test_steps_of_the_ladder_change_no_label():
    decks = [namelists(of(SALT).deck(rung)) for rung in range(len(LADDER))]
    changed = {key for deck in decks for key in deck if deck[key] != decks[0].get(key)}
    assert changed <= {"mixing_beta", "mixing_mode", "mixing_ndim", "electron_maxstep", "diagonalization"}
    assert len({tuple(sorted(deck.items())) for deck in decks}) == len(LADDER)


def test_a_wide_smearing_leaves_its_density_and_the_next_starts_from_it():
    wide = namelists(of(SALT).deck(3, degauss=0.05, keep=True))
    assert (float(wide["degauss"]), wide["disk_io"], wide.get("startingpot")) == (0.05, "low", None)
    narrow = namelists(of(SALT).deck(3, start=True))
    assert (float(narrow["degauss"]), narrow["disk_io"], narrow["startingpot"]) == (0.015, "low", "file")


def test_hubbard_parameters_of_each_species():
    protocol = AFM.changed(hubbard_u={"Mn": 4.0, "O": 0.0, "Fe": 5.3, "Si": 1.0})
    deck = of(SALT.repeat((2, 1, 1)), protocol).deck()
    assert card(deck, "HUBBARD ortho-atomic", 3) == [["U", "Mn-3d", "4"], ["U", "Mn1-3d", "4"]]
    assert "HUBBARD" not in of(bulk("Si", a=5.43), PLAIN.changed(hubbard_u={"Fe": 4.0})).deck()
    assert {element: SHELLS[atomic_numbers[element]] for element in ("Ti", "Mo", "W", "Ce", "U", "O")} == {
        "Ti": "3d", "Mo": "4d", "W": "5d", "Ce": "4f", "U": "5f", "O": "2p",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- key


def test_keys_never_change():
    """Labels are found by them: whoever changes this value gives up every label that was made before."""
    assert of(SALT).key == "e8353083b589ec92517761df8c2e5cff"
    rich = AFM.changed(name="rich", smearing="cold", degauss=0.01, hubbard_u={"Mn": 4.0}, forces=True)
    assert of(SALT.repeat((1, 1, 2)), rich).key == "66e7e0687602f843e6f45138b3b27230"


def test_the_key_is_blind_to_what_decides_nothing():
    key = of(SALT).key
    moved = SALT.copy()
    moved.positions += 1e-7
    moved.info, moved.arrays["tags"] = {"id": "mp-1"}, np.array([1, 2])
    assert of(moved).key == key
    assert of(SALT, PLAIN.changed(name="other")).key == key
    # A default that is written out is still the default.
    assert of(SALT, PLAIN.changed(degauss=0.015, hubbard_u={}, forces=False)).key == key
    own = SALT.copy()
    own.set_initial_magnetic_moments([MOMENTS["Mn"], 0])
    assert of(own).key == key


def test_the_key_changes_with_all_that_decides():
    base = of(SALT)
    protocols = [
        PLAIN.changed(**change)
        for change in (
            {"ecutwfc": 41}, {"kspacing": 0.4}, {"smearing": "fd"}, {"degauss": 0.02}, {"conv_thr": 1e-8},
            {"order": "none"}, {"hubbard_u": {"Mn": 4.0}}, {"hubbard_u": {"Mn": 4.1}}, {"forces": True},
        )
    ]  # fmt: skip
    keys = [key_of(base.atoms, protocol, base.moments, base.hashes) for protocol in protocols]
    moved, grown, other = SALT.copy(), SALT.copy(), SALT.copy()
    moved.positions[1, 2] += 1e-4
    grown.set_cell(grown.cell.array * 1.0001)
    other.numbers[0] = 26
    swapped = SALT[[1, 0]]
    up = SALT.copy()
    up.set_initial_magnetic_moments([5.0, 0.0])
    slightly = SALT.copy()
    slightly.set_initial_magnetic_moments([5.01, 0.0])
    crystals = (moved, grown, other, swapped, up, slightly, SALT.repeat((1, 1, 2)))
    keys += [of(atoms).key for atoms in crystals]
    slab = SALT.copy()
    slab.pbc = True, True, False
    keys.append(key_of(slab, PLAIN, base.moments, base.hashes))
    changed = {**base.pseudopotentials, "O": replace(base.pseudopotentials["O"], sha256="0" * 64)}
    keys.append(replace(base, pseudopotentials=changed).key)
    assert len({base.key, *keys}) == 1 + len(keys)


# ------------------------------------------------------------------------------------------------ k-points


@given(st.integers(0, 10**6), st.floats(0.1, 3.0))
@settings(max_examples=60, deadline=None)
def test_points_are_never_farther_apart_than_the_protocol_says(seed, kspacing):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * rng.uniform(2, 12, 3)[:, None] + np.diag(rng.uniform(2, 12, 3))
    if abs(np.linalg.det(cell)) < 5:
        return
    one = replace(of(SALT), cell=cell, protocol=PLAIN.changed(kspacing=kspacing))
    # Reciprocal lengths by cross products, not by an inverse.
    volume = np.linalg.det(cell)
    lengths = [2 * np.pi * np.linalg.norm(np.cross(cell[k - 2], cell[k - 1])) / abs(volume) for k in range(3)]
    for length, points in zip(lengths, one.kpoints, strict=True):
        assert length / points <= kspacing * (1 + 1e-5)
        assert points == 1 or length / (points - 1) > kspacing


@given(st.sampled_from([0.2, 0.37, 0.6]), st.tuples(*[st.integers(1, 3)] * 3))
@settings(max_examples=20, deadline=None)
def test_a_supercell_has_the_points_of_its_cell_or_a_denser_grid(kspacing, repeat):
    protocol = PLAIN.changed(kspacing=kspacing)
    small, large = (of(atoms, protocol).kpoints for atoms in (distorted(), distorted().repeat(repeat)))
    for few, many, n in zip(large, small, repeat, strict=True):
        assert few == -(-many // n) or few * n >= many
        assert (few - 1) * n < many


def test_an_exact_fit_takes_no_further_point():
    cubic = bulk("Fe", "sc", a=4.0)
    for n in range(1, 30):
        assert of(cubic, PLAIN.changed(kspacing=2 * np.pi / 4.0 / n)).kpoints == (n, n, n)


def test_a_structure_that_is_nearly_symmetrical_costs_what_one_without_symmetry_does():
    cubic = bulk("Fe", "fcc", a=3.6, cubic=True)
    rattled = cubic.copy()
    rattled.rattle(0.02, seed=0)
    one = PLAIN.changed(order="none")
    assert of(rattled, one).cost > 3 * of(cubic, one).cost


def test_cost_counts_spins_points_waves_and_bands():
    free, spin = PLAIN.changed(order="none"), PLAIN
    titania = bulk("TiO", "rocksalt", a=4.2)
    assert of(titania, spin).cost == pytest.approx(2 * of(titania, free).cost)
    assert of(titania, free.changed(ecutwfc=160)).cost == pytest.approx(8 * of(titania, free).cost)
    # One point of a cell and of its supercell: twice the volume with twice the electrons.
    one = free.changed(kspacing=10)
    assert of(titania.repeat((2, 1, 1)), one).cost == pytest.approx(4 * of(titania, one).cost)
    # Symmetry: 2 k points of 8 in fcc by 2x2x2, and all but k = -k without any symmetry.
    silicon = of(bulk("Si", a=5.43), free.changed(kspacing=1.1))
    assert silicon.kpoints == (2, 2, 2)
    alone = replace(silicon, protocol=one)
    assert silicon.cost == pytest.approx(3 * alone.cost)


# ------------------------------------------------------------------------------------------------ moments


def test_magnetic_elements_start_with_their_moments():
    assert of(SALT).moments.tolist() == [4, 0]
    assert of(bulk("FeO", "rocksalt", a=4.3)).moments.tolist() == [4, 0]
    assert of(bulk("Si", a=5.43)).moments is None
    assert of(SALT.repeat((2, 1, 1)), PLAIN.changed(order="none")).moments is None


def test_own_moments_go_before_those_of_the_table():
    own = SALT.repeat((2, 1, 1))
    own.set_initial_magnetic_moments([5, 0, -5, 0.1])
    assert of(own).moments.tolist() == [5, 0, -5, 0.1]
    own.set_initial_magnetic_moments([0, 0, 0, 0])
    assert of(own).moments.tolist() == [4, 0, 4, 0]


def test_an_order_that_a_structure_brings_is_left_as_it_is():
    """That of the store, too, from which failures are tried again."""
    atoms = SALT.repeat((2, 2, 1))
    one = of(atoms, AFM)
    assert of(one.atoms, AFM).key == one.key
    atoms.set_initial_magnetic_moments([3, 0, 3, 0, -3, 0, -3, 0])
    assert of(atoms, AFM).moments.tolist() == [3, 0, 3, 0, -3, 0, -3, 0]
    # Without an order of their own, sizes are kept.
    atoms.set_initial_magnetic_moments([3, 0, 3, 0, 3, 0, 3, 0])
    assert sorted(of(atoms, AFM).moments) == [-3, -3, 0, 0, 0, 0, 3, 3]


def hematite() -> Atoms:
    """20 atoms with the moments that a program has left behind, each another one."""
    rng = np.random.default_rng(3)
    atoms = Atoms("Fe8O12", cell=[8, 8, 8], pbc=True, scaled_positions=rng.random((20, 3)))
    signs = np.array([1, -1, -1, 1] * 2)
    atoms.set_initial_magnetic_moments(
        np.concatenate([signs * np.linspace(3.90, 3.91, 8), np.linspace(0.05, 0.06, 12)])
    )
    return atoms


def test_moments_are_grouped_where_there_are_more_than_the_program_takes():
    atoms = hematite()
    own = atoms.get_initial_magnetic_moments()
    moments = grouped(atoms.numbers, own)
    kinds = np.unique(np.column_stack([atoms.numbers, moments]), axis=0)
    assert len(kinds) == MOST_SPECIES
    # Like atoms became alike, and nothing else has happened.
    np.testing.assert_allclose(moments, own, atol=0.01)
    assert moments.sum() == pytest.approx(own.sum())
    np.testing.assert_array_equal(grouped(atoms.numbers, moments), moments)
    for n in range(1, 8):
        with patch.object(module, "MOST_SPECIES", n):
            found = grouped(atoms.numbers, own)
        species = {(z, moment) for z, moment in zip(atoms.numbers, found, strict=True)}
        # Up, down and the anions are the last three that remain; the elements never mix.
        assert len(species) == max(n, 2)
        assert n < 3 or (np.sign(found) == np.sign(own)).all()


def test_the_input_file_has_no_more_species_than_the_program_takes():
    atoms = SALT.repeat((2, 2, 3))
    atoms.set_initial_magnetic_moments(np.where(atoms.numbers == 25, 4, 0.05) + np.linspace(0, 0.01, 24))
    said = namelists(of(atoms).deck())
    assert said["ntyp"] == str(MOST_SPECIES)
    assert "starting_magnetization(11)" not in said


def test_few_moments_are_left_exactly_as_they_are():
    own = SALT.repeat((5, 1, 1))
    own.set_initial_magnetic_moments([4 + 1e-9 * i for i in range(10)])
    assert of(own).moments.tolist() == own.get_initial_magnetic_moments().tolist()


def test_one_odd_electron_is_spread_over_the_atoms():
    holed = bulk("Si", a=5.43, cubic=True)
    holed.numbers[0] = 8
    assert of(holed).moments is None
    hydride = {**library(), "H": replace(library()["O"], element="H", valence=1.0)}
    one = Calculation.of(Atoms("SiH", [[0, 0, 0], [1.5, 0, 0]], cell=[5, 5, 5], pbc=True), PLAIN, hydride)
    assert one.electrons == 5
    np.testing.assert_allclose(one.moments, [0.5, 0.5])


def coupling(atoms: Atoms, reach: float) -> np.ndarray:
    """The inverse sixth powers of all distances to images within reach, by plain loops."""
    n = len(atoms)
    images = np.array(list(product(range(-5, 6), repeat=3))) @ atoms.cell.array
    found = np.zeros((n, n))
    for i, j in product(range(n), repeat=2):
        if i != j:
            distances = np.linalg.norm(atoms.positions[j] + images - atoms.positions[i], axis=1)
            found[i, j] = (distances[distances < reach] ** -6.0).sum()
    return found


def energies(matrix: np.ndarray) -> list[float]:
    """Of all signs, ascending."""
    n = len(matrix)
    return sorted(
        signs @ matrix @ signs for signs in (np.array([1, *rest]) for rest in product((1, -1), repeat=n - 1))
    )


@pytest.mark.parametrize(
    ("structure", "repeat"),
    [("sc", (2, 1, 1)), ("sc", (2, 2, 1)), ("sc", (2, 2, 2)), ("sc", (4, 2, 2)), ("bcc", (2, 2, 2)),
     ("bcc", (4, 2, 2))],
)  # fmt: skip
def test_bipartite_lattices_have_two_sublattices(structure, repeat):
    """Where every nearest neighbour can be opposite, it is."""
    atoms = bulk("Fe", structure, a=2.87).repeat(repeat)
    signs = alternating(atoms, np.ones(len(atoms), dtype=bool))
    steps = np.array(list(product(*map(range, repeat)))).sum(axis=1)
    np.testing.assert_array_equal(signs, np.where(steps % 2, -1, 1))


def test_salt_is_half_up_and_half_down_and_anions_do_not_count():
    atoms = SALT.repeat((2, 2, 2))
    moments = of(atoms, AFM).moments
    assert moments.sum() == 0
    assert set(moments[atoms.numbers == 8]) == {0}
    assert set(moments[atoms.numbers == 25]) == {4, -4}
    # In fcc no more than 8 of 12 neighbours can be opposite.
    metal = atoms[atoms.numbers == 25]
    matrix = coupling(metal, 3.2)
    signs = np.sign(moments[atoms.numbers == 25])
    assert signs @ matrix @ signs == pytest.approx(energies(matrix)[0])


@pytest.mark.parametrize("few", [FEW, 0])
@given(seed=st.integers(0, 10**6), n=st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_signs_are_as_opposite_as_any(few, seed, n):
    """Against all signs that there are, or beyond so many atoms against those that differ in one."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(4, 7, 3)) + rng.normal(0, 0.5, (3, 3))
    atoms = Atoms(f"Fe{n}", cell=cell, pbc=True, scaled_positions=rng.random((n, 3)))
    matrix = coupling(atoms, 1.5 * atoms.cell.volume ** (1 / 3))
    every = energies(matrix)
    # Nearer ones count as equal, as those are that only symmetry makes so.
    assume(every[1] - every[0] > 1e-5 * (every[-1] - every[0]))
    with patch.object(module, "FEW", few):
        signs = alternating(atoms, np.ones(n, dtype=bool))
    assert set(signs) <= {1, -1}
    assert signs[0] == 1
    if few:
        assert signs @ matrix @ signs == pytest.approx(every[0])
    # Nothing is won by turning one atom.
    assert (signs * (matrix @ signs)).max() <= 1e-9


# -------------------------------------------------------------------------------------------------- unfit


def boxed(*places: tuple[float, float, float], symbol: str = "Fe", pbc: object = True) -> Atoms:
    return Atoms(f"{symbol}{len(places)}", places, cell=[4, 4, 4], pbc=pbc)


@pytest.mark.parametrize(
    ("atoms", "protocol", "reason", "words"),
    [
        (bulk("NaCl", "rocksalt", a=5.6), PLAIN, "no pseudopotential", "for Cl, Na; there are those of Cr"),
        (bulk("NaCl", "rocksalt", a=5.6), PLAIN, "no pseudopotential", "--pseudopotentials"),
        (boxed((0, 0, 0), pbc=False), PLAIN, "bad structure", "not periodic"),
        (boxed((0, 0, 0), pbc=(True, True, False)), PLAIN, "bad structure", "put it in a box"),
        (SALT, AFM, "bad structure", "at least two magnetic atoms in the cell; give a supercell"),
        (boxed((0, 0, 0), (0.1, 0, 0)), PLAIN, "bad structure", "atoms 0 Fe and 1 Fe are 0.10 Ang"),
        (boxed((0, 0, 0), (3.95, 0, 0)), PLAIN, "bad structure", "0.05 Angstrom apart, periodic images"),
        (boxed((0, 0, 0), (0, 0, 0)), PLAIN, "bad structure", "overlap"),
        (Atoms("Fe", cell=[4, 4, 4], pbc=True, magmoms=[np.nan]), PLAIN, "bad structure", "moment is NaN"),
        (boxed((0, 0, np.nan)), PLAIN, "bad structure", "NaN or infinite"),
        (Atoms("Fe", cell=[4, 4, 0], pbc=True), PLAIN, "bad structure", "singular cell"),
        (Atoms(cell=[4, 4, 4], pbc=True), PLAIN, "bad structure", "no atoms"),
    ],
)  # fmt: skip
def test_what_cannot_be_calculated_says_why(atoms, protocol, reason, words):
    with pytest.raises(Unfit, match=words) as caught:
        of(atoms, protocol)
    assert caught.value.reason == reason


def test_odd_electrons_cannot_be_paired():
    odd = {**library(), "O": replace(library()["O"], valence=5.0)}
    atoms = bulk("SiO", "rocksalt", a=4.5)
    with pytest.raises(Unfit, match="9 electrons cannot all be paired: use a spin-polarised") as caught:
        Calculation.of(atoms, PLAIN.changed(order="none"), odd)
    assert caught.value.reason == "odd number of electrons"
    assert Calculation.of(atoms, PLAIN, odd).moments.sum() == pytest.approx(1)


def test_a_hubbard_u_on_a_shell_that_is_not_known_is_refused():
    with pytest.raises(InputError, match=r"--hubbard Si: a U is for d and f shells.*leave Si out"):
        Calculation.of(bulk("Si", a=5.43), PLAIN.changed(hubbard_u={"Si": 3}), library())
