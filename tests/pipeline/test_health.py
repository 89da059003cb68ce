"""The check after a deploy, against a small server on this machine that answers well, badly, late or not to the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from inferstack.delivery.gates import Refused
from inferstack.delivery.health import Health, check, describe, judge

Answer = Callable[[int], tuple[int, list[bytes], float]]


def event(content: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": content}}]}).encode() + b"\n\n"


ROLE = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def server(answer: Answer, models: bytes = b'{"data": [{"id": "small"}]}') -> AsyncIterator[str]:
    """An HTTP server whose n-th chat gets `answer(n)`: status, chunks, seconds before the first token."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        if "authorization: bearer sk-test" not in head:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        elif head.startswith("get /v1/models "):
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(models), models))
        else:
            assert json.loads(body)["stream"] is True
            number, count = count, count + 1
            status, chunks, delay = answer(number)
            writer.write(b"HTTP/1.1 %d X\r\nx-inferstack-slot: green\r\nconnection: close\r\n\r\n" % status)
            await writer.drain()
            for index, chunk in enumerate(chunks):
                await asyncio.sleep(delay if index == 1 else 0)
                writer.write(chunk)
                await writer.drain()
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"


GOOD = (200, [ROLE, event("one"), DONE], 0.0)


async def test_good_answers_are_counted_by_slot_and_pass() -> None:
    async with server(lambda number: GOOD) as url:
        health = await check(url, "sk-test", requests=8)
    assert (len(health.ttft_seconds), health.failures, health.slots) == (8, {}, {"green": 8})
    judge(health, error_ratio=0, ttft_p95_seconds=5)
    assert describe(health).startswith("8 of 8 answered (8 by green)")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((503, [], 0.0), "status 503"),
        ((200, [ROLE, event("one")], 0.0), "stream cut off"),
        ((200, [ROLE, DONE], 0.0), "stream without a token"),
        ((200, [ROLE, b"data: {nonsense\n\n"], 0.0), "Expecting"),
    ],
)
async def test_every_kind_of_bad_answer_counts(bad: tuple[int, list[bytes], float], reason: str) -> None:
    async with server(lambda number: bad if number % 4 == 0 else GOOD) as url:
        health = await check(url, "sk-test", requests=8)
    assert sum(health.failures.values()) == 2
    judge(health, error_ratio=0.25, ttft_p95_seconds=5)
    with pytest.raises(Refused, match=f"2 of 8 requests failed .*{reason}"):
        judge(health, error_ratio=0.24, ttft_p95_seconds=5)


async def test_the_time_counts_to_the_first_token_not_to_the_first_byte() -> None:
    async with server(lambda number: (200, [ROLE, event("one"), DONE], 0.2)) as url:
        health = await check(url, "sk-test", requests=2)
    assert min(health.ttft_seconds) >= 0.2
    with pytest.raises(Refused, match="first token takes"):
        judge(health, error_ratio=0, ttft_p95_seconds=0.1)


@pytest.mark.parametrize("models", [b'{"data": []}', b"{}", b"<html>"])
async def test_a_server_without_a_model_fails(models: bytes) -> None:
    async with server(lambda number: GOOD, models) as url:
        health = await check(url, "sk-test", requests=3)
    with pytest.raises(Refused, match="3 of 3"):
        judge(health, error_ratio=0.5, ttft_p95_seconds=5)


async def test_a_wrong_key_and_a_closed_port_fail() -> None:
    async with server(lambda number: GOOD) as url:
        refused = await check(url, "sk-other", requests=2)
    for health in (refused, await check(url, "sk-test", requests=2)):
        with pytest.raises(Refused):
            judge(health, error_ratio=0.5, ttft_p95_seconds=5)


def test_the_percentile_is_the_nearest_rank() -> None:
    assert Health(20, {}, tuple(float(n) for n in range(1, 21)), {}).ttft_p95_seconds == 19.0
    assert Health(1, {}, (2.0,), {}).ttft_p95_seconds == 2.0
    assert Health(0, {}, (), {}).ttft_p95_seconds is None
