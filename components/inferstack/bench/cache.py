"""Answers from the exact cache: how many per second, how late, and what one costs the server.

A closed loop of keep-alive connections asks a few prompts again and again, after each was answered once. The client does as little as it
can with what it gets: it counts bytes and looks for `x-cache: hit` in the head. No token is generated while the clock runs.
"""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from inferstack.bench.client import Target


@dataclass(frozen=True)
class CacheResult:
    """One run. Latencies in seconds; `server_cpu_microseconds` per hit, None where the server's process is not known."""

    hits: int
    misses: int
    failures: int
    seconds: float
    hits_per_second: float
    p50: float
    p99: float
    worst: float
    server_cpu_microseconds: float | None
    client_cpu_microseconds: float


@dataclass
class _Tally:
    hits: int = 0
    misses: int = 0
    failures: int = 0
    latencies: list[float] = field(default_factory=list)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads, user and system (/proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(target: Target, prompts: int, max_tokens: int, *, stream: bool) -> list[bytes]:
    """The bytes of each request."""
    found = []
    for number in range(prompts):
        messages = [{"role": "user", "content": f"Question {number}: why is the sky blue, in one sentence?"}]
        body = {"model": target.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": stream}
        data = json.dumps(body).encode()
        key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {target.host}\r\n{key}Content-Type: application/json\r\n"
        found.append(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return found


class _Client(asyncio.Protocol):
    """One connection: the next request leaves when the last answer has come."""

    def __init__(self, asked: list[bytes], first: int, tally: _Tally, until: float, done: "asyncio.Future[None]") -> None:
        self._asked, self._next, self._tally, self._until, self._done = asked, first, tally, until, done
        self._received = bytearray()
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        self._received.clear()
        self._sent = time.perf_counter()
        self._transport.write(self._asked[self._next % len(self._asked)])
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or not _complete(self._received, end):
            return
        now = time.perf_counter()
        head = self._received[:end]
        if not head.startswith(b"HTTP/1.1 200 "):
            self._tally.failures += 1
        elif b"\r\nx-cache: hit" in head:
            self._tally.hits += 1
            self._tally.latencies.append(now - self._sent)
        else:
            self._tally.misses += 1
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or time.perf_counter() < self._until:
            self._tally.failures += 1
        if not self._done.done():
            self._done.set_result(None)


def _complete(received: bytearray, end: int) -> bool:
    place = received.find(b"content-length: ", 0, end)
    if place < 0:
        return received.endswith(b"0\r\n\r\n")
    length = int(received[place + 16 : received.find(b"\r\n", place, end + 2)])
    return len(received) >= end + 4 + length


async def measure(
    target: Target,
    *,
    connections: int,
    seconds: float,
    prompts: int = 16,
    max_tokens: int = 16,
    stream: bool = False,
    pid: int | None = None,
) -> CacheResult:
    """Fill the cache, then count hits for `seconds`. Raises ConnectionError when the server does not answer the filling."""
    asked = requests(target, prompts, max_tokens, stream=stream)
    await _fill(target, asked)
    tally = _Tally()
    loop = asyncio.get_running_loop()
    server, client, begin = cpu_seconds(pid) if pid else 0.0, time.process_time(), time.perf_counter()
    ends = []
    for number in range(connections):
        done = loop.create_future()
        ends.append(done)
        protocol = _Client(asked, number, tally, begin + seconds, done)
        await loop.create_connection(lambda protocol=protocol: protocol, target.host, target.port)  # type: ignore[misc]
    await asyncio.gather(*ends)
    took = time.perf_counter() - begin
    used = 1e6 * (time.process_time() - client) / max(1, tally.hits)
    server_used = 1e6 * (cpu_seconds(pid) - server) / max(1, tally.hits) if pid else None
    ordered = sorted(tally.latencies) or [float("nan")]
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99)]
    return CacheResult(tally.hits, tally.misses, tally.failures, took, tally.hits / took, at[0], at[1], ordered[-1], server_used, used)


async def _fill(target: Target, asked: list[bytes]) -> None:
    for request in asked:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        writer.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"{target.host}:{target.port}: {answer[:200].decode(errors='replace') or 'no answer'}")
