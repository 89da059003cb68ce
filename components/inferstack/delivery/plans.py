"""Two plans side by side: which resources come, go and change, and what that does to the bill. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inferstack_policies.rules.secrets import holds_secret

PRICES = {
    "hourly_usd": "per hour",
    "monthly_usd": "per month",
    "during_promotion_hourly_usd": "per hour while promoting",
    "usd_per_million_tokens": "per million tokens",
}
_PRIVATE = ("secret", "passw", "passphrase", "token", "credential", "hash", "apikey", "api_key", "privatekey", "accesskey", "access_key")


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
    before, after = section(base or {}, "cost"), section(head, "cost")
    return [Price(label, figure(before, key), figure(after, key)) for key, label in PRICES.items() if key in before or key in after]


def objects(value: Any, what: str) -> list[Mapping[str, Any]]:
    """A list of objects, an absent one empty. Raises BadInput, which says what it should be."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise BadInput(f"{what} must be a list of objects")
    return value


def findings(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings of a plan, errors first. Raises BadInput."""
    rows = objects(plan.get("findings"), "plan: `findings`")
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(rows, key=lambda row: (order.get(str(row.get("severity")), 0), str(row.get("rule")), str(row.get("path"))))


def _resources(plan: Mapping[str, Any]) -> dict[tuple[str, str, str], Any]:
    rows = plan.get("resources")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and "type" in row and "name" in row for row in rows):
        raise BadInput("plan: `resources` must be a list of objects with `type` and `name`")
    return {(str(row.get("stack", "")), str(row["type"]), str(row["name"])): row.get("inputs") for row in rows}


def section(plan: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object of a plan, an absent one empty. Raises BadInput."""
    found = plan.get(key) or {}
    if not isinstance(found, Mapping):
        raise BadInput(f"plan: `{key}` must be an object")
    return found


def figure(cost: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a plan's cost, None where it is not known. Raises BadInput."""
    value = cost.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise BadInput(f"plan: `cost.{key}` must be a number, found {value!r}")
    return float(value)


def _differences(before: Any, after: Any, path: str, private: bool) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        named = _is_private(f"{before.get('name')} {after.get('name')}")  # a variable of an environment
        for key in sorted(before.keys() | after.keys(), key=str):
            hidden = private or _is_private(key) or (named and key == "value")
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key), hidden)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            old, new = (side[index] if index < len(side) else None for side in (before, after))
            yield from _differences(old, new, f"{path}[{index}]", private)
    elif before != after:
        yield f"{path}: changed" if private or holds_secret(f"{before} {after}") else f"{path}: {_short(before)} → {_short(after)}"


def _is_private(name: Any) -> bool:
    return any(word in str(name).lower() for word in _PRIVATE)


def _short(value: Any) -> str:
    text = "nothing" if value is None else "…" if isinstance(value, Mapping | list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
