"""One machine, the real model, the real gateway: what a newcomer and a platform engineer do first."""

import json
import os
import re
import signal
import time

import openai
import pytest

pytestmark = [pytest.mark.parts, pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def client(machine):
    with openai.OpenAI(base_url=machine.ready["base_url"], api_key=machine.ready["api_key"], max_retries=0, timeout=60) as made:
        yield made


def test_an_unmodified_openai_client_streams_a_chat_through_the_gateway(machine, client):
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    chat = client.chat.completions.create(model=machine.ready["model"], messages=question, stream=True, max_tokens=32, temperature=0)
    chunks = list(chat)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] in (["stop"], ["length"])


def test_the_answer_comes_piece_by_piece_and_names_its_slot(machine, client):
    active = machine.status()["active_slot"]
    question = [{"role": "user", "content": "Count from one to fifty in words."}]
    asked = time.monotonic()
    answer = client.chat.completions.with_raw_response.create(
        model=machine.ready["model"], messages=question, stream=True, max_tokens=64, temperature=0
    )
    assert answer.headers["x-inferstack-slot"] == active
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", answer.headers["x-inferstack-model-digest"])
    moments = [time.monotonic() for _ in answer.parse()]
    assert len(moments) > 20
    assert moments[-1] - moments[0] > (moments[-1] - asked) / 3, "all pieces came at once: something on the way holds them back"


def test_models_are_listed_and_a_wrong_key_is_refused(machine, client):
    assert [model.id for model in client.models.list()] == [machine.ready["model"]]
    with pytest.raises(openai.AuthenticationError, match="Invalid token"):
        client.with_options(api_key="sk-wrong").models.list()


def test_a_second_up_answers_within_twenty_seconds(machine):
    machine.run("down", "--drain-seconds", "1")
    assert machine.up()["seconds_to_first_token"] < 20


def test_promote_and_rollback_lose_nothing_under_eight_streaming_clients(machine):
    before = machine.status()
    load = machine.start("load", "--clients", "8", "--seconds", "600", "--max-tokens", "24")
    try:
        time.sleep(3)
        machine.run("promote", "--set", "slot.quantization=int8")
        promoted = machine.status()
        assert promoted["active_slot"] != before["active_slot"]
        assert promoted["slots"][promoted["active_slot"]]["quantization"] == "int8"
        machine.run("rollback")
        assert machine.status()["active_slot"] == before["active_slot"]
        time.sleep(3)
    finally:
        load.send_signal(signal.SIGINT)
        out, err = load.communicate(timeout=120)
    report = json.loads(out)
    assert load.returncode == 0, err
    assert (report["lost"], report["truncated"]) == (0, 0)
    assert set(report["slots"]) == {"blue", "green"}
    assert report["ok"] == report["requests"] > 30


def test_a_killed_slot_is_back_after_the_next_up(machine):
    status = machine.status()
    os.kill(status["parts"][f"slot-{status['active_slot']}"]["pid"], signal.SIGKILL)
    time.sleep(0.2)
    assert machine.status()["running"] is False
    machine.up()
    assert machine.status()["slots"][status["active_slot"]]["healthy"]


def test_requests_go_on_without_the_cache(machine):
    load = machine.start("load", "--clients", "2", "--seconds", "5", "--max-tokens", "8")
    time.sleep(2)
    os.kill(machine.status()["parts"]["cache"]["pid"], signal.SIGKILL)
    out, err = load.communicate(timeout=120)
    assert load.returncode == 0, err
    assert json.loads(out)["lost"] == 0
    machine.up()
    assert machine.status()["running"]


def test_down_lets_a_running_stream_end(machine, client):
    question = [{"role": "user", "content": "Tell me a long story."}]
    chat = client.chat.completions.create(model=machine.ready["model"], messages=question, stream=True, max_tokens=60, temperature=0)
    iterator = iter(chat)
    next(iterator)
    down = machine.start("down")
    reasons = [choice.finish_reason for chunk in iterator for choice in chunk.choices if choice.finish_reason]
    assert reasons in (["length"], ["stop"])
    down.communicate(timeout=120)
    assert down.returncode == 0
    machine.up()
