"""The reference of every setting, from the schema itself: path, type, default, description."""

import difflib
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from inferstack.environment.kinds import LARGEST, Section
from inferstack.environment.problems import InvalidEnvironment, Problem
from inferstack.environment.schema import Environment


def explain(key: str | None = None) -> list[tuple[str, str, str, str]]:
    """Rows (path, type, default, description) of the reference, all or those at and below ``key``.

    Raises InvalidEnvironment when ``key`` names nothing.
    """
    every = list(rows())
    if key is None:
        return every
    chosen = [row for row in every if row[0] == key or row[0].startswith((f"{key}.", f"{key}[]"))]
    if not chosen:
        close = difflib.get_close_matches(key, [row[0] for row in every], n=1)
        raise InvalidEnvironment("environment explain", [Problem("KEY", key, "a key of the reference", close[0] if close else None)])
    return chosen


def rows(section: type[Section] = Environment, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and description of every setting of ``section`` and of the sections in it."""
    for name, field in section.model_fields.items():
        inner, suffix = inner_section(field.annotation)
        path = f"{prefix}{name}"
        yield path, _type_name(field), _default(field), field.description or ""
        if inner is not None:
            yield from rows(inner, f"{path}{suffix}.")


def inner_section(annotation: Any) -> tuple[type[Section] | None, str]:
    """The section that a field holds, and what its path goes on with: `[]` for a list, `.NAME` for a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, ""
    suffix = {tuple: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        inner, more = inner_section(argument)
        if inner is not None:
            return inner, suffix + more
    return None, ""


def _type_name(field: FieldInfo) -> str:
    text = _annotation_name(field.annotation)
    found = {word: getattr(item, word) for item in field.metadata for word in _BOUNDS if getattr(item, word, LARGEST) != LARGEST}
    if "gt" in found:
        found.pop("ge", None)
    bounds = [f"{sign} {found[word]:.10g}" for word, sign in _BOUNDS.items() if word in found]
    return f"{text} ({', '.join(bounds)})" if bounds else text


_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _annotation_name(annotation: Any) -> str:
    if isinstance(annotation, type):
        if issubclass(annotation, StrEnum):
            return " | ".join(annotation)
        if issubclass(annotation, Section):
            return "section"
        return {"str": "text", "int": "integer", "float": "number", "bool": "true | false", "NoneType": "unset"}.get(
            annotation.__name__, annotation.__name__
        )
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin is Annotated:
        return _annotation_name(arguments[0])
    if origin is tuple:
        return f"list of {_annotation_name(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_annotation_name(arguments[1])}"
    return " | ".join(_annotation_name(argument) for argument in arguments)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return ""
    if isinstance(value, dict):
        return ", ".join(value) if value else "none"
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return {"None": "unset", "True": "true", "False": "false"}.get(str(value), str(value))
