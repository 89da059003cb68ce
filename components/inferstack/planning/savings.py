"""What one replica costs, and what would be cheaper: changes of an environment that still fit, with what each saves. Pure.

A change is only named when the planner has no new error against it and knows both prices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inferstack.environment import Environment, Platform
from inferstack.environment.quantity import quantity
from inferstack.planning import catalogue, placement, plan_findings, prices
from inferstack.planning.cost import cost, throughput
from inferstack.planning.prices import HOURS_PER_MONTH


@dataclass(frozen=True, slots=True)
class Saving:
    """A change and what it saves at rest. `settings` are the keys to set; `but` is what is given up."""

    kind: str
    settings: dict[str, Any]
    hourly_usd: float
    monthly_usd: float
    but: str


def replica_hourly_usd(environment: Environment) -> float | None:
    """Price of one replica: its share of its node, or what the environment states; USD per hour, None where it is unknown."""
    machine = _machine(environment)
    gpu, platform = environment.gpu, environment.platform.value
    if machine is None:
        return placement.costly_group(environment).replica_hourly_usd
    if gpu is None or placement.gpu_group(environment) is None:
        found = prices.machine_price(platform, machine.name, environment.region or "", "on_demand")
        cores, memory = placement.allocatable(machine)
        resources = environment.slots.resources
        share = max(quantity(resources.cpu) / cores, quantity(resources.memory) / memory)
    else:
        per_node = placement.gpus_per_node(environment, machine)
        found = prices.machine_price(platform, machine.name, environment.region or "", gpu.capacity, per_node)
        pods = placement.pods_per_node(environment, machine)
        share = 1 / pods if pods else placement.gpus_per_pod(environment) / max(1, per_node)
    return None if found is None else round(found.hourly_usd * min(share, 1e6), 6)


def fixed_hourly_usd(environment: Environment) -> float | None:
    """Price of what runs whatever the load: the control plane, and beside GPU pools the nodes for everything else."""
    found = 0.0
    for line in cost(environment).lines:
        if line.name == "cluster" or (line.name == "system" and environment.gpu):
            if line.price is None:
                return None
            found += line.at_rest * line.price.hourly_usd
    return round(found, 6) if environment.platform in (Platform.GKE, Platform.AKS) else None


def savings(environment: Environment) -> tuple[Saving, ...]:
    """Cheaper environments that still fit, the best of each kind, the largest saving first."""
    now = cost(environment).hourly_usd
    if now is None:
        return ()
    wrong = {(finding.rule, finding.path) for finding in plan_findings(environment) if finding.severity == "error"}
    best: dict[str, Saving] = {}
    for kind, settings, but, changed in _changes(environment):
        then = cost(changed).hourly_usd
        if then is None or now - then < 0.005:
            continue
        if kind in best and now - then <= best[kind].hourly_usd:
            continue
        if {(f.rule, f.path) for f in plan_findings(changed) if f.severity == "error"} - wrong:
            continue
        slower = _slower(environment, changed)
        best[kind] = Saving(kind, settings, round(now - then, 4), round((now - then) * HOURS_PER_MONTH, 2), f"{but}{slower}")
    return tuple(sorted(best.values(), key=lambda saving: -saving.hourly_usd))


def _machine(environment: Environment) -> catalogue.Machine | None:
    if environment.platform not in (Platform.GKE, Platform.AKS):
        return None
    return placement.gpu_machine(environment) if placement.gpu_group(environment) else placement.system_machine(environment)


def _changes(environment: Environment) -> Iterator[tuple[str, dict[str, Any], str, Environment]]:
    """(kind, keys, what is given up, the environment with it)."""
    slots = environment.slots
    if slots.idle_replicas:
        changed = environment.model_copy(update={"slots": slots.model_copy(update={"idle_replicas": 0})})
        yield "shrink the idle slot", {"slots.idle_replicas": 0}, "after the rollback window, a way back must first start replicas", changed
    gpu = environment.gpu
    if gpu is None:
        return
    if gpu.capacity == "on_demand":
        update = {"capacity": "spot", "on_demand_floor": max(1, gpu.on_demand_floor)}
        settings = {f"gpu.{key}": value for key, value in update.items()}
        yield "spot share", settings, "spot nodes leave at 30 s notice", _with_gpu(environment, update)
    for name in catalogue.accelerators(environment.platform.value):
        for count in {1, gpu.count}:
            update = {"accelerator": name, "count": count, "machine_type": None}
            settings = {"gpu.accelerator": name, "gpu.count": count}
            yield "right-size the GPU", settings, "another kind of GPU", _with_gpu(environment, update)
            for weights in ("int8", "int4", "fp8", "awq"):
                models = tuple(
                    model.model_copy(update={"quantization": weights}) if model.quantization in ("none", "bf16", "fp16") else model
                    for model in environment.models
                )
                if models != environment.models:
                    changed = _with_gpu(environment.model_copy(update={"models": models}), update)
                    yield "quantize", settings | {"slot.quantization": weights}, "check the accuracy gate", changed


def _with_gpu(environment: Environment, update: dict[str, Any]) -> Environment:
    assert environment.gpu is not None
    return environment.model_copy(update={"gpu": environment.gpu.model_copy(update=update)})


def _slower(before: Environment, after: Environment) -> str:
    """What published measurements say of the speed, or that there are none; nothing where neither GPU nor weights change."""
    same = before.gpu is None or after.gpu is None or (before.gpu.accelerator, before.gpu.count) == (after.gpu.accelerator, after.gpu.count)
    if same and before.models == after.models:
        return ""
    old, new = throughput(before), throughput(after)
    if old is None or new is None:
        return "; its speed is not published, measure it before"
    return f"; {new.tokens_per_second / old.tokens_per_second:.0%} of the tokens per second of a replica"
