import asyncio
import json
from dataclasses import replace

import pytest
from conftest import running, write_keys
from fake_engine import FakeEngine, fake_model
from hypothesis import given
from hypothesis import strategies as st

from inferstack_runtime.api.parameters import Generate
from inferstack_runtime.api.run import Answer, Delta, Usage
from inferstack_runtime.caching.answers import condense, pack, unpack
from inferstack_runtime.caching.exact import ExactCache, answer_key
from inferstack_runtime.engines.base import Sampling, TokenLogprobs
from inferstack_runtime.metrics import Metrics

ASK = {"model": "fake", "prompt": "question", "max_tokens": 20, "temperature": 0}
PATH = "/v1/completions"
ANSWER = Answer([Delta(0, "text"), Delta(0, "", finish_reason="stop")], Usage(3, 2))


async def test_the_same_question_is_answered_once(runtime):
    first, second = await runtime.post(PATH, ASK), await runtime.post(PATH, ASK)
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["usage"] == second.json()["usage"]
    assert first.json()["id"] != second.json()["id"]
    assert len(runtime.engine.submitted) == 1


async def test_a_hit_streams_in_several_events(runtime):
    runtime.engine.length = 100
    ask = {**ASK, "max_tokens": 100}
    whole = (await runtime.post(PATH, ask)).json()["choices"][0]["text"]
    stream = await runtime.post(PATH, {**ask, "stream": True})
    assert stream.headers["x-cache"] == "hit"
    events = [json.loads(block[6:]) for block in stream.text.split("\n\n") if block.startswith("data: {")]
    assert len(events) > 2
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert stream.text.endswith("data: [DONE]\n\n")
    assert len(runtime.engine.submitted) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "question "},
        {"max_tokens": 19},
        {"stop": ["zzz"]},
        {"logprobs": 1},
        {"seed": 1},
        {"top_k": 3},
        {"presence_penalty": 0.5},
        {"logit_bias": {"5": 1}},
        {"n": 2},
        {"ignore_eos": True},
    ],
)
async def test_whatever_changes_the_answer_changes_the_key(runtime, change):
    await runtime.post(PATH, ASK)
    assert (await runtime.post(PATH, {**ASK, **change})).headers["x-cache"] == "miss"


def test_the_key_holds_model_quantization_generation_and_tenant():
    model = fake_model()
    ask = Generate((1, 2, 3), 5, Sampling(temperature=0), tenant="a")
    keys = [
        answer_key(ask, model, 1),
        answer_key(ask, model, 2),
        answer_key(replace(ask, tenant="b"), model, 1),
        answer_key(replace(ask, prompt=(1, 2)), model, 1),
        answer_key(ask, replace(model, digest="sha256:other"), 1),
        answer_key(ask, replace(model, quantization="int8"), 1),
    ]
    assert len(set(keys)) == len(keys)
    assert answer_key(ask, model, 1) == keys[0]


async def test_a_random_answer_is_not_cached(runtime):
    for _ in range(2):
        assert (await runtime.post(PATH, {**ASK, "temperature": 1})).headers["x-cache"] == "bypass"
    assert len(runtime.engine.submitted) == 2


async def test_no_store_leaves_the_cache_alone_and_no_cache_refreshes_it(runtime):
    assert (await runtime.post(PATH, ASK, **{"cache-control": "no-store"})).headers["x-cache"] == "bypass"
    assert (await runtime.post(PATH, ASK)).headers["x-cache"] == "miss"
    assert (await runtime.post(PATH, ASK, **{"cache-control": "max-age=0, no-cache"})).headers["x-cache"] == "miss"
    assert (await runtime.post(PATH, ASK, **{"cache-control": "no-store"})).headers["x-cache"] == "bypass"
    assert (await runtime.post(PATH, ASK)).headers["x-cache"] == "hit"


async def test_no_tenant_gets_the_answer_of_another(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={}, bob={})
    async with running(access={"keys_file": str(file)}) as runtime:
        for key, expected in (("alice", "miss"), ("bob", "miss"), ("alice", "hit")):
            assert (await runtime.post(PATH, ASK, authorization=f"Bearer {key}")).headers["x-cache"] == expected
        assert [request.tenant for request in runtime.engine.submitted] == ["alice", "bob"], "prefix reuse is salted too"


async def test_equal_requests_at_once_are_one_generation():
    async with running(FakeEngine(step_seconds=0.01)) as runtime:
        answers = await asyncio.gather(*(runtime.post(PATH, ASK) for _ in range(10)))
        assert len(runtime.engine.submitted) == 1
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        assert sorted(answer.headers["x-cache"] for answer in answers) == ["coalesced"] * 9 + ["miss"]


async def test_a_follower_keeps_the_answer_going_when_the_first_leaves():
    async with running(FakeEngine(step_seconds=0.02)) as runtime:
        first = asyncio.create_task(runtime.post(PATH, ASK))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(runtime.post(PATH, ASK))
        await asyncio.sleep(0.02)
        first.cancel()
        answer = (await second).json()
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
        assert answer["usage"]["completion_tokens"] == 20
        assert runtime.engine.aborted == []


async def test_an_aborted_answer_is_not_cached(runtime):
    runtime.engine.step_seconds = 0.02
    first = asyncio.create_task(runtime.post(PATH, ASK))
    await asyncio.sleep(0.06)
    next(iter(runtime.service.flights)).abort()
    await first
    assert (await runtime.post(PATH, ASK)).headers["x-cache"] == "miss"


async def test_classes_and_routes_have_their_own_life(runtime):
    cache = runtime.service.cache
    for name in ("status", "entity", "event", "help", "guidance"):
        await runtime.post(PATH, {**ASK, "prompt": name}, **{"x-cache-class": name})
    lives = [round(kept[1] - cache._exact._clock()) for kept in cache._exact._kept.values()]
    assert lives == [120, 30, 30, 3600, 600]
    assert (await runtime.post(PATH, ASK, **{"x-cache-class": "other"})).status_code == 400


async def test_entries_end_and_the_oldest_make_room():
    now = [0.0]
    cache = ExactCache(2, 10**6, None, Metrics(), lambda: now[0])
    cache.put(b"a", ANSWER, 10)
    cache.put(b"b", ANSWER, 10)
    assert cache.near(b"a") is not None
    cache.put(b"c", ANSWER, 10)
    assert cache.near(b"b") is None, "the least recently used one went"
    assert cache.near(b"a") is not None
    now[0] = 11
    assert cache.near(b"a") is None


async def test_bytes_are_bounded():
    cache = ExactCache(1000, 10_000, None, Metrics())
    for position in range(100):
        cache.put(str(position).encode(), Answer([Delta(0, "x" * 500, finish_reason="stop")], Usage(1, 1)), 10)
    assert cache._bytes <= 10_000
    cache.put(b"huge", Answer([Delta(0, "x" * 50_000, finish_reason="stop")], Usage(1, 1)), 10)
    assert cache.near(b"huge") is None


deltas = st.builds(
    Delta,
    index=st.integers(0, 3),
    text=st.text(),
    logprobs=st.lists(
        st.builds(
            TokenLogprobs,
            st.integers(0, 9),
            st.floats(-9, 0),
            st.lists(st.tuples(st.integers(0, 9), st.floats(-9, 0)), max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    offsets=st.just(()),
    finish_reason=st.sampled_from([None, "stop", "length"]),
)


@given(st.lists(deltas, max_size=20))
def test_packed_answers_are_unpacked_as_they_were(parts):
    answer = Answer(parts, Usage(1, 2, 3), (None, TokenLogprobs(1, -1.0)), "sha256:x")
    assert unpack(pack(answer)) == answer


@given(st.lists(deltas, max_size=20))
def test_condensed_deltas_are_the_same_text(parts):
    for index in range(4):
        before = [delta.text for delta in parts if delta.index == index]
        after = [delta.text for delta in condense(parts) if delta.index == index]
        assert "".join(before) == "".join(after)
    assert sum(len(d.logprobs) for d in parts) == sum(len(d.logprobs) for d in condense(parts))


def test_large_answers_are_compressed():
    answer = Answer([Delta(0, "the same words again " * 500, finish_reason="stop")], Usage(1, 2))
    assert len(pack(answer)) < 1000


@given(st.binary(max_size=60))
def test_damaged_entries_are_a_miss(data):
    unpack(data)
    unpack(b"z" + data)


@pytest.mark.parts
async def test_replicas_share_answers_and_survive_the_loss_of_the_server(valkey):
    cache = {"url": valkey.url, "timeout_seconds": 0.5}
    async with running(cache=cache) as one, running(cache=cache) as two:
        for runtime in (one, two):
            await runtime.service.store.open()
        first = await one.post(PATH, ASK)
        await asyncio.sleep(0.1)
        second = await two.post(PATH, ASK)
        assert second.headers["x-cache"] == "hit"
        assert second.json()["choices"] == first.json()["choices"]
        assert two.engine.submitted == []
        valkey.stop()
        assert (await two.post(PATH, {**ASK, "prompt": "new"})).status_code == 200
        assert two.service.metrics.value("inferstack_shared_store_up") == 0
        valkey.start()
        await asyncio.sleep(1.1)
        assert (await two.post(PATH, {**ASK, "prompt": "newer"})).status_code == 200
        assert two.service.metrics.value("inferstack_shared_store_up") == 1
