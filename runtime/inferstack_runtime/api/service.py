"""What the handlers share: the parts of the process, and the way of a request from its parameters to deltas."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inferstack_runtime import __version__
from inferstack_runtime import metrics as catalogue
from inferstack_runtime.access.authenticate import Authenticator
from inferstack_runtime.api.errors import ApiError
from inferstack_runtime.api.generation import Delta, Flight, Usage
from inferstack_runtime.api.grammar import masks_of
from inferstack_runtime.api.http import Request
from inferstack_runtime.api.parameters import Generate, check_tokens
from inferstack_runtime.config import RuntimeConfig
from inferstack_runtime.engines.base import ModelLoadError, TokenLogprobs, TokenMask
from inferstack_runtime.lifecycle.models import Models, Served, Unavailable
from inferstack_runtime.metrics import Metrics


class Run(Protocol):
    """An answer on its way: a flight, or the replay of a cached one."""

    id: str

    @property
    def usage(self) -> Usage: ...
    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]: ...
    def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]: ...
    def abandon(self) -> None:
        """Give up unless somebody follows; does nothing to a complete answer."""


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


class Service:
    """The parts of one runtime process that requests touch."""

    def __init__(
        self, config: RuntimeConfig, models: Models, authenticator: Authenticator, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self.config = config
        self.models = models
        self.authenticator = authenticator
        self.metrics = metrics
        self.clock = clock
        self.state = ProcessState()
        self.started = time.monotonic()
        self.created = clock()
        self.flights: set[Flight] = set()

    async def json(self, request: Request) -> dict[str, object]:
        """The request's JSON body within the configured bounds."""
        return await request.json(self.config.http.max_body_bytes, self.config.http.body_seconds)

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
        if not served.config.lazy and served.state == "loading":
            raise _not_ready(f"The model {served.name!r} is still loading ({served.phase}).")
        try:
            await self.models.load(served.name)
        except (ModelLoadError, Unavailable) as error:
            raise _not_ready(f"The model {served.name!r} cannot be loaded: {error}") from None

    async def run(self, request: Request, served: Served, generate: Generate) -> Run:
        """Begin to answer; raises ApiError 400, 429 or 503 before anything is sent."""
        check_tokens(generate, served.loaded.tokenizer.vocabulary_size)
        masks = [] if generate.grammar is None else await asyncio.to_thread(masks_of, generate.grammar, served.loaded, generate.n)
        return self.fly(served, generate, masks)

    def fly(self, served: Served, generate: Generate, masks: Sequence[TokenMask]) -> Flight:
        use = self.models.use(served)
        try:
            use.__enter__()
        except Unavailable as error:
            raise _not_ready(f"The model cannot answer: {error}.") from None

        def release() -> None:
            use.__exit__(None, None, None)
            self.flights.discard(flight)

        flight = Flight(served, generate, self.metrics, release)
        self.flights.add(flight)
        flight.start(masks)
        return flight

    async def runs(self, request: Request, served: Served, generates: Sequence[Generate]) -> list[Run]:
        """Begin several at once; when one cannot begin, none goes on."""
        runs: list[Run] = []
        try:
            for generate in generates:
                runs.append(await self.run(request, served, generate))
        except BaseException:
            abandon(runs)
            raise
        return runs

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
        return [self._watch_keys()]

    async def _watch_keys(self) -> None:
        while True:
            self.metrics[catalogue.KEYS_LOADED].set(self.authenticator.refresh())
            await asyncio.sleep(1)

    def refresh_metrics(self) -> None:
        """Bring figures that are read, not counted, up to date; called before a scrape."""
        self.models.refresh_metrics()

    async def close(self) -> None:
        """Free everything."""
        await self.models.close()

    def count_rejected(self, reason: str) -> None:
        self.metrics[catalogue.REJECTED].labels(reason).inc()


def abandon(runs: Sequence[Run]) -> None:
    """Give up every run that nobody follows."""
    for run in runs:
        run.abandon()


def _not_ready(message: str) -> ApiError:
    return ApiError(503, message, code="model_not_ready", reason="not_ready", headers={"retry-after": "2"})
