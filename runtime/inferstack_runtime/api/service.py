"""What the handlers share: the parts of the process, and the way of a request from its parameters to deltas."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from inferstack_runtime import __version__
from inferstack_runtime import metrics as catalogue
from inferstack_runtime.access.account import Account
from inferstack_runtime.access.authenticate import Authenticator
from inferstack_runtime.access.limits import Limiter
from inferstack_runtime.api.generation import Flight
from inferstack_runtime.api.grammar import GrammarMask, masks_of
from inferstack_runtime.api.http import Request, parse_object
from inferstack_runtime.api.parameters import Generate, check_tokens
from inferstack_runtime.api.prepared import Prepared
from inferstack_runtime.api.run import Run, Usage
from inferstack_runtime.batches.jobs import BatchJobs
from inferstack_runtime.caching.response import Lookup, Policy, ResponseCache
from inferstack_runtime.caching.shared import SharedStore
from inferstack_runtime.config import RuntimeConfig
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.errors import ApiError
from inferstack_runtime.lifecycle.models import Models, Served, Unavailable
from inferstack_runtime.metrics import Metrics

if TYPE_CHECKING:
    from inferstack_runtime.caching.embedding import Embedder
    from inferstack_runtime.checks.runner import Checks
    from inferstack_runtime.tracing import Tracer


_BEHIND_ALL = 100
log = logging.getLogger(__name__)


@dataclass
class ProcessState:
    """Whether the process takes requests."""

    warm: bool = False
    draining: bool = False
    reason: str = "loading"
    in_flight: int = 0

    @property
    def ready(self) -> bool:
        return self.warm and not self.draining


@dataclass
class Service:
    """The parts of one runtime process that requests touch."""

    config: RuntimeConfig
    models: Models
    authenticator: Authenticator
    limiter: Limiter
    cache: ResponseCache
    store: SharedStore | None
    metrics: Metrics
    clock: Callable[[], float]
    checks: "Checks | None" = None
    tracer: "Tracer | None" = None
    state: ProcessState = field(default_factory=ProcessState)
    flights: set[Flight] = field(default_factory=set)
    chats: Prepared = field(default_factory=Prepared)
    completions: Prepared = field(default_factory=Prepared)
    started: float = field(default_factory=time.monotonic)
    response_times: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    """Seconds of the last 100 answers of models."""

    def __post_init__(self) -> None:
        self.created = self.clock()
        self.batches = BatchJobs(self.config, self.metrics, lambda: self.state.ready)
        self._embedder: asyncio.Task[Embedder] | None = None

    async def embedder(self) -> "Embedder | None":
        """The embedding model, loaded by its first use; None where none is configured. Raises ApiError 503."""
        source = self.config.embeddings
        if source is None:
            return None
        if self._embedder is None:
            from inferstack_runtime.caching.embedding import load_embedder

            self._embedder = asyncio.create_task(asyncio.to_thread(load_embedder, source))
        try:
            return await asyncio.shield(self._embedder)
        except ModelLoadError as error:
            self._embedder = None
            raise _not_ready(f"The embedding model cannot be loaded: {error}") from None

    async def body(self, request: Request) -> bytes:
        """The request's body within the configured bounds."""
        return await request.body(self.config.http.max_body_bytes, self.config.http.body_seconds)

    async def json(self, request: Request) -> dict[str, object]:
        """The request's JSON body within the configured bounds."""
        return parse_object(await self.body(request))

    async def model(self, request: Request, name: str) -> Served:
        """A model that is ready, loading it first where it is lazy; raises ApiError 404 or 503."""
        served = self.models.find(name)
        if served is None:
            raise ApiError(
                404, f"The model {name[:200]!r} does not exist; /v1/models lists those that do.", param="model", code="model_not_found"
            )
        request.labels["model"] = served.name
        if served.state != "ready":
            await self._wait_for(served)
        return served

    async def _wait_for(self, served: Served) -> None:
        if served.removed:
            raise ApiError(404, f"The model {served.name!r} was unloaded.", param="model", code="model_not_found")
        if served.state == "failed" and not served.config.lazy:
            raise _not_ready(f"The model {served.name!r} could not be loaded: {served.error}")
        if served.state == "loading" and not served.config.lazy and not self.state.warm:
            raise _not_ready(f"The model {served.name!r} is still loading ({served.phase}).")
        try:
            await self.models.load(served.name)
        except (ModelLoadError, Unavailable) as error:
            raise _not_ready(f"The model {served.name!r} cannot be loaded: {error}") from None

    async def runs(self, request: Request, served: Served, generates: Sequence[Generate]) -> list[Run]:
        """Begin to answer: from the cache, from an equal request that is being answered, or by the engine.

        One admission counts the whole request; what was reserved and not used is given back when it ends. Raises ApiError 400, 429
        or 503 before anything is sent; when one of several cannot begin, none goes on.
        """
        for generate in generates:
            check_tokens(generate, served.loaded.tokenizer.vocabulary_size)
        policy = self.cache.policy(request)
        lookups = [await self.cache.look_up(policy, generate, served) for generate in generates]
        missing = [lookup for lookup in lookups if lookup.run is None]
        reserved = sum(len(lookup.generate.prompt) + lookup.generate.max_tokens * lookup.generate.n for lookup in missing)
        admission = await self.limiter.admit(request.caller, reserved)
        request.headers_out += self.limiter.headers(admission)
        account = Account(self.limiter, admission, len(missing))
        try:
            for lookup in missing:
                masks = await self._masks(lookup.generate, served)
                flight = self.fly(served, lookup.generate, masks, partial(self._landed, request, lookup, policy, account))
                lookup.run = flight
                if not flight.done:
                    self.cache.begin(lookup, flight)
        except BaseException:
            abandon([lookup.run for lookup in lookups if lookup.run is not None])
            self.limiter.refund(admission)
            raise
        request.headers_out += policy.headers(lookups)
        for lookup in lookups:
            if lookup.found is not None:
                self._check_hit(lookup, served)
            source = lookup.source
            usage = lookup.run.usage if lookup.run is not None and source in ("exact", "semantic") else None
            if usage is not None:
                self._note_served(lookup.generate.tenant, served.name, source, usage)
        return [self._guard(request, served, lookup.generate, lookup.run) for lookup in lookups if lookup.run is not None]

    def _guard(self, request: Request, served: Served, generate: Generate, run: Run) -> Run:
        """The run under the configured checks, which see what was asked and what is answered."""
        if self.checks is None:
            return run
        text = served.loaded.tokenizer.decode(generate.prompt, True) if generate.written is None else generate.written
        return self.checks.guard(run, text, request.id)

    async def run(self, request: Request, served: Served, generate: Generate) -> Run:
        """Begin to answer one; see `runs`."""
        return (await self.runs(request, served, [generate]))[0]

    def _check_hit(self, lookup: Lookup, served: Served) -> None:
        """Regenerate the answer to a semantic hit, behind all clients, to see whether it was right."""
        try:
            flight = self.fly(served, replace(lookup.generate, priority=_BEHIND_ALL))
        except ApiError:
            return
        self.cache.check(lookup, served, flight)

    async def _masks(self, generate: Generate, served: Served) -> Sequence[GrammarMask]:
        return [] if generate.grammar is None else await asyncio.to_thread(masks_of, generate.grammar, served.loaded, generate.n)

    def _note_served(self, tenant: str, model: str, source: str, usage: Usage) -> None:
        """Count an answer, and log whose it was: tenants are no label, so that a tenant's share of the cost is read from the log."""
        self.metrics[catalogue.SERVED_TOKENS].labels(model, source).inc(usage.generated)
        if log.isEnabledFor(logging.INFO):
            fields = {
                "tenant": tenant,
                "model": model,
                "source": source,
                "prompt_tokens": usage.prompt,
                "generated_tokens": usage.generated,
            }
            log.info("served", extra={"fields": fields})

    def _landed(self, request: Request, lookup: Lookup, policy: Policy, account: Account, flight: Flight) -> None:
        account.add(flight.usage.prompt + flight.usage.generated, failed=flight.error is not None)
        if self.tracer is not None and request.span is not None:
            self.tracer.phases(request.span, flight)
        self._note_served(flight.generate.tenant, flight.served.name, "engine", flight.usage)
        self.cache.keep(policy, lookup, flight)

    def fly(
        self,
        served: Served,
        generate: Generate,
        masks: Sequence[GrammarMask] = (),
        landed: Callable[[Flight], None] | None = None,
    ) -> Flight:
        """Start a generation; `landed` is called once when it has ended, however it did. Raises ApiError 400, 429 or 503."""
        use = self.models.use(served)
        try:
            use.__enter__()
        except Unavailable as error:
            raise _not_ready(f"The model cannot answer: {error}.") from None

        def release() -> None:
            use.__exit__(None, None, None)
            self.flights.discard(flight)
            if landed is not None and flight.begun:
                landed(flight)

        flight = Flight(served, generate, self.metrics, release)
        self.flights.add(flight)
        flight.start(masks)
        return flight

    def set_ready(self) -> None:
        """Every model is warm: `/readyz` answers 200 from now on."""
        self.state.warm = True
        self._show_state()

    def set_draining(self) -> None:
        """The process leaves: `/readyz` answers 503 from now on, answers say `Connection: close`."""
        self.state.draining = True
        self._show_state()

    def _show_state(self) -> None:
        self.metrics[catalogue.READY].set(self.state.ready)
        self.metrics[catalogue.DRAINING].set(self.state.draining)
        identity = self.config.identity
        for served in self.models.served.values():
            if served.model is not None:
                self.metrics[catalogue.IDENTITY].labels(
                    identity.environment,
                    identity.slot,
                    str(identity.generation),
                    served.name,
                    served.model.digest,
                    served.model.quantization,
                    __version__,
                ).set(1)

    def end_all(self) -> int:
        """End every generation with an error that says the process leaves; how many there were."""
        flights = list(self.flights)
        for flight in flights:
            flight.abort(ApiError(503, "The server is shutting down and this answer did not finish in time.", code="shutting_down"))
        return len(flights)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Work that goes on beside requests."""
        work: list[Coroutine[Any, Any, None]] = [self._watch_keys()]
        if self.store is not None:
            work += [self.store.open(), self.store.keep_signed_in()]
        if self.store is not None and self.cache.semantic is not None:
            work.append(self.cache.semantic.listen())
        if self.config.lifecycle.idle_seconds:
            work.append(self.models.unload_idle(self.config.lifecycle.idle_seconds))
        return work

    async def _watch_keys(self) -> None:
        while self.config.access.keys_file is not None:
            self.metrics[catalogue.KEYS_LOADED].set(self.authenticator.refresh())
            await asyncio.sleep(1)

    def refresh_metrics(self) -> None:
        """Bring figures that are read, not counted, up to date; called before a scrape."""
        self.models.refresh_metrics()

    async def close(self) -> None:
        """Free everything."""
        await self.models.close()
        await self.limiter.close()
        await self.cache.close()
        if self.checks is not None:
            await self.checks.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)
        if self.store is not None:
            await self.store.close()
        await self.batches.close()

    def count_rejected(self, reason: str) -> None:
        self.metrics[catalogue.REJECTED].labels(reason).inc()


def abandon(runs: Sequence[Run]) -> None:
    """Give up every run that nobody follows."""
    for run in runs:
        run.abandon()


def _not_ready(message: str) -> ApiError:
    return ApiError(503, message, code="model_not_ready", reason="not_ready", headers={"retry-after": "2"})
