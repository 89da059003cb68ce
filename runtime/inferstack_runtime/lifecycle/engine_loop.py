"""One thread that steps an engine, and the way from it to the event loop: one message per step, whatever the batch."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from inferstack_runtime.engines.base import Engine, GenerationRequest, StepOutput

Sink = Callable[[StepOutput], None]
StepObserver = Callable[[Sequence[StepOutput]], None]

_log = logging.getLogger(__name__)
_IDLE_SECONDS = 0.2


class EngineStopped(Exception):
    """The engine no longer runs; the message says why."""


class EngineLoop:
    """Steps `engine` in a thread and hands each output to the sink of its request, in the event loop.

    `submit`, `abort` and `close` belong to the event loop. When a step raises, the engine counts as broken: every open request gets
    an output with `finish_reason="error"`, later ones EngineStopped, and `failure` holds the text.
    """

    def __init__(self, engine: Engine, name: str, loop: asyncio.AbstractEventLoop, observe: StepObserver | None = None) -> None:
        self._engine = engine
        self._loop = loop
        self._observe = observe
        self._sinks: dict[str, Sink] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self.failure: str | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def open_requests(self) -> int:
        return len(self._sinks)

    def submit(self, request: GenerationRequest, sink: Sink) -> None:
        """Queue a request; raises QueueFull, ValueError (a prompt that can never fit) or EngineStopped."""
        if self.failure is not None:
            raise EngineStopped(self.failure)
        self._sinks[request.request_id] = sink
        try:
            self._engine.submit(request)
        except BaseException:
            del self._sinks[request.request_id]
            raise

    def abort(self, request_id: str) -> None:
        """Give up a request: its sink hears no more, the engine frees it within a step."""
        if self._sinks.pop(request_id, None) is not None:
            self._engine.abort(request_id)

    async def close(self) -> None:
        """Stop stepping, end what is open with an error, free the engine."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)
        self._fail("the model was unloaded")
        await asyncio.to_thread(self._engine.close)

    def _run(self) -> None:
        step = self._engine.step
        while not self._stopping.is_set():
            try:
                outputs = step(_IDLE_SECONDS)
            except Exception as error:
                _log.exception("the engine failed")
                self._to_loop(self._fail, f"the engine failed: {type(error).__name__}: {error}")
                return
            if outputs:
                self._to_loop(self._deliver, outputs)

    def _to_loop(self, call: Callable[..., None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, argument)
        except RuntimeError:  # the event loop is closed: the process ends
            self._stopping.set()

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        for output in outputs:
            sink = self._sinks.get(output.request_id)
            if sink is None:
                continue
            if output.finish_reason is not None:
                del self._sinks[output.request_id]
            try:
                sink(output)
            except Exception:
                _log.exception("an output could not be delivered")
                self.abort(output.request_id)
        if self._observe is not None:
            self._observe(outputs)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        sinks, self._sinks = self._sinks, {}
        for request_id, sink in sinks.items():
            sink(StepOutput(request_id, finish_reason="error", error=reason))
