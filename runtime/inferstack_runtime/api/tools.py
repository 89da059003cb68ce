"""Tools: how models call functions in their text, and how those calls reach the client.

A family of models marks a call in its own way; the marker that a chat template writes says which. A template that reads `tools`
but shows none of the markers gets the plain form: the whole answer is one JSON object with `name` and `arguments` or `parameters`.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from inferstack_runtime.errors import invalid

if TYPE_CHECKING:
    from inferstack_runtime.lifecycle.templates import ChatTemplate

_MARKERS: tuple[tuple[str, str], ...] = (("<tool_call>", "</tool_call>"),)
_PLAIN = ("", "")
_MAX_TOOLS = 128
_NAME = r"^[a-zA-Z0-9_.-]{1,64}$"

TOOLS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "maxItems": _MAX_TOOLS,
    "items": {
        "type": "object",
        "properties": {
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "pattern": _NAME},
                    "description": {"type": "string"},
                    "parameters": {"type": "object", "description": "A JSON schema."},
                    "strict": {"type": ["boolean", "null"]},
                },
                "required": ["name"],
                "additionalProperties": False,
            },
        },
        "required": ["type", "function"],
        "additionalProperties": False,
    },
}
TOOL_CHOICE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "allowed_tools"},
                "allowed_tools": {
                    "type": "object",
                    "properties": {
                        "mode": {"enum": ["auto", "required"]},
                        "tools": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["type", "function"]}},
                    },
                    "required": ["mode", "tools"],
                },
            },
            "required": ["type", "allowed_tools"],
        },
    ]
}


@dataclass(frozen=True)
class Tools:
    """Tools of one request; `offered` is false under `tool_choice: none`. `forced`: those of which one must be called, where one must."""

    for_template: Sequence[Mapping[str, Any]] = ()
    begin: str = ""
    end: str = ""
    offered: bool = True
    forced: Sequence[Mapping[str, Any]] = ()
    parallel: bool = True


def read_tools(tools: list[Any] | None, choice: Any, template: "ChatTemplate | None", parallel: bool = True) -> Tools | None:
    """Validate `tools` and `tool_choice`; raises ApiError 400, also where the model's template has no tools."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise invalid("`tool_choice` needs `tools`.", "tool_choice")
        return None
    names = [_tool_name(tool, f"tools.{position}") for position, tool in enumerate(tools)]
    if len(tools) > _MAX_TOOLS:
        raise invalid(f"`tools` takes at most {_MAX_TOOLS} functions.", "tools")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice, allowed = _allowed(choice.get("allowed_tools"), names)
        tools = [tool for tool, name in zip(tools, names, strict=True) if name in allowed]
        names = [name for name in names if name in allowed]
    forced = _forced(choice, names)
    if choice == "none":
        return Tools(offered=False)
    if template is None or not template.supports_tools:
        raise invalid("`tools` are not supported by this model: its chat template does not have them.", "tools", "unsupported_parameter")
    begin, end = next((marks for marks in _MARKERS if marks[0] in template.source), _PLAIN)
    must = [tool for tool, name in zip(tools, names, strict=True) if name in (forced or ())]
    return Tools(tools, begin, end, forced=must, parallel=parallel)


def _tool_name(tool: Any, where: str) -> str:
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
        raise invalid(f"`{where}` must be an object of type 'function' with `function`.", where)
    function = tool["function"]
    name = function.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or not all(c.isascii() and (c.isalnum() or c in "_.-") for c in name):
        raise invalid(f"`{where}.function.name` must be 1 to 64 letters, digits, `_`, `.` or `-`.", f"{where}.function.name")
    if not isinstance(function.get("parameters", {}), dict | None):
        raise invalid(f"`{where}.function.parameters` must be a JSON schema.", f"{where}.function.parameters")
    for outer, known, path in (
        (tool, {"type", "function"}, where),
        (function, {"name", "description", "parameters", "strict"}, f"{where}.function"),
    ):
        for key in outer:
            if key not in known:
                raise invalid(f"Unknown field `{path}.{key[:60]}`.", f"{path}.{key[:60]}", "unknown_parameter")
    return name


def _allowed(given: Any, names: list[str]) -> tuple[str, set[str]]:
    """Mode (`auto` or `required`) and names of a choice among some of the tools."""
    where = "tool_choice.allowed_tools"
    if not isinstance(given, dict) or given.get("mode") not in ("auto", "required"):
        raise invalid(f"`{where}.mode` must be 'auto' or 'required'.", f"{where}.mode")
    tools = given.get("tools")
    if not isinstance(tools, list) or not tools:
        raise invalid(f"`{where}.tools` must be a non-empty array.", f"{where}.tools")
    return given["mode"], {name for position, tool in enumerate(tools) for name in _named(tool, names, f"{where}.tools.{position}")}


def _named(choice: Any, names: list[str], where: str) -> list[str]:
    """The one of `names` that `{"type": "function", "function": {"name": …}}` says."""
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        form = '{"type": "function", "function": {"name": …}}'
        raise invalid(f"`{where}` must be {form}" + (", 'none', 'auto' or 'required'." if where == "tool_choice" else "."), where)
    if name not in names:
        raise invalid(f"`{where}` names {name[:64]!r}, which is not among `tools`.", where)
    return [name]


def _forced(choice: Any, names: list[str]) -> list[str] | None:
    """Names of which one must be called, or None where the model decides."""
    if choice in (None, "none", "auto"):
        return None
    if choice == "required":
        return names
    return _named(choice, names, "tool_choice")


class ToolCalls:
    """Finds the calls in one choice's text as it comes; text outside of them passes through."""

    def __init__(self, tools: Tools) -> None:
        self._begin, self._end = tools.begin, tools.end
        self._held = ""
        self._inside = False
        self._count = 0
        self._names = {tool["function"]["name"] for tool in tools.for_template}

    @property
    def found(self) -> bool:
        return self._count > 0

    def all(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Content and calls of a complete text."""
        parts = self.push(text, last=True)
        content = "".join(part.get("content", "") for part in parts).strip()
        calls = [{key: value for key, value in call.items() if key != "index"} for part in parts for call in part.get("tool_calls", ())]
        return content, calls

    def push(self, text: str, last: bool) -> list[dict[str, Any]]:
        """Deltas (`content` or `tool_calls`) that can be sent after more text."""
        self._held += text
        deltas: list[dict[str, Any]] = []
        if not self._begin:
            return self._push_plain(deltas, last)
        while True:
            mark = self._end if self._inside else self._begin
            at = self._held.find(mark)
            if at < 0:
                break
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            if self._inside:
                deltas.append(self._call(before) or {"content": f"{self._begin}{before}{self._end}"})
            elif before.strip():
                deltas.append({"content": before})
            self._inside = not self._inside
        if self._inside:
            if last and self._held:
                deltas.append(self._call(self._held) or {"content": self._begin + self._held})
                self._held = ""
            return deltas
        keep = 0 if last else _overlap(self._held, self._begin)
        free = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        if free and (free.strip() or not self.found):
            deltas.append({"content": free})
        return deltas

    def _push_plain(self, deltas: list[dict[str, Any]], last: bool) -> list[dict[str, Any]]:
        """The whole answer is a call if it is a JSON object that names a tool; held back while it may still become one."""
        if self._held.lstrip()[:1] not in ("{", ""):
            deltas.append({"content": self._held})
            self._held = ""
        elif last and self._held:
            deltas.append(self._call(self._held) or {"content": self._held})
            self._held = ""
        return deltas

    def _call(self, text: str) -> dict[str, Any] | None:
        try:
            value = orjson.loads(text.strip())
        except orjson.JSONDecodeError:
            return None
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        encoded = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        call = {
            "index": self._count,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": value["name"], "arguments": encoded},
        }
        self._count += 1
        return {"tool_calls": [call]}


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that `mark` begins with."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
