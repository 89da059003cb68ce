"""The Pulumi policy pack: every rule as one policy.  pulumi up --policy-pack policies

Rules of severity error are mandatory, others advisory. The stack's environment gives production flag, budget and waivers; in a
stack that has none, the rules hold without them. A rule that needs a value which only the provider knows cannot be judged in
`pulumi preview` (the engine says so) and is judged in `pulumi up`.

INFERSTACK_VERIFIED_IMAGES, which scripts/deploy sets, lists the images whose signature was verified, with blanks between them: then no
other image may run, those that the kit pins by digest excepted.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pulumi
from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, UnknownValueError

from inferstack_policies import RULES, Context, Resource, Rule, Violation, Waiver, evaluate, waive
from inferstack_policies.model import UNKNOWN

ROOT = Path(__file__).resolve().parent.parent


def settings() -> tuple[Context, tuple[Waiver, ...]]:
    """Context and waivers of the stack's environment; none of either where the stack is not one of this kit."""
    config = pulumi.Config("inferstack")
    keys = {f"inferstack:{key}": value for key in ("environment", "slot") if (value := config.get_object(key)) is not None}
    if (base := config.get("base")) is not None:
        keys["inferstack:base"] = base
    if not keys:
        return Context(), ()
    from inferstack.environment import parse_environment, resolve_config
    from inferstack.program.review import context_of

    slot = keys.get("inferstack:slot")
    if isinstance(slot, Mapping):
        keys["inferstack:slot"] = {key: value for key, value in slot.items() if key != "generation"}
    environment = parse_environment(resolve_config(ROOT / "stacks", keys), "the stack's environment")
    verified = os.environ.get("INFERSTACK_VERIFIED_IMAGES")
    images = frozenset(verified.split()) if verified is not None else None
    waivers = tuple(Waiver(w.rule, w.reason, w.owner, w.expires, w.path) for w in environment.waivers)
    return context_of(environment, images), waivers


def plain(value: Any) -> Any:
    """Plain data of what the engine hands over, with `[unknown]` for values that are not known yet."""
    if isinstance(value, Mapping):
        return {str(key): _item(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_item(value, index) for index in range(len(value))]
    return value


def _item(value: Any, key: Any) -> Any:
    try:
        return plain(value[key])
    except UnknownValueError:
        return UNKNOWN


def standing(resources: Iterable[Resource], rule: Rule, context: Context, waivers: tuple[Waiver, ...]) -> tuple[Violation, ...]:
    """What breaks a rule and is not waived; raises UnknownValueError where it cannot be judged yet."""
    verdict = evaluate(resources, context, (rule,))
    if verdict.undecided and not verdict.violations:
        raise UnknownValueError(UNKNOWN_STRING_VALUE, [path for _, path in verdict.undecided])
    return waive(verdict.violations, waivers, date.today()).standing


def policy(rule: Rule, context: Context, waivers: tuple[Waiver, ...]) -> ResourceValidationPolicy | StackValidationPolicy:
    """One rule as a policy of the pack."""

    def of_resource(args: ResourceValidationArgs, report: ReportViolation) -> None:
        resource = Resource(args.resource_type, args.name, plain(args.props))
        for violation in standing([resource], rule, context, waivers):
            report(f"{violation.path}: {violation.message} Fix: {violation.fix}")

    def of_stack(args: StackValidationArgs, report: ReportViolation) -> None:
        resources = [Resource(item.resource_type, item.name, plain(item.props)) for item in args.resources]
        for violation in standing(resources, rule, context, waivers):
            report(f"{violation.path}: {violation.message} Fix: {violation.fix}")

    level = EnforcementLevel.MANDATORY if rule.severity == "error" else EnforcementLevel.ADVISORY
    also = f" ({', '.join(rule.also)})" if rule.also else ""
    if rule.check is not None:
        return ResourceValidationPolicy(rule.id, f"{rule.reason} {rule.fix}{also}", of_resource, level)
    return StackValidationPolicy(rule.id, f"{rule.reason} {rule.fix}{also}", of_stack, level)


def expired(waivers: tuple[Waiver, ...]) -> StackValidationPolicy:
    """An expired waiver stops the deploy."""

    def check(_: StackValidationArgs, report: ReportViolation) -> None:
        for waiver in waive((), waivers, date.today()).expired:
            report(f"the waiver of {waiver.rule} for {waiver.path} expired on {waiver.expires} (owner {waiver.owner}).")

    return StackValidationPolicy("waiver-expired", "A waiver ends on its last day.", check, EnforcementLevel.MANDATORY)


def main() -> None:
    """Serve the pack to the engine."""
    context, waivers = settings()
    PolicyPack("inferstack", [*(policy(rule, context, waivers) for rule in RULES), expired(waivers)])


main()
