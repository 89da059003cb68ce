"""Fixture data of the planning tests: base environments, and changes to them."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


@cache
def _read(name: str) -> Any:
    return yaml.load((HERE / f"{name}.yaml").read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def base(name: str) -> dict[str, Any]:
    found: dict[str, Any] = deepcopy(_read("bases")[name])
    return found


def base_names() -> list[str]:
    return list(_read("bases"))


def bad_environments() -> list[dict[str, Any]]:
    return deepcopy([case for name in ("bad_environments", "bad_settings", "bad_values") for case in _read(name)])


def changed(raw: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """The base with a change merged into it; `key~` replaces, null removes."""
    out = dict(raw)
    for key, value in change.items():
        if key.endswith("~"):
            out[key[:-1]] = value
        elif value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = changed(out[key], value)
        else:
            out[key] = value
    return out
