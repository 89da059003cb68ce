import json
import typing

import pytest
from conftest import running
from fake_engine import FakeEngine
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params

from inferstack_runtime.api import chat, completions


def chunks(text):
    """The JSON values of an event stream, and whether it ended with [DONE]."""
    blocks = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    return [json.loads(block) for block in blocks if block != "[DONE]"], blocks[-1] == "[DONE]"


async def test_completion_has_openai_shape(runtime):
    answer = await runtime.post("/v1/completions", {"model": "fake", "prompt": "hello", "max_tokens": 7, "temperature": 0})
    body = answer.json()
    assert answer.status_code == 200
    assert body["object"] == "text_completion"
    assert len(body["choices"]) == 1
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 7
    assert body["usage"]["total_tokens"] == 12


async def test_every_answer_carries_identity(runtime):
    for path in ("/readyz", "/v1/models", "/nowhere"):
        headers = (await runtime.client.get(path)).headers
        assert headers["x-inferstack-slot"] == "blue"
        assert headers["x-inferstack-generation"] == "0"
        assert headers["x-inferstack-model-digest"].startswith("sha256:")


async def test_stream_is_the_same_text_as_the_body(runtime):
    request = {"model": "fake", "prompt": "a prompt", "max_tokens": 25, "temperature": 0}
    whole = (await runtime.post("/v1/completions", request)).json()
    stream = await runtime.post("/v1/completions", {**request, "stream": True, "stream_options": {"include_usage": True}})
    events, done = chunks(stream.text)
    assert done
    assert stream.headers["content-type"].startswith("text/event-stream")
    text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
    assert text == whole["choices"][0]["text"]
    assert events[-1]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1] == whole["choices"][0]["finish_reason"]


async def test_chat_stream_is_the_same_text_as_the_body(runtime):
    request = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "n": 3, "seed": 1}
    whole = (await runtime.post("/v1/chat/completions", request)).json()
    events, done = chunks((await runtime.post("/v1/chat/completions", {**request, "stream": True})).text)
    assert done
    for index in range(3):
        parts = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert parts[0]["delta"]["role"] == "assistant"
        assert "".join(part["delta"].get("content") or "" for part in parts) == whole["choices"][index]["message"]["content"]
        assert parts[-1]["finish_reason"] == "stop"


async def test_stop_string_ends_the_answer_and_frees_the_engine(runtime):
    request = {"model": "fake", "prompt": "stop here", "max_tokens": 50, "temperature": 0}
    text = (await runtime.post("/v1/completions", request)).json()["choices"][0]["text"]
    stop = text[4:7]
    body = (await runtime.post("/v1/completions", {**request, "stop": [stop, "never"]})).json()
    assert body["choices"][0]["text"] == text[: text.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert runtime.engine.requests == {}


async def test_stop_string_that_ends_with_the_last_token_allowed_is_a_stop(runtime):
    request = {"model": "fake", "prompt": "stop here", "temperature": 0}
    for tokens, stop in ((2, None), (3, "\ufffd")):  # an answer begins with two digits; half a character becomes text only at the end
        whole = (await runtime.post("/v1/completions", {**request, "max_tokens": tokens})).json()["choices"][0]
        assert whole["finish_reason"] == "length"
        choice = (await runtime.post("/v1/completions", {**request, "max_tokens": tokens, "stop": stop or whole["text"][1]})).json()[
            "choices"
        ][0]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == whole["text"][:-1]


async def test_stop_string_is_never_streamed_in_part(runtime):
    request = {"model": "fake", "prompt": "stop here", "max_tokens": 50, "temperature": 0}
    text = (await runtime.post("/v1/completions", request)).json()["choices"][0]["text"]
    events, _ = chunks((await runtime.post("/v1/completions", {**request, "stop": text[4:9], "stream": True})).text)
    assert "".join(event["choices"][0]["text"] for event in events) == text[:4]


async def test_same_seed_same_answer_other_seed_another(runtime):
    async def text(seed):
        body = (await runtime.post("/v1/completions", {"model": "fake", "prompt": "p", "temperature": 1, "seed": seed})).json()
        return body["choices"][0]["text"]

    assert await text(5) == await text(5)
    assert await text(5) != await text(6)


async def test_n_choices_share_one_prompt_count(runtime):
    body = (await runtime.post("/v1/completions", {"model": "fake", "prompt": "four", "n": 3, "seed": 9, "max_tokens": 5})).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len({choice["text"] for choice in body["choices"]}) == 3
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 15, "total_tokens": 19, "prompt_tokens_details": {"cached_tokens": 0}}


async def test_several_prompts_keep_their_order(runtime):
    prompts = ["one", "two", "three"]
    body = (await runtime.post("/v1/completions", {"model": "fake", "prompt": prompts, "n": 2, "temperature": 0})).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3, 4, 5]
    alone = (await runtime.post("/v1/completions", {"model": "fake", "prompt": "two", "temperature": 0})).json()
    assert body["choices"][2]["text"] == alone["choices"][0]["text"]


async def test_echo_with_logprobs_scores_the_prompt(runtime):
    request = {"model": "fake", "prompt": "score me", "echo": True, "logprobs": 2, "max_tokens": 0}
    choice = (await runtime.post("/v1/completions", request)).json()["choices"][0]
    assert choice["text"] == "score me"
    assert choice["logprobs"]["tokens"] == list("score me")
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert all(value < 0 for value in choice["logprobs"]["token_logprobs"][1:])
    assert choice["logprobs"]["text_offset"] == list(range(8))


async def test_token_ids_are_a_prompt_too(runtime):
    text = (await runtime.post("/v1/completions", {"model": "fake", "prompt": "ab", "temperature": 0})).json()
    ids = (await runtime.post("/v1/completions", {"model": "fake", "prompt": [97, 98], "temperature": 0})).json()
    assert text["choices"][0]["text"] == ids["choices"][0]["text"]
    assert (await runtime.post("/v1/completions", {"model": "fake", "prompt": [97, 99999]})).status_code == 400


async def test_chat_logprobs(runtime):
    request = {"model": "fake", "messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 2, "max_tokens": 3}
    content = (await runtime.post("/v1/chat/completions", request)).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/completions", {"best_of": 3}, "best_of"),
        ("/v1/completions", {"suffix": "x"}, "suffix"),
        ("/v1/completions", {"stopp": ["x"]}, "stopp"),
        ("/v1/completions", {"temperature": 3}, "temperature"),
        ("/v1/completions", {"temperature": "hot"}, "temperature"),
        ("/v1/completions", {"n": 0}, "n"),
        ("/v1/completions", {"n": True}, "n"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"logit_bias": {"a": 1}}, "logit_bias"),
        ("/v1/completions", {"logit_bias": {"5000": 1}}, None),
        ("/v1/chat/completions", {"functions": [{"name": "f"}]}, "functions"),
        ("/v1/chat/completions", {"audio": {}}, "audio"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages.0.mood"),
        ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format.type"),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
    ],
)
async def test_what_would_be_ignored_or_is_wrong_is_refused_by_name(runtime, path, change, param):
    base = (
        {"model": "fake", "prompt": "x"} if path == "/v1/completions" else {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    )
    answer = await runtime.post(path, base | change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
        assert param.split(".")[-1] in error["message"]


@pytest.mark.parametrize(
    "change",
    [{"user": "u"}, {"metadata": {"a": "b"}}, {"best_of": 1}, {"best_of": 2, "n": 2}, {"suffix": None}, {"stop": None}, {"store": False}],
)
async def test_what_changes_nothing_is_accepted(runtime, change):
    assert (await runtime.post("/v1/completions", {"model": "fake", "prompt": "x", **change})).status_code == 200


async def test_unknown_model_is_404(runtime):
    answer = await runtime.post("/v1/completions", {"model": "other", "prompt": "x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_prompt_longer_than_the_context_is_refused():
    async with running(context=8) as runtime:
        answer = await runtime.post("/v1/completions", {"model": "fake", "prompt": "much too long"})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        for path, body, field in (
            ("/v1/completions", {"model": "fake", "prompt": "much too long"}, "prompt"),
            ("/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "much too long"}]}, "messages"),
            ("/v1/inference", {"prompt": "much too long"}, "prompt"),
            ("/chat/stream", {"query": "much too long"}, "query"),
        ):
            assert (await runtime.post(path, body)).json()["error"]["param"] == field
        answer = await runtime.post("/v1/completions", {"model": "fake", "prompt": "fits", "max_tokens": 100, "ignore_eos": True})
        assert answer.json()["usage"]["completion_tokens"] == 4


async def test_full_queue_is_429_with_retry_after():
    async with running(FakeEngine(max_queue=0, max_sequences=1, step_seconds=0.05)) as runtime:
        answer = await runtime.post("/v1/completions", {"model": "fake", "prompt": "x", "n": 3, "seed": 1})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "3"
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert runtime.engine.requests == {}
        assert runtime.service.metrics.value("inferstack_rejected_total", reason="queue") == 1


async def test_a_failing_engine_ends_requests_with_an_error_and_readiness():
    engine = FakeEngine()
    async with running(engine) as runtime:
        engine.fail_with = RuntimeError("broken step")
        answer = await runtime.post("/v1/completions", {"model": "fake", "prompt": "x"})
        assert answer.status_code == 500
        assert (await runtime.post("/v1/completions", {"model": "fake", "prompt": "x"})).status_code == 503
        assert (await runtime.client.get("/livez")).status_code == 503


async def test_metrics_count_what_happened(runtime):
    await runtime.post("/v1/completions", {"model": "fake", "prompt": "abc", "max_tokens": 4})
    metrics = runtime.service.metrics
    assert metrics.value("inferstack_requests_total", route="/v1/completions", model="fake", code="200", tier="default") == 1
    assert metrics.value("inferstack_prompt_tokens_total", model="fake") == 3
    assert metrics.value("inferstack_generated_tokens_total", model="fake") == 4
    assert metrics.value("inferstack_time_to_first_token_seconds_count", model="fake") == 1
    assert metrics.value("inferstack_inter_token_seconds_count", model="fake") == 3
    assert metrics.value("inferstack_queue_seconds_count", model="fake") == 1
    assert metrics.value("inferstack_in_flight_requests") == 0


@pytest.mark.parametrize(
    ("fields", "params"),
    [(chat.FIELDS, chat_params.CompletionCreateParamsStreaming), (completions.FIELDS, text_params.CompletionCreateParamsStreaming)],
    ids=["chat", "completions"],
)
def test_every_parameter_of_the_openai_client_is_served_accepted_or_refused_with_a_reason(fields, params):
    """An upgrade of the client that brings a new one fails here until somebody has decided about it."""
    known = {field.name for field in fields.fields} | fields.harmless | set(fields.refused)
    assert set(typing.get_type_hints(params)) <= known


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "x"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "prompt_cache_breakpoint": {}}]}],
        [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": "y"},
        ],
    ],
)
async def test_every_form_of_a_message_of_text_is_read(runtime, messages):
    answer = await runtime.post("/v1/chat/completions", {"model": "fake", "messages": messages, "max_completion_tokens": 2})
    assert answer.status_code == 200, answer.text


async def test_only_an_assistant_refuses(runtime):
    messages = [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]
    answer = await runtime.post("/v1/chat/completions", {"model": "fake", "messages": messages})
    assert answer.json()["error"]["param"] == "messages.0.content.0"
