"""Profiles of a working process: bounded, one at a time, for admins only."""

import asyncio
import threading
import time
import tracemalloc

import pytest
from conftest import running, write_keys

from inferstack_runtime import profiling
from inferstack_runtime.api import profiling as endpoint


@pytest.fixture
async def admin(tmp_path):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]}, alice={})
    async with running(access={"keys_file": str(keys)}) as run:
        yield run


async def ask(run, key="root", **body):
    return await run.post("/api/v1/profiling", body, authorization=f"Bearer {key}")


def spin(until):
    while not until.is_set():
        sum(range(1000))


async def test_the_stack_that_takes_the_time_stands_first_among_those_that_do_not_wait(admin):
    until = threading.Event()
    thread = threading.Thread(target=spin, args=(until,), name="busy-one")
    thread.start()
    try:
        answer = await ask(admin, kind="cpu", seconds=1)
    finally:
        until.set()
        thread.join()
    assert answer.status_code == 200, answer.text
    rows = [row for row in answer.json()["rows"] if row["stack"].startswith("busy-one;")]
    assert sum(row["samples"] for row in rows) > 10
    assert "spin (test_profiling.py:" in rows[0]["stack"]


async def test_memory_that_is_held_is_found_by_its_line_and_tracing_ends(admin):
    held = []

    async def hold():
        await asyncio.sleep(0.3)
        held.extend(bytearray(100_000) for _ in range(20))

    answer, _ = await asyncio.gather(ask(admin, kind="memory", seconds=1), hold())
    first = answer.json()["rows"][0]
    assert first["bytes"] >= 2_000_000
    assert first["stack"].startswith("test_profiling.py:")
    assert not tracemalloc.is_tracing()


async def test_a_second_profile_waits_for_the_first_to_end_and_is_told_so(admin):
    first = asyncio.create_task(ask(admin, seconds=1))
    await asyncio.sleep(0.1)
    second = await ask(admin, seconds=1)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "profile_running")
    assert (await first).status_code == 200
    assert (await ask(admin, kind="torch", seconds=1)).json()["error"]["code"] == "profile_unavailable"
    assert not endpoint._busy.locked()


@pytest.mark.parametrize("body", [{"seconds": 31}, {"seconds": 0}, {"seconds": "1"}, {"kind": "disk"}, {"seconds": 2.5}])
async def test_it_is_bounded(admin, body):
    assert (await ask(admin, **body)).status_code == 400


async def test_a_key_without_admin_scope_may_not(admin):
    assert (await ask(admin, "alice", seconds=1)).status_code == 403


@pytest.mark.parametrize("kind", ["cpu", "memory"])
def test_it_ends_when_it_is_told_to(kind):
    stop, began = threading.Event(), time.monotonic()
    threading.Timer(0.2, stop.set).start()
    profiling.profile(kind, 30, stop)
    assert time.monotonic() - began < 5
    assert not tracemalloc.is_tracing()
