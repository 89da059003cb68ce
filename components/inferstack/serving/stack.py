"""What a stack holds: the parts of an environment's layer, made by its components.

    deploy(Path(__file__).parent)        # all of stacks/__main__.py

The platform layer is the cluster's side (namespace, cache, gateway and route); a slot layer is one slot.
"""

from pathlib import Path
from typing import Any

import pulumi

from inferstack.cluster.gpu import GpuDevicePlugin
from inferstack.cluster.monitor import Monitoring
from inferstack.cluster.namespace import ServingNamespace
from inferstack.cluster.redis import RedisCache
from inferstack.cluster.resources import make
from inferstack.cluster.storage import cache_secret_object, weights_objects
from inferstack.environment import (
    BASE_KEY,
    CONFIG_KEY,
    FINDINGS_KEY,
    SLOT_KEY,
    Environment,
    InvalidEnvironment,
    Layer,
    Platform,
    SlotName,
    parse_environment,
    resolve_config,
)
from inferstack.planning import plan_findings
from inferstack.serving.autoscaler import Autoscaler
from inferstack.serving.clouds import CloudSide, attach, buckets, create, placed
from inferstack.serving.manifests.engines import profile
from inferstack.serving.route import InferenceRoute
from inferstack.serving.slot import InferenceSlot, InferenceSlotArgs


def deploy(stacks: Path) -> None:
    """Make everything of this stack's layer; raises pulumi.RunError with every problem before the first resource."""
    stack = pulumi.get_stack()
    try:
        environment = read(stacks)
    except InvalidEnvironment as error:
        raise pulumi.RunError(str(error)) from None
    check(environment)
    name = environment_name(stack, environment)
    side = attach(environment, name) if environment.layer is Layer.SLOT else create(environment, name)
    options = pulumi.ResourceOptions(provider=side.provider)
    settings = environment.model_dump(mode="json")
    if environment.layer is not Layer.SLOT:
        options = _platform(environment, name, settings, side, options)
    generation, told = generation_of(), vars(placed(environment, name, side))
    for slot in slots_of(environment):
        arguments: InferenceSlotArgs = {"settings": settings, "slot": str(slot), "environment": name, "generation": generation}
        InferenceSlot(str(slot), arguments | {"placement": told}, options)
    outputs = side.outputs if environment.layer is not Layer.SLOT else {}
    for key, value in {"environment": name, "namespace": environment.namespace, **outputs}.items():
        pulumi.export(key, value)


def _platform(
    environment: Environment, name: str, settings: dict[str, Any], side: CloudSide, options: pulumi.ResourceOptions
) -> pulumi.ResourceOptions:
    """The cluster's side of an environment; returns the options of what comes after it."""
    namespace = ServingNamespace("namespace", {"settings": settings}, options)
    after = pulumi.ResourceOptions(provider=side.provider, depends_on=[namespace])
    if environment.platform is Platform.AKS and environment.gpu:
        GpuDevicePlugin("gpu", {"partitioned": environment.gpu.partition is not None, "sharing": environment.gpu.sharing}, options)
    if environment.cache.backend == "cluster":
        RedisCache("cache", {"settings": settings}, after)
    if side.cache_url is not None:
        make("cache-url", cache_secret_object(environment.namespace, side.cache_url, side.cache_authority), after)
    if side.storage_account is not None and buckets(environment, "abfss"):
        for role, manifest in weights_objects(
            environment.namespace, side.storage_account, side.storage_container, side.storage_group, side.outputs["clientId"]
        ).items():
            make(f"weights-{role}", manifest, after)
    port = "metrics" if profile(environment.engine.kind).own_metrics_port else "http"
    if environment.monitoring.backend != "none":
        Monitoring("monitoring", {"settings": settings, "environment": name, "port": port}, after)
    if environment.scaling.renderer == "autoscaler":
        Autoscaler("autoscaler", {"settings": settings}, after)
    InferenceRoute("route", {"settings": settings, "customize": {"gateway": side.gateway}}, after)
    return after


def check(environment: Environment) -> None:
    """Refuse an environment that the planning finds wrong, in its words, before anything is made; warnings are logged.

    `inferstack plan`, which shows the findings itself, runs the program to its end.
    """
    if pulumi.Config("inferstack").get(FINDINGS_KEY.partition(":")[2]) == "shown":
        return
    findings = plan_findings(environment)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    for finding in findings:
        if finding.severity == "warning":
            pulumi.log.warn(str(finding))
    if errors:
        raise pulumi.RunError("\n".join(errors))


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
    source = f"stack {pulumi.get_stack()}"
    return parse_environment(resolve_config(stacks, found, source), source)


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
