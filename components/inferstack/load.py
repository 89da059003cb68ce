"""A closed-loop streaming load: each client sends its next chat when the last one has ended, and every stream is judged.

    report = await run_load(Target("127.0.0.1", 8080, key, "smollm2-135m-instruct"), clients=8, seconds=20)
    assert report.lost == report.truncated == 0

Plain HTTP/1.1 over asyncio streams, so that the client costs little of a machine that also computes the answers, and so that a connection
that closes too early is seen as what it is. OpenShift's disruption tests do the same over new and over reused connections.
"""

import asyncio
import contextlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "lost", "truncated", "wrong_slot", "limited"]
MOST_REASONS = 5
PROMPTS = (
    "Name three rivers of Europe.",
    "Write one sentence about the sea.",
    "What is a hash table?",
    "Explain photosynthesis in one sentence.",
    "Give me a title for a story about a lighthouse.",
    "Why is the sky blue?",
)


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    key: str
    model: str
    path: str = "/v1/chat/completions"


@dataclass(frozen=True)
class Result:
    """One judged request. Times in seconds since it was sent; `slots` are the slot identities of its answer's header."""

    outcome: Outcome
    slot: str | None
    started: float
    ttft: float | None
    total: float
    pieces: int
    reason: str | None = None


@dataclass
class Report:
    """All results of one load."""

    clients: int
    seconds: float
    keep_alive: bool
    results: list[Result] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        return sum(result.outcome == outcome for result in self.results)

    @property
    def ok(self) -> int:
        return self.count("ok")

    @property
    def lost(self) -> int:
        """Requests without an answer: refused, reset, 5xx, or silent for longer than the time limit."""
        return self.count("lost")

    @property
    def truncated(self) -> int:
        """Streams that began and did not end with `[DONE]` after a finish reason."""
        return self.count("truncated")

    def to_json(self) -> dict[str, Any]:
        """Counts, percentiles (seconds) of time to first token and of the whole answer, and answers by slot."""
        good = [result for result in self.results if result.outcome == "ok"]
        reasons = Counter(result.reason for result in self.results if result.reason)
        return {
            "clients": self.clients,
            "seconds": round(self.seconds, 3),
            "keep_alive": self.keep_alive,
            "requests": len(self.results),
            "ok": self.ok,
            "lost": self.lost,
            "truncated": self.truncated,
            "wrong_slot": self.count("wrong_slot"),
            "limited": self.count("limited"),
            "requests_per_second": round(len(good) / self.seconds, 3) if self.seconds else 0.0,
            "pieces_per_second": round(sum(result.pieces for result in good) / self.seconds, 3) if self.seconds else 0.0,
            "ttft_seconds": percentiles([result.ttft for result in good if result.ttft is not None]),
            "total_seconds": percentiles([result.total for result in good]),
            "slots": dict(Counter(result.slot or "unknown" for result in good)),
            "reasons": dict(reasons.most_common(MOST_REASONS)),
        }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 (nearest rank) and max; None where there are no values."""
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[math.ceil(len(ordered) * rank) - 1], 4) if ordered else None for name, rank in ranks.items()}


async def run_load(
    target: Target,
    *,
    clients: int,
    seconds: float,
    keep_alive: bool = True,
    max_tokens: int = 32,
    timeout: float = 60.0,
    expected_slot: str | None = None,
    stop: asyncio.Event | None = None,
    watch: Callable[[Result], None] | None = None,
) -> Report:
    """Run `clients` closed loops for `seconds` (or until `stop`), let running answers end, and return every result.

    `timeout` (seconds) bounds the wait for each piece of an answer. `expected_slot`: answers by another slot count as `wrong_slot`.
    """
    report = Report(clients, 0.0, keep_alive)
    started = time.monotonic()
    ended = stop or asyncio.Event()

    async def client(number: int) -> None:
        choose = random.Random(number)  # noqa: S311 - repeatable load, not a secret
        connection: _Connection | None = None
        while not ended.is_set() and time.monotonic() - started < seconds:
            connection, result = await _ask(target, connection, _body(target, choose, max_tokens), timeout, started)
            if expected_slot is not None and result.outcome == "ok" and result.slot != expected_slot:
                result = Result("wrong_slot", result.slot, result.started, result.ttft, result.total, result.pieces)
            report.results.append(result)
            if watch is not None:
                watch(result)
            if connection is not None and not keep_alive:
                await connection.close()
                connection = None
            if result.outcome in ("lost", "limited"):
                await asyncio.sleep(0.05)  # a refusing server is not asked as fast as it can refuse
        if connection is not None:
            await connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    report.seconds = time.monotonic() - started
    return report


class _Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class _Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


async def _ask(
    target: Target, connection: _Connection | None, body: bytes, timeout: float, load_started: float
) -> tuple[_Connection | None, Result]:
    """Send one request (over `connection` when there is one) and judge its answer; returns a connection that can be used again, or None."""
    sent = time.monotonic()
    slot: str | None = None
    ttft: float | None = None
    pieces, began = 0, False
    try:
        if connection is None:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(target.host, target.port), timeout)
            connection = _Connection(reader, writer)
        head = (
            f"POST {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\nAuthorization: Bearer {target.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.writer.write(head.encode() + body)
        await connection.writer.drain()
        status, headers = await asyncio.wait_for(_head(connection.reader), timeout)
        slot = headers.get("x-inferstack-slot")
        if status != 200:
            raise _Refused(status, (await asyncio.wait_for(_whole(connection.reader, headers), timeout)).decode("utf-8", "replace")[:200])
        finished = done = False
        buffer = b""
        async for chunk in _chunks(connection.reader, headers, timeout):
            began = True
            buffer += chunk
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    done = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ValueError(f"error in the stream: {event['error']}")
                for choice in event.get("choices", []):
                    if choice.get("delta", {}).get("content"):
                        pieces += 1
                        ttft = ttft if ttft is not None else time.monotonic() - sent
                    finished = finished or choice.get("finish_reason") is not None
        if not (done and finished):
            raise ValueError("the stream ended without its end")
        reusable = headers.get("connection", "").lower() != "close"
        if not reusable:
            await connection.close()
        return connection if reusable else None, Result("ok", slot, sent - load_started, ttft, time.monotonic() - sent, pieces)
    except (OSError, EOFError, TimeoutError, ValueError, _Refused) as error:
        if connection is not None:
            await connection.close()
        limited = isinstance(error, _Refused) and error.status == 429
        outcome: Outcome = "limited" if limited else "truncated" if began else "lost"
        reason = str(error) or type(error).__name__
        return None, Result(outcome, slot, sent - load_started, ttft, time.monotonic() - sent, pieces, reason)


def _body(target: Target, choose: random.Random, max_tokens: int) -> bytes:
    """A chat that no response cache has seen: its number makes it new."""
    content = f"{choose.choice(PROMPTS)} ({choose.randrange(10**9)})"
    request = {"model": target.model, "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "stream": True}
    return json.dumps(request).encode()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers; raises EOFError when the connection closes first."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return int(lines[0].split(" ", 2)[1]), headers


async def _chunks(reader: asyncio.StreamReader, headers: dict[str, str], timeout: float) -> AsyncIterator[bytes]:
    """The body's pieces; raises EOFError when it ends before the protocol says so."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        yield await asyncio.wait_for(_whole(reader, headers), timeout)
        return
    while size := int((await asyncio.wait_for(reader.readuntil(b"\r\n"), timeout)).split(b";")[0], 16):
        yield (await asyncio.wait_for(reader.readexactly(size + 2), timeout))[:-2]
    await asyncio.wait_for(reader.readuntil(b"\r\n"), timeout)


async def _whole(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return b"".join([chunk async for chunk in _chunks(reader, headers, 60.0)])
    return await reader.readexactly(int(headers.get("content-length", 0)))
