"""Fields of requests: one table per endpoint, from which requests are validated and the OpenAPI document is made.

A field that is not in an endpoint's table is refused with its name, so that nothing that changes the answer is ever ignored.
`harmless` fields are accepted without effect; `refused` ones are known to clients but not served, and say why.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferstack_runtime.errors import ApiError, invalid

Check = Callable[[Any, str], Any]
_MAX_NESTING = 64


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `kind` is a JSON type or `any`; `check(value, name)` may convert and raises ApiError."""

    name: str
    kind: str
    description: str
    default: Any = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    check: Check | None = None
    schema: Mapping[str, Any] | None = None

    def read(self, value: Any) -> Any:
        """The validated value; raises ApiError 400 that names the field."""
        if value is None:
            if self.required:
                raise invalid(f"`{self.name}` must not be null.", self.name)
            return self.default
        value = _typed(self, value)
        if self.choices and value not in self.choices:
            raise invalid(f"`{self.name}` must be one of {', '.join(map(repr, self.choices))}, not {_short(value)}.", self.name)
        if self.minimum is not None and value < self.minimum:
            raise invalid(f"`{self.name}` must be at least {self.minimum:g}, not {_short(value)}.", self.name)
        if self.maximum is not None and value > self.maximum:
            raise invalid(f"`{self.name}` must be at most {self.maximum:g}, not {_short(value)}.", self.name)
        return value if self.check is None else self.check(value, self.name)

    def to_schema(self) -> dict[str, Any]:
        """The JSON schema of the field (draft 2020-12); an optional field may be null."""
        if self.schema is not None:
            schema = dict(self.schema)
            if not self.required:
                schema = {"anyOf": [schema, {"type": "null"}]}
        else:
            kinds: list[str] = [] if self.kind == "any" else [self.kind]
            schema = {"type": self.kind if self.required else [*kinds, "null"]} if kinds else {}
            if self.choices:
                schema["enum"] = [*self.choices, *([] if self.required else [None])]
            if self.minimum is not None:
                schema["minimum"] = self.minimum
            if self.maximum is not None:
                schema["maximum"] = self.maximum
        schema["description"] = self.description
        if isinstance(self.default, bool | int | float | str):
            schema["default"] = self.default
        return schema


@dataclass(frozen=True)
class Fields:
    """The body of one endpoint."""

    fields: tuple[Field, ...]
    harmless: frozenset[str] = frozenset()
    refused: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    """Name to the reason, and the values that mean the same as leaving it out."""

    def read(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Every field's validated value by name; raises ApiError 400 for the first that is wrong or unknown."""
        known = {entry.name for entry in self.fields}
        for name, value in body.items():
            if name in known or name in self.harmless:
                continue
            if name in self.refused:
                reason, neutral = self.refused[name]
                if value is None or any(value == same and type(value) is type(same) for same in neutral):
                    continue
                raise invalid(f"`{name}` is not supported: {reason}.", name, "unsupported_parameter")
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise invalid(f"Unknown field `{_short(name)}`.{hint}", name[:200], "unknown_parameter")
        values: dict[str, Any] = {}
        for entry in self.fields:
            if entry.name not in body:
                if entry.required:
                    raise invalid(f"`{entry.name}` is missing.", entry.name, "missing_parameter")
                values[entry.name] = entry.default
            else:
                values[entry.name] = entry.read(body[entry.name])
        return values

    def to_schema(self) -> dict[str, Any]:
        """The JSON schema of the body."""
        properties: dict[str, Any] = {entry.name: entry.to_schema() for entry in self.fields}
        for name in sorted(self.harmless):
            properties[name] = {"description": "Accepted; has no effect on the answer."}
        for name, (reason, neutral) in self.refused.items():
            properties[name] = {"enum": [None, *neutral], "description": f"Refused with any other value: {reason}."}
        return {
            "type": "object",
            "properties": properties,
            "required": [entry.name for entry in self.fields if entry.required],
            "additionalProperties": False,
        }


def _typed(entry: Field, value: Any) -> Any:
    kind = entry.kind
    if kind == "any":
        return value
    if kind == "integer":
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif kind == "number":
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
    elif kind == "string":
        if isinstance(value, str):
            return value
    elif kind == "array":
        if isinstance(value, list):
            return value
    elif isinstance(value, dict):
        return value
    article = "an" if kind[0] in "aeiou" else "a"
    raise invalid(f"`{entry.name}` must be {article} {kind}, not {_short(value)}.", entry.name)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nesting(value: Any, limit: int = _MAX_NESTING) -> bool:
    """Whether arrays and objects are nested at most `limit` deep. Does not recurse."""
    level: Sequence[Any] = (value,)
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


def shallow(value: Any, name: str) -> Any:
    """A check that refuses a value nested deeper than 64."""
    if not nesting(value):
        raise invalid(f"`{name}` is nested deeper than {_MAX_NESTING} levels.", name)
    return value


def bad(name: str, expected: str, value: object) -> ApiError:
    """The error of a value that does not have the expected form."""
    return invalid(f"`{name}` must be {expected}, not {_short(value)}.", name)
