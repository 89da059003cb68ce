"""`response_format`: what the answer must look like, as a grammar."""

from typing import Any

from inferstack_runtime.api.errors import invalid
from inferstack_runtime.api.fields import bad, nesting
from inferstack_runtime.api.grammar import schema_grammar
from inferstack_runtime.api.tools import Tools

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
    """The grammar of an answer: of a forced tool call, else of the response format, else None."""
    if tools is not None and tools.grammar is not None:
        return tools.grammar
    return None if schema is None else schema_grammar(schema, "response_format")
