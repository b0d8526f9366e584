"""Responses that are kept: bounded, expiring, in memory or in an SQLite file."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptoss import _private
from gptoss.server.responses.objects import Item

_APPLICATION_ID = 0x67707472  # "gptr", in the file's header
_VERSION = 1
_UNFINISHED = ("queued", "in_progress")

_TABLES = """
CREATE TABLE responses (
    id TEXT PRIMARY KEY, bytes INTEGER NOT NULL, status TEXT NOT NULL, expires REAL NOT NULL,
    used INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX by_use ON responses (used, bytes);
CREATE INDEX by_expiry ON responses (expires);
CREATE TABLE items (
    id TEXT PRIMARY KEY,
    response_id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX by_response ON items (response_id);
"""


@dataclass(frozen=True)
class Record:
    """A response and what it was made of.

    Attributes
    ----------
    response : dict
        As the API hands it out.
    history : list of dict
        Items of the turns before it.
    input : list of dict
        Items of its request.
    output : list of dict
        Items of the answer, reasoning included, whatever the response shows.
    """

    response: dict[str, Any]
    history: list[Item] = field(default_factory=list)
    input: list[Item] = field(default_factory=list)
    output: list[Item] = field(default_factory=list)

    @property
    def conversation(self) -> list[Item]:
        """What a next turn follows on."""
        return [*self.history, *self.input, *self.output]


class ResponseStore:
    """Keeps responses until they expire, or there is no room: those go first that were not used.

    A record has its whole conversation, so that it outlives the ones before it. May be used from
    several threads.

    Parameters
    ----------
    path : path, optional
        An SQLite file, made readable for its owner alone; None keeps all in memory. What was put
        there outlives the process, however that ends. One process at a time may have it open.
    max_entries : int
        Most responses.
    max_bytes : int
        Most bytes of theirs as JSON; one that is larger than that is not kept.
    ttl_s : float
        Seconds after which one is gone.
    clock : callable
        The time in seconds.

    Raises
    ------
    ValueError
        The file is none of these, is somebody else's, or another process has it open.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_entries: int = 1000,
        max_bytes: int = 256 << 20,
        ttl_s: float = 30 * 86400,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._database = _open(path)
        weakref.finalize(
            self, self._database.close
        )  # where nobody closes it: no warning of Python's
        self._fail_unfinished()

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def put(self, record: Record) -> bool:
        """Keep a response, in place of an earlier state of it.

        Returns
        -------
        bool
            False if it is larger than the store.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        response = record.response
        body = json.dumps([response, record.history, record.input, record.output])
        if len(body) > self._max_bytes:
            self.delete(response["id"])
            return False
        expires = self._clock() + self._ttl_s
        row = (response["id"], len(body), response["status"], expires, body)
        with self._changing() as database:
            database.execute("DELETE FROM responses WHERE id = ?", row[:1])
            database.execute(f"INSERT INTO responses VALUES (?, ?, ?, ?, {_NEXT_USE}, ?)", row)
            database.executemany(
                "INSERT OR REPLACE INTO items VALUES (?, ?)",
                [(item["id"], response["id"]) for item in [*record.input, *record.output]],
            )
            self._make_room(database)
        return True

    def get(self, response_id: str) -> Record | None:
        """The response of this id, None if it is not there; it is now the one used last."""
        if not response_id.isascii():
            return None
        with self._changing() as database:
            self._expire(database)
            row = database.execute(
                "SELECT body FROM responses WHERE id = ?", (response_id,)
            ).fetchone()
            if row is None:
                return None
            database.execute(
                f"UPDATE responses SET used = {_NEXT_USE} WHERE id = ?", (response_id,)
            )
        return Record(*json.loads(row[0]))

    def item(self, item_id: str) -> Item | None:
        """The item of this id, of the input or the output of any response that is kept."""
        if not item_id.isascii():
            return None
        with self._lock:
            row = self._database.execute(
                "SELECT response_id FROM items WHERE id = ?", (item_id,)
            ).fetchone()
        record = None if row is None else self.get(row[0])
        found = [] if record is None else [*record.input, *record.output]
        return next((item for item in found if item["id"] == item_id), None)

    def delete(self, response_id: str) -> bool:
        """Forget a response; return whether it was there."""
        if not response_id.isascii():
            return False
        with self._changing() as database:
            self._expire(database)
            gone = database.execute("DELETE FROM responses WHERE id = ?", (response_id,))
            return gone.rowcount > 0

    @property
    def size(self) -> tuple[int, int]:
        """How many responses there are, and the bytes that they count for."""
        with self._lock:
            return _size(self._database)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is there afterwards, or nothing."""
        with self._lock:
            try:
                with self._database:
                    self._database.execute("BEGIN IMMEDIATE")
                    yield self._database
            except sqlite3.Error as error:
                raise OSError(f"the store of responses: {error}") from error

    def _expire(self, database: sqlite3.Connection) -> None:
        database.execute("DELETE FROM responses WHERE expires <= ?", (self._clock(),))

    def _make_room(self, database: sqlite3.Connection) -> None:
        self._expire(database)
        while True:
            entries, size_bytes = _size(database)
            if entries <= self._max_entries and size_bytes <= self._max_bytes:
                return
            database.execute(
                "DELETE FROM responses WHERE id = (SELECT id FROM responses ORDER BY used LIMIT 1)"
            )

    def _fail_unfinished(self) -> None:
        """Say of what another process was answering when it ended that it has failed."""
        with self._changing() as database:
            self._expire(database)
            rows = database.execute(
                "SELECT id, body FROM responses WHERE status IN (?, ?)", _UNFINISHED
            ).fetchall()
            for response_id, text in rows:
                body = json.loads(text)
                body[0]["status"] = "failed"
                body[0]["error"] = {"code": "server_error", "message": "the server was stopped"}
                database.execute(
                    "UPDATE responses SET body = ?, status = 'failed' WHERE id = ?",
                    (json.dumps(body), response_id),
                )


_NEXT_USE = "(SELECT coalesce(max(used), 0) + 1 FROM responses)"


def _size(database: sqlite3.Connection) -> tuple[int, int]:
    row = database.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM responses").fetchone()
    return int(row[0]), int(row[1])


def _open(path: str | os.PathLike[str] | None) -> sqlite3.Connection:
    if path is not None:
        _make_private(Path(path))
    target = ":memory:" if path is None else os.fspath(path)
    database = sqlite3.connect(target, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        # The lock is held until the end; a killed process has lost nothing that was committed.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA secure_delete = ON")
        database.execute("BEGIN IMMEDIATE")
        _prepare(database, target)
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        database.close()
        raise ValueError(f"{target}: cannot be opened, or is in use: {error}") from error
    except sqlite3.DatabaseError as error:
        database.close()
        raise ValueError(f"{target}: is no store of responses: {error}") from error
    except BaseException:
        database.close()
        raise
    return database


def _make_private(path: Path) -> None:
    """Have a file that only its owner may read: prompts are in it."""
    try:
        handle = os.open(path, _private.flags("O_RDWR", "O_CREAT", "O_NOFOLLOW"), 0o600)
    except OSError as error:
        raise ValueError(f"{path}: the store of responses cannot be opened: {error}") from error
    try:
        if not _private.is_own_file(os.fstat(handle)):
            raise ValueError(f"{path}: must be a file of the user who runs the server")
        _private.hide(handle)
    finally:
        os.close(handle)


def _prepare(database: sqlite3.Connection, name: str) -> None:
    """Make the tables of a new file, and refuse one that is something else."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == 0 and tables == 0:
        for statement in _TABLES.strip().split(";\n"):
            database.execute(statement.rstrip(";"))
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {_VERSION}")
    elif (application, version) != (_APPLICATION_ID, _VERSION):
        raise ValueError(f"{name}: is no store of responses of this version")
