"""What an environment costs: per hour, per month, during a promotion, at most, and per million tokens."""

from dataclasses import dataclass, replace

from inferstack.environment import ALB_CLASS, Environment, Platform, Replicas
from inferstack.planning import catalogue, placement, prices, shapes
from inferstack.planning.prices import HOURS_PER_MONTH, Price


@dataclass(frozen=True, slots=True)
class CostLine:
    """One thing that is bought: how many at rest, during a promotion and at most, and the price of one per hour."""

    name: str
    what: str
    at_rest: int
    during_promotion: int
    at_most: int
    price: Price | None


@dataclass(frozen=True, slots=True)
class Cost:
    """USD; None where a price is unknown. At rest is the least load: `replicas.min` of the live slot, `idle_replicas` of the other.

    `not_counted` names what the figures leave out.
    """

    hourly_usd: float | None
    monthly_usd: float | None
    during_promotion_hourly_usd: float | None
    at_most_hourly_usd: float | None
    usd_per_million_tokens: float | None
    lines: tuple[CostLine, ...]
    not_counted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Throughput:
    """A measurement, published or the environment's own: output tokens per second of one replica at full load."""

    tokens_per_second: float
    engine: str
    source: str
    date: str | None


def cost(environment: Environment) -> Cost:
    """The cost of an environment, from the dated price tables."""
    lines = _lines(environment)
    hourly = _total(lines, "at_rest")
    return Cost(
        hourly,
        None if hourly is None else hourly * HOURS_PER_MONTH,
        _total(lines, "during_promotion"),
        _total(lines, "at_most"),
        _per_million_tokens(environment),
        lines,
        _not_counted(environment),
    )


def throughput(environment: Environment) -> Throughput | None:
    """What the environment states of the replicas that cost most; else the newest published measurement, of the same engine if there is
    one, for the one GPU model, its weights and its GPUs."""
    gpu, group = environment.gpu, placement.costly_group(environment)
    if group.tokens_per_second:
        return Throughput(group.tokens_per_second, environment.engine.kind, f"stated: {group.path}.replica_tokens_per_second", None)
    models = placement.gpu_models(environment)
    if gpu is None or len(models) != 1:
        return None
    architecture = shapes.architecture(models[0][1])
    if architecture is None:
        return None
    wanted = (architecture.name, models[0][1].quantization, gpu.accelerator, gpu.count)
    rows = [
        Throughput(row["tokens_per_second"], row["engine"], row["source"], str(row["date"]))
        for row in catalogue.read("throughput.yaml")["measurements"]
        if (row["model"], row["quantization"], row["accelerator"], row["gpus"]) == wanted
    ]
    own = [row for row in rows if row.engine.lower().startswith(environment.engine.kind)]
    return max(own or rows, key=lambda row: str(row.date), default=None)


def replica_cap(environment: Environment) -> int | None:
    """Most replicas of the live slot (on GPUs, where there are) that the hourly ceiling pays for; None without ceiling or price."""
    ceiling = environment.budget.hourly_usd
    if ceiling is None:
        return None
    allowed = None
    for replicas in range(_scaled(environment).max + 1):
        hourly = _total(_lines(_with_replicas(environment, replicas)), "at_rest")
        if hourly is None:
            return None
        if hourly <= ceiling:
            allowed = replicas
    return allowed


def _with_replicas(environment: Environment, replicas: int) -> Environment:
    group = placement.gpu_group(environment)
    slots, bounds = environment.slots, _scaled(environment)
    changed = {"replicas": bounds.model_copy(update={"min": replicas, "max": max(replicas, bounds.max)})}
    if group and group.path == "slots.quality" and slots.quality:
        return environment.model_copy(update={"slots": slots.model_copy(update={"quality": slots.quality.model_copy(update=changed)})})
    return environment.model_copy(update={"slots": slots.model_copy(update=changed)})


def _scaled(environment: Environment) -> Replicas:
    return placement.costly_group(environment).replicas


def _lines(environment: Environment) -> tuple[CostLine, ...]:
    platform = environment.platform.value
    if environment.platform not in (Platform.GKE, Platform.AKS):
        return _stated(environment)
    lines = [CostLine("cluster", "control plane", 1, 1, 1, prices.cluster_price(platform))]
    for pool in placement.pools(environment):
        price = (
            prices.machine_price(platform, pool.machine, environment.region or "", pool.capacity, pool.gpus_per_node)
            if pool.machine
            else None
        )
        what = f"{pool.machine or 'unknown machine'}, {pool.capacity}"
        lines.append(CostLine(pool.name, what, pool.at_rest, pool.during_promotion, pool.at_most, price))
    if environment.layer.value == "slot":  # the nodes and the cluster are the platform stack's
        lines = [replace(line, at_rest=0, during_promotion=0, at_most=0) for line in lines]
    return tuple(lines)


def _stated(environment: Environment) -> tuple[CostLine, ...]:
    """Replicas at the price that the environment states, on machines that are there already; none where it states none."""
    return tuple(
        CostLine(f"{group.models[0][1].tier} replicas", "price of a replica", *placement.replicas_at_once(environment, group), price)
        for group in placement.groups(environment)
        if (price := prices.stated_price(group.path, group.replica_hourly_usd))
    )


def _total(lines: tuple[CostLine, ...], column: str) -> float | None:
    total = 0.0
    for line in lines:
        count: int = getattr(line, column)
        if count == 0:
            continue
        if line.price is None:
            return None
        total += count * line.price.hourly_usd
    return round(total, 6)


def _per_million_tokens(environment: Environment) -> float | None:
    measured = throughput(environment)
    if measured is None:
        return None
    replicas = max(1, _scaled(environment).min)
    hourly = _total(_lines(_with_replicas(environment, replicas)), "at_rest")
    if not hourly:
        return None
    return round(hourly / (replicas * measured.tokens_per_second * 3600) * 1e6, 6)


def _not_counted(environment: Environment) -> tuple[str, ...]:
    stated = environment.slots.replica_hourly_usd is not None
    if environment.platform is Platform.LOCAL:
        return ("gateway, cache and monitoring on this machine",) if stated else ("this machine",)
    if environment.platform is Platform.KUBERNETES:
        return ("gateway, cache and monitoring in the existing cluster",) if stated else ("the nodes of the existing cluster",)
    out = ["disks", "network traffic and load balancers", "logs and metrics"]
    if environment.cache.backend == "managed":
        out.append("the managed cache")
    if environment.gateway.class_name == ALB_CLASS and environment.platform is Platform.AKS:
        out.append("Application Gateway for Containers")
    if environment.gpu and environment.gpu.capacity in ("reservation", "flex_start"):
        out.append(f"the discount of {environment.gpu.capacity} against on demand")
    return tuple(out)
