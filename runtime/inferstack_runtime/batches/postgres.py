"""PostgreSQL as the database of batch jobs: shared by replicas, reconnected when it was away."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from inferstack_runtime.batches.database import SCHEMA, Cursor, DatabaseDown, DatabaseFull, Row

_LONGEST_SECONDS = 30.0
"""Most time for one statement; a server that stopped in the middle of one must not hold its callers for ever."""
_TABLES_LOCK = 7243110985


class PostgresDatabase:
    """One connection; a lost one is made anew by the next transaction."""

    locking = " FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str, longest_seconds: float = _LONGEST_SECONDS, clock: Callable[[], float] = time.time) -> None:
        try:
            import psycopg
        except ImportError:
            raise DatabaseDown("PostgreSQL needs the extra `postgres`: pip install 'inferstack-runtime[postgres]'") from None
        self._psycopg: Any = psycopg
        self._url = url
        self._longest = longest_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: Any = None
        self.ahead = 0.0
        with self.transaction() as cursor:
            # Two replicas that start at once make the tables one after the other.
            cursor.run("SELECT pg_advisory_xact_lock(?)", (_TABLES_LOCK,))
            for statement in SCHEMA:
                cursor.run(statement.replace(" BLOB ", " BYTEA "))

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        errors = self._psycopg
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connect()
                with _Limit(self._connection, self._longest) as limit, self._connection.transaction(), self._connection.cursor() as cursor:
                    yield _PostgresCursor(cursor, limit)
            except errors.errors.DiskFull as error:
                raise DatabaseFull(str(error)) from None
            except errors.Error as error:
                # Whatever it was (gone, restarted, became a read-only standby): the next transaction asks a fresh connection.
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                raise DatabaseDown((str(error) or type(error).__name__).splitlines()[0]) from None

    def _connect(self) -> Any:
        connection = self._psycopg.connect(self._url, connect_timeout=5, autocommit=True)
        with _Limit(connection, self._longest):
            theirs = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()[0]
        self.ahead = float(theirs) - self._clock()
        return connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()


class _Limit:
    """Cuts a connection whose server says nothing for `seconds`; `again` before each statement gives it the whole time anew."""

    def __init__(self, connection: Any, seconds: float) -> None:
        self._handle = connection.fileno()
        self._seconds = seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "_Limit":
        self.again()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def again(self) -> None:
        self.__exit__()
        self._timer = threading.Timer(self._seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _cut(self) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(self._handle)) as shared:
            shared.shutdown(socket.SHUT_RDWR)


class _PostgresCursor:
    def __init__(self, cursor: Any, limit: _Limit) -> None:
        self._cursor = cursor
        self._limit = limit

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        self._limit.again()
        self._cursor.execute(sql.replace("?", "%s"), parameters)
        return int(self._cursor.rowcount)

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._limit.again()
        self._cursor.executemany(sql.replace("?", "%s"), rows)

    def all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        self.run(sql, parameters)
        return [tuple(bytes(value) if isinstance(value, memoryview) else value for value in row) for row in self._cursor.fetchall()]
