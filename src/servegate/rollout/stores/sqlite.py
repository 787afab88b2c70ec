"""Store in one SQLite file: the memory of a rollout on one machine, shared with whoever looks on or wants something.

SQLite because the promises are exactly its own: a transaction is there or not, whatever is killed when, and two
processes that want the same row are told apart. State, lease, history and intents share one file, so "write the state
if the lease is still ours" is one transaction and not a hope.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servegate.errors import ConfigError, InfrastructureError
from servegate.rollout.ports import ConflictError, Intent, Lease, LeaseLostError

APPLICATION = 0x53474154
"""Marks the file as ours (SQLite's application_id)."""
SCHEMA = 1
BUSY_TIMEOUT = 5.0

_TABLES = """
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE lease (id INTEGER PRIMARY KEY CHECK (id = 1), holder TEXT, epoch INTEGER NOT NULL, expires REAL NOT NULL);
CREATE TABLE history (n INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL);
CREATE TABLE intent (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, submitter TEXT NOT NULL, at REAL NOT NULL,
  reason TEXT NOT NULL, target TEXT, outcome TEXT
);
INSERT INTO lease VALUES (1, NULL, 0, 0);
"""


class SqliteStore:
    """Remembers a rollout in `path`.

    Attributes:
        pace: every state is saved, whether an effect rests on it or not.

    Args:
        path: the file.
        create: make it when it is not there.

    Raises:
        ConfigError: there is no such file and `create` is false, or it is not a store of ours.
        InfrastructureError: it cannot be opened, read or written.
    """

    pace = 0.0

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        self.epoch = 0
        """Epoch of the lease last acquired here; fences effects on slots."""
        # The controller's loop, its signal handler and a view may ask at once.
        self._lock = threading.RLock()
        if not create and not path.is_file():
            raise ConfigError(f"{path}: no such store; a rollout writes one where its --store points")
        with self._explained():
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            self._opened = self._file()
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def load(self) -> tuple[str | None, int]:
        """The state and its version; (None, 0) before the first."""
        with self._transaction(write=False) as db:
            row = db.execute("SELECT body, version FROM state").fetchone()
        return (None, 0) if row is None else (str(row[0]), int(row[1]))

    def save(self, state: str, expected_version: int, lease: Lease) -> int:
        """Replace the state and return its new version.

        Raises:
            ConflictError: the version is not `expected_version`.
            LeaseLostError: `lease` is no longer the valid one.
        """
        with self._transaction() as db:
            self._require(db, lease)
            row = db.execute("SELECT version FROM state").fetchone()
            version = 0 if row is None else int(row[0])
            if version != expected_version:
                raise ConflictError(f"{self.path}: the state has version {version}, expected was {expected_version}")
            db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (version + 1, state))
        return version + 1

    def append_history(self, line: str) -> None:
        """Add one line of JSON to the history; never changed afterwards."""
        with self._transaction() as db:
            db.execute("INSERT INTO history (line) VALUES (?)", (line,))

    def history(self) -> list[str]:
        """All lines of the history, oldest first."""
        with self._transaction(write=False) as db:
            return [str(line) for (line,) in db.execute("SELECT line FROM history ORDER BY n")]

    def submit(self, kind: str, by: str, at: float, reason: str = "", target: str | None = None) -> Intent:
        """Leave an intent for the holder of the lease."""
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO intent (kind, submitter, at, reason, target) VALUES (?, ?, ?, ?, ?)",
                (kind, by, at, reason, target),
            )
            number = int(cursor.lastrowid or 0)
        return Intent(number, kind, by, at, reason, target)

    def intents(self) -> list[Intent]:
        """Intents not yet settled, oldest first."""
        query = "SELECT id, kind, submitter, at, reason, target FROM intent WHERE outcome IS NULL ORDER BY id"
        with self._transaction(write=False) as db:
            return [Intent(*row) for row in db.execute(query)]

    def settle(self, intent: Intent, outcome: str) -> None:
        """Mark an intent as done, with what came of it. The same again changes nothing."""
        with self._transaction() as db:
            db.execute("UPDATE intent SET outcome = ? WHERE id = ? AND outcome IS NULL", (outcome, intent.id))

    def outcome(self, intent: Intent) -> str | None:
        """What came of an intent; None while it is not settled."""
        with self._transaction(write=False) as db:
            row = db.execute("SELECT outcome FROM intent WHERE id = ?", (intent.id,)).fetchone()
        return None if row is None else row[0]

    def holder(self) -> Lease | None:
        """The lease as it stands, None when nobody has it; it may have expired."""
        with self._transaction(write=False) as db:
            holder, epoch, expires = db.execute("SELECT holder, epoch, expires FROM lease").fetchone()
        return None if holder is None else Lease(holder, epoch, expires)

    def acquire(self, holder: str, now: float, ttl: float) -> Lease:
        """Take the lease when it is free, expired or already ours.

        Raises:
            LeaseLostError: another holder has it.
        """
        with self._transaction() as db:
            current, epoch, expires = db.execute("SELECT holder, epoch, expires FROM lease").fetchone()
            if current is not None and current != holder and expires > now:
                raise LeaseLostError(f"{self.path}: {current} has the lease for another {expires - now:.0f} s")
            # An expired lease of our own may belong to an earlier life: that one must be fenced off too.
            lease = Lease(holder, epoch if current == holder and expires > now else epoch + 1, now + ttl)
            self._write(db, lease)
        self.epoch = lease.epoch
        return lease

    def renew(self, lease: Lease, now: float, ttl: float) -> Lease:
        """Extend the lease. Raises LeaseLostError when it is no longer ours."""
        with self._transaction() as db:
            self._require(db, lease)
            renewed = Lease(lease.holder, lease.epoch, now + ttl)
            self._write(db, renewed)
        return renewed

    def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens when it is no longer ours."""
        with self._transaction() as db:
            db.execute("UPDATE lease SET holder = NULL, expires = 0 WHERE holder = ? AND epoch = ?", _key(lease))

    def _require(self, db: sqlite3.Connection, lease: Lease) -> None:
        holder, epoch = db.execute("SELECT holder, epoch FROM lease").fetchone()
        if (holder, epoch) != _key(lease):
            raise LeaseLostError(
                f"{self.path}: the lease of {lease.holder} (epoch {lease.epoch}) is over; "
                f"it {'is free' if holder is None else f'belongs to {holder}'} (epoch {epoch})"
            )

    def _write(self, db: sqlite3.Connection, lease: Lease) -> None:
        db.execute("UPDATE lease SET holder = ?, epoch = ?, expires = ?", (*_key(lease), lease.expires))

    def _prepare(self) -> None:
        with self._lock, self._explained():
            # A write-ahead log lets others read while we write; synchronous=FULL keeps what was told to be kept.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction() as db:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
            if empty and application in (0, APPLICATION):
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {SCHEMA}")
            elif application != APPLICATION:
                raise ConfigError(f"{self.path}: is a database of something else, not a store of a rollout")
            elif schema != SCHEMA:
                raise ConfigError(f"{self.path}: has format {schema}; this version of servegate reads {SCHEMA}")

    @contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. To write takes the right to write at its start: what is read in it holds until it ends."""
        with self._lock, self._explained():
            if self._file() != self._opened:
                raise InfrastructureError(f"{self.path}: was removed or replaced while it was in use")
            self._db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _file(self) -> tuple[int, int] | None:
        """Which file the path names now. SQLite would go on writing into one that was deleted."""
        try:
            found = self.path.stat()
        except OSError:  # gone: not the file that was opened
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise InfrastructureError(f"{self.path}: {_explanation(error)}") from error
        except OSError as error:
            raise InfrastructureError(f"{self.path}: cannot be opened: {error.strerror}") from error


def _key(lease: Lease) -> tuple[str, int]:
    return lease.holder, lease.epoch


def _explanation(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    known = {
        sqlite3.SQLITE_FULL: "there is no space left",
        sqlite3.SQLITE_IOERR: "the disk does not take or give the data",
        sqlite3.SQLITE_READONLY: "cannot be written; its permissions or its disk are read-only, or it was replaced",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened; is the folder there and writable?",
        sqlite3.SQLITE_CORRUPT: "is damaged; restore it or start with a new file",
        sqlite3.SQLITE_NOTADB: "is not a store of a rollout",
        sqlite3.SQLITE_BUSY: f"another process has kept it locked for {BUSY_TIMEOUT:g} s",
    }
    return f"{known.get(code, 'the store failed')} ({error})"


__all__ = ["SqliteStore"]
