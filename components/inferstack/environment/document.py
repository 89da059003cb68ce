"""YAML as Pulumi reads it (version 1.2), so that a value means the same in `inferstack plan` and in `pulumi up`.

PyYAML alone follows version 1.1, where `on` is true and `13:00` is the number 780.
"""

import re
from typing import Any

import yaml

_MOST_KEYS = 100_000


def parse_yaml(text: str) -> Any:
    """The document; raises yaml.YAMLError, or RecursionError for one that is nested too deep."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


class UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, because YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _tag("merge"):
                continue  # what is merged in may be written again: that is its purpose
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands here a second time", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_KEYS:  # merges of merges multiply each other
            raise yaml.constructor.ConstructorError(None, None, f"a mapping merges more than {_MOST_KEYS:,} keys", node.start_mark)


class _Loader(UniqueKeys):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the parser's own name and type


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lower()
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    octal = len(digits) > 1 and digits.startswith("0") and digits.isdigit()
    return sign * (int(digits, 8) if octal else int(digits, 0))


def _number(loader: _Loader, node: yaml.ScalarNode) -> float | int:
    """A number without a fraction is an integer: configuration reaches the program as JSON, which has one kind of number."""
    value = float(node.value.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return int(value) if value.is_integer() else value


def _day(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("timestamp", r"\d{4}-\d\d-\d\d", "0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_tag(_name), re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor(_tag("int"), _integer)
_Loader.add_constructor(_tag("float"), _number)
_Loader.add_constructor(_tag("timestamp"), _day)
