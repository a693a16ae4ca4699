"""Nothing lost, nothing twice: the store under kills, rivals and bad luck."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread

import numpy as np
import pytest
from ase.build import bulk
from ase.db import connect
from dft.conftest import TOY, FakeEngine, calculation, result, strained, truth

from matgraft.data import Dataset
from matgraft.dft import store as store_module
from matgraft.dft.calculation import LADDER, Calculation, Unfit
from matgraft.dft.output import CRASHED, KILLED, NOT_CONVERGED, OUT_OF_TIME, Failure
from matgraft.dft.pseudopotentials import library
from matgraft.dft.store import (
    DONE,
    FAILED,
    MOST_KILLS,
    UNTRIED,
    Attempt,
    Store,
    energies_of,
    new_owner,
    next_rung,
    without_password,
)
from matgraft.errors import InputError
from matgraft.jobs import label as label_module
from matgraft.jobs.label import label, retry
from matgraft.jobs.labels import status

DEAD = "999999999:gone"


def ghost(i: int) -> str:
    """The owner of a process of this machine that does not live any more."""
    return f"{os.uname().nodename}:{DEAD}:{i}"


def check(place, n: int) -> None:
    """Every label exactly once and equal to the undisturbed value."""
    entries = list(Store(place).entries())
    assert len(entries) == n
    expected = {calculation(i).key: truth(calculation(i)) for i in range(n)}
    assert {entry.key: entry.result.free_energy for entry in entries} == expected
    assert Store(place).claims() == []


def labels_in(place) -> int:
    with sqlite3.connect(place) as connection:
        query = "SELECT COUNT(*) FROM text_key_values WHERE key = 'status' AND value = ?"
        return connection.execute(query, (DONE,)).fetchone()[0]


class Kill(BaseException):
    pass


def test_two_thousand_kills_between_any_two_steps(tmp_path, rng, monkeypatch):
    place, n = tmp_path / "labels.db", 30
    store, calculations = Store(place), [calculation(i) for i in range(n)]
    commit_or_die = {"left": -1}
    real = Store._transaction

    @contextmanager
    def mortal(self):
        outermost = self._db.connection is None
        with real(self) as cursor:
            yield cursor
            if outermost:
                commit_or_die["left"] -= 1
                if commit_or_die["left"] == 0:
                    # Dead before the commit: all that was changed must be as before.
                    raise Kill

    monkeypatch.setattr(Store, "_transaction", mortal)
    kills, most, round_ = 0, 0, 0
    while kills < 2000:
        if most == n:
            # All there: start over with an empty store, as often as it takes.
            commit_or_die["left"] = -1
            check(place, n)
            place = tmp_path / f"labels-{round_}.db"
            store, most = Store(place), 0
        round_ += 1
        owner, one = ghost(round_), calculations[int(rng.integers(n))]
        commit_or_die["left"] = int(rng.integers(1, 6))
        try:
            if store.claim(one.key, owner):
                known = store.get(one.key)
                rung = 0 if known is None else next_rung(known.attempts)
                assert rung is not None
                outcome = FakeEngine().run(one, rung)
                if rng.random() < 0.5:
                    raise Kill
                store.record(one, outcome, [f"si-{round_}"], rung)
            store.claims()
        except Kill:
            kills += 1
        commit_or_die["left"] = -1
        done = labels_in(place)
        assert done >= most
        most = done
    assert round_ >= 2000


def forked(work: Callable[[], object]) -> int:
    """A process that does this and, whatever becomes of it, never goes on with the tests; its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def labeller(place, n: int, engine: FakeEngine) -> int:
    """A process that labels; its number."""
    return forked(lambda: label(strained(n), place, TOY, engine, workers=2))  # type: ignore[arg-type]


def kill_until_done(place, n: int, rng, longer: float) -> int:
    """Kill labellers at random moments until one gets to the end; how many labels it was asked for.

    Each may run longer than the one before, by so many seconds: a slow machine gets to the end, too.
    Whoever ends before four have died is followed by one with more to do: so does a fast one see kills.
    """
    kills = 0
    while True:
        child = labeller(place, n, FakeEngine(seconds=0.02))
        time.sleep(float(rng.uniform(0.0, 0.3 + longer * kills)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        elif kills < 4:
            n += 10
        else:
            return n


@pytest.mark.slow
def test_processes_killed_at_random_moments(tmp_path, rng):
    place = tmp_path / "labels.db"
    check(place, kill_until_done(place, 40, rng, 0.1))


def test_two_labellers_share_the_work(tmp_path):
    place, n, children = tmp_path / "labels.db", 30, []
    for _ in range(2):
        reader, writer = os.pipe()

        def work(writer: int = writer) -> None:
            done = label(strained(n), place, TOY, FakeEngine(seconds=0.02))  # type: ignore[arg-type]
            os.write(writer, f"{done.here} {done.done}".encode())

        child = forked(work)
        os.close(writer)
        children.append((child, reader))
    here = []
    for child, reader in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        calculated, done = map(int, os.read(reader, 100).split())
        assert done == n
        here.append(calculated)
    assert sum(here) == n
    assert min(here) > 0
    check(place, n)


def test_a_claim_excludes_the_living_and_not_the_dead(tmp_path, monkeypatch):
    store, key = Store(tmp_path / "labels.db"), calculation(0).key
    mine, other = new_owner(), new_owner()
    assert store.claim(key, mine)
    assert not store.claim(key, other)
    assert store.claim(key, mine)
    store.release(mine)
    assert store.claim(key, ghost(1))
    assert store.claims() == []
    assert store.claim(key, other)
    elsewhere = "far-away:1:x-1:abc"
    store.release(other)
    assert store.claim(key, elsewhere)
    assert not store.claim(key, mine)
    monkeypatch.setattr(store_module, "LEASE", 0.0)
    assert store.claim(key, mine)


def test_a_label_is_never_replaced(tmp_path):
    store, one = Store(tmp_path / "labels.db"), calculation(0)
    store.record(one, Failure(CRASHED, "no", 1.0), ["a"], 0)
    assert store.get(one.key).status == FAILED
    store.record(one, result(one), ["b"], 1)
    for later in (Failure(CRASHED, "no", 1.0), result(calculation(1))):
        store.record(one, later, ["c"], 1)
    entry = store.get(one.key)
    assert (entry.status, entry.result, entry.ids) == (DONE, result(one), ["a", "b"])
    assert [attempt.reason for attempt in entry.attempts] == [CRASHED]
    assert not store.claim(one.key, new_owner())
    np.testing.assert_allclose(entry.atoms.positions, one.positions)


def test_the_ladder():
    def attempts(*reasons: str) -> list[Attempt]:
        made: list[Attempt] = []
        for reason in reasons:
            made.append(Attempt(next_rung(made) or 0, reason, "", 0.0))
        return made

    assert next_rung([]) == 0
    assert next_rung(attempts(NOT_CONVERGED)) == 1
    assert next_rung(attempts(NOT_CONVERGED, KILLED)) == 1
    assert next_rung(attempts(*[CRASHED] * len(LADDER))) is None
    assert next_rung(attempts(*[KILLED] * (MOST_KILLS - 1))) == 0
    assert next_rung(attempts(*[KILLED] * MOST_KILLS)) is None
    assert next_rung(attempts(OUT_OF_TIME)) is None
    assert next_rung(attempts("no pseudopotential")) is None


def test_the_cheapest_goes_first(tmp_path, engine):
    crystals = [bulk("Si", a=5.4).repeat((n, 1, 1)) for n in (3, 1, 2)]
    costs = {one.key: one.cost for one in (Calculation.of(atoms, TOY, library()) for atoms in crystals)}
    label(Dataset.from_atoms(crystals), tmp_path / "labels.db", TOY, engine)
    order = list(dict.fromkeys(key for key, _ in engine.calls))
    assert order == sorted(costs, key=costs.__getitem__)


def test_the_time_left_follows_from_what_was_done():
    """Of three calculations of one cost the usual took 6 s; four are left for two workers."""
    speed = label_module._Speed(2)
    one = calculation(0)
    tasks = [label_module._Task(one, [], 0)] * 4
    assert speed.left(tasks) is None
    for seconds in (5.0, 6.0, 60.0):
        speed.learn(one, replace(result(one), wall_seconds=seconds))
    assert speed.left(tasks) == pytest.approx(12.0)


def test_an_ase_database_that_others_can_read(tmp_path):
    place = tmp_path / "labels.db"
    label(strained(3), place, TOY, FakeEngine())  # type: ignore[arg-type]
    rows = list(connect(place).select(status="done"))
    assert sorted(row.free_energy for row in rows) == sorted(truth(calculation(i)) for i in range(3))
    read = Dataset.read(place, target="free_energy")
    assert sorted(read.ids) == ["si-0", "si-1", "si-2"]
    assert (read.specs["internal_energy"].unit, read.specs["internal_energy"].kind) == ("eV", "cell")
    assert sorted(read.values("free_energy")) == sorted(truth(calculation(i)) for i in range(3))


def test_energies_of_structures(tmp_path):
    place = tmp_path / "labels.db"
    label(strained(2), place, TOY, FakeEngine())  # type: ignore[arg-type]
    found = energies_of(place, strained(3), TOY)
    np.testing.assert_array_equal(found, [truth(calculation(0)), truth(calculation(1)), np.nan])


def test_structures_that_cannot_be_calculated_keep_their_reason(tmp_path):
    store = Store(tmp_path / "labels.db")
    for _ in range(2):
        store.reject(bulk("Cu"), TOY, Unfit("no pseudopotential", "none for Cu"), "copper")
    (entry,) = store.entries()
    assert (entry.status, entry.reason, entry.ids) == (FAILED, "no pseudopotential", ["copper"])


def test_stores_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.db"):
        Store(tmp_path / "labels.sqlite")
    with pytest.raises(InputError, match="no such store"):
        Store(tmp_path / "labels.db", create=False)
    (tmp_path / "noise.db").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="cannot be opened"):
        Store(tmp_path / "noise.db")
    connect(tmp_path / "other.db").write(bulk("Cu"))
    with pytest.raises(InputError, match="other things"):
        Store(tmp_path / "other.db")
    Store(tmp_path / "newer.db")
    connect(tmp_path / "newer.db").metadata = {"matgraft_store": 99}
    with pytest.raises(InputError, match="version 99"):
        Store(tmp_path / "newer.db")


def test_a_full_disk_loses_nothing(tmp_path):
    place, one = tmp_path / "labels.db", calculation(0)
    store = Store(place)
    store.record(one, result(one), ["a"])
    with sqlite3.connect(place) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connect_plainly = store._db._connect

    def connect_full():
        connection = connect_plainly()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    store._db._connect = connect_full

    def fill() -> None:
        for i in range(1, 200):
            store.record(calculation(i), result(calculation(i)), [f"si-{i}"])

    with pytest.raises(InputError, match=r"full.*is kept"):
        fill()
    entries = list(Store(place).entries())
    assert [entry.result.free_energy for entry in entries] == [
        truth(calculation(i)) for i in range(len(entries))
    ]


def test_keys_by_status(tmp_path):
    store = Store(tmp_path / "labels.db")
    store.record(calculation(0), result(calculation(0)), ["a"])
    store.record(calculation(1), Failure(CRASHED, "no", 1.0), ["b"])
    assert (store.keys(DONE), store.keys(FAILED)) == ({calculation(0).key}, {calculation(1).key})
    assert [entry.ids for entry in store.entries(FAILED)] == [["b"]]
    store.record(calculation(1), result(calculation(1)), ["b"], 1)
    assert (len(store.keys(DONE)), store.keys(FAILED)) == (2, set())


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("postgresql://me:s3:cr-et@host:5432/labels", "postgresql://me:***@host:5432/labels"),
        ("postgresql://me@host:5432/labels", "postgresql://me@host:5432/labels"),
        ("postgresql://postgres:@/labels?host=/tmp/x", "postgresql://postgres:@/labels?host=/tmp/x"),
        ("/data/a:b@c/labels.db", "/data/a:b@c/labels.db"),
    ],
)
def test_passwords_are_not_shown(place, shown):
    assert without_password(place) == shown


# ------------------------------------------------------------------------------------------------ what failed


def failed_for(place, n: int) -> Store:
    """A store of so many calculations that ran out of time."""
    store = Store(place)
    for i in range(n):
        store.record(calculation(i), Failure(OUT_OF_TIME, "no", 1.0), [f"si-{i}"])
    return store


class Interrupted(FakeEngine):
    """Comes to two labels, the second of them on its way up the ladder, and is interrupted."""

    def run(self, one, rung=0, max_seconds=None, scratch=None):
        self.calls.append((one.key, rung))
        if len(self.calls) == 2:
            return Failure(NOT_CONVERGED, "no", 1.0)
        if len(self.calls) == 3:
            raise KeyboardInterrupt
        return result(one)


def test_an_interrupted_retry_goes_on(tmp_path):
    place = tmp_path / "labels.db"
    failed_for(place, 5)
    with pytest.raises(KeyboardInterrupt):
        retry(place, (first := Interrupted()), reasons=[OUT_OF_TIME])  # type: ignore[arg-type]
    assert status(place)["failures"] == {UNTRIED: 3, NOT_CONVERGED: 1}
    done = retry(place, (engine := FakeEngine()), reasons=[OUT_OF_TIME])  # type: ignore[arg-type]
    assert (done.done, done.failed, done.here) == (4, 0, 4)
    # On the step of the ladder where it was.
    climbing = first.calls[1][0]
    assert [rung for key, rung in engine.calls if key == climbing] == [1]
    check(place, 5)


def test_what_is_to_be_tried_again_is_a_reason_of_its_own(tmp_path):
    place = tmp_path / "labels.db"
    store = failed_for(place, 2)
    store.begin_anew(calculation(0).key, calculation(0))
    done = retry(place, FakeEngine(), reasons=[UNTRIED])  # type: ignore[arg-type]
    assert (done.done, done.here) == (1, 1)
    assert store.keys(FAILED) == {calculation(1).key}


def test_a_reason_that_nothing_failed_for(tmp_path):
    place = tmp_path / "labels.db"
    store = failed_for(place, 1)
    store.record(calculation(1), Failure(CRASHED, "no", 1.0), ["si-1"], len(LADDER) - 1)
    with pytest.raises(InputError, match=r"for the reason 'out of tme'; there are crashed, out"):
        retry(place, FakeEngine(), reasons=["out of tme"])  # type: ignore[arg-type]
    retry(place, FakeEngine())  # type: ignore[arg-type]
    assert store.keys(FAILED) == set()
    with pytest.raises(InputError, match="there are no failures at all"):
        retry(place, FakeEngine(), reasons=[CRASHED])  # type: ignore[arg-type]


def test_an_interrupted_retry_may_be_done_with_one_of_its_reasons(tmp_path):
    place = tmp_path / "labels.db"
    store = failed_for(place, 1)
    retry(place, FakeEngine(), reasons=[OUT_OF_TIME])  # type: ignore[arg-type]
    store.record(calculation(1), Failure(CRASHED, "no", 1.0), ["si-1"], len(LADDER) - 1)
    with pytest.raises(InputError, match="for the reason 'crahsed'"):
        retry(place, FakeEngine(), reasons=["crahsed", CRASHED])  # type: ignore[arg-type]
    assert retry(place, FakeEngine(), reasons=[OUT_OF_TIME, CRASHED]).here == 1  # type: ignore[arg-type]


def test_a_retry_leaves_the_living_alone(tmp_path):
    place, one = tmp_path / "labels.db", calculation(0)
    store, mine = failed_for(place, 1), new_owner()
    assert store.claim(one.key, mine)
    store.begin_anew(one.key, one)
    assert [owner for _, owner, _ in store.claims()] == [mine]
    assert store.get(one.key).reason == OUT_OF_TIME
    store.release(mine)
    assert store.claim(one.key, ghost(1))
    store.begin_anew(one.key, one)
    assert store.get(one.key).attempts == []


class Rival(Thread):
    """Another labeller, which does something once this process has been refused a claim."""

    def __init__(self, monkeypatch, work: Callable[[], object]):
        refused = Event()
        super().__init__(target=lambda: (refused.wait(60), work()))
        claim = Store.claim

        def watched(store: Store, key: str, owner: str) -> bool:
            taken = claim(store, key, owner)
            if not taken:
                refused.set()
            return taken

        monkeypatch.setattr(Store, "claim", watched)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.join()


def test_a_retry_waits_for_a_labeller_that_is_on_the_ladder(tmp_path, monkeypatch):
    monkeypatch.setattr(label_module, "POLL", 0.01)
    place, one = tmp_path / "labels.db", calculation(0)
    store, owner = Store(place), new_owner()
    store.record(one, Failure(NOT_CONVERGED, "no", 1.0), ["si-0"])
    assert store.claim(one.key, owner)
    with Rival(monkeypatch, lambda: store.record(one, result(one), ["si-0"], 1)):
        done = retry(place, (engine := FakeEngine()))  # type: ignore[arg-type]
    assert (done.done, done.here, engine.calls) == (1, 0, [])


def unfit_crystals() -> Dataset:
    """Two names of a crystal without a pseudopotential, and others that differ in what is wrong with them."""
    copper, holed, flat, torn = bulk("Cu"), bulk("Si", a=5.43), bulk("Si", a=5.43), bulk("Si", a=5.43)
    holed.positions[1, 2], torn.positions[1, 1] = np.nan, np.inf
    flat.pbc = (True, True, False)
    zero = bulk("Si", a=5.43)
    zero.positions[1, 2] = 0.0
    crystals = [copper, copper, holed, flat, torn, zero]
    return Dataset.from_atoms(crystals, ["copper", "cuprum", "holed", "flat", "torn", "fit"])


def test_every_structure_that_is_rejected_is_kept_with_its_names(tmp_path):
    place = tmp_path / "labels.db"
    for _ in range(2):
        done = label(unfit_crystals(), place, TOY, FakeEngine())  # type: ignore[arg-type]
        assert (done.done, done.failed) == (1, 5)
        kept = {tuple(entry.ids): entry.reason for entry in Store(place).entries(FAILED)}
        assert kept == {
            ("copper", "cuprum"): "no pseudopotential", ("holed",): "bad structure",
            ("flat",): "bad structure", ("torn",): "bad structure",
        }  # fmt: skip


def test_the_reason_that_is_kept_is_the_last(tmp_path):
    store = Store(tmp_path / "labels.db")
    for reason in ("no pseudopotential", "odd number of electrons"):
        store.reject(bulk("Cu"), TOY, Unfit(reason, "no"), "copper")
    (entry,) = store.entries()
    assert entry.reason == "odd number of electrons"


def test_further_names_of_a_labelled_structure_are_kept(tmp_path):
    place = tmp_path / "labels.db"
    label(strained(2), place, TOY, FakeEngine())  # type: ignore[arg-type]
    before = list(Store(place).entries())
    again = Dataset.from_atoms([calculation(0).atoms], ["other"])
    assert label(again, place, TOY, FakeEngine()).here == 0  # type: ignore[arg-type]
    first, second = Store(place).entries()
    assert (first.ids, second.ids) == (["si-0", "other"], ["si-1"])
    assert replace(first, ids=before[0].ids) == before[0]


def test_a_name_of_what_another_labeller_came_to_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(label_module, "POLL", 0.01)
    place, one = tmp_path / "labels.db", calculation(0)
    store, owner = Store(place), new_owner()
    assert store.claim(one.key, owner)
    with Rival(monkeypatch, lambda: store.record(one, result(one), ["theirs"])):
        label(Dataset.from_atoms([one.atoms], ["ours"]), place, TOY, FakeEngine())  # type: ignore[arg-type]
    assert store.get(one.key).ids == ["theirs", "ours"]


@pytest.fixture
def own(tmp_path):
    """A folder of pseudopotentials of a user's own, which knows copper."""
    folder = tmp_path / "own"
    folder.mkdir()
    for element, valence in (("Cu", 11), ("Si", 4)):
        header = f'<PP_HEADER element="{element}" z_valence="{valence}" functional="PBE"/>'
        (folder / f"{element}.upf").write_text(header)
    return folder


class Broken(FakeEngine):
    def run(self, one, rung=0, max_seconds=None, scratch=None):
        return Failure(CRASHED, "no", 1.0)


def test_a_retry_takes_no_other_pseudopotentials(tmp_path, own):
    place = tmp_path / "labels.db"
    label(strained(1), place, TOY, Broken(), pseudopotentials=own)  # type: ignore[arg-type]
    label(Dataset.from_atoms([bulk("Cu")], ["cu"]), place, TOY, Broken(), pseudopotentials=own)  # type: ignore[arg-type]
    kept = list(Store(place).entries())
    with pytest.raises(InputError, match=r"si-0 failed with another pseudopotential of Si .*--pseudopot"):
        retry(place, FakeEngine())  # type: ignore[arg-type]
    assert list(Store(place).entries()) == kept
    assert retry(place, FakeEngine(), pseudopotentials=own).done == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("again", ["retry", "label"])
def test_a_label_settles_that_there_was_no_pseudopotential(tmp_path, own, again):
    place, copper = tmp_path / "labels.db", Dataset.from_atoms([bulk("Cu")] * 2, ["copper", "cuprum"])
    label(copper, place, TOY, FakeEngine())  # type: ignore[arg-type]
    if again == "retry":
        done = retry(place, FakeEngine(), reasons=["no pseudopotential"], pseudopotentials=own)  # type: ignore[arg-type]
    else:
        done = label(copper, place, TOY, FakeEngine(), pseudopotentials=own)  # type: ignore[arg-type]
    assert (done.done, done.failed, done.here) == (1, 0, 1)
    (entry,) = Store(place).entries()
    assert (entry.status, entry.ids) == (DONE, ["copper", "cuprum"])


def test_a_label_that_came_before_settles_it_as_well(tmp_path, own):
    """As stores are that were written before failures were settled."""
    place, copper = tmp_path / "labels.db", Dataset.from_atoms([bulk("Cu")], ["copper"])
    label(copper, place, TOY, FakeEngine(), pseudopotentials=own)  # type: ignore[arg-type]
    label(copper, place, TOY, FakeEngine())  # type: ignore[arg-type]
    assert len(list(Store(place).entries())) == 2
    done = retry(place, FakeEngine(), pseudopotentials=own)  # type: ignore[arg-type]
    assert (done.done, done.here) == (1, 0)
    assert [entry.status for entry in Store(place).entries()] == [DONE]
    assert not any(connect(place).select(status=FAILED))


def test_energies_by_pseudopotentials_of_ones_own(tmp_path, own, caplog):
    place = tmp_path / "labels.db"
    label(strained(2), place, TOY, FakeEngine(), pseudopotentials=own)  # type: ignore[arg-type]
    assert np.isfinite(energies_of(place, strained(2), TOY, own)).all()
    assert not caplog.text
    assert np.isnan(energies_of(place, strained(3), TOY)).all()
    assert (
        "labels.db: labels with another pseudopotential of Si for 2 of the structures; to take" in caplog.text
    )


def test_energies_of_structures_that_lack_a_pseudopotential(tmp_path, own, caplog):
    place, copper = tmp_path / "labels.db", Dataset.from_atoms([bulk("Cu")], ["copper"])
    label(copper, place, TOY, FakeEngine(), pseudopotentials=own)  # type: ignore[arg-type]
    assert np.isnan(energies_of(place, copper, TOY)).all()
    assert "labels with another pseudopotential of Cu for 1 of the structures" in caplog.text


@pytest.mark.parametrize("forces", [True, False])
def test_energies_are_the_same_with_forces(tmp_path, forces):
    place = tmp_path / "labels.db"
    label(strained(2), place, TOY.changed(forces=forces), FakeEngine())  # type: ignore[arg-type]
    assert np.isfinite(energies_of(place, strained(2), TOY)).all()


def test_a_crash_for_too_many_species_is_settled_by_a_retry(tmp_path):
    """Its key has the moments as they were, that of its calculation has them grouped."""
    place, atoms = tmp_path / "labels.db", bulk("FeO", "rocksalt", a=4.3).repeat((3, 2, 1))
    atoms.set_initial_magnetic_moments(4 + 0.01 * np.arange(12))
    grouped = Calculation.of(atoms, TOY, library())
    store, crashed = Store(place), replace(grouped, moments=atoms.get_initial_magnetic_moments())
    store.record(crashed, Failure(CRASHED, "starting_magnetization(11)", 1.0), ["feo"], len(LADDER) - 1)
    assert retry(place, FakeEngine(), reasons=[CRASHED]).done == 1  # type: ignore[arg-type]
    assert [(entry.key, entry.ids) for entry in store.entries()] == [(grouped.key, ["feo"])]
