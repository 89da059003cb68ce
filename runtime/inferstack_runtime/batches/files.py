"""Files in a database, in parts, so that a large one is never in memory as a whole. Every look-up names the tenant."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from inferstack_runtime.batches.database import Cursor, Database

_PART = 512 * 1024
_FILE = "id, tenant, filename, purpose, bytes, created_at"
ENDED = ("completed", "failed", "cancelled", "expired")
"""Statuses of a batch that needs its input file no more."""


@dataclass(frozen=True, slots=True)
class File:
    """A file's description."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    created_at: int


class FileStore:
    """All calls block; call them in a thread."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def add_file(self, tenant: str, filename: str, purpose: str, parts: Iterable[bytes]) -> File:
        """Keep a file; `parts` may be of any size. Raises DatabaseFull or DatabaseDown with nothing kept."""
        with self._database.transaction() as cursor:
            return self._write(cursor, tenant, filename, purpose, parts)

    def file(self, tenant: str, file_id: str) -> File | None:
        if "\0" in file_id:  # PostgreSQL has no such text
            return None
        with self._database.transaction() as cursor:
            rows = cursor.all(f"SELECT {_FILE} FROM files WHERE id = ? AND tenant = ?", (file_id, tenant))
        return File(*rows[0]) if rows else None

    def files(self, tenant: str) -> list[File]:
        with self._database.transaction() as cursor:
            rows = cursor.all(f"SELECT {_FILE} FROM files WHERE tenant = ? ORDER BY created_at DESC, id", (tenant,))
        return [File(*row) for row in rows]

    def read(self, file_id: str) -> Iterator[bytes]:
        """The file's content in parts."""
        position = 0
        while True:
            with self._database.transaction() as cursor:
                rows = cursor.all("SELECT data FROM file_parts WHERE file_id = ? AND position = ?", (file_id, position))
            if not rows:
                return
            yield bytes(rows[0][0])
            position += 1

    def delete_file(self, tenant: str, file_id: str) -> str:
        """`deleted`, `missing`, or `used` by a batch that has not ended."""
        if self.file(tenant, file_id) is None:
            return "missing"
        with self._database.transaction() as cursor:
            marks = ", ".join("?" for _ in ENDED)
            if cursor.all(f"SELECT 1 FROM batches WHERE input_file_id = ? AND status NOT IN ({marks})", (file_id, *ENDED)):
                return "used"
            cursor.run("DELETE FROM files WHERE id = ?", (file_id,))
            cursor.run("DELETE FROM file_parts WHERE file_id = ?", (file_id,))
        return "deleted"

    def _write(self, cursor: Cursor, tenant: str, filename: str, purpose: str, parts: Iterable[bytes]) -> File:
        """Keep a file within a transaction."""
        file_id = f"file-{uuid.uuid4().hex}"
        size = _write_parts(cursor, file_id, parts)
        file = File(file_id, tenant, filename, purpose, size, self._now())
        cursor.run(f"INSERT INTO files ({_FILE}) VALUES (?, ?, ?, ?, ?, ?)", (file.id, tenant, filename, purpose, size, file.created_at))
        return file

    def _now(self) -> int:
        return int(self._clock() + self._database.ahead)


def _write_parts(cursor: Cursor, file_id: str, parts: Iterable[bytes]) -> int:
    size = position = 0
    held = bytearray()

    def flush(data: bytes) -> None:
        nonlocal position
        cursor.run("INSERT INTO file_parts (file_id, position, data) VALUES (?, ?, ?)", (file_id, position, data))
        position += 1

    for part in parts:
        size += len(part)
        held += part
        while len(held) >= _PART:
            flush(bytes(held[:_PART]))
            del held[:_PART]
    if held or position == 0:
        flush(bytes(held))
    return size
