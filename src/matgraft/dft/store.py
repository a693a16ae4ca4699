"""A durable store of labels: each structure and setting once, whoever asks, whatever is killed."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import wraps
from pathlib import Path
from sqlite3 import DatabaseError, OperationalError
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.db.core import now
from ase.db.row import AtomsRow, atoms2dict

from matgraft.data import Dataset, Label
from matgraft.data.formats.ase_files import DATA_KEY, is_ase_database
from matgraft.data.formats.common import SPECS_KEY
from matgraft.dft.calculation import LADDER, Calculation, Unfit, key_of, key_of_unfit
from matgraft.dft.output import CRASHED, KILLED, NOT_CONVERGED, Failure, Result
from matgraft.dft.protocols import Protocol
from matgraft.dft.protocols import protocol as named_protocol
from matgraft.dft.pseudopotentials import Pseudopotential, library
from matgraft.errors import InputError

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

VERSION = 1
_VERSION_KEY = "matgraft_store"
_CONTENT = "matgraft_label"
_MEANING = {name: asdict(Label(name, "eV", "cell")) for name in ("energy", "free_energy", "internal_energy")}

DONE, FAILED = "done", "failed"
UNTRIED = "to be tried again"

LEASE = 120.0
"""Seconds after which a claim that nobody renews may be taken over by another machine."""

PATIENCE = 120.0
"""Seconds that a server which has answered before is waited for, so that its restart ends no calculation."""

_PAUSE = 1.0
"""Seconds until it is asked again."""

MOST_KILLS = 5
"""A program that was killed is started again this often, with the same settings."""

_CLAIMS = """CREATE TABLE IF NOT EXISTS matgraft_claims (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    since DOUBLE PRECISION NOT NULL,
    beat DOUBLE PRECISION NOT NULL
)"""


@dataclass(frozen=True)
class Attempt:
    """One failed try."""

    rung: int
    reason: str
    message: str
    seconds: float


@dataclass(frozen=True)
class Entry:
    """What the store knows of one structure and setting.

    Attributes
    ----------
    key : str
        See :attr:`matgraft.dft.calculation.Calculation.key`.
    ids : list of str
        Names that the structure was given.
    atoms : ase.Atoms
        With moments at the start, if spin-polarised.
    protocol : Protocol
    pseudopotentials : dict of str to str
        SHA-256 of the file, by element.
    result : Result or None
    attempts : list of Attempt
        Those that failed.
    retried : str
        Reason of the failure that was forgotten to begin anew; empty if none was.
    """

    key: str
    ids: list[str]
    atoms: Atoms
    protocol: Protocol
    pseudopotentials: dict[str, str]
    result: Result | None
    attempts: list[Attempt] = field(default_factory=list)
    retried: str = ""

    @property
    def status(self) -> str:
        """``done`` or ``failed``."""
        return FAILED if self.result is None else DONE

    @property
    def rung(self) -> int | None:
        """What of :data:`matgraft.dft.calculation.LADDER` to try next; None if nothing is left to try."""
        return next_rung(self.attempts)

    @property
    def reason(self) -> str:
        """Why there is no label; empty if there is one, or none was tried for yet."""
        return self.attempts[-1].reason if self.status == FAILED and self.attempts else ""

    @property
    def reasons(self) -> set[str]:
        """What a failure is found by: its reason, and while it is tried again, the former one as well."""
        former = {self.retried} if self.retried and self.rung is not None else set()
        return {self.reason or UNTRIED} | former


def next_rung(attempts: list[Attempt]) -> int | None:
    """The next step of the ladder after these failures, or None.

    What did not converge or crashed goes up; what was killed is repeated; what ran out of time, or cannot be
    calculated at all, waits for ``matgraft label retry``.
    """
    if not attempts:
        return 0
    last = attempts[-1]
    if last.reason == KILLED:
        return last.rung if sum(one.reason == KILLED for one in attempts) < MOST_KILLS else None
    if last.reason in (NOT_CONVERGED, CRASHED):
        return last.rung + 1 if last.rung + 1 < len(LADDER) else None
    return None


class _Unreachable(InputError):
    """What is said of a store that cannot be read or written."""


def _patient(method: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Do all of it anew, once the server answers, if it has gone at any moment of it."""

    @wraps(method)
    def again_and_again(self: Store, *args: P.args, **kwargs: P.kwargs) -> T:
        end = time.monotonic() + self._patience
        while True:
            try:
                return method(self, *args, **kwargs)
            except _Unreachable:
                if time.monotonic() >= end:
                    raise
            time.sleep(_PAUSE)

    return again_and_again


class Store:
    """Labels in an ASE database: a SQLite file, or PostgreSQL by its URL for several machines.

    Labels and claims live in one database and every change is one transaction, so that a process may be
    killed at any moment. A row's ``unique_id`` is the calculation's key; the database refuses a second one.

    Parameters
    ----------
    place : str or Path
        ``labels.db`` or ``postgresql://user:password@host:port/database``. Made if it does not exist.
    create : bool
        False: it must exist.

    Raises
    ------
    InputError
        It cannot be opened, is no store of labels, or is one of another version.
    """

    def __init__(self, place: str | Path, create: bool = True):
        self.place = without_password(str(place))
        self._lock = threading.RLock()
        self._patience = 0.0
        self._unreachable: tuple[type[Exception], ...] = (OperationalError,)
        remote = str(place).startswith(("postgresql://", "postgres://"))
        if not remote and not self.place.endswith(".db"):
            raise InputError(f"{self.place}: a store is a file that ends in .db, or a PostgreSQL URL.")
        if not remote and not Path(place).exists():
            if not create:
                raise InputError(f"{self.place}: no such store.")
            _make(Path(place))
        try:
            metadata = {}
            # ASE would make its tables in a database of others, too.
            if remote or is_ase_database(Path(place)):
                self._db = connect(str(place), use_lock_file=False)
                if remote:
                    self._db.get_last_id = _last_id_of_this_session
                    self._attach(create)
                metadata = self._db.metadata
        except ImportError as error:
            raise InputError(
                f"{self.place}: PostgreSQL needs one more package: pip install 'matgraft[postgresql]'"
            ) from error
        except Exception as error:
            raise InputError(
                f"{self.place}: cannot be opened as a store of labels ({_in_a_line(error)}). {_remedy(error)}"
            ) from error
        found = metadata.get(_VERSION_KEY)
        if found is None:
            raise InputError(f"{self.place}: a database of other things; give another --store.")
        if found != VERSION:
            raise InputError(
                f"{self.place}: a store of version {found}, while this program writes version {VERSION}. "
                "Use the matgraft that wrote it, or give another --store."
            )

    # ------------------------------------------------------------------ claims

    @_patient
    def claim(self, key: str, owner: str) -> bool:
        """Take a calculation on; False if it is done, or another living labeller has it."""
        moment = time.time()
        with self._transaction() as cursor:
            claim = (key, owner, moment, moment)
            cursor.execute("INSERT INTO matgraft_claims VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", claim)
            cursor.execute("SELECT owner, beat FROM matgraft_claims WHERE key = ?", (key,))
            holder, beat = cursor.fetchone()
            if holder != owner:
                if not _abandoned(holder, beat):
                    return False
                cursor.execute(
                    "UPDATE matgraft_claims SET owner = ?, since = ?, beat = ? "
                    "WHERE key = ? AND owner = ? AND beat = ?",
                    (owner, moment, moment, key, holder, beat),
                )
                cursor.execute("SELECT owner FROM matgraft_claims WHERE key = ?", (key,))
                if cursor.fetchone()[0] != owner:
                    return False
            row = self._row(key)
            if row is not None and row.key_value_pairs["status"] == DONE:
                cursor.execute("DELETE FROM matgraft_claims WHERE key = ? AND owner = ?", (key, owner))
                return False
        return True

    def renew(self, owner: str) -> None:
        """Say that the owner of some claims is alive."""
        with self._transaction() as cursor:
            cursor.execute("UPDATE matgraft_claims SET beat = ? WHERE owner = ?", (time.time(), owner))

    def release(self, owner: str) -> None:
        """Give back all claims of an owner."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM matgraft_claims WHERE owner = ?", (owner,))

    @_patient
    def claims(self) -> list[tuple[str, str, float]]:
        """Key, owner and start (seconds since the epoch) of all that is being calculated by the living."""
        with self._transaction() as cursor:
            cursor.execute("SELECT key, owner, since, beat FROM matgraft_claims ORDER BY since")
            rows = cursor.fetchall()
        return [(key, owner, since) for key, owner, since, beat in rows if not _abandoned(owner, beat)]

    # ------------------------------------------------------------------ labels

    def record(
        self, calculation: Calculation, outcome: Result | Failure, ids: list[str], rung: int = 0
    ) -> None:
        """Keep a label or a failure and give back the claim on it, both or neither.

        A failure never replaces a label, and a second label changes nothing.
        """
        before = self.get(calculation.key)
        self._record(calculation, outcome, ids, rung, len(before.attempts) if before else 0)

    @_patient
    def _record(
        self, calculation: Calculation, outcome: Result | Failure, ids: list[str], rung: int, tries: int
    ) -> None:
        """Keep what came of a calculation that had been tried so often before."""
        key = calculation.key
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM matgraft_claims WHERE key = ?", (key,))
            row = self._row(key)
            known = self._entry(row)
            if known is not None and known.status == DONE:
                return
            attempts = list(known.attempts) if known else []
            if isinstance(outcome, Failure):
                attempt = Attempt(rung, outcome.reason, outcome.message, round(outcome.seconds, 2))
                if attempt in attempts[tries:]:
                    # The server went after it had kept this and before it could say so.
                    return
                attempts.append(attempt)
            names = _together(known.ids if known else [], ids)
            result = outcome if isinstance(outcome, Result) else None
            entry = _entry_of(calculation, names)
            retried = known.retried if known else ""
            self._write(row, replace(entry, result=result, attempts=attempts, retried=retried))

    @_patient
    def reject(self, atoms: Atoms, protocol: Protocol, unfit: Unfit, name: str) -> bool:
        """Keep why a structure cannot be calculated at all, and all its names; say whether that is new."""
        key, attempts = key_of_unfit(atoms, protocol), [Attempt(0, unfit.reason, str(unfit), 0.0)]
        known = self.get(key)
        if known is not None and name in known.ids and known.attempts == attempts:
            return False
        with self._transaction() as cursor:
            row = self._hold(cursor, key)
            known = self._entry(row)
            names = _together(known.ids if known else [], [name])
            self._write(row, Entry(key, names, atoms, protocol, {}, None, attempts))
        return True

    @_patient
    def name(self, key: str, ids: list[str]) -> None:
        """Give further names to what is known."""
        known = self.get(key)
        if known is None or set(ids) <= set(known.ids):
            return
        with self._transaction() as cursor:
            row = self._hold(cursor, key)
            known = self._entry(row)
            if known is not None:
                self._write(row, replace(known, ids=_together(known.ids, ids)))

    @_patient
    def begin_anew(self, failed: str, calculation: Calculation) -> None:
        """Let the ladder begin anew for what has failed, unless it is not at its end, or a labeller is at it.

        Parameters
        ----------
        failed : str
            Key of the failure. What could not be calculated, and can be now, has another one than its
            calculation, whose place it takes.
        calculation : Calculation
        """
        key = calculation.key
        with self._transaction() as cursor:
            failure, row = (self._hold(cursor, one) for one in (failed, key))
            old, known = self._entry(failure), self._entry(row)
            if failure is None or old is None:
                return
            entry = known or _entry_of(calculation, old.ids)
            entry = replace(entry, ids=_together(entry.ids, old.ids))
            settled = entry.status == FAILED and entry.rung is None
            if known is None or (settled and not self._taken(cursor, key)):
                entry = replace(entry, attempts=[], retried=old.reason)
            self._write(row, entry)
            if failed != key:
                self._db._delete(cursor, [failure.id])  # type: ignore[attr-defined]

    @_patient
    def get(self, key: str) -> Entry | None:
        """What is known of a key, if anything."""
        with self._transaction():
            return self._entry(self._row(key))

    @_patient
    def keys(self, status: str) -> set[str]:
        """Keys of all that is ``done`` or ``failed``, in a moment where :meth:`entries` reads everything."""
        query = "SELECT unique_id FROM systems JOIN text_key_values USING (id) WHERE key = ? AND value = ?"
        with self._transaction() as cursor:
            cursor.execute(query, ("status", status))
            return {key for (key,) in cursor.fetchall()}

    def entries(self, status: str | None = None) -> Iterator[Entry]:
        """All that is in the store, or that is ``done`` or ``failed``, in the order of arrival."""
        for row in self._rows(status):
            entry = self._entry(row)
            assert entry is not None
            yield entry

    # ---------------------------------------------------------------- database

    def _attach(self, create: bool) -> None:
        """Reach the server; where the database is empty, make it a store."""
        from psycopg2 import OperationalError as Unreachable

        self._unreachable += (Unreachable,)
        # The lock lasts as long as the connection: of several that come first, one makes the tables.
        alone = self._db._connect()
        try:
            alone.cursor().execute("SELECT pg_advisory_lock(hashtext(?))", (_VERSION_KEY,))
            if create and _VERSION_KEY not in self._db.metadata and self._db.count() == 0:
                alone.cursor().execute(_CLAIMS)
                alone.commit()
                # Last, for it is what says that the store is whole.
                self._db.metadata = _metadata()
        finally:
            alone.close()
        self._patience = PATIENCE

    def _hold(self, cursor: Any, key: str) -> AtomsRow | None:
        """The row of a key, which nobody else changes before the end of the transaction."""
        # A change first: it is what makes others wait.
        cursor.execute("UPDATE systems SET unique_id = unique_id WHERE unique_id = ?", (key,))
        return self._row(key)

    def _taken(self, cursor: Any, key: str) -> bool:
        """Whether a living labeller has a claim."""
        cursor.execute("SELECT owner, beat FROM matgraft_claims WHERE key = ?", (key,))
        return any(not _abandoned(owner, beat) for owner, beat in cursor.fetchall())

    @_patient
    def _rows(self, status: str | None) -> list[AtomsRow]:
        with self._transaction():
            return list(self._db.select(sort="id", **({} if status is None else {"status": status})))

    def _row(self, key: str) -> AtomsRow | None:
        return next(self._db.select(unique_id=key), None)

    def _write(self, known: AtomsRow | None, entry: Entry) -> None:
        """Write an entry as a new row, or over the one that is known."""
        atoms, attempts, result = entry.atoms, entry.attempts, entry.result
        values: dict[str, Any] = {
            "status": entry.status,
            "protocol": entry.protocol.name,
            "attempts": len(attempts) + (result is not None),
        }
        if result is None:
            values["reason"] = entry.reason or UNTRIED
        else:
            forces = None if result.forces is None else np.asarray(result.forces)
            atoms = atoms.copy()
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=result.free_energy,
                free_energy=result.free_energy,
                forces=forces,
                magmom=result.magnetization,
            )
            values |= {
                "internal_energy": result.energy,
                "smearing_energy": result.smearing,
                "iterations": result.iterations,
                "cpu_seconds": result.cpu_seconds,
                "wall_seconds": result.wall_seconds,
            }
        created = now() if known is None else known.ctime  # type: ignore[attr-defined]
        row = AtomsRow({**atoms2dict(atoms), "unique_id": entry.key, "ctime": created, "user": ""})
        content = {
            "ids": entry.ids,
            "protocol": entry.protocol.model_dump(),
            "pseudopotentials": entry.pseudopotentials,
            "attempts": [asdict(one) for one in attempts],
            "result": None if result is None else result.as_dict(),
            "retried": entry.retried,
        }
        # As text: databases of different kinds then give back the same numbers.
        data = {_CONTENT: json.dumps(content), DATA_KEY: {"id": entry.ids[0]}}
        self._db._write(row, values, data, None if known is None else known.id)

    def _entry(self, row: AtomsRow | None) -> Entry | None:
        if row is None:
            return None
        content = json.loads(row.data[_CONTENT])
        result = content["result"]
        if result is not None:
            result = Result(**{**result, "trace": [tuple(pair) for pair in result["trace"]]})
        atoms = row.toatoms()
        atoms.calc = None
        return Entry(
            key=row.unique_id,  # type: ignore[attr-defined]
            ids=content["ids"],
            atoms=atoms,
            protocol=Protocol.model_validate(content["protocol"]),
            pseudopotentials=content["pseudopotentials"],
            result=result,
            attempts=[Attempt(**one) for one in content["attempts"]],
            # Older stores know nothing of it.
            retried=content.get("retried", ""),
        )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor whose changes are all made, or none."""
        with self._lock:
            db = self._db
            if db.connection is not None:
                yield db.connection.cursor()
                return
            try:
                db.__enter__()
                assert db.connection is not None
                yield db.connection.cursor()
                db.connection.commit()
            except self._unreachable as error:
                raise _Unreachable(
                    f"{self.place}: cannot be read or written ({_in_a_line(error)}). {_remedy(error)}"
                ) from error
            finally:
                if db.connection is not None:
                    # Without a commit before, this takes everything back.
                    db.connection.close()
                    db.connection = None


def _entry_of(calculation: Calculation, ids: list[str]) -> Entry:
    """What there is to know of a calculation that nobody has tried."""
    return Entry(
        calculation.key, ids, calculation.atoms, calculation.protocol, calculation.hashes, result=None
    )


def _together(ids: list[str], further: list[str]) -> list[str]:
    """Names, each once, in the order in which they came."""
    return list(dict.fromkeys([*ids, *further]))


def without_password(place: str) -> str:
    """The place as messages and files may show it."""
    return re.sub(r"(?<=://)([^:/@]*):[^@/]+@", r"\1:***@", place)


def _last_id_of_this_session(cursor: Any) -> int:
    """Number of the row that was just written.

    The backend asks for the last number that anybody was given: of two processes that write at once, one
    would put its elements and keys under the other's row.
    """
    cursor.execute("SELECT currval('systems_id_seq')")
    return int(cursor.fetchone()[0])


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _remedy(error: Exception) -> str:
    """What to do about a database that does not answer as it should."""
    said = str(error).lower()
    if "not a database" in said or "malformed" in said:
        return "Give another --store, or put a copy of the damaged one in its place."
    again = "and run the command again: what was finished before is kept."
    if "readonly" in said or "unable to open" in said:
        return f"Make the file and its folder writable, or give another --store, {again}"
    return f"Make room on the disk, or let the server answer, {again}"


def is_store(path: Path) -> bool:
    """Whether a file is a store of labels."""
    try:
        return is_ase_database(path) and _VERSION_KEY in connect(path, type="db").metadata
    except Exception:
        return False


def _metadata() -> dict:
    return {_VERSION_KEY: VERSION, SPECS_KEY: _MEANING}


def _make(path: Path) -> None:
    """Make an empty store that appears whole: others may be making it, or this process be killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.db")
    try:
        db = connect(partial, use_lock_file=False)
        db.metadata = _metadata()
        with db:
            db.connection.execute(_CLAIMS)
        os.link(partial, path)
    except FileExistsError:
        pass
    except (OSError, DatabaseError) as error:
        raise InputError(f"{path}: cannot be made ({error}). {_remedy(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def new_owner() -> str:
    """A name for this process that others can tell to be alive or dead."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}:{uuid.uuid4().hex[:8]}"


def _abandoned(owner: str, beat: float) -> bool:
    """Whether the owner of a claim is gone: at once if it lived here, else after the lease."""
    host, pid, started, _ = owner.rsplit(":", 3)
    if host == socket.gethostname() and started:
        return _started(int(pid)) != started
    return time.time() - beat > LEASE


def _started(pid: int) -> str:
    """When a process of this machine began, as the kernel counts; empty if it is gone or cannot be asked."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        # The name of the program, in parentheses, may hold spaces.
        return f"{boot}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def energies_of(
    place: str | Path,
    dataset: Dataset,
    protocol: str | Protocol,
    pseudopotentials: str | Path | None = None,
) -> np.ndarray:
    """Labels of structures, as far as a store has them, with forces or without.

    Where a store has labels by other settings only, or with other pseudopotentials, a warning says so.

    Parameters
    ----------
    place : str or Path
    dataset : Dataset
    protocol : str or Protocol
    pseudopotentials : path, optional
        Folder; see :func:`matgraft.dft.pseudopotentials.library`.

    Returns
    -------
    ndarray, shape (n,)
        Free energies F = E - TS in eV per cell; NaN where there is no label.
    """
    settings = named_protocol(protocol) if isinstance(protocol, str) else protocol
    store, known = Store(place, create=False), library(pseudopotentials)
    energies = np.full(len(dataset), np.nan)
    for i, atoms in enumerate(dataset):
        try:
            calculation = Calculation.of(atoms, settings, known)
        except Unfit:
            continue
        for forces in (settings.forces, not settings.forces):
            entry = store.get(replace(calculation, protocol=settings.changed(forces=forces)).key)
            if entry is not None and entry.result is not None:
                energies[i] = entry.result.free_energy
                break
    _warn_of_others(store, dataset[np.flatnonzero(np.isnan(energies))], settings, known)
    return energies


def _warn_of_others(
    store: Store, lacking: Dataset, settings: Protocol, known: Mapping[str, Pseudopotential]
) -> None:
    """Say which settings or elements keep labels of these structures from being found."""
    if not len(lacking):
        return
    done = list(store.entries(DONE))
    held = {str(entry.protocol.changed(forces=False).decisive): entry.protocol for entry in done}
    if done and str(settings.changed(forces=False).decisive) not in held:
        log.warning(
            "%s: no label by %s (%s); it has those by %s",
            store.place,
            settings.name,
            settings,
            " and by ".join(f"{one.name} ({one})" for one in held.values()),
        )
    hashes = {element: one.sha256 for element, one in known.items()}
    others = {
        _plain_key(entry.atoms, entry.protocol): [
            element for element, sha256 in entry.pseudopotentials.items() if hashes.get(element) != sha256
        ]
        for entry in done
    }
    found = [others.get(_plain_key(atoms, settings), []) for atoms in lacking]
    if elements := sorted({element for one in found for element in one}):
        log.warning(
            "%s: labels with another pseudopotential of %s for %d of the structures; to take them, give the "
            "folder that they were made with: --pseudopotentials",
            store.place,
            ", ".join(elements),
            sum(map(bool, found)),
        )


def _plain_key(atoms: Atoms, protocol: Protocol) -> str:
    """What labels of one structure and protocol have in common, whatever else they differ in."""
    return key_of(atoms, protocol.changed(forces=False))
