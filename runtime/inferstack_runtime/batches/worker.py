"""Answers the items of batches beside the requests of clients, who come first."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.batches.database import DatabaseDown, DatabaseFull
from inferstack_runtime.batches.store import LEASE_SECONDS, BatchStore, Item
from inferstack_runtime.metrics import Metrics

_log = logging.getLogger(__name__)
_IDLE_SECONDS = 1.0
_LONGEST_REST = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of an item: status code and body as JSON. 429 and 503 mean: later, `retry_after` in seconds."""

    status_code: int
    body: str
    retry_after: float = 1.0


Answer = Callable[[Item], Awaitable[Answered]]


class BatchWorker:
    """Claims items, answers up to `concurrency` at once, writes each result once. Cancelled, it leaves the rest for later."""

    def __init__(self, store: BatchStore, answer: Answer, concurrency: int, metrics: Metrics, paused: Callable[[], bool]) -> None:
        self._store = store
        self._answer = answer
        self._concurrency = concurrency
        self._metrics = metrics
        self._paused = paused
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._settled = float("-inf")
        self._resting: dict[str, float] = {}
        """Batches of which nothing is asked before a time: their tenant's limit is reached, or their model is away."""

    def wake(self) -> None:
        """There is new work."""
        self._news.set()

    async def run(self) -> None:
        """For ever. A database that is away or full is tried again each second; nothing accepted is lost meanwhile."""
        renewed = time.monotonic()
        try:
            while True:
                try:
                    claimed = await self._turn()
                    if time.monotonic() - renewed > LEASE_SECONDS / 4:
                        await asyncio.to_thread(self._store.renew)
                        renewed = time.monotonic()
                except (DatabaseDown, DatabaseFull) as error:
                    _log.error("batches wait for their database", extra={"fields": {"error": str(error)}})
                    claimed = 0
                if not claimed:
                    self._news.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_IDLE_SECONDS):
                            await self._news.wait()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _turn(self) -> int:
        room = self._concurrency - len(self._running)
        now = time.monotonic()
        self._resting = {batch: until for batch, until in self._resting.items() if until > now}
        items = [] if self._paused() or room < 1 else await asyncio.to_thread(self._store.claim, room, tuple(self._resting))
        for item in items:
            task = asyncio.create_task(self._one(item))
            self._running.add(task)
            task.add_done_callback(self._done)
        if not self._running or (not items and now - self._settled >= _IDLE_SECONDS):
            self._settled = now
            await asyncio.to_thread(self._store.settle)
            counts = await asyncio.to_thread(self._store.open_count)
            for status in ("in_progress", "cancelling"):
                self._metrics[catalogue.BATCH_JOBS].labels(status).set(counts.get(status, 0))
        return len(items)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._news.set()

    async def _one(self, item: Item) -> None:
        try:
            answered = await self._answer(item)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(self._store.put_back, item))
            raise
        if answered.status_code in (429, 503):
            self._resting[item.batch_id] = time.monotonic() + min(max(answered.retry_after, 1.0), _LONGEST_REST)
            await self._write(lambda: self._store.put_back(item))
            return
        if await self._write(lambda: self._store.finish(item, answered.status_code, answered.body)):
            self._metrics[catalogue.BATCH_ITEMS].labels("ok" if answered.status_code < 400 else "failed").inc()

    async def _write(self, work: Callable[[], bool | None]) -> bool:
        """Write until it succeeds: the answer is there, only its place is not."""
        while True:
            try:
                return bool(await asyncio.to_thread(work))
            except (DatabaseDown, DatabaseFull) as error:
                _log.error("a batch result waits for its database", extra={"fields": {"error": str(error)}})
                await asyncio.sleep(_IDLE_SECONDS)
