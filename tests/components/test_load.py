"""The load generator sees every way in which an answer can go wrong: a server that does each of them on purpose."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferstack.load import Target, percentiles, run_load

PIECE = b'data: {"choices": [{"delta": {"content": "word "}, "finish_reason": null}]}\n\n'
END = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = (PIECE, PIECE, END, DONE)


@asynccontextmanager
async def server(*pieces, status="200 OK", slot="blue", cut=False, mute=False, headers="", one_write=False):
    """Answers every request with `pieces` as chunks; `cut`: closes before the last chunk, `mute`: says nothing and closes."""
    seen = {"requests": 0, "connections": 0}

    async def serve(reader, writer):
        seen["connections"] += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                seen["body"], seen["head"] = json.loads(await reader.readexactly(length)), head
                seen["requests"] += 1
                if mute:
                    return
                start = f"HTTP/1.1 {status}\r\nx-inferstack-slot: {slot}\r\n{headers}transfer-encoding: chunked\r\n\r\n".encode()
                chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
                end = [] if cut else [b"0\r\n\r\n"]
                for part in [b"".join([start, *chunks, *end])] if one_write else [start, *chunks, *end]:
                    writer.write(part)
                    await writer.drain()
                if cut or "close" in headers:
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        target = Target("127.0.0.1", listening.sockets[0].getsockname()[1], "sk-test", "tiny")
        yield target, seen


async def load(target, **options):
    return await run_load(target, **{"clients": 2, "seconds": 0.15, "timeout": 2.0, **options})


async def test_whole_answers_are_ok_over_one_connection_per_client():
    async with server(*WHOLE) as (target, seen):
        report = await load(target)
    assert report.ok == len(report.results) == seen["requests"] > 2
    assert seen["connections"] == 2
    assert seen["body"]["stream"] is True
    assert "Authorization: Bearer sk-test" in seen["head"]
    assert report.to_json()["slots"] == {"blue": report.ok}
    assert report.to_json()["ttft_seconds"]["p50"] > 0


async def test_new_connections_on_demand():
    async with server(*WHOLE) as (target, seen):
        report = await load(target, keep_alive=False)
    assert report.ok == seen["connections"] == seen["requests"]


async def test_connection_close_is_honoured_and_is_no_loss():
    async with server(*WHOLE, headers="connection: close\r\n") as (target, seen):
        report = await load(target)
    assert report.ok == len(report.results) == seen["connections"]


async def test_an_answer_in_one_packet_is_whole():
    async with server(*WHOLE, one_write=True) as (target, _):
        assert (await load(target)).to_json()["ok"] > 0


@pytest.mark.parametrize(
    ("pieces", "options"),
    [
        ((PIECE, PIECE), {"cut": True}),
        (WHOLE, {"cut": True}),
        ((PIECE, DONE), {}),
        ((PIECE, END), {}),
        ((PIECE, b'data: {"error": {"message": "boom"}}\n\n', DONE), {}),
        ((PIECE, b"data: {broken\n\n", END, DONE), {}),
    ],
    ids=["cut", "cut before the last chunk", "no finish reason", "no [DONE]", "error in the stream", "not JSON"],
)
async def test_an_answer_that_does_not_end_properly_is_truncated(pieces, options):
    async with server(*pieces, **options) as (target, _):
        report = await load(target)
    assert report.truncated == len(report.results) > 0


@pytest.mark.parametrize("options", [{"mute": True}, {"status": "503 Service Unavailable"}, {"status": "401 Unauthorized"}])
async def test_a_request_without_an_answer_is_lost_with_its_reason(options):
    async with server(b"{}", **options) as (target, _):
        report = await load(target)
    assert report.lost == len(report.results) > 0
    assert sum(report.to_json()["reasons"].values()) == report.lost


async def test_nobody_listening_is_lost():
    async with server(*WHOLE) as (target, _):
        pass
    report = await load(target)
    assert report.lost == len(report.results) > 0


async def test_a_silent_server_is_lost_after_the_time_limit():
    async def hold(reader, writer):
        await reader.read(-1)
        writer.close()

    listening = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with listening:
        target = Target("127.0.0.1", listening.sockets[0].getsockname()[1], "k", "m")
        report = await load(target, timeout=0.1)
    assert report.lost == len(report.results) > 0
    assert "TimeoutError" in report.to_json()["reasons"]


async def test_a_refusal_for_load_is_counted_apart():
    async with server(b"{}", status="429 Too Many Requests") as (target, _):
        report = await load(target)
    assert report.count("limited") == len(report.results) > 0
    assert report.lost == 0


async def test_an_answer_of_another_slot_is_counted():
    async with server(*WHOLE, slot="green") as (target, _):
        report = await load(target, expected_slot="blue")
    assert report.count("wrong_slot") == len(report.results) > 0


async def test_it_stops_when_told_and_lets_running_answers_end():
    stop, seen = asyncio.Event(), []

    def watch(result):
        seen.append(result)
        stop.set()

    async with server(*WHOLE) as (target, _):
        report = await asyncio.wait_for(load(target, seconds=60, stop=stop, watch=watch), 5)
    assert report.ok == len(seen) >= 1


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_percentiles_are_values_that_were_seen_in_order(values):
    found = percentiles(values)
    assert all(round(value, 4) in [round(seen, 4) for seen in values] for value in found.values())
    assert list(found.values()) == sorted(found.values())
    assert found["max"] == round(max(values), 4)


def test_no_values_have_no_percentiles():
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None, "max": None}
