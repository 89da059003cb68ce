"""Models of one process: which are loaded, who uses them, and how one comes in and goes out."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.config import LifecycleConfig, ModelConfig
from inferstack_runtime.engines.base import EngineStats, LoadedModel, ModelLoadError, StepOutput
from inferstack_runtime.errors import ApiError
from inferstack_runtime.lifecycle.engine_loop import EngineLoop
from inferstack_runtime.metrics import Metrics
from inferstack_runtime.threads import in_daemon

if TYPE_CHECKING:
    from inferstack_runtime.lifecycle.templates import ChatTemplate

_log = logging.getLogger(__name__)
State = Literal["unloaded", "loading", "ready", "unloading", "failed"]
Progress = Callable[[str, float], None]
Loader = Callable[[ModelConfig, Progress], LoadedModel]
"""Loads a model in a worker thread; reports (phase, share done); raises ModelLoadError."""


class Unavailable(ApiError):
    """The model cannot answer now; the message says why. Wherever a request meets it, its answer is 503."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message, code="model_not_ready", reason="not_ready", headers={"retry-after": "2"})


@dataclass
class Served:
    """One configured model and what is known of it."""

    config: ModelConfig
    state: State = "unloaded"
    phase: str = ""
    progress: float = 0.0
    error: str | None = None
    model: LoadedModel | None = None
    engine: EngineLoop | None = None
    template: "ChatTemplate | None" = None
    users: int = 0
    last_used: float = 0.0
    load_seconds: float | None = None
    memory: int = 0
    """Bytes that count against the budget while the model is loaded or loading."""
    removed: bool = False
    """Unloaded by request: only a request to load brings it back."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    last_stats: EngineStats = field(default_factory=EngineStats)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def placed(self) -> dict[str, str | None]:
        """Where it computes, as the status says it; `cpu_fallback` is the reason why it is not on a GPU."""
        placement = self.model.placement if self.model else None
        return {
            "device": placement.device if placement else None,
            "cpu_fallback": placement.reason if placement and placement.fallback else None,
        }

    @property
    def loaded(self) -> LoadedModel:
        """The model; only while `state` is ready or unloading."""
        if self.model is None:
            raise Unavailable(f"the model {self.name!r} is {self.state}")
        return self.model

    @property
    def loop(self) -> EngineLoop:
        if self.engine is None:
            raise Unavailable(f"the model {self.name!r} is {self.state}")
        return self.engine


class Models:
    """The models of a process. Everything here belongs to the event loop; only loading itself runs in a thread."""

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        loader: Loader,
        metrics: Metrics,
        lifecycle: LifecycleConfig | None = None,
        memory_of: Callable[[ModelConfig], int] = lambda config: 0,
    ) -> None:
        """`memory_of`: bytes that a model will need, known before it is loaded."""
        self._loader = loader
        self._lifecycle = lifecycle or LifecycleConfig()
        self._memory_of = memory_of
        self._room = asyncio.Lock()
        self._metrics = metrics
        self._served = {config.name: Served(config) for config in configs}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    @property
    def served(self) -> Mapping[str, Served]:
        return self._served

    def find(self, name: str) -> Served | None:
        """The model of this name, else the one that answers to it too."""
        return self._served.get(name) or next((served for served in self._served.values() if name in served.config.also), None)

    @property
    def digest(self) -> str:
        """Digest of the first model, which is the one that identifies the process; empty before it is loaded."""
        first = next(iter(self._served.values()), None)
        if first is None:
            return ""
        return first.model.digest if first.model else (first.config.digest or "")

    @contextmanager
    def use(self, served: Served) -> Iterator[Served]:
        """Keep a ready model loaded while it answers."""
        if served.state != "ready" or served.loop.failure is not None:
            raise Unavailable(f"the model {served.name!r} is {served.state if served.state != 'ready' else 'broken'}")
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1
            served.last_used = time.monotonic()
            served.changed.set()

    def add(self, config: ModelConfig) -> Served:
        """Make a further model known; the caller has checked that its name is free."""
        served = self._served[config.name] = Served(config)
        return served

    async def load(self, name: str) -> Served:
        """Load a model unless it is; equal concurrent calls share one load. Raises ModelLoadError."""
        served = self._served[name]
        if (leaving := self._leaving.get(name)) is not None:
            await asyncio.wait({leaving})
        if served.state == "ready":
            return served
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(served))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        await asyncio.shield(task)
        return served

    async def _load(self, served: Served) -> None:
        served.state, served.error, served.progress, served.phase, served.removed = "loading", None, 0.0, "starting", False
        loop = asyncio.get_running_loop()
        started = time.perf_counter()

        def report(phase: str, share: float) -> None:
            loop.call_soon_threadsafe(self._report, served, phase, share)

        def work() -> "tuple[LoadedModel, ChatTemplate | None]":
            from inferstack_runtime.lifecycle.templates import compile_template  # jinja2 is slow to import and not needed to listen

            model = self._loader(served.config, report)
            return model, compile_template(model.chat_template, model.special_tokens)

        try:
            await self._make_room(served)
            model, template = await in_daemon(work, f"load-{served.name}")
        except BaseException as error:
            served.state, served.error, served.memory = "failed", str(error), 0
            served.changed.set()
            self._metrics[catalogue.MODEL_LOADS].labels(served.name, "failed").inc()
            if isinstance(error, ModelLoadError) or not isinstance(error, Exception):
                raise
            raise ModelLoadError(f"{served.name}: {type(error).__name__}: {error}") from error
        served.template = template
        served.engine = EngineLoop(model.engine, served.name, loop, self._observer(served, model))
        served.model = model
        served.engine.start()
        served.load_seconds = time.perf_counter() - started
        served.state, served.progress, served.phase, served.last_used = "ready", 1.0, "ready", time.monotonic()
        served.changed.set()
        self._metrics[catalogue.MODEL_LOADS].labels(served.name, "ok").inc()
        self._metrics[catalogue.MODEL_LOAD_SECONDS].labels(served.name).observe(served.load_seconds)
        self._metrics[catalogue.WEIGHT_BYTES].labels(served.name).set(model.weight_bytes)
        self._metrics[catalogue.CPU_FALLBACK].labels(served.name).set(model.placement.fallback)
        if model.placement.fallback:
            _log.warning(
                "a model is served by the CPU instead of a GPU",
                extra={"fields": {"model": served.name, "reason": model.placement.reason}},
            )
        self._count_loaded()

    async def _make_room(self, served: Served) -> None:
        """Unload what was used least lately until the model fits the budget; raises ModelLoadError when it never can."""
        budget = self._lifecycle.memory_bytes
        if budget is None:
            return
        async with self._room:
            served.memory = await asyncio.to_thread(self._memory_of, served.config)
            if served.memory > budget:
                raise ModelLoadError(f"{served.name}: needs {served.memory} bytes, lifecycle.memory_bytes is {budget}")
            while sum(other.memory for other in self._served.values()) > budget:
                idle = [other for other in self._served.values() if other.state == "ready" and not other.users]
                if not idle:
                    raise ModelLoadError(f"{served.name}: needs {served.memory} bytes; all other models are in use")
                await self.unload(min(idle, key=lambda other: other.last_used).name, "budget")

    async def unload(self, name: str, reason: Literal["request", "idle", "budget"]) -> None:
        """Take a model out of memory once no request uses it; new ones are refused meanwhile, or wait when it may come back.

        Equal concurrent calls share one unloading, which goes on when a caller gives up.
        """
        served = self._served[name]
        if (loading := self._loading.get(name)) is not None:
            await asyncio.wait({loading})
        served.removed = served.removed or reason == "request"
        if served.state == "ready":
            served.state, served.phase = "unloading", "waiting for requests in flight"
            self._leaving[name] = asyncio.create_task(self._unload(served, reason))
            self._leaving[name].add_done_callback(lambda _: self._leaving.pop(name, None))
        if (leaving := self._leaving.get(name)) is not None:
            await asyncio.shield(leaving)

    async def _unload(self, served: Served, reason: str) -> None:
        while served.users:
            served.changed.clear()
            await served.changed.wait()
        try:
            if served.engine is not None:
                await served.engine.close()
        finally:
            self._forget(served, reason)

    def _forget(self, served: Served, reason: str) -> None:
        """Nothing of a model is in memory any more."""
        name = served.name
        if served.last_stats.kv_dtype:
            self._metrics[catalogue.KV_INFO].labels(name, served.last_stats.kv_dtype).set(0)
        served.engine = served.model = served.template = None
        served.memory, served.progress, served.phase, served.last_stats = 0, 0.0, "", EngineStats()
        served.state = "unloaded"
        served.changed.set()
        self._metrics[catalogue.MODEL_UNLOADS].labels(name, reason).inc()
        for metric in (
            catalogue.RUNNING,
            catalogue.WAITING,
            catalogue.KV_USED,
            catalogue.KV_SIZE,
            catalogue.KV_RATIO,
            catalogue.WEIGHT_BYTES,
            catalogue.CPU_FALLBACK,
        ):
            self._metrics[metric].labels(name).set(0)
        self._count_loaded()

    async def unload_idle(self, seconds: float) -> None:
        """For ever: unload every model that nobody used for `seconds`."""
        while True:
            await asyncio.sleep(min(seconds / 4, 5.0))
            now = time.monotonic()
            for served in list(self._served.values()):
                if served.state == "ready" and not served.users and now - served.last_used > seconds:
                    try:
                        await self.unload(served.name, "idle")
                    except Exception:
                        _log.exception("an idle model did not leave in order", extra={"fields": {"model": served.name}})

    def _report(self, served: Served, phase: str, share: float) -> None:
        served.phase, served.progress = phase, max(0.0, min(1.0, share))
        served.changed.set()

    async def close(self) -> None:
        """Free every model; what is open ends with an error."""
        for served in self._served.values():
            if served.engine is not None:
                await served.engine.close()
                served.engine = served.model = None
                served.state = "unloaded"
        self._count_loaded()

    def _count_loaded(self) -> None:
        self._metrics[catalogue.MODELS_LOADED].set(sum(served.state == "ready" for served in self._served.values()))

    def _observer(self, served: Served, model: LoadedModel) -> Callable[[Sequence[StepOutput]], None]:
        batch = self._metrics[catalogue.BATCH_SIZE].labels(served.name)

        def observe(outputs: Sequence[StepOutput]) -> None:
            batch.observe(len(outputs))

        return observe

    def refresh_metrics(self) -> None:
        """Bring the engines' own figures into the metrics; called before a scrape."""
        for served in self._served.values():
            if served.model is None:
                continue
            stats, last, name = served.model.engine.stats(), served.last_stats, served.name
            served.last_stats = stats
            for metric, value in (
                (catalogue.RUNNING, stats.running),
                (catalogue.WAITING, stats.waiting),
                (catalogue.KV_USED, stats.kv_bytes_used),
                (catalogue.KV_SIZE, stats.kv_bytes_total),
                (catalogue.KV_RATIO, stats.kv_bytes_used / stats.kv_bytes_total if stats.kv_bytes_total else 0.0),
            ):
                self._metrics[metric].labels(name).set(value)
            if stats.kv_dtype:
                self._metrics[catalogue.KV_INFO].labels(name, stats.kv_dtype).set(1)
            for metric, grown in (
                (catalogue.GUESSED_TOKENS, stats.guessed_tokens - last.guessed_tokens),
                (catalogue.ACCEPTED_GUESSES, stats.accepted_guesses - last.accepted_guesses),
                (catalogue.PREFIX_HIT_TOKENS, stats.prefix_hit_tokens - last.prefix_hit_tokens),
                (catalogue.PREEMPTIONS, stats.preemptions - last.preemptions),
                (catalogue.STEPS, stats.steps - last.steps),
                (catalogue.STEP_HOST_SECONDS, stats.step_host_seconds - last.step_host_seconds),
                (catalogue.STEP_COMPUTE_SECONDS, stats.step_compute_seconds - last.step_compute_seconds),
            ):
                self._metrics[metric].labels(name).inc(max(0.0, grown))
