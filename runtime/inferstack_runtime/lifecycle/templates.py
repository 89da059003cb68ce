"""Chat templates: the model's own Jinja template, in a sandbox, from messages to the prompt's text."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inferstack_runtime.errors import invalid

_MAX_RENDERED = 4 * 1024 * 1024


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; here it only encloses it."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Refused(Exception):
    """The template itself says that the messages do not fit it."""


def _raise(message: str) -> NoReturn:
    raise _Refused(message)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=options.get("separators"), sort_keys=bool(options.get("sort_keys"))
    )


class ChatTemplate:
    """A compiled chat template. `supports_tools`: it reads the variable `tools`; `shows_calls`: it has a place for earlier calls."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.source = source
        self._special = dict(special_tokens)
        self._template = environment.from_string(source)
        self.supports_tools = "tools" in meta.find_undeclared_variables(environment.parse(source))
        self.shows_calls = self.supports_tools or "tool_calls" in source

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt that ends where the assistant begins; raises ApiError 400 when the template refuses the messages."""
        try:
            text = self._template.render(messages=messages, tools=tools, add_generation_prompt=True, **self._special)
        except _Refused as error:
            raise invalid(f"The model's chat template refuses these messages: {error}", "messages") from None
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise invalid(f"The model's chat template cannot render these messages: {type(error).__name__}: {error}", "messages") from None
        if len(text) > _MAX_RENDERED:
            raise invalid(f"The rendered messages are longer than {_MAX_RENDERED} characters.", "messages")
        return text


def compile_template(source: str | None, special_tokens: Mapping[str, str]) -> ChatTemplate | None:
    """The model's template, or None where it has none or one that is not valid Jinja."""
    if not source:
        return None
    try:
        return ChatTemplate(source, special_tokens)
    except jinja2.TemplateError:
        return None
