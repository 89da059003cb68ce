"""What a stack holds: the parts of an environment's layer, made by its components.

    deploy(Path(__file__).parent)        # all of stacks/__main__.py

The platform layer is the cluster's side (namespace, cache, gateway and route); a slot layer is one slot.
"""

from pathlib import Path
from typing import Any

import pulumi

from inferstack.cluster.monitor import Monitoring
from inferstack.cluster.namespace import ServingNamespace
from inferstack.cluster.redis import RedisCache
from inferstack.cluster.resources import provider
from inferstack.environment import (
    BASE_KEY,
    CONFIG_KEY,
    FINDINGS_KEY,
    SLOT_KEY,
    Environment,
    InvalidEnvironment,
    Layer,
    SlotName,
    parse_environment,
    resolve_config,
)
from inferstack.planning import plan_findings
from inferstack.serving.route import InferenceRoute
from inferstack.serving.slot import InferenceSlot


def deploy(stacks: Path) -> None:
    """Make everything of this stack's layer; raises pulumi.RunError with every problem before the first resource."""
    stack = pulumi.get_stack()
    try:
        environment = read(stacks)
    except InvalidEnvironment as error:
        raise pulumi.RunError(str(error)) from None
    refuse(environment)
    name = environment_name(stack, environment)
    cluster = provider("kubernetes", context=environment.context)
    options = pulumi.ResourceOptions(provider=cluster)
    settings = environment.model_dump(mode="json")
    if environment.layer is not Layer.SLOT:
        namespace = ServingNamespace("namespace", {"settings": settings}, options)
        options = pulumi.ResourceOptions(provider=cluster, depends_on=[namespace])
        if environment.cache.backend == "cluster":
            RedisCache("cache", {"settings": settings}, options)
        if environment.monitoring.backend != "none":
            Monitoring("monitoring", {"settings": settings, "environment": name}, options)
        InferenceRoute("route", {"settings": settings}, options)
    generation = generation_of()
    for slot in slots_of(environment):
        InferenceSlot(str(slot), {"settings": settings, "slot": str(slot), "environment": name, "generation": generation}, options)
    pulumi.export("environment", name)
    pulumi.export("namespace", environment.namespace)


def read(stacks: Path) -> Environment:
    """The environment of the running stack, from its configuration; raises InvalidEnvironment."""
    config = pulumi.Config("inferstack")
    found: dict[str, Any] = {}
    for key in (CONFIG_KEY, SLOT_KEY):
        if (value := config.get_object(key.partition(":")[2])) is not None:
            found[key] = value
    if (base := config.get(BASE_KEY.partition(":")[2])) is not None:
        found[BASE_KEY] = base
    if SLOT_KEY in found:
        found[SLOT_KEY] = {key: value for key, value in found[SLOT_KEY].items() if key != "generation"}
    return parse_environment(resolve_config(stacks, found), f"stack {pulumi.get_stack()}")


def refuse(environment: Environment) -> None:
    """Raise pulumi.RunError with every planning error; `inferstack plan`, which shows them itself, runs the program to its end."""
    if pulumi.Config("inferstack").get(FINDINGS_KEY.partition(":")[2]) == "shown":
        return
    errors = [finding for finding in plan_findings(environment) if finding.severity == "error"]
    if errors:
        raise pulumi.RunError("\n".join(str(error) for error in errors))


def generation_of() -> int:
    """The promotion that this stack's slot was rendered by; 1 before the first."""
    settings = pulumi.Config("inferstack").get_object(SLOT_KEY.partition(":")[2]) or {}
    return int(settings.get("generation", 1))


def environment_name(stack: str, environment: Environment) -> str:
    """Name of the environment that a stack belongs to: slot stacks are named `<environment>-<slot>`."""
    return stack.removesuffix(f"-{environment.slot}") if environment.slot else stack


def slots_of(environment: Environment) -> list[SlotName]:
    """The slots that this layer holds."""
    if environment.layer is Layer.SLOT and environment.slot:
        return [environment.slot]
    return list(SlotName) if environment.layer is Layer.ALL else []
