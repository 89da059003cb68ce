"""What a route says about the slots: their shares, whether all rules name both, and whether it is still its template's. Pure."""

from typing import Any

from inferstack.cluster.names import slot_name
from inferstack.environment import SlotName
from inferstack.platforms.kube_api import Object
from inferstack.promotion.weights import Weights


def read_weights(rules: list[Object]) -> tuple[Weights | None, frozenset[SlotName]]:
    """Shares of the slots in the route's last rule (the one that every request can take), and the slots that all rules name."""
    prefixes = {slot: slot_name(slot) for slot in SlotName}

    def slot_of(backend: Object) -> SlotName | None:
        return next(
            (slot for slot, name in prefixes.items() if backend.get("name") == name or str(backend.get("name")).startswith(f"{name}-")),
            None,
        )

    named = frozenset(SlotName)
    for rule in rules:
        named &= {slot for backend in rule.get("backendRefs") or () if (slot := slot_of(backend))}
    if not rules:
        return None, frozenset()
    totals = dict.fromkeys(SlotName, 0)
    for backend in rules[-1].get("backendRefs") or ():
        slot = slot_of(backend)
        if slot is None:
            return None, named
        totals[slot] += int(backend.get("weight", 1))
    whole = sum(totals.values())
    if whole == 0:
        return None, named
    blue = round(100 * totals[SlotName.BLUE] / whole)
    return Weights(blue, 100 - blue), named


def within(wanted: Any, live: Any) -> bool:
    """Whether everything wanted is live; the server adds defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and within(value, live[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(within(a, b) for a, b in zip(wanted, live, strict=True))
    return bool(wanted == live)
