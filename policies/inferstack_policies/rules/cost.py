"""Money: every pool has a known price, and what stands without load stays below the ceiling."""

from collections.abc import Iterator, Sequence

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.rules.gpu import POOLS, bounds, is_spot, machine, pool_gpus
from inferstack_policies.shapes import mapping, number, sequence


def _gpus(r: Resource) -> int:
    counts = [
        int(number(mapping(item).get("count")) or 0) for item in sequence(mapping(r.props.get("nodeConfig")).get("guestAccelerators"))
    ]
    return sum(counts) or pool_gpus(r)


def hourly(r: Resource, context: Context) -> float | None:
    """USD per hour of one node of a pool."""
    if context.price_of is None:
        return None
    platform = "gke" if r.kind == "NodePool" else "aks"
    return context.price_of(platform, machine(r), context.region or "", "spot" if is_spot(r) else "on_demand", _gpus(r))


def known(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    if context.price_of is not None and hourly(r, context) is None:
        yield "nodeConfig.machineType" if r.kind == "NodePool" else "vmSize", f"no price is known for `{machine(r)}` in {context.region}."


def ceiling(resources: Sequence[Resource], context: Context) -> Iterator[Finding]:
    if context.hourly_usd is None or context.price_of is None:
        return
    pools = [r for r in resources if r.kind in POOLS]
    total = sum((bounds(r)[0] or 0) * (hourly(r, context) or 0) for r in pools)
    if pools and total > context.hourly_usd:
        dearest = max(pools, key=lambda r: (bounds(r)[0] or 0) * (hourly(r, context) or 0))
        yield Finding(dearest, "", f"the pools' least nodes cost {total:.2f} $ an hour, and the ceiling is {context.hourly_usd:.2f} $.")


RULES = (
    Rule(
        "price-known",
        "warning",
        "What has no price cannot be held to a budget.",
        "Use a machine type and region of the price table.",
        (),
        POOLS,
        known,
    ),
    Rule(
        "cost-ceiling",
        "error",
        "A budget that is checked after the bill is none.",
        "Lower the least of the pools, or raise budget.hourly_usd.",
        (),
        check_stack=ceiling,
    ),
)
