"""What a route says about the slots: their shares, whether all rules name both, and whether it is still its template's. Pure."""

from typing import Any

from inferstack.cluster.names import slot_name
from inferstack.environment import SlotName
from inferstack.platforms.kube_api import Object
from inferstack.promotion.weights import Cohort, Weights
from inferstack.serving.manifests.route import TIER_HEADER


def read_weights(rules: list[Object]) -> tuple[Weights | None, frozenset[SlotName]]:
    """Shares of the slots in the route's last rule (the one that every request can take) with the cohort that a rule of its own takes to
    one slot, and the slots that all rules name."""
    named = frozenset(SlotName)
    for rule in rules:
        named &= {slot for backend in rule.get("backendRefs") or () if (slot := _slot_of(backend))}
    if not rules:
        return None, frozenset()
    blue = _percent_of_blue(rules[-1])
    if blue is None:
        return None, named
    first = rules[0]
    header = next(iter((first.get("matches") or [{}])[0].get("headers") or ()), None)
    if len(rules) > 1 and header is not None and header["name"] != TIER_HEADER:
        share = _percent_of_blue(first)
        if share not in (0, 100):
            return None, named
        return Weights(blue, 100 - blue, Cohort(header["name"], header["value"], SlotName.BLUE if share else SlotName.GREEN)), named
    return Weights(blue, 100 - blue), named


def _slot_of(backend: Object) -> SlotName | None:
    name = str(backend.get("name"))
    return next((slot for slot in SlotName if name == slot_name(slot) or name.startswith(f"{slot_name(slot)}-")), None)


def _percent_of_blue(rule: Object) -> int | None:
    """None when a backend is no slot's, or when nothing has weight."""
    totals = dict.fromkeys(SlotName, 0)
    for backend in rule.get("backendRefs") or ():
        slot = _slot_of(backend)
        if slot is None:
            return None
        totals[slot] += int(backend.get("weight", 1))
    whole = sum(totals.values())
    return round(100 * totals[SlotName.BLUE] / whole) if whole else None


def within(wanted: Any, live: Any) -> bool:
    """Whether everything wanted is live; the server adds defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and within(value, live[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(within(a, b) for a, b in zip(wanted, live, strict=True))
    return bool(wanted == live)
