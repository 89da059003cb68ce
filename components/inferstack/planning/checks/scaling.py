"""Do the replicas have room: scaler and bounds, both slots during a promotion, quota, spot."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from inferstack.environment import Environment, Platform, Scaling
from inferstack.planning import placement
from inferstack.planning.findings import Finding


@dataclass(frozen=True, slots=True)
class Headroom:
    """How a promotion gets its room on the GPU pool; nodes of the whole pool, floor included.

    `surge`: both slots stand in full. `stepped`: the idle slot grows as the live one shrinks, step by step.
    `none`: not even one replica more than the live slot's least fits.
    """

    kind: Literal["surge", "stepped", "none"]
    live: int
    both: int
    available: int


def headroom(e: Environment) -> Headroom | None:
    """The room for a promotion at least load; None without a GPU pool that can be planned."""
    machine = placement.gpu_machine(e)
    group = placement.gpu_group(e)
    if e.gpu is None or machine is None or group is None:
        return None
    available = e.gpu.max_nodes + e.gpu.on_demand_floor
    if e.gpu.quota is not None:
        available = min(available, e.gpu.quota // placement.gpus_per_node(e, machine))
    rest, both = group.replicas.min, placement.replicas_at_once(e, group)[1]
    live, doubled = placement.gpu_nodes(e, machine, max(1, rest)), placement.gpu_nodes(e, machine, both)
    one_more = placement.gpu_nodes(e, machine, max(1, rest) + 1)
    kind: Literal["surge", "stepped", "none"] = "surge" if doubled <= available else "stepped" if one_more <= available else "none"
    return Headroom(kind, live, doubled, available)


def scaler(e: Environment) -> Iterator[Finding]:
    """One owner of the number of replicas: a scaler with a range, or a fixed number."""
    if e.platform is Platform.LOCAL:
        return
    for group in placement.groups(e):
        yield from _owner(e.scaling, group)


def _owner(scaling: Scaling, group: placement.Group) -> Iterator[Finding]:
    low, high, path = group.replicas.min, group.replicas.max, f"{group.path}.replicas"
    if scaling.renderer == "none" and low < high:
        message = f"{path} may be {low} to {high}, but scaling.renderer is none: they stay at {low}."
        yield Finding(
            "replicas-without-scaler", "error", "scaling.renderer", message, f"use hpa, keda or autoscaler, or {path}.max {max(1, low)}."
        )
    if scaling.renderer != "none" and low == high:
        message = f"{scaling.renderer} is to scale replicas whose number is fixed at {low}: both would own it."
        yield Finding("scaler-and-fixed-replicas", "warning", "scaling.renderer", message, f"use renderer none, or raise {path}.max.")
    if scaling.renderer == "hpa" and low == 0:
        message = "an HPA on CPU, memory or pod metrics cannot start from zero replicas."
        yield Finding("zero-without-signal", "error", f"{path}.min", message, f"set {path}.min to 1.")
    if scaling.renderer == "autoscaler" and low == 0:
        message = "the autoscaler reads the slot's own replicas: at zero nothing says that requests wait, and they fail."
        yield Finding("zero-without-signal", "error", f"{path}.min", message, f"set {path}.min to 1.")
    if scaling.renderer == "keda" and low == 0:
        message = "KEDA's triggers read the slot's own pods: at zero replicas nothing says that requests wait, and they fail."
        fix = f"set {path}.min to 1, or waive this where a trigger of your own counts requests in front of the slot."
        yield Finding("zero-without-signal", "error", f"{path}.min", message, fix)


def signal(e: Environment) -> Iterator[Finding]:
    """The scaler follows something that says when a GPU replica is full, and can reach its target."""
    if e.scaling.prediction_horizon_minutes and (e.scaling.renderer, e.scaling.policy) != ("autoscaler", "queue"):
        message = f"renderer {e.scaling.renderer} with policy {e.scaling.policy} does not look ahead: the setting has no effect."
        fix = "use scaling.renderer autoscaler with policy queue, or leave prediction_horizon_minutes out."
        yield Finding("forecast-without-autoscaler", "warning", "scaling.prediction_horizon_minutes", message, fix)
    if e.scaling.renderer == "none":
        return
    if e.scaling.policy != "cpu" and e.engine.kind == "openai":
        message = "what an image of kind openai calls its queue is not known: the scaler follows CPU and memory instead."
        fix = "use engine.kind vllm, sglang or llamacpp where it is one of them, or policy cpu."
        yield Finding("queue-without-metrics", "warning", "scaling.policy", message, fix)
    elif e.scaling.policy != "cpu" and e.scaling.renderer == "keda" and not _prometheus(e):
        message = f"policy {e.scaling.policy} needs a Prometheus that KEDA can ask: without one it is given CPU and memory instead."
        fix = "set monitoring.prometheus_url, or monitoring.backend to bundled."
        yield Finding("queue-without-metrics", "warning", "monitoring.prometheus_url", message, fix)
    elif e.scaling.policy != "cpu" and e.scaling.renderer == "hpa":
        message = "an HPA reads the queue from the custom metrics API, which needs an adapter that this kit does not install."
        fix = "install one (see docs/guide/clouds.md), or use scaling.renderer keda with monitoring.prometheus_url."
        yield Finding("queue-needs-adapter", "info", "scaling.renderer", message, fix)
    if placement.gpu_models(e) and e.scaling.policy == "cpu":
        message = "CPU and memory say little of a GPU replica's load: engines preallocate and wait for the GPU."
        yield Finding("signal-blind", "warning", "scaling.policy", message, "use policy queue (waiting requests and KV use).")
    if e.scaling.policy == "queue" and e.scaling.queue_target > e.engine.max_queue:
        message = f"queue_target {e.scaling.queue_target:g} is above max_queue {e.engine.max_queue}: the scaler would never fire."
        yield Finding(
            "target-unreachable",
            "error",
            "scaling.queue_target",
            message,
            f"set scaling.queue_target below {e.engine.max_queue}, for instance 4.",
        )


def _prometheus(e: Environment) -> bool:
    return e.monitoring.backend == "bundled" or e.monitoring.prometheus_url is not None


def pool_holds_slot(e: Environment) -> Iterator[Finding]:
    """The GPU pool is large enough for the live slot at its most."""
    machine = placement.gpu_machine(e)
    if e.gpu is None or machine is None:
        return
    group = placement.gpu_group(e)
    assert group is not None
    needed = placement.gpu_nodes(e, machine, group.replicas.max)
    available = e.gpu.max_nodes + e.gpu.on_demand_floor
    if needed > available:
        message = f"{group.replicas.max} replicas need {needed} nodes of {machine.name}, and the pool has at most {available}."
        fix = f"set gpu.max_nodes to {needed - e.gpu.on_demand_floor}, or lower {group.path}.replicas.max."
        yield Finding("pool-too-small", "error", "gpu.max_nodes", message, fix)


def system_pool_holds_slot(e: Environment) -> Iterator[Finding]:
    """Replicas without GPUs run on the nodes for everything but models: these are enough for the live slot at its most."""
    machine, most = placement.system_machine(e), e.cloud.system_nodes.max
    if e.platform not in (Platform.GKE, Platform.AKS) or machine is None:
        return
    groups = placement.cpu_groups(e)
    needed = sum(math.ceil(group.replicas.max / placement.cpu_pods_per_node(machine, group)) for group in groups)
    if needed > most:
        replicas = sum(group.replicas.max for group in groups)
        message = f"{replicas} replicas need {needed} nodes of {machine.name}, and there are at most {most}."
        fix = f"set cloud.system_nodes.max to {needed} or more, or lower {groups[0].path}.replicas.max."
        yield Finding("pool-too-small", "error", "cloud.system_nodes.max", message, fix)


def promotion_room(e: Environment) -> Iterator[Finding]:
    """Both slots fit during a promotion, or it goes replica by replica."""
    room = headroom(e)
    if room is None or e.gpu is None or room.kind == "surge":
        return
    if room.kind == "none" and any(True for check in (pool_holds_slot, quota) for found in check(e) if found.severity == "error"):
        return  # a pool or a quota that does not hold one slot at its most is said to be so
    extra = e.gpu.max_nodes + room.both - room.available
    raise_it = f"set gpu.max_nodes to {extra}" + (
        " and raise the quota" if e.gpu.quota is not None and room.available < e.gpu.max_nodes else ""
    )
    if room.kind == "none":
        message = (
            f"a promotion needs a replica beside the live slot: {room.live + 1} nodes or more, and there are at most {room.available}."
        )
        yield Finding("promotion-no-room", "error", "gpu.max_nodes", message, f"{raise_it}.")
    elif e.promotion.strategy != "rolling":
        message = f"both slots need {room.both} nodes before any weight moves, and there are at most {room.available}."
        fix = f"{raise_it}, or let replicas move one by one with the weight: promotion.strategy rolling."
        yield Finding("promotion-no-surge", "error", "promotion.strategy", message, fix)
    else:
        message = f"both slots need {room.both} nodes and there are at most {room.available}: replicas move with the weight, step by step."
        yield Finding("promotion-stepped", "info", "promotion.strategy", message, f"nothing, or {raise_it} for both slots in full.")


def quota(e: Environment) -> Iterator[Finding]:
    """The pool at its most stays within the account's quota."""
    machine = placement.gpu_machine(e)
    if e.gpu is None or machine is None:
        return
    per_node = placement.gpus_per_node(e, machine)
    most = (e.gpu.max_nodes + e.gpu.on_demand_floor) * per_node
    if e.gpu.quota is None:
        message = f"the pool may grow to {most} x {e.gpu.accelerator} and the quota of {e.region} is not known."
        yield Finding(
            "quota-unknown",
            "info",
            "gpu.quota",
            message,
            "look it up in the cloud's console and set gpu.quota, so that the plan checks it.",
        )
    elif most > e.gpu.quota:
        message = f"the pool may grow to {most} x {e.gpu.accelerator}, and the quota is {e.gpu.quota}."
        fix = f"ask for a quota of {most}, or set gpu.max_nodes to {max(0, e.gpu.quota // per_node - e.gpu.on_demand_floor)}."
        yield Finding("quota-exceeded", "error", "gpu.quota", message, fix)


def spot(e: Environment) -> Iterator[Finding]:
    """A pool whose nodes are taken away has an on-demand floor wherever a replica must always stand."""
    if e.gpu is None:
        return
    if e.gpu.capacity not in ("spot", "flex_start") and e.gpu.on_demand_floor:
        message = f"on_demand_floor stands beside a spot or flex-start pool, and capacity is {e.gpu.capacity}."
        yield Finding("floor-without-spot", "error", "gpu.on_demand_floor", message, "leave it out, or set gpu.capacity to spot.")
    if e.gpu.capacity == "spot" and not e.gpu.on_demand_floor:
        group = placement.gpu_group(e)
        must = e.production or (group is not None and group.replicas.min > 0)
        message = "all GPU nodes are spot: a stock-out or an eviction takes the last replica."
        yield Finding(
            "spot-without-floor",
            "error" if must else "warning",
            "gpu.on_demand_floor",
            message,
            "set gpu.on_demand_floor to 1, or capacity to on_demand.",
        )
    if e.gpu.capacity == "flex_start" and e.production and not e.gpu.on_demand_floor:
        message = "all GPU nodes are flex-start: each is taken back after seven days at most, and the next comes when there is one."
        yield Finding(
            "spot-without-floor", "error", "gpu.on_demand_floor", message, "set gpu.on_demand_floor to 1, or capacity to on_demand."
        )


CHECKS = (scaler, signal, spot)
ON_HARDWARE = (pool_holds_slot, system_pool_holds_slot, promotion_room, quota)
