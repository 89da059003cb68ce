"""Batches and their items in a database.

An item is `pending`, then `running` under a lease of one process, then `done` or `failed`, once: the result is written only by the
process that still holds the lease. A process that dies leaves its items to whoever claims them after the lease; those that it had
finished stay finished. Every look-up names the tenant.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from inferstack_runtime.batches.database import Cursor, Database
from inferstack_runtime.batches.files import ENDED, FileStore

LEASE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Batch:
    """A job and how many of its items have ended."""

    id: str
    tenant: str
    tier: str
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str]
    status: str
    created_at: int
    expires_at: int
    cancelling_at: int | None
    ended_at: int | None
    output_file_id: str | None
    error_file_id: str | None
    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a batch, claimed by this process."""

    batch_id: str
    position: int
    custom_id: str
    body: dict[str, Any]
    tenant: str
    tier: str
    endpoint: str


_BATCH = (
    "id, tenant, tier, endpoint, input_file_id, completion_window, metadata, status, created_at, expires_at, cancelling_at, ended_at,"
    " output_file_id, error_file_id"
)


class BatchStore(FileStore):
    """Batches beside the files that they read and write. All calls block; call them in a thread."""

    def __init__(self, database: Database, owner: str | None = None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(database, clock)
        self._owner = owner or uuid.uuid4().hex

    # Batches

    def add_batch(
        self,
        tenant: str,
        tier: str,
        endpoint: str,
        input_file_id: str,
        window: str,
        seconds: int,
        metadata: dict[str, str],
        items: list[tuple[str, str]],
    ) -> Batch:
        """Accept a job with all its items (custom id, body as JSON) in one transaction: whole or not at all."""
        now = self._now()
        batch_id = f"batch_{uuid.uuid4().hex}"
        values = (
            batch_id,
            tenant,
            tier,
            endpoint,
            input_file_id,
            window,
            orjson.dumps(metadata).decode(),
            "in_progress",
            now,
            now + seconds,
        )
        with self._database.transaction() as cursor:
            cursor.run(f"INSERT INTO batches ({_BATCH}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)", values)
            cursor.many(
                "INSERT INTO items (batch_id, position, custom_id, body, status, not_before) VALUES (?, ?, ?, ?, 'pending', 0)",
                [(batch_id, position, custom_id, body) for position, (custom_id, body) in enumerate(items)],
            )
        found = self.batch(tenant, batch_id)
        assert found is not None
        return found

    def batch(self, tenant: str, batch_id: str) -> Batch | None:
        if "\0" in batch_id:
            return None
        with self._database.transaction() as cursor:
            rows = cursor.all(f"SELECT {_BATCH} FROM batches WHERE id = ? AND tenant = ?", (batch_id, tenant))
            return _batch(cursor, rows[0]) if rows else None

    def batches(self, tenant: str) -> list[Batch]:
        with self._database.transaction() as cursor:
            rows = cursor.all(f"SELECT {_BATCH} FROM batches WHERE tenant = ? ORDER BY created_at DESC, id", (tenant,))
            return [_batch(cursor, row) for row in rows]

    def cancel(self, tenant: str, batch_id: str) -> bool:
        """Stop a job that runs; items that have begun may still end. Whether it ran."""
        with self._database.transaction() as cursor:
            changed = cursor.run(
                "UPDATE batches SET status = 'cancelling', cancelling_at = ? WHERE id = ? AND tenant = ? AND status = 'in_progress'",
                (self._now(), batch_id, tenant),
            )
            if changed:
                cursor.run("UPDATE items SET status = 'cancelled' WHERE batch_id = ? AND status = 'pending'", (batch_id,))
        return changed > 0

    # Work

    def claim(self, count: int, without: Sequence[str] = ()) -> list[Item]:
        """Take up to `count` items that nobody works on, not of batches `without`; they are this process's until their lease ends."""
        now = self._now()
        others = f" AND batches.id NOT IN ({', '.join('?' for _ in without)})" if without else ""
        with self._database.transaction() as cursor:
            rows = cursor.all(
                "SELECT items.batch_id, items.position, items.custom_id, items.body, batches.tenant, batches.tier, batches.endpoint"
                " FROM items JOIN batches ON batches.id = items.batch_id WHERE batches.status = 'in_progress'"
                f" AND (items.status = 'pending' OR (items.status = 'running' AND items.lease_until < ?)){others}"
                f" ORDER BY batches.created_at, items.batch_id, items.position LIMIT ?{self._locking('items')}",
                (now, *without, count),
            )
            for batch_id, position, *_ in rows:
                cursor.run(
                    "UPDATE items SET status = 'running', owner = ?, lease_until = ? WHERE batch_id = ? AND position = ?",
                    (self._owner, now + LEASE_SECONDS, batch_id, position),
                )
        return [Item(row[0], row[1], row[2], orjson.loads(row[3]), row[4], row[5], row[6]) for row in rows]

    def renew(self) -> None:
        """Keep what this process works on."""
        with self._database.transaction() as cursor:
            cursor.run(
                "UPDATE items SET lease_until = ? WHERE owner = ? AND status = 'running'", (self._now() + LEASE_SECONDS, self._owner)
            )

    def finish(self, item: Item, status_code: int, result: str) -> bool:
        """Write an item's result, unless another process has taken it over; whether it was written."""
        status = "done" if status_code < 400 else "failed"
        with self._database.transaction() as cursor:
            return (
                cursor.run(
                    "UPDATE items SET status = ?, status_code = ?, result = ?, owner = NULL, lease_until = NULL"
                    " WHERE batch_id = ? AND position = ? AND status = 'running' AND owner = ?",
                    (status, status_code, result, item.batch_id, item.position, self._owner),
                )
                > 0
            )

    def put_back(self, item: Item) -> None:
        """Leave an item for later, for instance because the queue is full."""
        with self._database.transaction() as cursor:
            cursor.run(
                "UPDATE items SET status = 'pending', owner = NULL, lease_until = NULL"
                " WHERE batch_id = ? AND position = ? AND status = 'running' AND owner = ?",
                (item.batch_id, item.position, self._owner),
            )

    def recover(self) -> int:
        """Take back what a former process of this database left running; only where no other process can be alive."""
        with self._database.transaction() as cursor:
            return cursor.run("UPDATE items SET status = 'pending', owner = NULL, lease_until = NULL WHERE status = 'running'")

    def settle(self) -> list[str]:
        """End every job whose time is over or that has no open item: its result files and its status in one transaction. Ids of those."""
        now = self._now()
        ended = []
        with self._database.transaction() as cursor:
            open_batches = cursor.all("SELECT id, tenant, status, expires_at FROM batches WHERE status IN ('in_progress', 'cancelling')")
        for batch_id, tenant, status, expires_at in open_batches:
            with self._database.transaction() as cursor:
                expired = status == "in_progress" and expires_at <= now
                if expired:
                    cursor.run(
                        "UPDATE items SET status = 'expired', owner = NULL WHERE batch_id = ? AND status IN ('pending', 'running')",
                        (batch_id,),
                    )
                if status == "cancelling":
                    cursor.run("UPDATE items SET status = 'cancelled' WHERE batch_id = ? AND status = 'pending'", (batch_id,))
                left = cursor.all("SELECT COUNT(*) FROM items WHERE batch_id = ? AND status IN ('pending', 'running')", (batch_id,))[0][0]
                if left and not (status == "cancelling" and self._abandoned(cursor, batch_id)):
                    continue
                final = "expired" if expired else ("cancelled" if status == "cancelling" else "completed")
                locked = cursor.all(f"SELECT status FROM batches WHERE id = ?{self._locking('batches')}", (batch_id,))
                if not locked or locked[0][0] in ENDED:
                    continue
                output = self._result_file(cursor, batch_id, tenant, good=True)
                errors = self._result_file(cursor, batch_id, tenant, good=False)
                cursor.run(
                    "UPDATE batches SET status = ?, ended_at = ?, output_file_id = ?, error_file_id = ? WHERE id = ?",
                    (final, now, output, errors, batch_id),
                )
                ended.append(batch_id)
        return ended

    def open_count(self) -> dict[str, int]:
        """Jobs that have not ended, by status."""
        with self._database.transaction() as cursor:
            rows = cursor.all("SELECT status, COUNT(*) FROM batches WHERE status IN ('in_progress', 'cancelling') GROUP BY status")
        return dict(rows)

    def close(self) -> None:
        self._database.close()

    def _abandoned(self, cursor: Cursor, batch_id: str) -> bool:
        """Whether the items that a cancelled job still has running are past their lease."""
        rows = cursor.all("SELECT 1 FROM items WHERE batch_id = ? AND status = 'running' AND lease_until >= ?", (batch_id, self._now()))
        return not rows

    def _result_file(self, cursor: Cursor, batch_id: str, tenant: str, good: bool) -> str | None:
        condition = "status = 'done'" if good else "status IN ('failed', 'expired', 'cancelled')"
        if not cursor.all(f"SELECT 1 FROM items WHERE batch_id = ? AND {condition} LIMIT 1", (batch_id,)):
            return None

        def lines() -> Iterator[bytes]:
            last = -1
            while True:
                rows = cursor.all(
                    "SELECT position, custom_id, status, status_code, result FROM items"
                    f" WHERE batch_id = ? AND {condition} AND position > ? ORDER BY position LIMIT 200",
                    (batch_id, last),
                )
                if not rows:
                    return
                for position, custom_id, status, status_code, result in rows:
                    last = position
                    yield _result_line(f"{batch_id}-{position}", custom_id, status, status_code, result)

        name = f"{batch_id}_{'output' if good else 'error'}.jsonl"
        return self._write(cursor, tenant, name, "batch_output", lines()).id

    def _locking(self, table: str) -> str:
        return f"{self._database.locking.replace('UPDATE', f'UPDATE OF {table}')}" if self._database.locking else ""


def _result_line(item_id: str, custom_id: str, status: str, status_code: int | None, result: str | None) -> bytes:
    response = None
    error: dict[str, str] | None = None
    if result is not None:
        response = {"status_code": status_code, "request_id": item_id, "body": orjson.loads(result)}
    else:
        error = {"code": f"batch_{status}", "message": f"This request was not run: the batch was {status}."}
    return orjson.dumps({"id": f"batch_req_{item_id}", "custom_id": custom_id, "response": response, "error": error}) + b"\n"


def _batch(cursor: Cursor, row: tuple[Any, ...]) -> Batch:
    counts: dict[str, int] = dict(cursor.all("SELECT status, COUNT(*) FROM items WHERE batch_id = ? GROUP BY status", (row[0],)))
    failed = sum(counts.get(status, 0) for status in ("failed", "expired", "cancelled"))
    values = (*row[:6], orjson.loads(row[6]), *row[7:], sum(counts.values()), counts.get("done", 0), failed)
    return Batch(*values)
