"""What a plan has to say about an environment and its resources: planning findings and broken rules, waivers applied.

review(environment, planned)        # the same for `inferstack plan`, `inferstack policy check` and the policy pack
"""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from typing import Any

import inferstack_policies as policies
from inferstack.cluster import images
from inferstack.environment import Environment, Waiver
from inferstack.planning import NAMES, Cost, Finding, checks, in_order, prices, waive


def review(environment: Environment, resources: Iterable[policies.Resource], today: date | None = None) -> list[Finding]:
    """Every finding of an environment and its planned resources, errors first; waivers are applied as of `today`."""
    planned = list(checks.run(environment))
    found = [*planned, *rule_findings(resources, context_of(environment))]
    left = waive(in_order(found), environment.waivers, today or date.today(), _RULES)
    places = {(finding.rule, finding.path) for finding in planned}
    standing = {finding.rule for finding in left if (finding.rule, finding.path) in places and finding.severity != "info"}
    said = {rule for rule, causes in _CAUSES.items() if causes & standing}
    return in_order(finding for finding in left if finding.rule not in said or (finding.rule, finding.path) in places)


_RULES = NAMES | {rule.id for rule in policies.RULES}
_NOT_SOLD = {
    *("accelerator-unknown", "accelerator-not-sold", "region-unknown", "region-without-accelerator", "machine-unknown"),
    *("machine-too-few-gpus", "machine-without-accelerator", "capacity-not-offered"),
}
_CAUSES: dict[str, set[str]] = {
    "price-known": _NOT_SOLD | {"price-unknown", "machine-retired"},
    "machine-retired": {"machine-retired"},
    "gpu-pool-tainted": {"system-machine-with-gpu"},
    "pool-minimum": {"idle-nodes"},
    "spot-floor": {"spot-without-floor"},
    "cost-ceiling": {"budget-hourly", "budget-promotion"},
    "image-digest": {"image-digest", "image-invalid"},
    "model-hash": {"model-hash"},
    "probe-startup": {"ready-too-short"},
    "pre-stop": {"pre-stop-short"},
    "timeout-chain": {"grace-beyond-autoscaler"},
    "scaler-bounds": {"production-replicas", "zero-without-signal"},
    "gateway-encrypted": {"public-without-tls"},
    "cluster-control-plane": {"control-plane-open"},
    "cluster-protected": {"production-unprotected"},
    "storage-kept": {"production-unprotected"},
}
"""Rules on resources, and the findings on settings that say the same nearer to the cause; while one of these stands, it is enough."""


def review_resources(
    resources: Iterable[policies.Resource], context: policies.Context, waivers: Iterable[Waiver] = (), today: date | None = None
) -> list[Finding]:
    """The broken rules alone, waivers applied."""
    return in_order(waive(in_order(rule_findings(resources, context)), tuple(waivers), today or date.today(), _RULES))


def context_of(environment: Environment, verified_images: frozenset[str] | None = None) -> policies.Context:
    """What the rules need to know of an environment.

    `verified_images`: references whose signature was verified; with them only these may run, beside the images that the kit pins.
    """
    allowed = None if verified_images is None else verified_images | {images.reference(key) for key in images.catalogue()}
    return policies.Context(
        production=environment.production,
        registries=tuple(sorted({reference.rpartition("/")[0] for reference in allowed or ()})),
        hourly_usd=environment.budget.hourly_usd,
        price_of=price_of,
        region=environment.region,
        platform=environment.platform.value,
        verified_images=allowed,
    )


def price_of(platform: str, machine: str, region: str, capacity: str, gpus: int) -> float | None:
    """USD per hour of a machine, from the price tables."""
    price = prices.machine_price(platform, machine, region, capacity, gpus)
    return price.hourly_usd if price else None


def rule_findings(resources: Iterable[policies.Resource], context: policies.Context) -> list[Finding]:
    """Broken rules as findings; what waits for values of the provider comes as one note per rule."""
    verdict = policies.evaluate(resources, context, policies.RULES)
    found = [Finding(v.rule, v.severity, v.path, v.message, v.fix) for v in verdict.violations]
    for rule in dict.fromkeys(rule for rule, _ in verdict.undecided):
        paths = [path for other, path in verdict.undecided if other == rule]
        message = f"not judged for {', '.join(paths)}: a value is known only after the deploy."
        found.append(Finding(rule, "info", "undecided", message, "nothing; the policy pack judges it during `pulumi up`."))
    return found


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding as `plan --json` shows it."""
    return asdict(finding)


def cost_json(cost: Cost) -> dict[str, Any]:
    """A cost as `plan --json` shows it; None where a price is unknown."""
    shown = asdict(cost)
    for key in ("hourly_usd", "monthly_usd", "during_promotion_hourly_usd", "at_most_hourly_usd", "usd_per_million_tokens"):
        if shown[key] is not None:
            shown[key] = round(shown[key], 4)
    return shown
