"""Does it stay within the budget, at rest, during a promotion and at most."""

from collections.abc import Iterator

from inferstack.environment import Environment, Platform
from inferstack.planning import placement
from inferstack.planning.cost import Cost, cost, replica_cap, throughput
from inferstack.planning.findings import Finding


def ceilings(e: Environment) -> Iterator[Finding]:
    """Hourly and monthly ceilings hold for the least that the environment can cost; above it the scaler is capped."""
    figures = cost(e)
    yield from _hourly(e, figures)
    ceiling = e.budget.monthly_usd
    if ceiling is not None and figures.monthly_usd is not None and figures.monthly_usd > ceiling:
        message = f"at least load a month costs {figures.monthly_usd:,.0f} $, and the ceiling is {ceiling:,.0f} $."
        yield Finding(
            "budget-monthly",
            "error",
            "budget.monthly_usd",
            message,
            f"{_cheaper(e)}, or raise budget.monthly_usd to {figures.monthly_usd:.0f}.",
        )


def _hourly(e: Environment, figures: Cost) -> Iterator[Finding]:
    ceiling, least, both, most = e.budget.hourly_usd, figures.hourly_usd, figures.during_promotion_hourly_usd, figures.at_most_hourly_usd
    if ceiling is None or least is None or both is None or most is None:
        return
    if least > ceiling:
        message = f"at least load an hour costs {least:.2f} $, and the ceiling is {ceiling:.2f} $."
        yield Finding("budget-hourly", "error", "budget.hourly_usd", message, f"{_cheaper(e)}, or raise budget.hourly_usd to {both:.2f}.")
    elif both > ceiling:
        message = f"with both slots, during a promotion, an hour costs {both:.2f} $, and the ceiling is {ceiling:.2f} $."
        fix = f"raise budget.hourly_usd to {both:.2f}, or {_cheaper(e)}."
        yield Finding("budget-promotion", "error", "budget.hourly_usd", message, fix)
    elif most > ceiling:
        cap = replica_cap(e)
        what = "all pools at their most cost" if _buys_nodes(e) else "both slots at their most cost"
        message = f"{what} {most:.2f} $ an hour, above the ceiling of {ceiling:.2f} $: replicas are capped at {cap}."
        bounds = "gpu.max_nodes or slots.replicas.max" if _buys_nodes(e) else "slots.replicas.max"
        fix = f"lower {bounds} to what the ceiling pays for, or raise budget.hourly_usd to {most:.2f}."
        yield Finding("budget-caps-replicas", "info", "budget.hourly_usd", message, fix)


def _buys_nodes(e: Environment) -> bool:
    return e.platform in (Platform.GKE, Platform.AKS)


def _cheaper(e: Environment) -> str:
    ways = []
    if _buys_nodes(e) and e.gpu and e.gpu.min_nodes:
        ways.append("lower gpu.min_nodes")
    if e.slots.idle_replicas:
        ways.append("lower slots.idle_replicas")
    if e.slots.replicas.min > 1:
        ways.append("lower slots.replicas.min")
    if _buys_nodes(e) and e.gpu and e.gpu.capacity == "on_demand":
        ways.append("use capacity spot with an on_demand_floor")
    return " or ".join(ways) if ways else "use a smaller machine type"


def known(e: Environment) -> Iterator[Finding]:
    """Every price is known; else the cost is not."""
    for line in cost(e).lines:
        if line.price is None and line.at_most:
            path = "gpu.machine_type" if line.name.startswith("gpu") else "cloud.system_machine_type"
            message = f"price unknown: no source gives {line.what} in {e.region}; the cost stays open."
            fix = "plan with a region or machine type of the price table, or add the price with its source to planning/data."
            yield Finding("price-unknown", "warning", path, message, fix)


def speed(e: Environment) -> Iterator[Finding]:
    """Where nobody has measured such a replica, the price of a million tokens is not known; its owner can measure it."""
    if throughput(e) is not None or not cost(e).hourly_usd:
        return
    group = placement.costly_group(e)
    what = " and ".join(f"{model.name} in {model.quantization}" for _, model in group.models)
    where = f"{e.gpu.count} x {e.gpu.accelerator}" if e.gpu and group.on_gpu else "CPU nodes"
    path = f"{group.path}.replica_tokens_per_second"
    message = f"no published measurement holds for {what} on {where}: what a million tokens cost stays unknown."
    fix = f"measure a replica with `inferstack bench throughput`, and set {path} to its output tokens per second."
    yield Finding("speed-unknown", "info", path, message, fix)


def ceiling_set(e: Environment) -> Iterator[Finding]:
    """A cloud environment says what it may cost."""
    if _buys_nodes(e) and e.budget.hourly_usd is None and e.budget.monthly_usd is None:
        message = "no ceiling is set: nothing stops a plan from becoming expensive."
        yield Finding("budget-unset", "warning", "budget", message, "set budget.hourly_usd or budget.monthly_usd.")


def stated(e: Environment) -> Iterator[Finding]:
    """Where no table has the machines, ceilings and the gate on price need the price that the environment states."""
    if _buys_nodes(e) or e.slots.replica_hourly_usd is not None:
        return
    ceilings = [key for key in ("hourly_usd", "monthly_usd") if getattr(e.budget, key) is not None]
    gate = ["promotion.gates.usd_per_million_tokens"] if e.promotion.gates.usd_per_million_tokens is not None else []
    for path in [f"budget.{key}" for key in ceilings] + gate:
        message = f"no price table has the machines of platform {e.platform}, so that this cannot be judged"
        message += ": every promotion will be refused." if path in gate else "."
        fix = f"set slots.replica_hourly_usd to what one replica costs an hour, or leave {path} out."
        yield Finding("price-unstated", "error" if path in gate else "warning", path, message, fix)


def idle_pool(e: Environment) -> Iterator[Finding]:
    """Outside production no more GPU nodes stay than the fewest replicas need."""
    group, machine = placement.gpu_group(e), placement.gpu_machine(e)
    if e.gpu is None or group is None or machine is None or e.production:
        return
    needed = placement.gpu_nodes(e, machine, group.replicas.min + min(e.slots.idle_replicas, group.replicas.max))
    if e.gpu.min_nodes > needed:
        message = f"at least load the replicas need {needed} GPU nodes, and {e.gpu.min_nodes} stay."
        yield Finding("idle-nodes", "warning", "gpu.min_nodes", message, f"set gpu.min_nodes to {needed}, or to 0.")


CHECKS = (ceiling_set, stated)
ON_HARDWARE = (ceilings, known, speed, idle_pool)
