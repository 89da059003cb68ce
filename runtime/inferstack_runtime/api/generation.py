"""One generation in flight: the engine's outputs become text deltas, which any number of readers follow.

    flight = Flight(served, generate, metrics)
    flight.start()                                   # raises ApiError 429, 400 or 503
    async with aclosing(flight.follow(heartbeat)) as deltas:
        async for delta in deltas: ...                # a list of Delta; empty when nothing came for `heartbeat` seconds

A flight that loses its last reader is aborted in the engine. Equal concurrent requests may share one flight.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.grammar import GrammarMask
from inferstack_runtime.api.parameters import Generate
from inferstack_runtime.api.run import Answer, Delta, Timing, Usage
from inferstack_runtime.api.text import Piece, TextAssembler
from inferstack_runtime.engines.base import FinishReason, GenerationRequest, QueueFull, StepOutput, TokenLogprobs
from inferstack_runtime.errors import ApiError, invalid
from inferstack_runtime.lifecycle.engine_loop import EngineStopped
from inferstack_runtime.lifecycle.models import Served, Unavailable
from inferstack_runtime.metrics import Metrics


@dataclass(slots=True)
class _Choice:
    request_id: str
    assembler: TextAssembler
    finished: FinishReason | None = None
    last_token_at: float | None = None


class Flight:
    """All choices of one request. Belongs to the event loop."""

    ready = False

    def __init__(self, served: Served, generate: Generate, metrics: Metrics, release: Callable[[], None] | None = None) -> None:
        self.served = served
        self.generate = generate
        self.begun = False
        self.id = uuid.uuid4().hex
        self.log: list[Delta] = []
        self.done = False
        self.error: ApiError | None = None
        self._prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
        self.timing = Timing(time.perf_counter())
        self._metrics = metrics
        self._cached = 0
        self._masks: Sequence[GrammarMask] = ()
        self._release = release
        self._readers = 0
        self._waiters: set[asyncio.Future[None]] = set()
        model = served.loaded
        self._choices = [_Choice(f"{self.id}-{index}", TextAssembler(model.tokenizer, generate.stop)) for index in range(generate.n)]
        name = served.name
        self._first_token = metrics[catalogue.TIME_TO_FIRST_TOKEN].labels(name)
        self._inter_token = metrics[catalogue.INTER_TOKEN].labels(name)
        self._generated = metrics[catalogue.GENERATED_TOKENS].labels(name)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.generate.prompt), sum(choice.assembler.tokens for choice in self._choices), self._cached)

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        return self._prompt_logprobs

    @property
    def complete(self) -> bool:
        """Whether every choice ended by itself."""
        return self.done and self.error is None and all(choice.finished in ("stop", "length") for choice in self._choices)

    def start(self, masks: Sequence[GrammarMask] = ()) -> None:
        """Hand every choice to the engine. Raises ApiError: 429 (queue full), 400 (does not fit), 503 (engine stopped)."""
        generate = self.generate
        sampling = generate.sampling
        self._masks = masks
        started: list[_Choice] = []
        try:
            for index, choice in enumerate(self._choices):
                seed = None if sampling.seed is None else sampling.seed + index
                request = GenerationRequest(
                    choice.request_id,
                    generate.prompt,
                    generate.max_tokens,
                    sampling if seed == sampling.seed else replace(sampling, seed=seed),
                    generate.tenant,
                    generate.priority,
                    masks[index] if masks else None,
                )
                self.served.loop.submit(request, lambda output, index=index: self._on_output(index, output))  # type: ignore[misc]
                started.append(choice)
        except Exception as error:
            for choice in started:
                self.served.loop.abort(choice.request_id)
            self._close()
            if isinstance(error, QueueFull):
                raise queue_full(error.retry_after_seconds) from None
            if isinstance(error, EngineStopped | Unavailable):
                raise ApiError(503, f"The model cannot answer: {error}", reason="not_ready", headers={"retry-after": "5"}) from None
            if isinstance(error, ValueError):
                raise invalid(f"The request does not fit the model: {error}", None, "context_length_exceeded") from None
            raise
        self.begun = True
        self._metrics[catalogue.PROMPT_TOKENS].labels(self.served.name).inc(len(generate.prompt))
        self._metrics[catalogue.PROMPT_LENGTH].labels(self.served.name).observe(len(generate.prompt))

    async def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]:
        """Everything from the first delta on, in lists; an empty list after `heartbeat` seconds without news. Raises ApiError."""
        loop = asyncio.get_running_loop()
        position = 0
        self.hold()
        try:
            while True:
                if position < len(self.log):
                    news = self.log[position:]
                    position = len(self.log)
                    yield news
                elif self.done:
                    if self.error is not None:
                        raise self.error
                    return
                else:
                    future: asyncio.Future[None] = loop.create_future()
                    self._waiters.add(future)
                    timer = loop.call_later(heartbeat, _wake, future)
                    try:
                        await future
                    finally:
                        timer.cancel()
                        self._waiters.discard(future)
                    if position == len(self.log) and not self.done:
                        yield []
        finally:
            self.leave()

    def hold(self) -> None:
        """Count one reader more."""
        self._readers += 1

    def leave(self) -> None:
        """Count one reader less; the last one's leaving aborts what is not done."""
        self._readers -= 1
        if not self._readers and not self.done:
            self.abort()

    async def answer(self) -> Answer:
        """Wait for the whole answer. Raises ApiError."""
        async for _ in self.follow(3600):
            pass
        return self.to_answer()

    def to_answer(self) -> Answer:
        return Answer(self.log, self.usage, self.prompt_logprobs, self.served.loaded.digest if self.served.model else "")

    def abandon(self) -> None:
        """Abort unless somebody follows."""
        if not self._readers:
            self.abort()

    def abort(self, error: ApiError | None = None) -> None:
        """Give up: the engine frees every choice within a step; readers end with `error`, or as if the answer were complete."""
        if self.done:
            return
        for choice in self._choices:
            if choice.finished is None:
                choice.finished = "abort"
                if self.served.engine is not None:
                    self.served.engine.abort(choice.request_id)
                self._metrics[catalogue.FINISHED].labels(self.served.name, "abort").inc()
        self.error = error
        self._close()

    def _on_output(self, index: int, output: StepOutput) -> None:
        choice = self._choices[index]
        if choice.finished is not None:
            return
        if output.tokens:
            self._observe_tokens(choice, output)
        if output.prompt_logprobs:
            self._prompt_logprobs = output.prompt_logprobs
        tokens, logprobs = output.tokens, output.logprobs
        piece = choice.assembler.push(tokens, logprobs)
        finish = output.finish_reason
        if choice.assembler.stopped is not None and finish is None:
            self.served.loop.abort(choice.request_id)
            finish = "stop"
        if finish is not None:
            piece = _join(piece, choice.assembler.finish())
            if choice.assembler.stopped is not None:  # maybe by the very last text
                finish = "stop"
            choice.finished = finish
            self._metrics[catalogue.FINISHED].labels(self.served.name, finish).inc()
            self._metrics[catalogue.ANSWER_LENGTH].labels(self.served.name).observe(choice.assembler.tokens)
        if finish in ("stop", "error") and self._masks and (problem := self._masks[index].failure) is not None:
            self.abort(invalid(f"The answer's grammar cannot be followed: {problem}.", "response_format", "invalid_schema"))
            return
        if finish == "error":
            self.abort(ApiError(500, f"The engine could not finish this request: {output.error or 'no reason given'}."))
            return
        if piece.text or piece.logprobs or finish is not None:
            self.log.append(Delta(index, piece.text, piece.logprobs, piece.offsets, finish))
            if finish is not None and all(other.finished is not None for other in self._choices):
                self._close()
            self._notify()

    def _observe_tokens(self, choice: _Choice, output: StepOutput) -> None:
        now = time.perf_counter()
        self._generated.inc(len(output.tokens))
        if choice.last_token_at is None:
            self._cached = max(self._cached, output.cached_prompt_tokens)
            if self.timing.first_token is None:
                self.timing = replace(self.timing, first_token=now, queue_seconds=output.queue_seconds)
                self._first_token.observe(now - self.timing.started)
                if output.queue_seconds is not None:
                    self._metrics[catalogue.QUEUE_SECONDS].labels(self.served.name).observe(output.queue_seconds)
        else:
            gap = (now - choice.last_token_at) / len(output.tokens)
            for _ in output.tokens:
                self._inter_token.observe(gap)
        choice.last_token_at = now

    def _close(self) -> None:
        if self.done:
            return
        self.done = True
        self.timing = replace(self.timing, finished=time.perf_counter())
        if self._release is not None:
            self._release()
            self._release = None
        self._notify()

    def _notify(self) -> None:
        for future in self._waiters:
            _wake(future)


class Follower:
    """A second reader of a flight; the flight goes on as long as it stays, also when the first reader leaves."""

    ready = False

    def __init__(self, flight: Flight) -> None:
        self.id = uuid.uuid4().hex
        self._flight = flight
        self._waiting = True
        flight.hold()

    @property
    def usage(self) -> Usage:
        return self._flight.usage

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        return self._flight.prompt_logprobs

    async def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]:
        """As `Flight.follow`, from the beginning."""
        async with aclosing(self._flight.follow(heartbeat)) as deltas:
            async for news in deltas:
                self.abandon()  # the flight counts this reader itself by now
                yield news

    def abandon(self) -> None:
        """Leave unless following."""
        if self._waiting:
            self._waiting = False
            self._flight.leave()


def queue_full(retry_after_seconds: float) -> ApiError:
    """The answer to a request that finds the queue full."""
    return ApiError(
        429,
        "Too many requests wait already; try again later.",
        code="queue_full",
        reason="queue",
        headers={"retry-after": str(max(1, math.ceil(retry_after_seconds)))},
    )


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _join(first: Piece, second: Piece) -> Piece:
    return Piece(first.text + second.text, first.logprobs + second.logprobs, first.offsets + second.offsets)
