import json
import threading

import jsonschema
import pytest
from conftest import running
from fake_engine import TOOL_TEMPLATE, fake_model
from llguidance import LLMatcher

from inferstack_runtime.api import structured
from inferstack_runtime.api.grammar import _tokenizer_of, schema_grammar
from inferstack_runtime.api.structured import answer_grammar
from inferstack_runtime.api.tools import read_tools
from inferstack_runtime.lifecycle.templates import compile_template

PATH = "/v1/chat/completions"
USER = [{"role": "user", "content": "go"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "d", "parameters": CITY}},
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}},
]


def ask(**more):
    return {"model": "fake", "messages": USER, "temperature": 0, **more}


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("schema", [PERSON, {"type": "array", "items": {"type": "integer"}, "maxItems": 2}, {"enum": ["yes", "no"]}])
async def test_the_answer_is_json_of_the_schema(runtime, schema):
    choice = (await runtime.post(PATH, ask(response_format=schema_format(schema)))).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), schema)


async def test_json_object_is_an_object(runtime):
    choice = (await runtime.post(PATH, ask(response_format={"type": "json_object"}))).json()["choices"][0]
    assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "http://elsewhere/schema"}, {"pattern": "(", "type": "string"}],
)
async def test_a_schema_that_cannot_be_kept_is_refused(runtime, schema):
    answer = await runtime.post(PATH, ask(response_format=schema_format(schema)))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"


async def test_a_schema_nested_without_end_is_refused(runtime):
    schema = {"type": "object"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}}
    answer = await runtime.post(PATH, ask(response_format=schema_format(schema)))
    assert answer.status_code == 400
    assert "nested" in answer.json()["error"]["message"]


async def test_a_schema_that_only_names_itself_is_refused_without_the_parsers_state(runtime):
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    answer = await runtime.post(PATH, ask(response_format=schema_format(schema)))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_schema")
    assert "\n" not in error["message"]
    assert "<state>" not in error["message"]


@pytest.fixture
async def with_tools():
    async with running(template=TOOL_TEMPLATE) as run:
        yield run


@pytest.mark.parametrize("stream", [False, True])
async def test_a_named_tool_is_called_with_arguments_of_its_schema(with_tools, stream):
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = await with_tools.post(PATH, ask(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, stream=stream))
    assert answer.status_code == 200, answer.text
    if stream:
        events = [json.loads(block[6:]) for block in answer.text.split("\n\n") if block.startswith("data: {")]
        calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
        finish = events[-1]["choices"][0]["finish_reason"]
        assert calls[0]["index"] == 0
        assert not any(event["choices"][0]["delta"].get("content") for event in events)
    else:
        body = answer.json()["choices"][0]
        calls, finish = body["message"]["tool_calls"], body["finish_reason"]
        assert body["message"]["content"] is None
    assert len(calls) == 1
    assert calls[0]["function"]["name"] == "weather"
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Rome"}
    assert calls[0]["id"].startswith("call_")
    assert finish == "tool_calls"


async def test_required_calls_one_of_them(with_tools):
    answer = await with_tools.post(PATH, ask(tools=TOOLS, tool_choice="required", parallel_tool_calls=False))
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] in ("weather", "time")


def allowed(mode, *names):
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


async def test_of_the_tools_only_those_that_are_allowed_are_offered_and_forced(with_tools):
    answer = await with_tools.post(PATH, ask(tools=TOOLS, tool_choice=allowed("required", "time"), parallel_tool_calls=False))
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "time"
    assert (await with_tools.post(PATH, ask(tools=TOOLS, tool_choice=allowed("auto", "time")))).status_code == 200
    for request in with_tools.engine.submitted:
        shown = bytes(token for token in request.prompt if token < 256)
        assert b"time" in shown
        assert b"weather" not in shown


async def test_without_a_choice_the_model_may_just_answer(with_tools):
    message = (await with_tools.post(PATH, ask(tools=TOOLS))).json()["choices"][0]["message"]
    assert message["content"]
    assert "tool_calls" not in message
    shown = with_tools.engine.submitted[0].prompt
    assert b"weather" in bytes(token for token in shown if token < 256)
    await with_tools.post(PATH, ask(tools=TOOLS, tool_choice="none"))
    assert b"weather" not in bytes(token for token in with_tools.engine.submitted[1].prompt if token < 256)


CALLED = [
    *USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "noon"},
]


async def test_the_result_of_a_tool_goes_back_to_the_model(with_tools):
    assert (await with_tools.post(PATH, ask(messages=CALLED, tools=TOOLS))).status_code == 200


async def test_earlier_calls_are_never_left_out_of_the_prompt():
    async with running() as run:
        answer = await run.post(PATH, ask(messages=CALLED))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1.tool_calls")
        assert run.engine.submitted == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": allowed("auto", "other")}, "tool_choice.allowed_tools.tools.0"),
        ({"tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools"),
        ({"tool_choice": allowed("never", "time")}, "tool_choice.allowed_tools.mode"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools.mode"),
        ({"tools": [{"type": "function", "function": {"name": "bad name"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0"),
    ],
)
async def test_tools_that_are_wrong_are_refused(with_tools, change, param):
    answer = await with_tools.post(PATH, ask(tools=TOOLS) | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def follows(grammar, text):
    """Whether an answer that keeps to the grammar can be this text."""
    model = fake_model(template=TOOL_TEMPLATE)
    matcher = LLMatcher(_tokenizer_of(model), grammar)
    return matcher.try_consume_tokens(list(text.encode())) == len(text.encode()) and matcher.is_accepting()


def grammar_of(schema=None, choice="auto", parallel=True, template=TOOL_TEMPLATE, strict=False):
    tools = [
        {"type": "function", "function": {**tool["function"], "strict": strict and name == "weather"}}
        for tool, name in zip(TOOLS, ("weather", "time"), strict=True)
    ]
    return answer_grammar(schema, read_tools(tools, choice, compile_template(template, {}), parallel))


PLAIN_TEMPLATE = TOOL_TEMPLATE.replace("<tool_call></tool_call>", "")
ROME, PARIS, NOON = call("weather", {"city": "Rome"}), call("weather", {"city": "Paris"}), call("time", {"any": 1})


def test_a_strict_tool_has_the_arguments_of_its_schema_also_where_the_model_decides_to_call():
    grammar = grammar_of(strict=True)
    assert all(follows(grammar, text) for text in ("", "Hello {} <tool", ROME, f"Sure.{ROME}", f"{NOON}\n{ROME} done"))
    assert not any(follows(grammar, text) for text in (PARIS, f"Sure.{PARIS}", f"{NOON}{PARIS}", call("other", {}), ROME[:-3]))
    plain = grammar_of(strict=True, template=PLAIN_TEMPLATE)
    assert follows(plain, "Hello")
    assert follows(plain, '{"name": "weather", "arguments": {"city": "Rome"}}')
    assert not follows(plain, '{"name": "weather", "arguments": {"city": "Paris"}}')
    assert grammar_of() is None, "else the model writes what it likes"


def test_without_parallel_calls_there_is_one():
    grammar = grammar_of(parallel=False)
    assert all(follows(grammar, text) for text in ("Hello", NOON, f"Now: {NOON}", PARIS))
    assert not follows(grammar, f"{NOON}\n{NOON}")


def test_with_a_response_format_the_model_calls_or_answers_in_it():
    grammar = grammar_of(schema=PERSON)
    assert all(follows(grammar, text) for text in ('{"name":"Ann","age":3}', ROME, f"{ROME}\n{ROME}"))
    assert not any(follows(grammar, text) for text in ("Hello", '{"name":"Ann"}', PARIS))
    assert not follows(grammar_of(schema=PERSON, choice="required"), '{"name":"Ann","age":3}')
    assert not follows(grammar_of(schema=PERSON, choice="none"), ROME)


async def test_schemas_are_compiled_beside_the_event_loop(runtime, monkeypatch):
    """Large ones take a second, in which the streams of others go on."""
    threads = []

    def noted(schema, param):
        threads.append(threading.current_thread())
        return schema_grammar(schema, param)

    monkeypatch.setattr(structured, "schema_grammar", noted)
    answer = await runtime.post(PATH, ask(response_format=schema_format({"enum": [f"value {n}" for n in range(200)]})))
    assert answer.status_code == 200
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
