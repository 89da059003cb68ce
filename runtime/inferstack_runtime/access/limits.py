"""Limits per tenant and tier, counted for all replicas together on the shared server, or estimated here while it is away.

    admission = await limiter.admit(caller, tokens=800)      # raises ApiError 429 with Retry-After
    admission.headers                                          # RateLimit-* and x-ratelimit-*
    limiter.settle(admission, tokens=512)                      # what was really used; refund() gives everything back

Admissions that arrive together travel in one call of one script.
"""

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.access.keys import Caller
from inferstack_runtime.access.window import WINDOW, Verdict, Window
from inferstack_runtime.caching.shared import SharedStore, StoreDown
from inferstack_runtime.config import TierConfig
from inferstack_runtime.errors import ApiError
from inferstack_runtime.metrics import Metrics

_MOST_IN_ONE_CALL = 256
_MOST_TENANTS = 10_000


@dataclass(slots=True)
class Admission:
    """A request that passed the limits. `tokens` are reserved until it is settled."""

    key: str
    tier: str
    tokens: int
    second: int
    shared: bool
    verdict: Verdict
    settled: bool = False


@dataclass(slots=True)
class _Operation:
    key: str
    tier: TierConfig
    requests: int
    tokens: int
    second: int
    result: "asyncio.Future[Verdict] | None"


class Limiter:
    """Belongs to the event loop."""

    def __init__(
        self,
        tiers: Mapping[str, TierConfig],
        store: SharedStore | None,
        metrics: Metrics,
        environment: str = "local",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tiers = dict(tiers)
        self._store = store
        self._metrics = metrics
        self._environment = environment
        self._clock = clock
        self._script = (files(__package__) / "limits.lua").read_text()
        self._script_hash = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._local: dict[str, Window] = {}
        self._share: dict[str, float] = {}
        self._waiting: list[_Operation] = []
        self._sender: asyncio.Task[None] | None = None

    async def admit(self, caller: Caller, tokens: int) -> Admission:
        """Count one request of `tokens` tokens. Raises ApiError 429 with Retry-After when it does not fit the tier's limits."""
        tier = self._tiers.get(caller.tier)
        if tier is None:
            raise ApiError(403, f"The tier {caller.tier!r} is not configured.", code="unknown_tier", reason="forbidden")
        key = self._key(caller)
        # A request larger than the limit itself takes the whole window, else it could never pass.
        tokens = min(tokens, tier.tokens_per_minute)
        verdict, shared = await self._ask(key, tier, tokens)
        if not verdict.allowed:
            raise _refused(tier, verdict)
        return Admission(key, caller.tier, tokens, verdict.second, shared, verdict)

    def headers(self, admission: Admission) -> list[tuple[bytes, bytes]]:
        """`RateLimit-*` (requests) and OpenAI's `x-ratelimit-*` (requests and tokens)."""
        return _headers(self._tiers[admission.tier], admission.verdict)

    def settle(self, admission: Admission, tokens: int) -> None:
        """Replace the reserved tokens by those really used; only the first call of an admission counts."""
        self._change(admission, 0, tokens - admission.tokens)

    def refund(self, admission: Admission) -> None:
        """Give back a request that failed through no fault of its caller."""
        self._change(admission, -1, -admission.tokens)

    def _change(self, admission: Admission, requests: int, tokens: int) -> None:
        if admission.settled:
            return
        admission.settled = True
        window = self._local.get(admission.key)
        if window is not None:
            window.settle(admission.second, requests, tokens)
        if admission.shared and (requests or tokens):
            self._send(_Operation(admission.key, self._tiers[admission.tier], requests, tokens, admission.second, None))

    async def _ask(self, key: str, tier: TierConfig, tokens: int) -> tuple[Verdict, bool]:
        """The shared verdict, or the local estimate."""
        if self._store is not None:
            result: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            self._send(_Operation(key, tier, 1, tokens, -1, result))
            try:
                verdict = await result
            except StoreDown:
                self._metrics[catalogue.LIMIT_FALLBACK].inc()
            else:
                self._remember(key, tier, tokens, verdict)
                return verdict, True
        # While the shared counter is away this process grants its usual share of the limit.
        share = self._share.get(key, 1.0)
        return self._window(key).admit(
            int(self._clock()),
            1,
            tokens,
            max(1, round(tier.requests_per_minute * share)),
            max(tokens, round(tier.tokens_per_minute * share)),
        ), False

    def _remember(self, key: str, tier: TierConfig, tokens: int, verdict: Verdict) -> None:
        """Keep a local count beside the shared one, and with it this process's share of the tenant's requests."""
        if not verdict.allowed:
            return
        window = self._window(key)
        mine = window.admit(verdict.second, 1, tokens, 2**62, 2**62)
        everybody = tier.requests_per_minute - verdict.remaining_requests
        ours = 2**62 - mine.remaining_requests
        self._share[key] = min(1.0, max(0.01, ours / everybody)) if everybody > 0 else 1.0
        self._trim(self._share)

    def _window(self, key: str) -> Window:
        window = self._local.get(key)
        if window is None:
            if len(self._local) >= _MOST_TENANTS:
                now = int(self._clock())
                self._local = {name: kept for name, kept in self._local.items() if any(second >= now - WINDOW for second in kept.seconds)}
            window = self._local[key] = Window()
        return window

    @staticmethod
    def _trim(table: dict[str, float]) -> None:
        while len(table) > _MOST_TENANTS:
            del table[next(iter(table))]

    def _send(self, operation: _Operation) -> None:
        self._waiting.append(operation)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST_IN_ONE_CALL], self._waiting[_MOST_IN_ONE_CALL:]
            try:
                assert self._store is not None
                rows = await self._store.call("limits", lambda client, batch=batch: self._evaluate(client, batch))  # type: ignore[misc]
            except StoreDown as error:
                for operation in batch:
                    if operation.result is not None and not operation.result.done():
                        operation.result.set_exception(error)
                continue
            for operation, (allowed, requests, tokens, wait, second) in zip(batch, rows, strict=True):
                if operation.result is not None and not operation.result.done():
                    reason = "" if allowed == 1 else ("tokens" if allowed == -1 else "rate")
                    operation.result.set_result(Verdict(allowed == 1, requests, tokens, wait, second, reason))

    async def _evaluate(self, client: Any, batch: list[_Operation]) -> Any:
        keys = list(dict.fromkeys(operation.key for operation in batch))
        arguments: list[Any] = []
        for operation in batch:
            arguments += (
                keys.index(operation.key) + 1,
                operation.tier.requests_per_minute,
                operation.tier.tokens_per_minute,
                operation.requests,
                operation.tokens,
                operation.second,
            )
        from redis.exceptions import NoScriptError

        try:
            return await client.evalsha(self._script_hash, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.eval(self._script, len(keys), *keys, *arguments)

    def _key(self, caller: Caller) -> str:
        # One hash tag for all, so that one script call may touch several keys on a clustered server.
        return f"{{inferstack-limits}}:{self._environment}:{_short(caller.tenant)}:{caller.tier}"

    async def close(self) -> None:
        if self._sender is not None:
            await asyncio.gather(self._sender, return_exceptions=True)


@functools.lru_cache(maxsize=_MOST_TENANTS)
def _short(tenant: str) -> str:
    """A tenant's name in keys of the shared server."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:32]


def _refused(tier: TierConfig, verdict: Verdict) -> ApiError:
    kind = "tokens" if verdict.reason == "tokens" else "requests"
    limit = tier.tokens_per_minute if kind == "tokens" else tier.requests_per_minute
    headers = {name.decode(): value.decode() for name, value in _headers(tier, verdict)}
    return ApiError(
        429,
        f"Rate limit reached: {limit} {kind} per minute. Try again in {verdict.wait} s.",
        code="rate_limit_exceeded",
        reason=verdict.reason,
        headers={**headers, "retry-after": str(verdict.wait)},
    )


def _headers(tier: TierConfig, verdict: Verdict) -> list[tuple[bytes, bytes]]:
    requests, tokens = str(verdict.remaining_requests).encode(), str(verdict.remaining_tokens).encode()
    limit = str(tier.requests_per_minute).encode()
    return [
        (b"ratelimit-limit", limit),
        (b"ratelimit-remaining", requests),
        (b"ratelimit-reset", str(verdict.wait or WINDOW).encode()),
        (b"x-ratelimit-limit-requests", limit),
        (b"x-ratelimit-remaining-requests", requests),
        (b"x-ratelimit-limit-tokens", str(tier.tokens_per_minute).encode()),
        (b"x-ratelimit-remaining-tokens", tokens),
    ]
