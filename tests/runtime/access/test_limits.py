import asyncio
import contextlib

import pytest
from conftest import running, write_keys
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from inferstack_runtime.access.keys import Caller
from inferstack_runtime.access.limits import Limiter
from inferstack_runtime.access.window import Window
from inferstack_runtime.caching.shared import SharedStore
from inferstack_runtime.config import TierConfig
from inferstack_runtime.errors import ApiError
from inferstack_runtime.metrics import Metrics

ASK = {"model": "fake", "prompt": "four", "max_tokens": 6, "temperature": 1}
TIERS = {
    "default": {"requests_per_minute": 3, "tokens_per_minute": 100000},
    "premium": {"requests_per_minute": 50, "tokens_per_minute": 100},
}


def caller(tenant, tier="default"):
    return Caller(tenant, tier, frozenset({"inference"}), tenant)


def limiter(requests=3, tokens=1000, store=None, clock=lambda: 1000.0, metrics=None):
    tiers = {"default": TierConfig(requests_per_minute=requests, tokens_per_minute=tokens)}
    return Limiter(tiers, store, metrics or Metrics(), clock=clock)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), max_size=60), st.integers(1, 8), st.integers(1, 200))
def test_no_60_seconds_ever_pass_the_limits(arrivals, request_limit, token_limit):
    window, now, passed = Window(), 0, []
    for pause, tokens in arrivals:
        now += pause
        verdict = window.admit(now, 1, tokens, request_limit, token_limit)
        if verdict.allowed:
            passed.append((now, tokens))
        else:
            assert verdict.wait >= 1
    for start, _ in passed:
        inside = [tokens for at, tokens in passed if start <= at <= start + 60]
        assert len(inside) <= request_limit
        assert sum(inside) <= token_limit


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 5))
def test_who_waits_as_told_passes(pauses, limit):
    window, now = Window(), 0
    for pause in pauses:
        now += pause
        verdict = window.admit(now, 1, 0, limit, 10)
        if not verdict.allowed:
            now += verdict.wait
            assert window.admit(now, 1, 0, limit, 10).allowed


async def test_the_request_over_the_limit_is_429_with_headers(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={}, bob={})
    async with running(access={"keys_file": str(file), "tiers": TIERS}) as runtime:
        answers = [await runtime.post("/v1/completions", ASK, authorization="Bearer alice") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 61
        assert answers[3].headers["x-ratelimit-limit-requests"] == "3"
        assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
        other = await runtime.post("/v1/completions", ASK, authorization="Bearer bob")
        assert other.status_code == 200, "one tenant's requests never count for another"


async def test_unused_tokens_are_given_back(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={"tier": "premium"})
    async with running(FakeEngine(length=3), access={"keys_file": str(file), "tiers": TIERS}) as runtime:
        first = await runtime.post("/v1/completions", {**ASK, "max_tokens": 60}, authorization="Bearer alice")
        assert first.json()["usage"]["total_tokens"] == 8
        second = await runtime.post("/v1/completions", {**ASK, "max_tokens": 60}, authorization="Bearer alice")
        assert second.status_code == 200
        assert second.headers["x-ratelimit-remaining-tokens"] == str(100 - 8 - 64)


async def test_a_request_that_fails_is_refunded(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={})
    async with running(FakeEngine(max_queue=0, max_sequences=0), access={"keys_file": str(file), "tiers": TIERS}) as runtime:
        for _ in range(5):
            refused = await runtime.post("/v1/completions", ASK, authorization="Bearer alice")
            assert refused.json()["error"]["code"] == "queue_full"


async def test_a_cached_answer_costs_no_tokens(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={"tier": "premium"})
    async with running(access={"keys_file": str(file), "tiers": TIERS}) as runtime:
        ask = {**ASK, "temperature": 0}
        first = await runtime.post("/v1/completions", ask, authorization="Bearer alice")
        second = await runtime.post("/v1/completions", ask, authorization="Bearer alice")
        assert second.headers["x-cache"] == "hit"
        assert first.headers["x-ratelimit-remaining-tokens"] == "90"
        assert second.headers["x-ratelimit-remaining-tokens"] == "90"


@contextlib.asynccontextmanager
async def shared(url, metrics=None, timeout=0.5):
    store = SharedStore(url, timeout, metrics or Metrics())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parts
async def test_two_replicas_count_together(valkey):
    async with shared(valkey.url) as first, shared(valkey.url) as second:
        one, two = limiter(5, store=first), limiter(5, store=second)
        results = []
        for turn in range(6):
            try:
                await (one if turn % 2 else two).admit(caller("t"), 10)
                results.append(True)
            except ApiError as error:
                results.append(error.status)
        assert results == [True] * 5 + [429]
        await one.admit(caller("other"), 10)


@pytest.mark.parts
async def test_a_thousand_at_once_pass_exactly_the_limit(valkey):
    async with shared(valkey.url, timeout=5) as store:
        counter = limiter(300, 10**6, store)
        results = await asyncio.gather(*(counter.admit(caller("t"), 1) for _ in range(1000)), return_exceptions=True)
        assert sum(not isinstance(result, Exception) for result in results) == 300


@pytest.mark.parts
async def test_the_shared_counter_settles_and_refunds(valkey):
    async with shared(valkey.url) as store:
        counter = limiter(2, 100, store)
        first = await counter.admit(caller("t"), 80)
        with pytest.raises(ApiError, match="tokens per minute"):
            await counter.admit(caller("t"), 80)
        counter.settle(first, 5)
        second = await counter.admit(caller("t"), 80)
        assert second.verdict.remaining_tokens == 15
        with pytest.raises(ApiError):
            await counter.admit(caller("t"), 1)
        counter.refund(second)
        third = await counter.admit(caller("t"), 95)
        assert third.verdict.remaining_requests == 0


@pytest.mark.parts
async def test_the_clock_of_a_replica_does_not_matter(valkey):
    async with shared(valkey.url) as store:
        early, late = limiter(2, store=store, clock=lambda: 0.0), limiter(2, store=store, clock=lambda: 10.0**9)
        await early.admit(caller("t"), 1)
        await late.admit(caller("t"), 1)
        for one in (early, late):
            with pytest.raises(ApiError):
                await one.admit(caller("t"), 1)


@pytest.mark.parts
@pytest.mark.parametrize("failure", ["gone", "slow"])
async def test_without_the_server_limits_are_estimated_and_said_so(valkey, failure):
    metrics = Metrics()
    async with shared(valkey.url, metrics, 0.05) as store:
        counter = limiter(4, store=store, metrics=metrics)
        await counter.admit(caller("t"), 1)
        valkey.stop() if failure == "gone" else valkey.pause()
        results = []
        for _ in range(5):
            try:
                await counter.admit(caller("t"), 1)
                results.append(200)
            except ApiError as error:
                results.append(error.status)
        assert results[0] == 200
        assert results[-1] == 429, "the estimate limits too"
        assert metrics.value("inferstack_limit_fallback_total") == 5
        assert metrics.value("inferstack_shared_store_up") == 0
        valkey.start() if failure == "gone" else valkey.resume()
        await asyncio.sleep(1.1)
        await counter.admit(caller("other"), 1)
        assert metrics.value("inferstack_shared_store_up") == 1, "back without a restart"


@pytest.mark.parts
async def test_a_full_server_does_not_stop_requests(tmp_path):
    from conftest import Valkey

    server = Valkey(tmp_path, "--maxmemory", "1mb", "--maxmemory-policy", "noeviction").start()
    try:
        async with running(cache={"url": server.url, "timeout_seconds": 0.5}) as runtime:
            await runtime.service.store.open()
            assert (await runtime.post("/v1/completions", {**ASK, "temperature": 0})).status_code == 200
            assert runtime.service.metrics.value("inferstack_shared_store_errors_total", use="limits") >= 1
    finally:
        server.stop()
