"""One streamed request, timed piece by piece. Plain HTTP/1.1 over asyncio streams: the client must not take the server's cores."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A server. `chat`: it has only chat completions; `extra` goes into every body."""

    host: str
    port: int
    model: str
    key: str = ""
    chat: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One request; times by `time.perf_counter`. `pieces` are arrivals of text; `tokens` is what the server counted, else the pieces."""

    sent: float
    pieces: tuple[float, ...]
    ended: float
    tokens: int
    prompt_tokens: int | None
    status: int
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def ttft(self) -> float:
        return self.pieces[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces."""
        return [later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]


async def ask(target: Target, prompt: str, max_tokens: int, *, timeout: float = 600.0) -> Sample:
    """Send one request and read its stream to the end; a failure is a sample with an error, never an exception."""
    sent = time.perf_counter()
    pieces: list[float] = []
    status, error = 0, None
    usage: dict[str, Any] = {}
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            writer.write(_request(target, prompt, max_tokens))
            status, body = await _answer(reader, pieces, usage)
        if status != 200:
            error = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
        elif not pieces:
            error = "no text came"
    except (OSError, EOFError, ValueError, TimeoutError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    counted = usage.get("completion_tokens")
    tokens = counted if isinstance(counted, int) and counted > 0 else len(pieces)
    return Sample(sent, tuple(pieces), time.perf_counter(), tokens, usage.get("prompt_tokens"), status, error)


def _request(target: Target, prompt: str, max_tokens: int) -> bytes:
    content = {"messages": [{"role": "user", "content": prompt}]} if target.chat else {"prompt": prompt}
    body = {"model": target.model, "max_tokens": max_tokens, "temperature": 0, "stream": True, **content, **target.extra}
    data = json.dumps(body).encode()
    path = "/v1/chat/completions" if target.chat else "/v1/completions"
    key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n{key}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data


async def _answer(reader: asyncio.StreamReader, pieces: list[float], usage: dict[str, Any]) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status != 200:
        return status, await reader.read(1 << 16)
    pending = b""
    async for block in _blocks(reader, b"chunked" in head.lower()):
        now = time.perf_counter()
        pending += block
        *lines, pending = pending.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                _event(line[5:].strip(), now, pieces, usage)
    return status, b""


async def _blocks(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    if not chunked:
        while block := await reader.read(1 << 16):
            yield block
        return
    while size := int((await reader.readuntil(b"\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


def _event(data: bytes, now: float, pieces: list[float], usage: dict[str, Any]) -> None:
    if not data or data == b"[DONE]":
        return
    event = json.loads(data)
    if "error" in event:
        raise ValueError(str(event["error"])[:200])
    usage.update(event.get("usage") or {})
    for choice in event.get("choices") or []:
        text = choice.get("text") or (choice.get("delta") or {}).get("content")
        if text:
            pieces.append(now)
