"""Fixture data of the planning tests: base environments, and changes to them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def base(name: str) -> dict[str, Any]:
    return deepcopy(yaml.safe_load((HERE / "bases.yaml").read_text())[name])


def base_names() -> list[str]:
    return list(yaml.safe_load((HERE / "bases.yaml").read_text()))


def bad_environments() -> list[dict[str, Any]]:
    return [
        case for name in ("bad_environments", "bad_settings", "bad_values") for case in yaml.safe_load((HERE / f"{name}.yaml").read_text())
    ]


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
