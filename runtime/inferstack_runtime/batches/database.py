"""What batch jobs ask of their database, and SQLite in a file as one; PostgreSQL by URL is in postgres.py.

SQL is written once, with `?` for parameters. All calls block: call them in a thread.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

Row = tuple[Any, ...]

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,"
    " bytes BIGINT NOT NULL, created_at BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS file_parts (file_id TEXT NOT NULL, position INTEGER NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY (file_id, position))",
    "CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, tier TEXT NOT NULL, endpoint TEXT NOT NULL,"
    " input_file_id TEXT NOT NULL, completion_window TEXT NOT NULL, metadata TEXT NOT NULL, status TEXT NOT NULL,"
    " created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, cancelling_at BIGINT, ended_at BIGINT, output_file_id TEXT,"
    " error_file_id TEXT)",
    "CREATE TABLE IF NOT EXISTS items (batch_id TEXT NOT NULL, position INTEGER NOT NULL, custom_id TEXT NOT NULL, body TEXT NOT NULL,"
    " status TEXT NOT NULL, owner TEXT, lease_until BIGINT, not_before BIGINT NOT NULL, status_code INTEGER, result TEXT,"
    " PRIMARY KEY (batch_id, position))",
    "CREATE INDEX IF NOT EXISTS items_open ON items (status, batch_id, position)",
)


class DatabaseFull(Exception):
    """No space is left for what was to be written; nothing of it was."""


class DatabaseDown(Exception):
    """The database cannot be reached or used; the message says why."""


class Cursor(Protocol):
    """One transaction."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Execute; number of rows changed."""
        ...

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...
    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]: ...


class Database(Protocol):
    """Transactions one after the other. `locking` is the clause that lets several processes claim different rows; `ahead` are the seconds
    that the database's clock is ahead of this machine's, so that processes on machines whose clocks differ agree when a lease ends."""

    locking: str
    ahead: float

    def transaction(self) -> AbstractContextManager[Cursor]:
        """A context manager that yields a Cursor, commits at its end and rolls back on an exception."""

    def close(self) -> None: ...


def open_database(url: str) -> Database:
    """Open `sqlite:///PATH` or `postgresql://…` and make its tables; raises DatabaseDown."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(Path(url.removeprefix("sqlite:///")))
    from inferstack_runtime.batches.postgres import PostgresDatabase

    return PostgresDatabase(url)


class SqliteDatabase:
    """One process owns the file; a second one is refused."""

    locking = ""
    ahead = 0.0

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._guard = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._guard)
                raise DatabaseDown(f"{path}: another process uses it; give each process its own or use PostgreSQL") from None
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            for statement in SCHEMA:
                self._connection.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise DatabaseDown(f"{path}: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield _SqliteCursor(self._connection)
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    raise DatabaseFull(str(error)) from None
                raise DatabaseDown(str(error)) from None

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            os.close(self._guard)


class _SqliteCursor:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, parameters).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()
