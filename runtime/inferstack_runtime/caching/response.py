"""The response cache as requests see it: may this one be answered from it, from which tier, for how long, and what it says of it.

A request is cached when its answer is repeatable (temperature 0, or a seed). `Cache-Control: no-store` leaves the cache alone altogether,
`no-cache` asks for a fresh answer that is kept. `X-Cache` says `hit`, `semantic`, `coalesced`, `miss` or `bypass`.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.generation import Flight, Follower
from inferstack_runtime.api.http import Request
from inferstack_runtime.api.parameters import Generate
from inferstack_runtime.api.run import Run
from inferstack_runtime.caching.exact import ExactCache, answer_key
from inferstack_runtime.caching.replay import Replay
from inferstack_runtime.caching.semantic import Entry, Question, SemanticCache, namespace_of
from inferstack_runtime.caching.shared import SharedStore
from inferstack_runtime.config import CacheConfig
from inferstack_runtime.errors import ApiError, invalid
from inferstack_runtime.lifecycle.models import Served
from inferstack_runtime.metrics import Metrics

Source = Literal["engine", "exact", "semantic", "coalesced"]
_SHOWN = {"engine": b"miss", "exact": b"hit", "semantic": b"semantic", "coalesced": b"coalesced"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What one request allows."""

    read: bool
    write: bool
    ttl: int
    semantic: bool = False

    def headers(self, lookups: Sequence["Lookup"]) -> list[tuple[bytes, bytes]]:
        """`X-Cache`: for several prompts, `hit` only when all were."""
        if not any(lookup.key for lookup in lookups):
            return [(b"x-cache", b"bypass")]
        sources = {lookup.source for lookup in lookups}
        return [(b"x-cache", _SHOWN[sources.pop()] if len(sources) == 1 else b"miss")]


@dataclass(slots=True)
class Lookup:
    """One prompt's way through the cache. `key` is None where it is not cached, `run` None where the engine must answer."""

    generate: Generate
    key: bytes | None = None
    run: Run | None = None
    source: Source = "engine"
    question: Question | None = None
    """The question under which the semantic tier keeps the answer."""
    found: Entry | None = None
    """The entry of a semantic hit, when it is to be checked."""


class ResponseCache:
    """All tiers together."""

    def __init__(
        self, config: CacheConfig, generation: int, store: SharedStore | None, metrics: Metrics, semantic: SemanticCache | None = None
    ) -> None:
        self.semantic = semantic
        self._tasks: set[asyncio.Task[None]] = set()
        self._config = config
        self._generation = generation
        self._exact = ExactCache(config.entries, config.bytes, store, metrics)
        self._flying: dict[bytes, Flight] = {}
        self._lookups = metrics[catalogue.CACHE_LOOKUPS]

    def policy(self, request: Request) -> Policy:
        """What the request's headers and route allow; raises ApiError 400 for an unknown class."""
        config = self._config
        ttl = config.route_ttl_seconds.get(request.path, config.ttl_seconds)
        name = request.header(b"x-cache-class")
        if name is not None:
            text = name.decode("latin-1")
            if text not in config.class_ttl_seconds:
                raise invalid(f"`X-Cache-Class` must be one of {', '.join(sorted(config.class_ttl_seconds))}.", "X-Cache-Class")
            ttl = config.class_ttl_seconds[text]
        words = request.cache_control
        store = b"no-store" not in words
        semantic = config.semantic.enabled and request.path in config.semantic.routes
        return Policy(store and b"no-cache" not in words, store, ttl, semantic)

    async def look_up(self, policy: Policy, generate: Generate, served: Served) -> Lookup:
        """Where the answer can come from."""
        if not policy.write or not generate.repeatable:
            self._lookups.labels("exact_process", "bypass").inc()
            return Lookup(generate)
        key = answer_key(generate, served.loaded, self._generation)
        if not policy.read:
            return Lookup(generate, key)
        answer = self._exact.near(key)
        if answer is not None:
            return Lookup(generate, key, Replay(answer), "exact")
        flying = self._flying.get(key)
        if flying is None:
            answer = await self._exact.far(key, policy.ttl)
            if answer is not None:
                return Lookup(generate, key, Replay(answer), "exact")
            flying = self._flying.get(key)  # one may have begun meanwhile
        if flying is not None:
            self._lookups.labels("exact_process", "coalesced").inc()
            return Lookup(generate, key, Follower(flying), "coalesced")
        question = self._question(policy, generate, served)
        if question is None or self.semantic is None:
            return Lookup(generate, key)
        entry = await self.semantic.find(question, served.name)
        if entry is None:
            return Lookup(generate, key, question=question)
        check = entry if self.semantic.wants_check() else None
        return Lookup(generate, key, Replay(entry.answer), "semantic", question, check)

    def _question(self, policy: Policy, generate: Generate, served: Served) -> Question | None:
        """What the semantic tier may answer: see its module for the conditions."""
        sampling = generate.sampling
        if self.semantic is None or generate.question is None or not policy.semantic:
            return None
        if sampling.temperature != 0 or sampling.logprobs is not None or generate.grammar is not None or generate.n != 1:
            return None
        rest = answer_key(replace(generate, prompt=(), max_tokens=0), served.loaded, self._generation)
        return Question(generate.question, namespace_of(rest, generate.before))

    def begin(self, lookup: Lookup, flight: Flight) -> None:
        """Let equal requests follow this flight."""
        if lookup.key is not None:
            self._flying[lookup.key] = flight

    def keep(self, policy: Policy, lookup: Lookup, flight: Flight) -> None:
        """The flight has ended: keep a complete answer."""
        if lookup.key is not None and self._flying.get(lookup.key) is flight:
            del self._flying[lookup.key]
        if lookup.key is not None and flight.complete:
            answer = flight.to_answer()
            self._exact.put(lookup.key, answer, policy.ttl)
            if lookup.question is not None and self.semantic is not None:
                self._background(self.semantic.put(lookup.question, answer))

    def check(self, lookup: Lookup, served: Served, flight: Flight) -> None:
        """Judge a semantic hit by the answer that the model gives now."""
        if lookup.question is None or lookup.found is None or self.semantic is None:
            return
        semantic, question, entry = self.semantic, lookup.question, lookup.found

        async def judge() -> None:
            try:
                await semantic.judge(served.name, question, entry, await flight.answer())
            except ApiError:
                return  # no answer, no verdict

        self._background(judge())

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._exact.close()
