"""The store on a PostgreSQL server: what holds for a file holds here, and servers come and go."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count

import command
import pytest
from ase.build import bulk
from ase.db import connect
from dft.conftest import TOY, FakeEngine, calculation, result, silicon, strained, truth
from dft.test_store import check, ghost, kill_until_done, labeller

from matgraft.data import Dataset
from matgraft.data.writers import write
from matgraft.dft import store as store_module
from matgraft.dft.calculation import LADDER, Unfit
from matgraft.dft.output import CRASHED, KILLED, Failure
from matgraft.dft.store import DONE, FAILED, Store, new_owner
from matgraft.errors import InputError
from matgraft.jobs.label import label
from matgraft.jobs.labels import export, status

psycopg2 = pytest.importorskip("psycopg2")
postgresql = pytest.importorskip("ase_db_backends.postgresql")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR"),
]


class Server:
    """A server of PostgreSQL that can be stopped and started again."""

    def __init__(self, folder: str):
        self._folder, self._number = folder, count()
        self.start()
        # No power will be lost during a test.
        self._running.psql("ALTER SYSTEM SET fsync = off;")
        self._running.psql("SELECT pg_reload_conf();")

    def start(self) -> None:
        pgserver = pytest.importorskip("pgserver")
        self._running = pgserver.get_server(self._folder, cleanup_mode="stop")

    def stop(self) -> None:
        self._running.cleanup()

    def end(self, process: int) -> None:
        """End what serves one connection."""
        self._running.psql(f"SELECT pg_terminate_backend({process}, 10000);")

    def uri(self, database: str) -> str:
        return self._running.get_uri(database)

    def new(self) -> str:
        """URL of a database that is empty."""
        name = f"labels{next(self._number)}"
        self._running.psql(f"CREATE DATABASE {name};")
        return self.uri(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # A short path: that of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        running = Server(folder)
        yield running
        running.stop()


@pytest.fixture
def url(server) -> str:
    return server.new()


def test_labels_are_those_of_a_file(tmp_path, url):
    label(strained(4), url, TOY, FakeEngine())  # type: ignore[arg-type]
    label(strained(4), tmp_path / "labels.db", TOY, FakeEngine())  # type: ignore[arg-type]
    there, here = (
        {entry.key: entry for entry in Store(one).entries()} for one in (url, tmp_path / "labels.db")
    )
    assert sorted(there) == sorted(here)
    for key, entry in there.items():
        assert replace(entry, atoms=None) == replace(here[key], atoms=None)
        assert entry.atoms == here[key].atoms
    assert status(url)["labels"] == 4
    data, _ = export(url, tmp_path / "out.extxyz")
    assert sorted(data.values("free_energy")) == sorted(truth(calculation(i)) for i in range(4))


def test_keys_by_status(url):
    store = Store(url)
    store.record(calculation(0), result(calculation(0)), ["a"])
    store.record(calculation(1), Failure(CRASHED, "no", 1.0), ["b"])
    assert (store.keys(DONE), store.keys(FAILED)) == ({calculation(0).key}, {calculation(1).key})
    assert [entry.ids for entry in store.entries(FAILED)] == [["b"]]
    store.record(calculation(1), result(calculation(1)), ["b"], 1)
    assert (len(store.keys(DONE)), store.keys(FAILED)) == (2, set())


def test_a_claim_excludes_the_living_and_not_the_dead(url, monkeypatch):
    store, rival, key = Store(url), Store(url), calculation(0).key
    mine, other = new_owner(), new_owner()
    assert store.claim(key, mine)
    assert not rival.claim(key, other)
    assert [owner for _, owner, _ in rival.claims()] == [mine]
    store.release(mine)
    assert rival.claim(key, ghost(1))
    assert store.claim(key, mine)
    store.release(mine)
    assert store.claim(key, "far-away:1:x-1:abc")
    assert not store.claim(key, mine)
    monkeypatch.setattr(store_module, "LEASE", 0.0)
    assert store.claim(key, mine)


def test_one_of_many_gets_a_claim(url):
    stores, key = [Store(url) for _ in range(8)], calculation(0).key
    for _ in range(5):
        owners = [new_owner() for _ in stores]
        with ThreadPoolExecutor(len(stores)) as pool:
            taken = list(pool.map(lambda store, owner: store.claim(key, owner), stores, owners))
        assert sum(taken) == 1
        stores[0].release(owners[taken.index(True)])


def test_several_may_make_the_store_at_once(server):
    for _ in range(3):
        url = server.new()
        with ThreadPoolExecutor(6) as pool:
            stores = list(pool.map(Store, [url] * 6))
        stores[0].record(calculation(0), result(calculation(0)), ["a"])
        assert all(store.keys(DONE) == {calculation(0).key} for store in stores)


def test_two_labellers_share_the_work(url):
    n = 20
    children = [labeller(url, n, FakeEngine(seconds=0.05)) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    check(url, n)
    # Whatever was calculated twice would have been recorded by the slower one as well.
    assert sum(len(entry.attempts) for entry in Store(url).entries()) == sum(
        int(calculation(i).key[:4], 16) % 5 == 0 for i in range(n)
    )


def test_rows_written_at_once_keep_what_is_theirs(url, monkeypatch):
    store, rival = Store(url), Store(url)
    last_id = store._db.get_last_id

    def after_the_rival(cursor) -> int:
        rival.record(calculation(1), result(calculation(1)), ["b"])
        return last_id(cursor)

    monkeypatch.setattr(store._db, "get_last_id", after_the_rival)
    store.record(calculation(0), result(calculation(0)), ["a"])
    assert Store(url).keys(DONE) == {calculation(0).key, calculation(1).key}
    check(url, 2)


def test_processes_killed_at_random_moments(url, rng):
    check(url, kill_until_done(url, 12, rng, 0.02))


def test_a_server_that_restarts_is_waited_for(url, server):
    n, ended = 12, []
    labels = threading.Thread(
        target=lambda: ended.append(label(strained(n), url, TOY, FakeEngine(seconds=0.3)))  # type: ignore[arg-type]
    )
    store = Store(url)
    labels.start()
    while len(store.keys(DONE)) < 2:
        time.sleep(0.05)
    server.stop()
    time.sleep(1.0)
    server.start()
    labels.join()
    assert (ended[0].done, ended[0].failed) == (n, 0)
    check(url, n)


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_server_that_goes_in_the_middle_of_a_change(server, url, monkeypatch, moment):
    store, one, copper, owner = Store(url), calculation(0), bulk("Cu"), new_owner()
    monkeypatch.setattr(store_module, "_PAUSE", 0.01)
    breaks: list[bool] = []

    def commit_or_break(self) -> None:
        if not breaks or not breaks.pop(0):
            return commit(self)
        if moment == "after the commit":
            commit(self)
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        server.end(self.con.info.backend_pid)
        return commit(self)

    commit = postgresql.Connection.commit
    monkeypatch.setattr(postgresql.Connection, "commit", commit_or_break)

    def broken(change, *arguments) -> object:
        """Some look at what is there first: the look is broken, and the change."""
        breaks[:] = [True, False, True]
        outcome = change(*arguments)
        assert len(breaks) <= 1
        breaks.clear()
        return outcome

    failures = [Failure(KILLED, "signal 9", 1.0)] * 2
    assert broken(store.claim, one.key, owner)
    for failure in failures:
        broken(store.record, one, failure, ["a"])
    assert [entry.key for entry in broken(lambda: list(store.entries()))] == [one.key]
    assert [attempt.reason for attempt in broken(store.get, one.key).attempts] == [KILLED, KILLED]
    broken(store.record, one, result(one), ["a"])
    broken(store.name, one.key, ["b"])
    broken(store.reject, copper, TOY, Unfit("no pseudopotential", "none for Cu"), "copper")
    assert broken(store.keys, DONE) == {one.key}
    assert broken(store.claims) == []
    labelled, unfit = store.entries()
    assert (labelled.ids, labelled.result.free_energy) == (["a", "b"], truth(one))
    assert (unfit.ids, len(unfit.attempts)) == (["copper"], 1)
    broken(store.begin_anew, unfit.key, calculation(1))
    assert [entry.ids for entry in store.entries()] == [["a", "b"], ["copper"]]


def test_a_server_that_stays_away_is_told(url, server, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE", 1.0)
    store = Store(url)
    store.record(calculation(0), result(calculation(0)), ["a"])
    server.stop()
    try:
        with pytest.raises(InputError, match=r"cannot be read or written.*is kept"):
            store.get(calculation(0).key)
        with pytest.raises(InputError, match="cannot be opened as a store of labels"):
            Store(url)
        done = command.run("label", "status", url)
        assert done.returncode == 2
        assert "cannot be opened" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        server.start()
    assert store.get(calculation(0).key).status == DONE


def test_wrong_urls_end_in_a_sentence_without_the_password(tmp_path, server):
    write(Dataset.from_atoms([silicon(0)], ["a"]), tmp_path / "one.extxyz")
    for place in (
        "postgresql://me:secret@127.0.0.1:1/labels",
        server.uri("nowhere"),
        "http://me:secret@host/labels",
    ):
        done = command.run("label", tmp_path / "one.extxyz", "--store", place, "--command", "true")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stderr + done.stdout
        assert "store of labels" in done.stderr or "a store is a file" in done.stderr


def test_databases_that_are_no_store(server):
    url = server.new()
    connect(url).write(bulk("Cu"))
    with pytest.raises(InputError, match="other things"):
        Store(url)
    url = server.new()
    Store(url)
    connect(url).metadata = {"matgraft_store": 99}
    with pytest.raises(InputError, match="version 99"):
        Store(url)
    with pytest.raises(InputError, match="other things"):
        Store(server.new(), create=False)


def test_a_store_that_was_half_made_is_made_whole(url, monkeypatch):
    class Killed(BaseException):
        pass

    def die() -> dict:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_metadata", die)
        with pytest.raises(Killed):
            Store(url)
    assert Store(url).claim(calculation(0).key, new_owner())


def test_failures_begin_anew_and_structures_are_named(url):
    store, one, copper = Store(url), calculation(0), bulk("Cu")
    for name in ("copper", "cuprum"):
        store.reject(copper, TOY, Unfit("no pseudopotential", "none for Cu"), name)
    (unfit,) = store.entries()
    assert unfit.ids == ["copper", "cuprum"]
    store.record(one, Failure(CRASHED, "no", 1.0), ["a"], len(LADDER) - 1)
    for failed in (one.key, unfit.key):
        store.begin_anew(failed, one)
    store.name(one.key, ["b"])
    (entry,) = store.entries()
    assert (entry.ids, entry.attempts, entry.retried) == (["a", "copper", "cuprum", "b"], [], CRASHED)
