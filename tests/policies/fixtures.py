"""Fixture data of the policy tests: one good stack, and changes that break one rule each."""

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from inferstack_policies import Context, Resource

HERE = Path(__file__).parent
_PART = re.compile(r"([^.\[\]]+)|\[([^\]]+)\]")


@cache
def good() -> dict[str, Any]:
    return yaml.safe_load((HERE / "good.yaml").read_text())


def bad() -> list[dict[str, Any]]:
    return yaml.safe_load((HERE / "bad.yaml").read_text())


def fine() -> list[dict[str, Any]]:
    return yaml.safe_load((HERE / "fine.yaml").read_text())


def stack(case: dict[str, Any] | None = None) -> tuple[list[Resource], Context]:
    """The good stack with a case's change."""
    document, case = deepcopy(good()), case or {}
    rows, prices = document["resources"], document["prices"]
    for path, value in case.get("set", {}).items():
        put(rows[case["at"]]["props"], path, value)
    for name in case.get("drop", ()):
        del rows[name]
    rows |= case.get("add", {})
    fields = document["context"] | case.get("context", {})
    verified = fields.pop("verified_images")

    def price_of(_platform: str, machine: str, _region: str, capacity: str, _gpus: int) -> float | None:
        return prices[machine][1 if capacity == "spot" else 0] if machine in prices else None

    context = Context(
        **{**fields, "registries": tuple(fields["registries"])},
        price_of=price_of,
        verified_images=frozenset(verified) if verified is not None else None,
    )
    return [Resource(row["type"], name, row["props"]) for name, row in rows.items()], context


def put(value: Any, path: str, new: Any) -> None:
    """Set `a.b[0].c`, `a[key with.dots]`; None removes."""
    keys: list[Any] = [word or (int(index) if index.isdigit() else index) for word, index in _PART.findall(path)]
    for key in keys[:-1]:
        value = value.setdefault(key, {}) if isinstance(value, dict) else value[key]
    if new is None:
        value.pop(keys[-1], None)
    elif isinstance(value, list) and keys[-1] == len(value):
        value.append(new)
    else:
        value[keys[-1]] = new
