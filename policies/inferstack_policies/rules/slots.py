"""The invariants of two slots and one route, as far as a plan can show them."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import SERVED, SLOT_LABEL, at, labels_of_pods, mapping, number, sequence

SLOTS = ("blue", "green")
SELECTOR = frozenset({"app.kubernetes.io/name", "app.kubernetes.io/component", SLOT_LABEL})
_SLOT = re.compile(r"(?:^|-)(blue|green)(?=-|$)")
_GROUPS = frozenset({"inferstack.dev/tier", "inferstack.dev/group"})
"""Labels that tell the replica groups of one slot apart; as fixed as the slot's name."""


def slot_of(name: Any) -> str | None:
    """The slot that an object's name speaks of."""
    found = _SLOT.search(str(name))
    return found[1] if found else None


def both_named(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    """I3."""
    for i, rule in enumerate(sequence(at(r.props, "spec", "rules"))):
        named = {slot_of(mapping(ref).get("name")) for ref in sequence(mapping(rule).get("backendRefs"))} - {None}
        missing = [slot for slot in SLOTS if slot not in named]
        if named and missing:
            yield f"spec.rules[{i}].backendRefs", f"the route does not name the {missing[0]} slot: a promotion would have to repoint it."


def weight_on_standing(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    """I1: weight only on a slot that the stack has, where it has slots at all."""
    standing = {str(labels_of_pods(r).get(SLOT_LABEL)) for r in resources if r.kind in SERVED and r.is_kubernetes} & set(SLOTS)
    for route in (r for r in resources if r.kind == "HTTPRoute"):
        for i, rule in enumerate(sequence(at(route.props, "spec", "rules"))):
            weights = [
                (slot_of(mapping(ref).get("name")), number(mapping(ref).get("weight")))
                for ref in sequence(mapping(rule).get("backendRefs"))
            ]
            slots = [(slot, 1 if weight is None else weight) for slot, weight in weights if slot]
            where = f"spec.rules[{i}].backendRefs"
            if slots and not any(weight > 0 for _, weight in slots):
                yield Finding(route, where, "no slot has weight: every request fails.")
            for slot, weight in slots:
                if standing and weight > 0 and slot not in standing:
                    yield Finding(route, where, f"the {slot} slot has weight and no workload.")


def stable_selector(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    """I2: an update cannot make a slot's Service or Deployment choose other pods."""
    if r.kind == "Service":
        where, selector = "spec.selector", mapping(at(r.props, "spec", "selector"))
    else:
        where, selector = "spec.selector.matchLabels", mapping(at(r.props, "spec", "selector", "matchLabels"))
    if SLOT_LABEL not in selector and slot_of(r.object_name) is None:
        return
    if selector.get(SLOT_LABEL) not in SLOTS:
        yield where, f"the selector does not name one slot by {SLOT_LABEL}."
    extra = sorted(set(selector) - SELECTOR - _GROUPS)
    if extra:
        yield where, f"the selector follows {', '.join(extra)}: a new version would need another selector."


def own_slot(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    """A slot's object is named after it, so that a killed update leaves nothing twice and a slot never selects the other."""
    label = labels_of_pods(r).get(SLOT_LABEL) if r.kind in SERVED else at(r.props, "spec", "selector", SLOT_LABEL)
    if label in SLOTS and slot_of(r.object_name) != label:
        yield "metadata.name", f"the object of slot {label} is called `{r.object_name}`."


RULES = (
    Rule(
        "slots-both-named",
        "error",
        "Gateways drop requests when a route is repointed to a backend that they did not know (I3).",
        "Name both slots in every rule; move only weights.",
        (),
        frozenset({"HTTPRoute"}),
        both_named,
    ),
    Rule(
        "slots-weight",
        "error",
        "Weight on a slot without endpoints is an outage (I1).",
        "Give weight to a slot that stands.",
        (),
        check_stack=weight_on_standing,
    ),
    Rule(
        "slots-selector",
        "error",
        "A selector that changes cuts a slot from its pods, or replaces the Deployment (I2).",
        "Select by name, component and slot only.",
        (),
        frozenset({"Service", "Deployment", "StatefulSet"}),
        stable_selector,
    ),
    Rule(
        "slots-name",
        "error",
        "Fixed names make a retry after a killed update converge.",
        "Name the slot's objects after the slot.",
        (),
        SERVED | {"Service"},
        own_slot,
    ),
)
