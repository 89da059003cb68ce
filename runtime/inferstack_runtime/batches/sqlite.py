"""SQLite in a file as the database of batch jobs."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inferstack_runtime.batches.database import SCHEMA, Cursor, DatabaseDown, DatabaseFull, Row


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
