"""Checks recorded inputs of cloud resources against the types of the SDK: a name or a primitive type that it does not know is reported."""

import enum
import importlib
import inspect
import types
import typing
from collections.abc import Awaitable, Iterator, Mapping
from functools import cache
from typing import Any

import pulumi
from pulumi import _types

_SCALARS: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int,), float: (int, float)}


def mistakes(token: str, inputs: Mapping[str, Any]) -> list[str]:
    """What is wrong with the inputs of a resource of type `token`, for instance `gcp:container/nodePool:NodePool`."""
    return list(_check(_arguments(token), inputs, token.rpartition(":")[2]))


@cache
def _arguments(token: str) -> type:
    package, module, name = token.split(":")
    top = {"gcp": "pulumi_gcp", "azure-native": "pulumi_azure_native"}[package]
    home = importlib.import_module(f"{top}.{module.partition('/')[0]}")
    found: type = getattr(home, f"{name}InitArgs", None) or getattr(home, f"{name}Args")
    return found


@cache
def _properties(arguments: type) -> dict[str, Any]:
    """Type of each property of an input type, by its name on the wire."""
    scope = {**vars(importlib.import_module(arguments.__module__)), "Output": pulumi.Output, "T": Any}
    names = _types.input_type_py_to_pulumi_names(arguments)
    return {wire: typing.get_type_hints(inspect.getattr_static(arguments, name).fget, scope)["return"] for name, wire in names.items()}


def _check(kind: Any, value: Any, path: str) -> Iterator[str]:
    if value is None or (isinstance(value, str) and value.startswith(("[unknown]", "[secret]", "[resource"))):
        return
    results = [list(_one(option, value, path)) for option in _alternatives(kind)]
    yield from min(results, key=len, default=[])


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types that an Input, Optional or Union may hold; awaitables and outputs left out."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(kind):
            yield from _alternatives(part)
    elif kind is not type(None) and origin not in (pulumi.Output, Awaitable):
        yield kind


def _one(kind: Any, value: Any, path: str) -> Iterator[str]:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if origin is not None and issubclass(origin, Mapping):
        for key, item in value.items() if isinstance(value, Mapping) else ():
            yield from _check(parts[1], item, f"{path}.{key}")
        if not isinstance(value, Mapping):
            yield f"{path}: {value!r} is no mapping"
    elif origin is not None:
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _check(parts[0], item, f"{path}[{index}]")
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
    elif issubclass(kind, enum.Enum):
        if value not in {member.value for member in kind}:
            yield f"{path}: {value!r} is none of {', '.join(str(member.value) for member in kind)}"
    elif kind in _SCALARS:
        if not isinstance(value, _SCALARS[kind]) or (kind is not bool and isinstance(value, bool)):
            yield f"{path}: {value!r} is no {kind.__name__}"
    elif not isinstance(value, Mapping):
        yield f"{path}: {value!r} is no {kind.__name__}"
    elif _types.is_input_type(kind):
        known = _properties(kind)
        for key, item in value.items():
            if key in known:
                yield from _check(known[key], item, f"{path}.{key}")
            else:
                yield f"{path}.{key}: no such property; there are {', '.join(sorted(known))}"
