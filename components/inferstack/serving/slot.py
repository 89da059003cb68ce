"""InferenceSlot: one of the two slots of an environment, with its own workload, scaler, budget and service."""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pulumi

from inferstack.cluster.resources import check_roles, customize, make
from inferstack.environment import SlotName, parse_environment
from inferstack.serving.manifests.gateway import GATEWAY_KINDS
from inferstack.serving.manifests.pod import Placement
from inferstack.serving.manifests.slot import GroupObjects, slot_objects

ROLES = frozenset({"service_account", "config_map", "network_policy", "service", "workload", "scaler", "disruption_budget", *GATEWAY_KINDS})

FLOORS = {"HorizontalPodAutoscaler": "spec.minReplicas", "ScaledObject": "spec.minReplicaCount", "ConfigMap": "data.min_instances"}
"""Where each kind of scaler keeps the fewest replicas."""


class InferenceSlotArgs(TypedDict):
    """Arguments of an InferenceSlot."""

    settings: dict[str, Any]
    """The environment object, with the keys of docs/configuration.md."""
    slot: str
    """`blue` or `green`."""
    environment: str
    """The environment's name, as clients see it in the identity of an answer."""
    generation: NotRequired[int]
    """The promotion that this slot's version belongs to; 1 at first."""
    placement: NotRequired[dict[str, Any]]
    """What a cloud adds to the pods: the fields of Placement."""
    customize: NotRequired[dict[str, dict[str, Any]]]
    """Changes that are merged into the objects, by role; see `InferenceSlot.resources`."""


@dataclass(frozen=True)
class SlotResources:
    """The native resources of one group of replicas; None where the environment asks for none."""

    service_account: pulumi.CustomResource
    config_map: pulumi.CustomResource | None
    network_policy: pulumi.CustomResource
    service: pulumi.CustomResource
    workload: pulumi.CustomResource
    scaler: pulumi.CustomResource | None
    disruption_budget: pulumi.CustomResource
    gateway_policies: tuple[pulumi.CustomResource, ...]


class InferenceSlot(pulumi.ComponentResource):
    """One slot: per group of replicas a Deployment, Service, scaler, PodDisruptionBudget, NetworkPolicy, ServiceAccount and ConfigMap.

    The kubernetes provider is the consumer's. `resources` holds the native resources by group name (the first group's is empty).
    """

    service: pulumi.Output[str]
    """Name of the slot's Service."""

    def __init__(self, name: str, args: InferenceSlotArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        environment = parse_environment(args["settings"], f"InferenceSlot {name}")
        slot = SlotName(args["slot"])
        check_roles(f"InferenceSlot {name}", args.get("customize"), ROLES)
        placement = Placement(**args.get("placement", {}))
        groups = slot_objects(environment, slot, name=args["environment"], generation=args.get("generation", 1), placement=placement)
        super().__init__("inferstack:index:InferenceSlot", name, {key: value for key, value in args.items() if key != "settings"}, opts)
        changes = args.get("customize", {})
        timeout = f"{int(environment.promotion.ready_seconds) + 120}s"
        self.resources = {group.group.name: self._make(name, group, changes, timeout) for group in groups}
        self.service = pulumi.Output.from_input(groups[0].service["metadata"]["name"])
        self.register_outputs({"service": self.service})

    def _make(self, name: str, objects: GroupObjects, changes: dict[str, dict[str, Any]], timeout: str) -> SlotResources:
        suffix = f"-{objects.group.name}" if objects.group.name else ""

        def one(role: str, manifest: dict[str, Any], opts: pulumi.ResourceOptions | None = None) -> pulumi.CustomResource:
            options = pulumi.ResourceOptions.merge(pulumi.ResourceOptions(parent=self), opts)
            return make(f"{name}{suffix}-{role.replace('_', '-').lower()}", customize(manifest, changes.get(role)), options)

        account = one("service_account", objects.service_account)
        config_map = one("config_map", objects.config_map) if objects.config_map else None
        network_policy = one("network_policy", objects.network_policy)
        service = one("service", _without_waiting(objects.service))
        workload = one(
            "workload",
            objects.workload,
            pulumi.ResourceOptions(
                depends_on=[item for item in (account, config_map, network_policy) if item],
                custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout),
                ignore_changes=["spec.replicas"] if "replicas" in objects.workload["spec"] else None,
            ),
        )
        scaler = None
        if objects.scaler:
            # A promotion raises the floor of the idle slot to the live load; an update must not take it back.
            floor = FLOORS[objects.scaler["kind"]]
            scaler = one("scaler", objects.scaler, pulumi.ResourceOptions(depends_on=[workload], ignore_changes=[floor]))
        budget = one("disruption_budget", objects.disruption_budget)
        policies = tuple(one(manifest["kind"], manifest) for manifest in objects.gateway_policies)
        return SlotResources(account, config_map, network_policy, service, workload, scaler, budget, policies)


def _without_waiting(service: dict[str, Any]) -> dict[str, Any]:
    """The Service is not waited for: an idle slot may have no endpoints, and readiness is the workload's and the promotion's business."""
    return customize(service, {"metadata": {"annotations": {"pulumi.com/skipAwait": "true"}}})
