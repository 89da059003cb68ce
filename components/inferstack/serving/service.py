"""InferenceService: everything that a cluster needs to serve one environment, as one component."""

from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.monitor import Monitoring
from inferstack.cluster.namespace import ServingNamespace
from inferstack.cluster.redis import RedisCache
from inferstack.environment import SlotName, parse_environment
from inferstack.serving.autoscaler import Autoscaler
from inferstack.serving.manifests.engines import profile
from inferstack.serving.route import InferenceRoute
from inferstack.serving.slot import InferenceSlot, InferenceSlotArgs


class InferenceServiceArgs(TypedDict):
    """Arguments of an InferenceService."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md."""
    placement: NotRequired[dict[str, Any]]
    """What a cloud adds to the pods: the fields of Placement."""
    slots: NotRequired[list[str]]
    """Slots to make; both by default, none where each has a stack of its own."""
    generation: NotRequired[int]
    """The promotion that the slots' version belongs to; 1 at first."""


class InferenceService(pulumi.ComponentResource):
    """Namespace, cache in the cluster, gateway and route, both slots, their scrape configuration, and the autoscaler where it scales.

    The kubernetes provider is the consumer's. The parts are attributes, with their native resources in `resources`.
    """

    namespace: pulumi.Output[str]
    """Namespace of the slots."""
    services: pulumi.Output[dict[str, str]]
    """Name of each slot's Service."""

    def __init__(self, name: str, args: InferenceServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"InferenceService {name}")
        super().__init__("inferstack:index:InferenceService", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        settings = args["settings"]
        self.serving_namespace = ServingNamespace(f"{name}-namespace", {"settings": settings}, pulumi.ResourceOptions(parent=self))
        after = pulumi.ResourceOptions(parent=self, depends_on=[self.serving_namespace])
        self.cache = RedisCache(f"{name}-cache", {"settings": settings}, after) if environment.cache.backend == "cluster" else None
        port = "metrics" if profile(environment.engine.kind).own_metrics_port else "http"
        watched = environment.monitoring.backend != "none"
        self.monitoring = (
            Monitoring(f"{name}-monitoring", {"settings": settings, "environment": name, "port": port}, after) if watched else None
        )
        own = environment.scaling.renderer == "autoscaler"
        self.autoscaler = Autoscaler(f"{name}-autoscaler", {"settings": settings}, after) if own else None
        self.route = InferenceRoute(f"{name}-route", {"settings": settings}, after)
        self.slots: dict[str, InferenceSlot] = {}
        for slot in args.get("slots", [str(slot) for slot in SlotName]):
            arguments: InferenceSlotArgs = {"settings": settings, "slot": slot, "environment": name}
            if "placement" in args:
                arguments["placement"] = args["placement"]
            if "generation" in args:
                arguments["generation"] = args["generation"]
            self.slots[slot] = InferenceSlot(f"{name}-{slot}", arguments, after)
        self.namespace = self.serving_namespace.namespace
        self.services = pulumi.Output.all(**{slot: part.service for slot, part in self.slots.items()})
        self.register_outputs({"namespace": self.namespace, "services": self.services})
