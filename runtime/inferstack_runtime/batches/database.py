"""What batch jobs ask of their database: sqlite.py and postgres.py are the two that there are.

SQL is written once, with `?` for parameters. All calls block: call them in a thread.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

Row = tuple[Any, ...]

# items.not_before: of the first version; always 0
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
