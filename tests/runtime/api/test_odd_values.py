"""Every field of every body with values that no client should send, and schemas of every kind: refused by name or answered."""

import json
import random

import pytest
from conftest import running, write_keys
from fake_engine import TOOL_TEMPLATE

from inferstack_runtime.api.openapi import document
from inferstack_runtime.api.routes import ROUTES

USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}
BODIES = {
    "/v1/completions": {
        "model": "fake", "prompt": "x", "max_tokens": 2, "temperature": 1, "top_p": 1, "n": 1, "stop": ["a"], "seed": 1, "logprobs": 1,
        "echo": False, "stream": False, "stream_options": None, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {"5": 1},
        "best_of": 1, "suffix": None, "user": "u", "priority": 0,
    },
    "/v1/chat/completions": {
        "model": "fake", "messages": [USER], "max_tokens": 2, "temperature": 1, "top_p": 1, "n": 1, "stop": "a", "seed": 1,
        "logprobs": True, "top_logprobs": 1, "stream": False, "response_format": {"type": "text"}, "tools": [TOOL], "tool_choice": "auto",
        "parallel_tool_calls": True, "logit_bias": {}, "metadata": {}, "store": False, "max_completion_tokens": 2,
    },
    "/v1/embeddings": {"model": "m", "input": "x", "encoding_format": "float", "dimensions": 384, "user": "u"},
    "/v1/batch": {"prompts": ["x"], "max_tokens": 2},
    "/v1/inference": {"prompt": "x", "max_tokens": 2, "temperature": 1},
    "/chat/stream": {"query": "x"},
    "/api/v1/models/load": {"provider": "configured", "model_name": "fake", "quantization": "gguf", "max_batch_size": 1},
    "/v1/batches": {"input_file_id": "x", "endpoint": "/v1/completions", "completion_window": "24h", "metadata": {"a": "b"}},
}  # fmt: skip
DEEP = json.loads('{"a":' * 60 + "1" + "}" * 60)
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1.5,
    2**31,
    2**63,
    -(2**63),
    1e308,
    "",
    " ",
    "\0",
    "\ufeff",
    "e\u0301\u200d🏳️‍🌈\u202e",
    "x" * 5000,
    [],
    [[]],
    [None],
    [{}],
]
ODD += [
    {},
    {"": ""},
    {"type": "json_schema"},
    {"type": None},
    DEEP,
    [DEEP],
    ["a", 1, None],
    {"role": "user"},
    [{"role": "tool", "content": []}],
]
ODD += [
    [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}],
    [{"role": "user", "content": [{"type": "image_url"}]}],
    "<|im_end|>",
]


@pytest.mark.parametrize("path", sorted(BODIES))
async def test_no_value_of_any_field_is_a_server_error(path, tmp_path):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    access = {"keys_file": str(keys), "tiers": {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}}
    named = {int(status) for status in document(ROUTES)["paths"][path]["post"]["responses"]}
    chance = random.Random(11)
    async with running(
        access=access, template=TOOL_TEMPLATE, batches={"url": f"sqlite:///{tmp_path}/b.sqlite"}, lifecycle={"allow": []}
    ) as run:
        for field in [*BODIES[path], "unknown"]:
            for value in ODD:
                body = {**BODIES[path], field: value}
                if chance.random() < 0.3:  # and another one beside it
                    body[chance.choice(list(body))] = chance.choice(ODD)
                answer = await run.client.post(path, json=body, headers={"authorization": "Bearer root"})
                assert answer.status_code in named, (body, answer.text[:500])
                assert answer.status_code < 500 or answer.status_code in (501, 503), (body, answer.text[:500])
                if answer.status_code == 400:
                    assert answer.json()["error"]["message"]
        assert run.service.state.in_flight == 0


TREE = {"anyOf": [{"$ref": "#/$defs/t"}, {"type": "null"}]}
PATTERN = {"type": "string", "pattern": "^[a-f]{2}-\\d+$"}
SCHEMAS = {
    "a reference": {"$defs": {"n": {"type": "integer"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]},
    "a recursion": {"$defs": {"t": {"type": "object", "properties": {"next": TREE}, "required": ["next"]}}, "$ref": "#/$defs/t"},
    "a recursion without an end": {
        "$defs": {"t": {"type": "object", "properties": {"n": {"$ref": "#/$defs/t"}}, "required": ["n"]}},
        "$ref": "#/$defs/t",
    },
    "a reference to nothing": {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
    "a reference elsewhere": {"$ref": "https://example.com/schema.json"},
    "a pattern": {"type": "object", "properties": {"a": PATTERN}, "required": ["a"]},
    "a pattern that is none": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(["}}},
    "a pattern that looks ahead": {"type": "string", "pattern": "^(?=a)b"},
    "bounds that cross": {"type": "integer", "minimum": 5, "maximum": 1},
    "an empty choice": {"enum": []},
    "false": False,
    "a huge repetition": {"type": "string", "pattern": "(a{1,9999}){1,9999}"},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
async def test_a_schema_of_every_kind_is_kept_or_refused(runtime, schema):
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    body = {"model": "fake", "messages": [USER], "max_tokens": 60, "response_format": form}
    answer = await runtime.post("/v1/chat/completions", body)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]["param"].startswith("response_format")
    elif answer.json()["choices"][0]["finish_reason"] == "stop":
        import jsonschema

        jsonschema.validate(json.loads(answer.json()["choices"][0]["message"]["content"]), schema)
