"""What two slots answer, compared: over HTTP as the client reads it, with a server in this process."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from inferstack.platforms.agreement import LETTERS, LONG_CHARACTERS, agree, long_text
from inferstack.platforms.slot_client import BEGINNINGS, REFUSED, TEXTS, SlotClient, exercise

Answer = Callable[[str], httpx.Response]


def scored(text: str, *, given: str | None = None, wrong_from: int = 10**9) -> httpx.Response:
    """As an engine that names each letter's successor as most likely, another one from a position on."""
    top = [None, *({chr(ord(letter) + (2 if at >= wrong_from else 1)): -0.1, "x": -9.0} for at, letter in enumerate(text[1:], 1))]
    return httpx.Response(200, json={"choices": [{"text": (given or text) + "!", "logprobs": {"top_logprobs": top}}]})


def slot(answer: Answer) -> list[SlotClient]:
    transport = httpx.MockTransport(lambda request: answer(json.loads(request.content)["prompt"]))
    return [SlotClient(httpx.Client(base_url="http://slot", transport=transport), "/metrics", ["m"], "key")]


def test_equal_slots_agree_on_short_texts_and_on_a_long_one() -> None:
    found = agree(slot(scored), slot(scored))
    assert found is not None
    assert found.share == 1.0
    assert found.positions == sum(len(text) - 1 for text in (*TEXTS, LETTERS))
    assert found.long_same == found.long_positions == len(long_text(LONG_CHARACTERS[0])) - 1
    assert found.fault == ""


def test_a_slot_that_is_wrong_only_far_into_a_prompt_is_told_from_one_that_is_not() -> None:
    found = agree(slot(lambda text: scored(text, wrong_from=600)), slot(scored))
    assert found is not None
    assert found.share == 1.0
    assert found.long_same / found.long_positions < 0.2


def test_a_long_text_is_as_long_as_the_live_slot_takes_it() -> None:
    def short(text: str) -> httpx.Response:
        return scored(text) if len(text) < 1500 else httpx.Response(400, json={"error": {"message": "too long"}})

    found = agree(slot(scored), slot(short))
    assert found is not None
    assert 900 < found.long_positions < 1000
    found = agree(slot(short), slot(scored))
    assert found is not None
    assert "does not answer a prompt of 4000 characters" in found.fault
    assert "too long" in found.fault


def test_letters_that_come_back_as_others_are_a_fault_unless_the_live_slot_does_the_same() -> None:
    def misread(text: str) -> httpx.Response:
        return scored(text, given=text.encode().decode("latin-1"))

    found = agree(slot(misread), slot(scored))
    assert found is not None
    assert "gives back 'ZÃ¼rich" in found.fault
    same = agree(slot(misread), slot(misread))
    assert same is not None
    assert same.fault == ""


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={"choices": [{"text": "", "logprobs": None}]}),
        httpx.Response(500, text="down"),
        httpx.Response(200, content="Zürich".encode("latin-1")),
    ],
)
def test_what_gives_no_log_probabilities_cannot_be_compared(answer: httpx.Response) -> None:
    assert agree(slot(lambda text: answer), slot(scored)) is None


def stream(*texts: str, usage: int | None = None) -> str:
    events: list[dict[str, Any]] = [{"choices": [{"text": text, "finish_reason": None}]} for text in texts]
    events += [{"choices": [], "usage": {"completion_tokens": usage}}] if usage is not None else []
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "tokens"), [(stream("a", "b"), 2), (stream("ab cd", usage=5), 5), (stream(""), 0), (stream("", usage=8), 0), (stream(), 0)]
)
def test_an_answer_counts_its_tokens_and_one_without_text_none(body: str, tokens: int) -> None:
    timing = slot(lambda text: httpx.Response(200, text=body))[0].generate("m")
    assert (timing.error, timing.tokens) == ("", tokens)


def test_a_request_that_is_one_too_many_waits_as_it_is_told_and_is_no_fault() -> None:
    limited = httpx.Response(429, headers={"retry-after": "0.1"})
    answers = [limited, limited, httpx.Response(200, text=stream("a"))]
    timing = slot(lambda text: answers.pop(0))[0].generate("m")
    assert (timing.error, timing.waited) == ("", pytest.approx(0.2))
    assert exercise(slot(lambda text: httpx.Response(429, headers={"retry-after": "600"})), 1).first_failure.startswith("HTTP 429")


def test_an_interruption_is_not_kept_waiting_by_requests_that_wait_for_a_limit() -> None:
    began = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            exercise(slot(lambda text: httpx.Response(429, headers={"retry-after": "30"})), 50)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 10


def test_prompts_end_inside_a_sentence_and_take_turns() -> None:
    assert all(text.startswith(beginning) and not beginning.endswith(".") for text, beginning in zip(TEXTS, BEGINNINGS, strict=True))
    sent: list[str] = []
    client = slot(lambda text: sent.append(text) or httpx.Response(200, text=stream("a")))[0]  # type: ignore[func-returns-value]
    for turn in range(6):
        client.generate("m", label="7", turn=turn)
    assert len({*sent[:5]}) == 5
    assert sent[0] == sent[5]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refused_key_is_said_to_be_that_and_no_fault_of_the_slot(status: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"ready": True}) if request.url.path == "/readyz" else httpx.Response(status, text="no")

    client = SlotClient(httpx.Client(base_url="http://slot", transport=httpx.MockTransport(answer)), "/metrics", ["m"], "old")
    health = client.verify()
    assert not health.ok
    assert (REFUSED in health.reason) is (status != 500)
