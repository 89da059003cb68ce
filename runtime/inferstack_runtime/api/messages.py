"""Chat messages: from what clients send to what templates read."""

from typing import Any

import orjson

from inferstack_runtime.errors import ApiError, invalid

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MAX_MESSAGES = 4096
_KNOWN = frozenset(
    {
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "refusal",
        "audio",
        "function_call",
        "annotations",
        "reasoning_content",
        "parsed",  # what a client made of an answer's content, and sends back with it
    }
)
_HARMLESS = ("prompt_cache_breakpoint",)
"""What a text part may say beside its text."""

_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}, **{name: {"description": "No effect."} for name in _HARMLESS}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_REFUSAL_PART = {
    "type": "object",
    "properties": {"type": {"const": "refusal"}, "refusal": {"type": "string"}},
    "required": ["type", "refusal"],
    "additionalProperties": False,
}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART, "minItems": 1}]}
_ANSWER = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [_TEXT_PART, _REFUSAL_PART]}, "minItems": 1}]}
_TOOL_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string", "description": "A JSON object as text."}},
            "required": ["name", "arguments"],
        },
    },
    "required": ["id", "type", "function"],
}


def _message_schema(roles: list[str], more: dict[str, Any], required: list[str], content: dict[str, Any] = _CONTENT) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"role": {"enum": roles}, "content": content, "name": {"type": "string"}, **more},
        "required": ["role", *required],
        "additionalProperties": False,
    }


SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": _MAX_MESSAGES,
    "items": {
        "anyOf": [
            _message_schema(["system", "developer", "user"], {}, ["content"]),
            _message_schema(
                ["assistant"],
                {
                    "tool_calls": {"type": "array", "items": _TOOL_CALL, "minItems": 1},
                    "refusal": {"type": "null"},
                    "parsed": {"description": "No effect."},
                },
                ["content"],
                _ANSWER,
            ),
            _message_schema(["tool"], {"tool_call_id": {"type": "string"}}, ["content", "tool_call_id"]),
        ]
    },
}


def read_messages(value: list[Any], name: str) -> list[dict[str, Any]]:
    """Validated messages as templates read them: text content as a string, tool arguments as objects. Raises ApiError 400."""
    if not value:
        raise invalid(f"`{name}` must hold at least one message.", name)
    if len(value) > _MAX_MESSAGES:
        raise invalid(f"`{name}` takes at most {_MAX_MESSAGES} messages.", name)
    return [_message(entry, f"{name}.{position}") for position, entry in enumerate(value)]


def _message(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise invalid(f"`{where}` must be an object.", where)
    role = entry.get("role")
    if role not in _ROLES:
        raise invalid(f"`{where}.role` must be one of {', '.join(map(repr, _ROLES))}.", f"{where}.role")
    for key in entry:
        if key not in _KNOWN:
            raise _unknown(where, key)
    for key in ("audio", "function_call", "refusal"):
        if entry.get(key) is not None:
            raise invalid(f"`{where}.{key}` is not supported.", f"{where}.{key}", "unsupported_parameter")
    calls = entry.get("tool_calls")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    if calls is not None:
        if role != "assistant":
            raise invalid(f"`{where}.tool_calls` belongs to the role 'assistant'.", f"{where}.tool_calls")
        message["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    content = entry.get("content")
    if content is None and not calls:
        raise invalid(f"`{where}.content` is missing.", f"{where}.content", "missing_parameter")
    message["content"] = (
        "" if content is None else _text(content, f"{where}.content", ("text", "refusal") if role == "assistant" else ("text",))
    )
    for key in ("name", "tool_call_id", "reasoning_content"):
        if entry.get(key) is not None:
            if not isinstance(entry[key], str):
                raise invalid(f"`{where}.{key}` must be a string.", f"{where}.{key}")
            message[key] = entry[key]
    if role == "tool" and "tool_call_id" not in message:
        raise invalid(f"`{where}.tool_call_id` is missing.", f"{where}.tool_call_id", "missing_parameter")
    return message


def _text(content: Any, where: str, kinds: tuple[str, ...]) -> str:
    """The text of content; each kind of part holds it under its own name."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise invalid(f"`{where}` must be a string or an array of text parts.", where)
    texts = []
    for position, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in kinds:
            shown = f", not {kind[:40]!r}" if isinstance(kind, str) else ""
            raise invalid(f"`{where}.{position}` must be a part of type 'text'{shown}: the models read text only.", f"{where}.{position}")
        if not isinstance(part.get(kind), str):
            raise invalid(f"`{where}.{position}.{kind}` must be a string.", f"{where}.{position}.{kind}")
        for key in part:
            if key not in ("type", kind, *_HARMLESS):
                raise _unknown(f"{where}.{position}", key)
        texts.append(part[kind])
    return "".join(texts)


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not calls:
        raise invalid(f"`{where}` must be a non-empty array.", where)
    read = []
    for position, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
            raise invalid(f"`{where}.{position}.function` must hold the strings `name` and `arguments`.", f"{where}.{position}.function")
        try:
            arguments = orjson.loads(function["arguments"] or "{}")
        except orjson.JSONDecodeError:
            arguments = function["arguments"]
        read.append({"id": str(call.get("id", "")), "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return read


def _unknown(where: str, key: str) -> ApiError:
    return invalid(f"Unknown field `{where}.{key[:60]}`.", f"{where}.{key[:60]}", "unknown_parameter")
