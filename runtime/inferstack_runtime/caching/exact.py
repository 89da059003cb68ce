"""The exact tier: the same tenant asked the same model the same thing. In process (L1), then on the shared server (L2).

The key is SHA-256 over tenant, model digest, quantization, slot generation, token ids after the template, and everything that
changes the answer. Never a part of any of them: two requests share an answer only when all of it is equal.
"""

import asyncio
import hashlib
import struct
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.parameters import Generate
from inferstack_runtime.api.run import Answer
from inferstack_runtime.caching.answers import condense, pack, size, unpack
from inferstack_runtime.caching.shared import SharedStore, StoreDown
from inferstack_runtime.engines.base import LoadedModel
from inferstack_runtime.metrics import Metrics

_PREFIX = "inferstack-answer:"
_MOST_IN_ONE_CALL = 128
_MOST_WRITES_WAITING = 1024


def answer_key(generate: Generate, model: LoadedModel, generation: int) -> bytes:
    """The 32-byte key of a request's answer."""
    digest = hashlib.sha256()
    sampling = generate.sampling
    parts = (
        generate.tenant,
        model.name,
        model.digest,
        model.quantization,
        generation,
        generate.max_tokens,
        generate.n,
        generate.stop,
        generate.grammar,
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.repetition_penalty,
        sorted(sampling.logit_bias.items()),
        sampling.seed,
        sampling.logprobs,
        sampling.prompt_logprobs,
        sampling.ignore_eos,
        sorted(sampling.stop_token_ids),
    )
    text = repr(parts).encode("utf-8", "surrogatepass")
    digest.update(struct.pack("<Q", len(text)))
    digest.update(text)
    digest.update(array("I", generate.prompt).tobytes())
    return digest.digest()


class ExactCache:
    """Both levels. Belongs to the event loop; a failing shared server is a miss."""

    def __init__(
        self, entries: int, most_bytes: int, store: SharedStore | None, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_entries = entries
        self._most_bytes = most_bytes
        self._store = store
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[Answer, float, int]] = OrderedDict()
        self._bytes = 0
        self._lookups = metrics[catalogue.CACHE_LOOKUPS]
        self._entries_gauge = metrics[catalogue.CACHE_ENTRIES].labels("exact_process")
        self._bytes_gauge = metrics[catalogue.CACHE_BYTES].labels("exact_process")
        self._hit = self._lookups.labels("exact_process", "hit")
        self._reads: list[tuple[bytes, asyncio.Future[bytes | None]]] = []
        self._writes: list[tuple[bytes, bytes, int]] = []
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def near(self, key: bytes) -> Answer | None:
        """The answer of this process's own cache."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept[1] < self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        self._hit.inc()
        return kept[0]

    async def far(self, key: bytes, ttl: float) -> Answer | None:
        """The answer of the shared server, then also kept here for at most `ttl` seconds."""
        self._lookups.labels("exact_process", "miss").inc()
        if self._store is None:
            return None
        result: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._reads.append((key, result))
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        data = await result
        answer = unpack(data) if data else None
        self._lookups.labels("exact_shared", "hit" if answer else "miss").inc()
        if answer is not None:
            # The shared entry's remaining life is not known: keep it here only shortly.
            self._keep(key, answer, min(ttl, 30.0))
        return answer

    def put(self, key: bytes, answer: Answer, ttl: int) -> None:
        """Keep an answer in both levels for `ttl` seconds."""
        answer = Answer(condense(answer.deltas), answer.usage, answer.prompt_logprobs, answer.digest)
        self._keep(key, answer, ttl)
        if self._store is not None and len(self._writes) < _MOST_WRITES_WAITING:
            self._writes.append((key, pack(answer), ttl))
            if self._writer is None or self._writer.done():
                self._writer = asyncio.create_task(self._write())

    def _keep(self, key: bytes, answer: Answer, ttl: float) -> None:
        weight = size(answer)
        if weight > self._most_bytes // 4 or not self._most_entries:
            return
        self._drop(key)
        self._kept[key] = (answer, self._clock() + ttl, weight)
        self._bytes += weight
        while len(self._kept) > self._most_entries or self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))
        self._show()

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept[2]
            self._show()

    def _show(self) -> None:
        self._entries_gauge.set(len(self._kept))
        self._bytes_gauge.set(self._bytes)

    async def _read(self) -> None:
        while self._reads:
            batch, self._reads = self._reads[:_MOST_IN_ONE_CALL], self._reads[_MOST_IN_ONE_CALL:]
            names = [_PREFIX + key.hex() for key, _ in batch]
            found: list[bytes | None] = [None] * len(batch)
            try:
                assert self._store is not None
                found = await self._store.call("cache", lambda client, names=names: client.mget(names))  # type: ignore[misc]
            except StoreDown:
                pass
            for (_, result), data in zip(batch, found, strict=True):
                if not result.done():
                    result.set_result(data)

    async def _write(self) -> None:
        while self._writes:
            batch, self._writes = self._writes[:_MOST_IN_ONE_CALL], self._writes[_MOST_IN_ONE_CALL:]
            try:
                assert self._store is not None
                await self._store.call("cache", lambda client, batch=batch: _set_all(client, batch))  # type: ignore[misc]
            except StoreDown:
                continue

    async def close(self) -> None:
        tasks = [task for task in (self._reader, self._writer) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)


async def _set_all(client: Any, batch: list[tuple[bytes, bytes, int]]) -> None:
    pipeline = client.pipeline(transaction=False)
    for key, data, ttl in batch:
        pipeline.set(_PREFIX + key.hex(), data, ex=ttl)
    await pipeline.execute()
