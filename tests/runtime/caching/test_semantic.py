import asyncio
import json
import subprocess
import sys
from unittest.mock import AsyncMock

import numpy as np
import pytest
from conftest import running, write_keys

from inferstack_runtime.api.run import Answer, Delta, Usage
from inferstack_runtime.caching.evaluation import pairs, rates, read_set
from inferstack_runtime.caching.false_hits import OFF, FalseHits, wilson
from inferstack_runtime.caching.guards import refusal, traits
from inferstack_runtime.caching.semantic import Entry, Question, SemanticCache
from inferstack_runtime.config import SemanticConfig
from inferstack_runtime.metrics import Metrics

PATH = "/v1/chat/completions"
CONFIG = {"semantic": {"enabled": True, "verify": 0.0}}


def chat(text, system=None, **more):
    messages = [{"role": "system", "content": system}] if system else []
    return {"model": "fake", "messages": [*messages, {"role": "user", "content": text}], "temperature": 0, **more}


async def settle(run):
    while run.service.cache._tasks:
        await asyncio.gather(*run.service.cache._tasks)


async def ask(run, body, **headers):
    answer = await run.post(PATH, body, **headers)
    assert answer.status_code == 200, answer.text
    await settle(run)
    return answer


@pytest.fixture
async def semantic():
    async with running(cache=CONFIG) as run:
        yield run


async def test_the_same_question_in_other_words_is_answered_from_the_cache(semantic):
    first = await ask(semantic, chat("How do I cancel a subscription?"))
    second = await ask(semantic, chat("How can I cancel a subscription?"))
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "semantic")
    assert first.json()["choices"] == second.json()["choices"]
    assert len(semantic.engine.submitted) == 1


@pytest.mark.parametrize(
    "body",
    [
        chat("How can I cancel a subscription?", system="Answer in French."),
        chat("How can I cancel a subscription?", temperature=0.5, seed=1),
        chat("How can I cancel a subscription?", max_tokens=5),
        chat("How can I cancel a subscription?", logprobs=True),
        chat("How can I cancel a subscription?", n=2),
        chat("How can I not cancel a subscription?"),
        chat("How can I cancel 2 subscriptions?"),
    ],
)
async def test_whatever_else_differs_is_a_miss(semantic, body):
    await ask(semantic, chat("How do I cancel a subscription?"))
    assert (await ask(semantic, body)).headers["x-cache"] in ("miss", "bypass")


async def test_earlier_turns_must_be_equal(semantic):
    def turns(first):
        messages = [{"role": "user", "content": first}, {"role": "assistant", "content": "yes"}]
        return {**chat("x"), "messages": [*messages, {"role": "user", "content": "How do I cancel a subscription?"}]}

    await ask(semantic, turns("hello"))
    assert (await ask(semantic, turns("hello!"))).headers["x-cache"] == "miss"


async def test_a_cut_answer_is_not_kept(semantic):
    await ask(semantic, chat("How do I cancel a subscription?", max_tokens=3))
    assert (await ask(semantic, chat("How can I cancel a subscription?", max_tokens=3))).headers["x-cache"] == "miss"


async def test_no_store_is_honoured(semantic):
    await ask(semantic, chat("How do I cancel a subscription?"), **{"cache-control": "no-store"})
    assert (await ask(semantic, chat("How can I cancel a subscription?"))).headers["x-cache"] == "miss"
    assert (await ask(semantic, chat("How could I cancel a subscription?"), **{"cache-control": "no-store"})).headers["x-cache"] == "bypass"


async def test_the_tier_is_off_unless_enabled(runtime):
    await ask(runtime, chat("How do I cancel a subscription?"))
    assert (await ask(runtime, chat("How can I cancel a subscription?"))).headers["x-cache"] == "miss"


async def test_no_tenant_gets_an_answer_of_another(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={}, bob={})
    async with running(cache=CONFIG, access={"keys_file": str(file)}) as run:
        await ask(run, chat("How do I cancel a subscription?"), authorization="Bearer alice")
        other = await ask(run, chat("How can I cancel a subscription?"), authorization="Bearer bob")
        assert other.headers["x-cache"] == "miss"
        own = await ask(run, chat("How could I cancel a subscription?"), authorization="Bearer alice")
        assert own.headers["x-cache"] == "semantic"


async def test_hits_are_checked_and_false_ones_switch_the_tier_off(monkeypatch):
    cache = {"semantic": {"enabled": True, "verify": 1.0, "threshold": 0.9}}
    async with running(cache=cache) as run:
        tier = run.service.cache.semantic
        question, entry = Question("q", "space"), Entry("q", traits("q"), _answer("old"), 1e12)
        vectors = await tier._embed(["old", "something else entirely, 7"])
        with monkeypatch.context() as patch:
            patch.setattr(tier, "_embed", AsyncMock(return_value=vectors))  # the same two texts a few hundred times
            judged = 0
            while tier.threshold("fake") <= 1 and judged < 400:
                await tier.judge("fake", question, entry, _answer("something else entirely, 7"))
                judged += 1
        assert tier.threshold("fake") > 1
        metrics = run.service.metrics
        assert metrics.value("inferstack_cache_semantic_threshold", model="fake") > 1
        assert metrics.value("inferstack_cache_false_hits_total", model="fake") == judged
        await ask(run, chat("How do I cancel a subscription?"))
        assert (await ask(run, chat("How can I cancel a subscription?"))).headers["x-cache"] == "miss"


async def test_a_checked_hit_is_regenerated_behind_the_clients():
    async with running(cache={"semantic": {"enabled": True, "verify": 1.0}}) as run:
        await ask(run, chat("How do I cancel a subscription?"))
        hit = await ask(run, chat("How can I cancel a subscription?"))
        assert hit.headers["x-cache"] == "semantic"
        await settle(run)
        assert [request.priority for request in run.engine.submitted] == [0, 100]
        assert run.service.metrics.value("inferstack_cache_verified_hits_total", model="fake") == 1


@pytest.mark.parametrize(
    ("known", "asked", "why"),
    [
        ("Convert 10 miles", "Convert 100 miles", "numbers"),
        ("Convert ten miles", "Convert eleven miles", "numbers"),
        ("What does `git rebase` do?", "What does `git reset` do?", "quoted"),
        ("What does os.remove do?", "What does os.rename do?", "code"),
        ("Is it safe?", "Is it not safe?", "negations"),
        ("Is it legal?", "Isn't it legal?", "negations"),
        ("Where is Paris?", "Where is Rome?", "entities"),
        ("How do I enable it?", "How do I disable it?", "negations"),
        ("How do I sort in ascending order?", "How do I sort in descending order?", "opposite"),
        ("Is the moon bigger than the earth?", "Is the earth bigger than the moon?", "way round"),
        ("Who wrote it?", "When was it written?", "asks"),
        ("What is it?", "What is it in a great many more words than before, at length?", "length"),
        ("What is new today?", "What is new today?", "time"),
        ("Where is my order?", "Where is my order?", "person"),
        ("Is coffee healthy?", "Ist coffee nicht healthy?", "negations"),
        ("What is 15% of 240?", "240 is 15% of what?", "numbers"),
        ("Translate it to Welsh", "Translate it from Welsh", "another way"),
        ("How do I paint a fence?", "How often do I paint a fence?", "something else"),
        ("How do I undo a merge?", "How do I undo a commit?", "replaced"),
        ("Are grapes safe?", "Are grapes unsafe?", "replaced"),
        ("Does a wolf fear a bear?", "Does a bear fear a wolf?", "way round"),
        ("How many eggs are in a box?", "How many boxes are in an egg?", "way round"),
        ("Where do the kings live?", "Where did the kings live?", "another time"),
        ("Has the show begun?", "Will the show begin?", "another time"),
        ("Why is a == b slow?", "Why is a === b slow?", "code"),
    ],
)
def test_guards_refuse_what_vectors_hardly_see(known, asked, why):
    assert why in (refusal(traits(asked), traits(known)) or "")


def test_guards_let_other_wordings_pass():
    for known, asked in (
        ("How do I boil an egg?", "How can I boil an egg?"),
        ("Which city is the capital of France?", "What city is France's capital?"),
    ):
        assert refusal(traits(asked), traits(known)) is None


@pytest.mark.slow
def test_the_committed_set_shows_what_the_guards_are_worth(embedder):
    found = rates(pairs(read_set(), embedder))
    at = {(rate.threshold, rate.guarded): rate for rate in found}
    assert at[0.95, True].false_ratio < at[0.95, False].false_ratio
    assert at[0.95, True].false_ratio <= 0.05
    assert at[0.95, True].hit_rate >= 0.5
    for guarded in (True, False):
        hits = [at[threshold, guarded].right for threshold in (0.99, 0.95, 0.90, 0.80)]
        assert hits == sorted(hits)


@pytest.mark.slow
def test_cache_eval_prints_rates_and_draws_them(tmp_path):
    picture = tmp_path / "rates.svg"
    command = [sys.executable, "-c", "from inferstack_runtime.cli import main; main()", "cache-eval"]
    done = subprocess.run([*command, "--json", "--plot", str(picture)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {"threshold", "hit_rate", "false_hit_rate", "false_hit_interval"} <= json.loads(done.stdout)["rates"][0].keys()
    assert picture.read_text().startswith("<svg")
    wrong = tmp_path / "set.jsonl"
    wrong.write_text('{"question": 1}')
    assert subprocess.run([*command, "--set", str(wrong)], capture_output=True, text=True, timeout=120).returncode == 2


def test_the_threshold_rises_with_false_hits_and_ends_off():
    verdicts = FalseHits(0.98, 0.02)
    for _ in range(19):
        verdicts.add(false=True)
    assert verdicts.threshold == 0.98, "too few to tell"
    verdicts.add(false=True)
    assert verdicts.threshold == 0.99
    for _ in range(20):
        verdicts.add(false=True)
    assert verdicts.threshold == OFF


def test_the_interval_is_wilsons():
    low, high = wilson(2, 100)
    assert (round(low, 4), round(high, 4)) == (0.0055, 0.0700)
    assert wilson(0, 0) == (0.0, 1.0)


def _answer(text):
    return Answer([Delta(0, text, finish_reason="stop")], Usage(1, 1))


async def test_size_is_bounded_and_entries_end():
    now = [0.0]

    async def embed(texts):
        vectors = np.array([np.random.default_rng(abs(hash(text)) % 2**32).normal(size=8) for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    tier = SemanticCache(SemanticConfig(enabled=True, entries=3, ttl_seconds=100), embed, None, Metrics(), lambda: now[0], lambda: 0.5)
    for name in "abcd":
        await tier.put(Question(f"question {name}", "space"), _answer(name))
    assert await tier.find(Question("question a", "space"), "m") is None
    assert await tier.find(Question("question d", "space"), "m") is not None
    assert await tier.find(Question("question d", "other space"), "m") is None
    now[0] = 101
    assert await tier.find(Question("question d", "space"), "m") is None


@pytest.mark.parts
async def test_replicas_share_entries_and_hear_of_new_ones(valkey):
    cache = {**CONFIG, "url": valkey.url, "timeout_seconds": 0.5}
    async with running(cache=cache) as one, running(cache=cache) as two:
        for run in (one, two):
            await run.service.store.open()
        listening = asyncio.create_task(two.service.cache.semantic.listen())
        await asyncio.sleep(0.2)
        await ask(two, chat("What is the price of the premium plan?"))  # the namespace is loaded now
        await ask(one, chat("How do I cancel a subscription?"))
        await asyncio.sleep(0.3)
        assert (await ask(two, chat("How can I cancel a subscription?"))).headers["x-cache"] == "semantic"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("How do I paint a fence?", "How can I paint fences?"),
        ("When does the film start?", "When does the movie begin?"),
        ("What are the benefits of tea?", "What are the advantages of tea?"),
        ("How do I copy files?", "How can I copy a file?"),
    ],
)
def test_endings_fillers_and_other_names_of_the_same_are_not_other_words(known, asked):
    assert refusal(traits(asked), traits(known)) is None


@pytest.mark.slow
def test_the_set_that_no_guard_was_made_for_has_few_false_hits_at_the_default_threshold(embedder):
    threshold = SemanticConfig().threshold
    (guarded,) = [rate for rate in rates(pairs(read_set(held_out=True), embedder), [threshold]) if rate.guarded]
    (bare,) = [rate for rate in rates(pairs(read_set(held_out=True), embedder), [threshold]) if not rate.guarded]
    assert guarded.same >= 150
    assert guarded.other >= 200
    assert guarded.false_ratio < 0.02, "the share at which the tier switches itself off"
    assert bare.false_ratio > 0.1, "the near misses are near"
    assert guarded.hit_rate > 0.6
    assert wilson(guarded.false, guarded.right + guarded.false)[1] < 0.06


def test_no_line_stands_in_both_sets():
    known, held_out = ({entry["question"] for entry in read_set(held_out=kind)} for kind in (False, True))
    assert not known & held_out
