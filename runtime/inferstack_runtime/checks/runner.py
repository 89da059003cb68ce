"""Runs the configured checks beside generation: sampled, remembered, observing or blocking.

An input check starts with the generation and must have spoken before the first token leaves, where it blocks. An output check that
blocks holds the answer back until it has seen all of it. Observing checks never hold anything.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.run import Delta, Run, Usage
from inferstack_runtime.checks.base import Check, Finding, Mode, Side
from inferstack_runtime.engines.base import TokenLogprobs
from inferstack_runtime.errors import ApiError
from inferstack_runtime.metrics import Metrics
from inferstack_runtime.threads import in_daemon

_REMEMBERED = 4096
_LONGEST_SECONDS = 10.0
"""A check that has not spoken by then has failed."""
_MOST_STUCK = 4
"""Looks of one check past their time and still running; more are not begun: each holds a thread."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """A check as it is used. `sample` is the share of requests that it sees."""

    check: Check
    mode: Mode
    sides: tuple[Side, ...]
    sample: float = 1.0


class Checks:
    """All checks of a process. Belongs to the event loop; checks themselves run in threads."""

    def __init__(self, configured: Sequence[Configured], metrics: Metrics, chance: Callable[[], float] = random.random) -> None:
        self._configured = tuple(configured)
        self._metrics = metrics
        self._chance = chance
        self._known: OrderedDict[tuple[str, bytes], tuple[Finding, ...]] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stuck: dict[str, set[asyncio.Task[Sequence[Finding]]]] = {entry.check.name: set() for entry in self._configured}

    def __bool__(self) -> bool:
        return bool(self._configured)

    def guard(self, run: Run, prompt: str, request_id: str) -> Run:
        """The run with its checks around it."""
        chosen = [entry for entry in self._configured if self._chance() < entry.sample]
        return _Guarded(self, run, prompt, chosen, request_id) if chosen else run

    async def blocked(self, entries: Sequence[Configured], side: Side, text: str, request_id: str) -> bool:
        """Look at a text with every check; whether a blocking one found something."""
        verdicts = await asyncio.gather(*(self._look(entry, side, text, request_id) for entry in entries))
        return any(found and entry.mode == "block" for entry, found in zip(entries, verdicts, strict=True))

    def background(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _look(self, entry: Configured, side: Side, text: str, request_id: str) -> bool:
        name = entry.check.name
        key = (name, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        found = self._known.get(key)
        if found is None:
            begin = time.perf_counter()
            try:
                found = tuple(await self._ask(entry.check, text))
            except Exception:
                _log.exception("a check failed", extra={"fields": {"check": name, "request_id": request_id}})
                self._count(name, side, "error")
                return entry.mode == "block"  # a blocking check that cannot look does not let through
            self._metrics[catalogue.CHECK_SECONDS].labels(name).observe(time.perf_counter() - begin)
            self._known[key] = found
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        verdict = ("blocked" if entry.mode == "block" else "found") if found else "clean"
        self._count(name, side, verdict)
        if found:
            kinds = [finding.kind for finding in found]
            _log.warning(
                "a check found something", extra={"fields": {"check": name, "side": side, "kinds": kinds, "request_id": request_id}}
            )
        return bool(found)

    async def _ask(self, check: Check, text: str) -> Sequence[Finding]:
        """What a check says; raises TimeoutError, and whatever the check raises."""
        stuck = self._stuck[check.name]
        if len(stuck) >= _MOST_STUCK:
            raise TimeoutError(f"{len(stuck)} earlier looks have not ended")
        look = asyncio.create_task(in_daemon(lambda: check.look(text), f"check-{check.name}"))
        look.add_done_callback(lambda done: done.cancelled() or done.exception())
        ended, _ = await asyncio.wait({look}, timeout=_LONGEST_SECONDS)
        if not ended:
            stuck.add(look)
            look.add_done_callback(stuck.discard)
            raise TimeoutError(f"nothing was said within {_LONGEST_SECONDS:g} s")
        return look.result()

    def _count(self, check: str, side: Side, verdict: str) -> None:
        self._metrics[catalogue.CHECK_RESULTS].labels(check, side, verdict).inc()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Guarded:
    """A run under checks."""

    ready = False

    def __init__(self, checks: Checks, run: Run, prompt: str, entries: Sequence[Configured], request_id: str) -> None:
        self.id = run.id
        self._checks = checks
        self._run = run
        self._request_id = request_id
        self._output = [entry for entry in entries if "output" in entry.sides]
        inputs = [entry for entry in entries if "input" in entry.sides]
        self._input = checks.background(checks.blocked(inputs, "input", prompt, request_id)) if inputs else None
        self._input_blocks = any(entry.mode == "block" for entry in inputs)

    @property
    def usage(self) -> Usage:
        return self._run.usage

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        return self._run.prompt_logprobs

    def abandon(self) -> None:
        self._run.abandon()

    async def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]:
        """As the run's, once no blocking check objects; raises ApiError 400 `content_filter` otherwise."""
        hold = any(entry.mode == "block" for entry in self._output)
        held: list[Delta] = []
        texts: dict[int, str] = {}
        async with aclosing(self._run.follow(heartbeat)) as deltas:
            async for news in deltas:
                if self._input is not None and self._input_blocks and await self._input:
                    raise _withheld("request")
                for delta in news:
                    texts[delta.index] = texts.get(delta.index, "") + delta.text
                if hold:
                    held += news
                    yield []
                else:
                    yield news
        if self._input is not None and self._input_blocks and await self._input:
            raise _withheld("request")
        if not self._output:
            return
        verdicts = [self._checks.blocked(self._output, "output", text, self._request_id) for text in texts.values()]
        if not hold:
            for verdict in verdicts:
                self._checks.background(verdict)
            return
        if any(await asyncio.gather(*verdicts)):
            raise _withheld("answer")
        if held:
            yield held


def _withheld(what: str) -> ApiError:
    return ApiError(400, f"A check of this service objects to the {what}; it was not delivered.", code="content_filter", reason="check")
