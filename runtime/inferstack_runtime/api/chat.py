"""`POST /v1/chat/completions`: messages in, a message out, in OpenAI's shape (E2)."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from inferstack_runtime.api.fields import Field, Fields, shallow
from inferstack_runtime.api.http import Request, Response, Stream, json_response, parse_object
from inferstack_runtime.api.logprobs import chat_logprobs
from inferstack_runtime.api.messages import SCHEMA, read_messages
from inferstack_runtime.api.parameters import HARMLESS, MODEL, SHARED, Generate, room, sampling_of, tokens_of
from inferstack_runtime.api.prepared import Asked
from inferstack_runtime.api.run import Delta, Run
from inferstack_runtime.api.service import Service, abandon
from inferstack_runtime.api.sse import DONE, HEARTBEAT, error_event, event
from inferstack_runtime.api.structured import RESPONSE_FORMAT_SCHEMA, answer_grammar, read_response_format
from inferstack_runtime.api.tools import TOOL_CHOICE_SCHEMA, TOOLS_SCHEMA, ToolCalls, Tools, read_tools
from inferstack_runtime.engines.base import LoadedModel
from inferstack_runtime.errors import ApiError, invalid
from inferstack_runtime.lifecycle.models import Served
from inferstack_runtime.threads import LONG_TEXT, in_turn

FIELDS = Fields(
    (
        MODEL,
        Field("messages", "array", "The conversation so far.", required=True, check=read_messages, schema=SCHEMA),
        Field("max_tokens", "integer", "Most tokens of the answer; the context bounds it too.", minimum=1, maximum=2**31 - 1),
        Field("max_completion_tokens", "integer", "The newer name of `max_tokens`.", minimum=1, maximum=2**31 - 1),
        Field("logprobs", "boolean", "Report log-probabilities.", False),
        Field("top_logprobs", "integer", "Alternatives per token; needs `logprobs`.", minimum=0, maximum=20),
        Field(
            "response_format",
            "object",
            "Form of the answer: text, a JSON object, or JSON of a schema.",
            check=read_response_format,
            schema=RESPONSE_FORMAT_SCHEMA,
        ),
        Field("tools", "array", "Functions that the model may call.", check=shallow, schema=TOOLS_SCHEMA),
        Field(
            "tool_choice", "any", "`none`, `auto`, `required`, one function, or those allowed.", check=shallow, schema=TOOL_CHOICE_SCHEMA
        ),
        Field("parallel_tool_calls", "boolean", "Whether one answer may call several tools.", True),
        *SHARED,
    ),
    HARMLESS,
    {
        "functions": ("use `tools`", ([],)),
        "function_call": ("use `tool_choice`", ("none",)),
        "modalities": ("the models write text only", (["text"],)),
        "audio": ("the models write text only", ()),
        "prediction": ("there is no predicted output", ()),
        "reasoning_effort": ("the models have no reasoning levels", ("none",)),
        "verbosity": ("the models have no verbosity levels", ("medium",)),
        "web_search_options": ("there is no web search", ()),
        "moderation": ("there is no moderation endpoint", ()),
    },
)


async def create(service: Service, request: Request) -> Response | Stream:
    """Answer one chat request."""
    tenant, body = request.caller.tenant, await service.body(request)
    asked = service.chats.find(tenant, body)
    values = FIELDS.read(parse_object(body)) if asked is None else asked.values
    served = await service.model(request, values["model"])
    if asked is None or asked.model is not served.loaded:
        long = len(body) > LONG_TEXT or bool(values["tools"] or values["response_format"])  # grammars of large schemas take long too
        asked = service.chats.keep(request, body, await in_turn(long, lambda: _asked(values, served, tenant)))
    run = await service.run(request, served, asked.generates[0])
    writer = _Writer(run, values, served.loaded, served.name, int(service.clock()), asked.more)
    if values["stream"]:
        return Stream(writer.events(service.config.http.heartbeat_seconds), lambda: abandon([run]), ready=run.ready)
    return json_response(await (writer.body() if run.ready else request.unless_disconnected(writer.body())))


def _asked(values: dict[str, Any], served: Served, tenant: str) -> Asked:
    model = served.loaded
    tools = read_tools(values["tools"], values["tool_choice"], served.template, values["parallel_tool_calls"])
    return Asked(values, model, [chat_generate(values, served, tenant, tools)], tools)


def chat_generate(values: dict[str, Any], served: Served, tenant: str, tools: Tools | None = None) -> Generate:
    """The engine's request for validated chat values; raises ApiError 400."""
    if values["top_logprobs"] is not None and not values["logprobs"]:
        raise invalid("`top_logprobs` needs `logprobs: true`.", "top_logprobs")
    model = served.loaded
    tokens = chat_tokens(served, values["messages"], tools)
    wanted = [limit for limit in (values["max_completion_tokens"], values["max_tokens"]) if limit is not None]
    logprobs = (values["top_logprobs"] or 0) if values["logprobs"] else None
    return Generate(
        tokens,
        room(len(tokens), min(wanted, default=None), model.context, "messages"),
        sampling_of(values, logprobs),
        values["n"],
        values["stop"],
        tenant,
        values["priority"],
        answer_grammar(values["response_format"], tools),
        *_question(values["messages"], tools, min(wanted, default=None)),
        "\n\n".join(message["content"] for message in values["messages"] if message["role"] != "system"),
    )


def _question(messages: list[dict[str, Any]], tools: Tools | None, wanted: int | None) -> tuple[str | None, bytes]:
    """The last user message, and all else that must be equal: what stands before it, and the length that was asked for."""
    last = messages[-1]
    if tools is not None or last["role"] != "user" or any(message["role"] == "tool" or "tool_calls" in message for message in messages):
        return None, b""
    return last["content"], orjson.dumps([wanted, messages[:-1], {key: value for key, value in last.items() if key != "content"}])


def chat_tokens(served: Served, messages: list[dict[str, Any]], tools: Tools | None = None) -> tuple[int, ...]:
    """Token ids of the rendered conversation; ApiError 400 where the chat template is missing or would leave out calls of tools."""
    model = served.loaded
    if served.template is None:
        raise invalid(f"The model {served.name!r} has no chat template; use /v1/completions.", "model")
    calling = next((place for place, message in enumerate(messages) if "tool_calls" in message), None)
    if calling is not None and not served.template.shows_calls:
        raise invalid(f"The chat template of {served.name!r} has no place for calls of tools.", f"messages.{calling}.tool_calls")
    text = served.template.render(messages, tools.for_template if tools and tools.offered else None)
    # The template writes the special tokens itself.
    return tokens_of(model, text, "messages", False)


class _Writer:
    """Turns a run into a body or events."""

    def __init__(self, run: Run, values: dict[str, Any], model: LoadedModel, name: str, created: int, tools: Tools | None) -> None:
        self._run = run
        self._values = values
        self._tokenizer = model.tokenizer
        self._head = {"id": f"chatcmpl-{run.id}", "created": created, "model": name}
        self._tools = [ToolCalls(tools) for _ in range(values["n"])] if tools is not None and tools.offered else None

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, delta.logprobs) if self._values["logprobs"] else None

    async def body(self) -> dict[str, Any]:
        """The complete answer."""
        texts = [""] * self._values["n"]
        finish: list[str | None] = [None] * self._values["n"]
        logprobs: list[dict[str, Any] | None] = [None] * self._values["n"]
        async with aclosing(self._run.follow(3600)) as news:
            async for deltas in news:
                for delta in deltas:
                    texts[delta.index] += delta.text
                    finish[delta.index] = delta.finish_reason or finish[delta.index]
                    part = self._logprobs(delta)
                    whole = logprobs[delta.index]
                    if whole is None:
                        logprobs[delta.index] = part
                    elif part is not None:
                        whole["content"] += part["content"]
        choices = []
        for index, text in enumerate(texts):
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            reason = finish[index]
            if self._tools is not None:
                content, calls = self._tools[index].all(text)
                if calls:
                    message = {"role": "assistant", "content": content or None, "refusal": None, "tool_calls": calls}
                    reason = "tool_calls" if reason == "stop" else reason
            choices.append({"index": index, "message": message, "logprobs": logprobs[index], "finish_reason": reason})
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._run.usage.to_json()}

    async def events(self, heartbeat: float) -> AsyncGenerator[bytes, None]:
        """The answer as events."""
        include_usage = (self._values["stream_options"] or {}).get("include_usage", False)
        head: dict[str, Any] = {**self._head, "object": "chat.completion.chunk", **({"usage": None} if include_usage else {})}
        # What every plain text event has in common; only the text is written anew.
        prefix, suffix = _template(head)
        plain = not self._values["logprobs"] and self._tools is None
        begun: set[int] = set()
        try:
            async with aclosing(self._run.follow(heartbeat)) as news:
                async for deltas in news:
                    if not deltas:
                        yield HEARTBEAT
                        continue
                    blocks = []
                    for delta in deltas:
                        if delta.index not in begun:
                            begun.add(delta.index)
                            blocks.append(event(_chunk(head, delta.index, {"role": "assistant", "content": "", "refusal": None})))
                        if plain and delta.finish_reason is None:
                            blocks.append(b"%s%d%s%s%s" % (prefix, delta.index, _BETWEEN, orjson.dumps(delta.text), suffix))
                        else:
                            blocks += self._blocks(head, delta)
                    yield b"".join(blocks)
        except ApiError as error:
            yield error_event(error)
            return
        if include_usage:
            yield event({**head, "choices": [], "usage": self._run.usage.to_json()})
        yield DONE

    def _blocks(self, head: dict[str, Any], delta: Delta) -> list[bytes]:
        finish: str | None = delta.finish_reason
        parts: list[dict[str, Any]] = [{"content": delta.text}] if delta.text or delta.logprobs else []
        if self._tools is not None:
            calls = self._tools[delta.index]
            parts = calls.push(delta.text, last=finish is not None)
            if finish == "stop" and calls.found:
                finish = "tool_calls"
        logprobs = self._logprobs(delta)
        blocks = []
        for part in parts or ([{}] if logprobs and logprobs["content"] and finish is None else []):
            blocks.append(event(_chunk(head, delta.index, part, logprobs)))
            logprobs = None
        if finish is not None:
            blocks.append(event(_chunk(head, delta.index, {}, None if parts else logprobs, finish)))
        return blocks


_BETWEEN = b',"delta":{"content":'


def _template(head: dict[str, Any]) -> tuple[bytes, bytes]:
    opening = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":'
    return opening, b'},"logprobs":null,"finish_reason":null}]}\n\n'


def _chunk(
    head: dict[str, Any], index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {**head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}
