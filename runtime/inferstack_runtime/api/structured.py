"""`response_format`: what the answer must look like, as a grammar."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inferstack_runtime.api.fields import bad, nesting
from inferstack_runtime.api.grammar import lark_grammar, schema_grammar
from inferstack_runtime.api.tools import Tools
from inferstack_runtime.errors import invalid

RESPONSE_FORMAT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "object", "properties": {"type": {"enum": ["text", "json_object"]}}, "required": ["type"], "additionalProperties": False},
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                        "schema": {"type": "object", "description": "A JSON schema that the grammar library can compile."},
                        "strict": {"type": ["boolean", "null"]},
                        "description": {"type": "string"},
                    },
                    "required": ["name", "schema"],
                    "additionalProperties": False,
                },
            },
            "required": ["type", "json_schema"],
            "additionalProperties": False,
        },
    ]
}


def read_response_format(value: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The JSON schema that the answer must satisfy, or None for plain text. Raises ApiError 400."""
    kind = value.get("type")
    allowed = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    for key in value:
        if key not in allowed:
            raise invalid(f"Unknown field `{name}.{key[:60]}`.", f"{name}.{key[:60]}", "unknown_parameter")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise bad(f"{name}.type", "'text', 'json_object' or 'json_schema'", kind)
    outer = value.get("json_schema")
    if not isinstance(outer, dict):
        raise bad(f"{name}.json_schema", "an object with `name` and `schema`", outer)
    for key in outer:
        if key not in ("name", "schema", "strict", "description"):
            raise invalid(f"Unknown field `{name}.json_schema.{key[:60]}`.", f"{name}.json_schema.{key[:60]}", "unknown_parameter")
    schema = outer.get("schema")
    if not isinstance(schema, dict):
        raise bad(f"{name}.json_schema.schema", "a JSON schema", schema)
    if not isinstance(outer.get("name"), str) or not outer["name"]:
        raise bad(f"{name}.json_schema.name", "non-empty text", outer.get("name"))
    if not nesting(schema):
        raise invalid(f"`{name}.json_schema.schema` is nested deeper than 64 levels.", f"{name}.json_schema.schema")
    return schema


def answer_grammar(schema: dict[str, Any] | None, tools: Tools | None) -> str | None:
    """The grammar of an answer: of a forced tool call, of the response format, or of either; None where the model writes what it likes.

    A tool that is `strict` has the arguments of its schema, and without `parallel_tool_calls` there is one call, also where the model
    decides whether to call. Raises ApiError 400.
    """
    form = None if schema is None else schema_grammar(schema, "response_format")
    if tools is None or not tools.offered:
        return form
    if tools.forced:
        return lark_grammar(f"start: {_calls(tools)}\n{_call_rules(tools, tools.forced)}", "tools")
    if schema is not None:
        answer = json.dumps({"x-guidance": {"whitespace_flexible": False}, **schema})
        return lark_grammar(f"start: {_calls(tools)} | answer\nanswer: %json {answer}\n{_call_rules(tools, tools.for_template)}", "tools")
    if tools.parallel and not any(tool["function"].get("strict") for tool in tools.for_template):
        return None
    rules = _call_rules(tools, tools.for_template, lenient=True)
    if not tools.begin:
        return lark_grammar(f"start: ( one | TEXT )?\nTEXT: /[^{{\\s](.|\\n)*/\n{rules}", "tools")
    # A marker always begins a call: the text before it is lazy, it ends where the first marker does.
    start = "( said )* TEXT" if tools.parallel else "said | TEXT"
    said = f'said: before "\\n" either "\\n{tools.end}"\nbefore[lazy]: TEXT "{tools.begin}"\nTEXT: /(.|\\n)*/'
    return lark_grammar(f"start: {start}\n{said}\n{rules}", "tools")


def _calls(tools: Tools) -> str:
    """One call, or several where the form has an end marker."""
    return '( one ( "\\n" one )* )' if tools.begin and tools.parallel else "one"


def _call_rules(tools: Tools, callable_: Sequence[Mapping[str, Any]], lenient: bool = False) -> str:
    """Lark rules `one` and `either` for a call of one of some tools; `lenient`: only those that are `strict` keep to their schema."""
    rules = []
    for position, tool in enumerate(callable_):
        function = tool["function"]
        bound = function.get("strict") or not lenient
        schema = {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, "arguments": (bound and function.get("parameters")) or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        rules.append(f"call_{position}: %json {json.dumps(schema)}")
    either = " | ".join(f"call_{position}" for position in range(len(rules)))
    one = f'"{tools.begin}\\n" either "\\n{tools.end}"' if tools.begin else "either"
    return "\n".join([f"one: {one}", f"either: {either}", *rules, ""])
