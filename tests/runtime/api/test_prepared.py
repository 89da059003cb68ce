"""Requests that were read before: what is remembered, and for whom."""

import json

import pytest
from conftest import running, write_keys

from inferstack_runtime.access.keys import Caller
from inferstack_runtime.api.http import Request
from inferstack_runtime.api.prepared import Prepared

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 5}


@pytest.fixture
def keys(tmp_path):
    return {"keys_file": str(write_keys(tmp_path / "keys.json", alice={}, bob={}))}


async def test_an_equal_request_is_read_once_for_each_tenant(keys):
    async with running(access=keys) as run:
        found = []
        for key in ("alice", "alice", "bob"):
            answer = await run.post("/v1/chat/completions", CHAT, authorization=f"Bearer {key}")
            found.append(answer.headers["x-cache"])
        assert found == ["miss", "hit", "miss"]
        assert sorted(tenant for tenant, _ in run.service.chats._kept) == ["alice", "bob"]
        assert [asked.generates[0].tenant for asked in run.service.chats._kept.values()] == ["alice", "bob"]


async def test_a_request_whose_answer_may_not_be_cached_is_not_kept():
    async with running() as run:
        for changed in ({"temperature": 1}, {"messages": [{"role": "user", "content": "x" * 20_000}], "max_tokens": 1}):
            await run.post("/v1/chat/completions", {**CHAT, **changed})
        await run.post("/v1/chat/completions", CHAT, **{"cache-control": "no-store, max-age=0"})
        assert not run.service.chats._kept


async def test_wrong_requests_are_refused_as_often_as_they_come():
    async with running() as run:
        for _ in range(3):
            assert (await run.post("/v1/chat/completions", {**CHAT, "nonsense": 1})).status_code == 400


async def test_a_model_that_was_loaded_again_is_asked_anew():
    async with running() as run:
        await run.post("/v1/chat/completions", CHAT)
        (asked,) = run.service.chats._kept.values()
        before = asked.model
        await run.service.models.unload("fake", "idle")
        await run.service.models.load("fake")
        answer = await run.post("/v1/chat/completions", CHAT)
        assert answer.status_code == 200
        (asked,) = run.service.chats._kept.values()
        assert asked.model is run.service.models.served["fake"].loaded
        assert asked.model is not before


async def test_the_same_bytes_mean_other_things_on_other_routes():
    body = {"model": "fake", "prompt": "hello", "temperature": 0, "max_tokens": 3}
    async with running() as run:
        assert (await run.post("/v1/completions", body)).status_code == 200
        assert (await run.post("/v1/chat/completions", body)).status_code == 400


def test_the_least_recently_asked_leaves_first(monkeypatch):
    from inferstack_runtime.api import prepared

    monkeypatch.setattr(prepared, "_MOST_ENTRIES", 2)
    kept = Prepared()
    asked = prepared.Asked({}, None, [])
    request = Request.internal("/", b"", Caller("t", "default", frozenset(), "k"))
    for body in (b"1", b"2"):
        kept.keep(request, body, asked)
    assert kept.find("t", b"1") is asked
    kept.keep(request, json.dumps(3).encode(), asked)
    assert kept.find("t", b"2") is None
    assert kept.find("t", b"1") is asked
    assert kept.find("other", b"1") is None
