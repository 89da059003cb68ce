"""Two plans side by side: which resources come, go and change, and what that does to the bill. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PRICES = {
    "hourly_usd": "per hour",
    "monthly_usd": "per month",
    "during_promotion_hourly_usd": "per hour while promoting",
    "usd_per_million_tokens": "per million tokens",
}
_PRIVATE = ("secret", "password", "token", "credential", "hash")


class BadInput(ValueError):
    """A file that the pipeline was given does not hold what it should; the message says which part."""


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that differs: `kind` is `added`, `removed` or `changed`; `details` are `path: before → after`."""

    kind: str
    stack: str
    type: str
    name: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """One figure of the bill in US dollars; None: not known."""

    label: str
    before: float | None
    after: float | None


def resource_changes(base: Mapping[str, Any] | None, head: Mapping[str, Any]) -> list[Change]:
    """Resources of `head` against `base`, by stack, type and name; without a base all are added."""
    before, after = _resources(base or {"resources": []}), _resources(head)
    changes = [Change("added", *key) for key in after.keys() - before.keys()]
    changes += [Change("removed", *key) for key in before.keys() - after.keys()]
    for key in after.keys() & before.keys():
        details = tuple(_differences(before[key], after[key], "", private="secret" in key[1].lower()))
        if details:
            changes.append(Change("changed", *key, details))
    return sorted(changes, key=lambda change: (change.stack, change.type, change.name))


def prices(base: Mapping[str, Any] | None, head: Mapping[str, Any]) -> list[Price]:
    """The figures that either plan names, in the order of `PRICES`. Raises BadInput for a figure that is no number."""
    before, after = _section(base or {}, "cost"), _section(head, "cost")
    return [Price(label, _figure(before, key), _figure(after, key)) for key, label in PRICES.items() if key in before or key in after]


def findings(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings of a plan, errors first. Raises BadInput."""
    rows = plan.get("findings", [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise BadInput("plan: `findings` must be a list of objects")
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(rows, key=lambda row: (order.get(str(row.get("severity")), 0), str(row.get("rule")), str(row.get("path"))))


def _resources(plan: Mapping[str, Any]) -> dict[tuple[str, str, str], Any]:
    rows = plan.get("resources")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "type" in row and "name" in row for row in rows):
        raise BadInput("plan: `resources` must be a list of objects with `type` and `name`")
    return {(str(row.get("stack", "")), str(row["type"]), str(row["name"])): row.get("inputs") for row in rows}


def _section(plan: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = plan.get(key) or {}
    if not isinstance(section, Mapping):
        raise BadInput(f"plan: `{key}` must be an object")
    return section


def _figure(section: Mapping[str, Any], key: str) -> float | None:
    value = section.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise BadInput(f"plan: `cost.{key}` must be a number, found {value!r}")
    return float(value)


def _differences(before: Any, after: Any, path: str, private: bool) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys(), key=str):
            hidden = private or any(word in str(key).lower() for word in _PRIVATE)
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key), hidden)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            old, new = (side[index] if index < len(side) else None for side in (before, after))
            yield from _differences(old, new, f"{path}[{index}]", private)
    elif before != after:
        yield f"{path}: changed" if private else f"{path}: {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else "…" if isinstance(value, Mapping | list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
