"""The batch jobs of one process: the store, opened by its first use, and the worker that answers its items."""

import asyncio
import logging
from collections.abc import Callable

from inferstack_runtime.batches.opening import open_store
from inferstack_runtime.batches.store import BatchStore
from inferstack_runtime.batches.worker import Answer, BatchWorker
from inferstack_runtime.config import RuntimeConfig
from inferstack_runtime.metrics import Metrics

_AGAIN_SECONDS = 5.0
_log = logging.getLogger(__name__)


class BatchJobs:
    """Belongs to the event loop."""

    def __init__(self, config: RuntimeConfig, metrics: Metrics, ready: Callable[[], bool]) -> None:
        """`ready`: whether the process takes work now."""
        self._config = config
        self._metrics = metrics
        self._ready = ready
        self._opening: asyncio.Task[BatchStore] | None = None
        self._worker: BatchWorker | None = None

    async def store(self) -> BatchStore:
        """The store, opened by its first use; raises DatabaseDown."""
        if self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(open_store, self._config))
        try:
            return await asyncio.shield(self._opening)
        except BaseException:
            if self._opening is not None and self._opening.done():
                self._opening = None
            raise

    def wake(self) -> None:
        """There is new work."""
        if self._worker is not None:
            self._worker.wake()

    async def work(self, answer: Answer) -> None:
        """Answer items from the moment the process is ready, for ever; a database that cannot be opened is tried again."""
        while not self._ready():
            await asyncio.sleep(0.1)
        while self._worker is None:
            try:
                store = await self.store()
            except Exception as error:
                _log.error("batches cannot run", extra={"fields": {"error": str(error)}})
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            self._worker = BatchWorker(store, answer, self._config.batches.concurrency, self._metrics, lambda: not self._ready())
        await self._worker.run()

    async def close(self) -> None:
        """Close the store if it was opened."""
        if self._opening is not None:
            opened = await asyncio.gather(self._opening, return_exceptions=True)
            if not isinstance(opened[0], BaseException):
                await asyncio.to_thread(opened[0].close)
