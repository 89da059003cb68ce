"""Every object of one slot; pure."""

from dataclasses import dataclass
from typing import Any

from inferstack.cluster.names import metadata, slot_labels, slot_name
from inferstack.environment import Environment, SlotName
from inferstack.serving.manifests import config as configuration
from inferstack.serving.manifests.distributed import distributed, leader_worker_set
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.gateway import gateway_policies
from inferstack.serving.manifests.groups import ReplicaGroup, replica_groups
from inferstack.serving.manifests.network import slot_policy
from inferstack.serving.manifests.pod import Placement, pod_template
from inferstack.serving.manifests.scaling import scaled, scaler


@dataclass(frozen=True)
class GroupObjects:
    """The objects of one group of replicas, in the order in which they are made."""

    group: ReplicaGroup
    service_account: dict[str, Any]
    config_map: dict[str, Any] | None
    """None for an engine image that is not this kit's."""
    network_policy: dict[str, Any]
    service: dict[str, Any]
    workload: dict[str, Any]
    scaler: dict[str, Any] | None
    disruption_budget: dict[str, Any]
    gateway_policies: tuple[dict[str, Any], ...] = ()
    """What the platform's gateway must be told about the Service."""

    def all(self) -> list[dict[str, Any]]:
        """Every object there is."""
        found = [
            self.service_account,
            self.config_map,
            self.network_policy,
            self.service,
            self.workload,
            self.scaler,
            self.disruption_budget,
        ]
        return [item for item in (*found, *self.gateway_policies) if item is not None]


def slot_objects(
    environment: Environment,
    slot: SlotName,
    *,
    name: str,
    generation: int = 1,
    floor: int | None = None,
    placement: Placement | None = None,
) -> tuple[GroupObjects, ...]:
    """The objects of a slot, one bundle per group of replicas.

    `name` is the environment's name, `floor` the fewest replicas (by default those of a live or an idle slot, as the slot is the initial
    one or not), `placement` what the cloud adds.
    """
    placement = placement or Placement()
    return tuple(_group(environment, slot, group, name, generation, floor, placement) for group in replica_groups(environment))


def _group(
    environment: Environment, slot: SlotName, group: ReplicaGroup, name: str, generation: int, floor: int | None, placement: Placement
) -> GroupObjects:
    own, labels, namespace = slot_name(slot, group.name), slot_labels(slot, group.name), environment.namespace
    engine = profile(environment.engine.kind)
    if floor is None:
        floor = group.replicas.min if slot is environment.slots.initial else min(environment.slots.idle_replicas, group.replicas.max)
    ports = [{"name": "http", "port": environment.engine.port, "targetPort": "http", "appProtocol": "http"}]
    if engine.own_metrics_port:
        ports.append({"name": "metrics", "port": engine.own_metrics_port, "targetPort": "metrics", "appProtocol": "http"})
    config_map = None
    if engine.own_identity:
        content = configuration.text(configuration.runtime_config(environment, slot, group, name=name, generation=generation))
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(own, namespace, labels),
            "data": {"runtime.json": content},
        }
    template = pod_template(environment, slot, group, placement, name=name, generation=generation)
    replicas = None if scaled(environment) else floor
    return GroupObjects(
        group=group,
        service_account={
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(own, namespace, labels, placement.service_account_annotations),
            "automountServiceAccountToken": False,
        },
        config_map=config_map,
        network_policy=slot_policy(environment, slot, group),
        service={
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(own, namespace, labels),
            "spec": {"type": "ClusterIP", "selector": labels, "ports": ports},
        },
        workload=_workload(environment, slot, group, template, replicas),
        scaler=scaler(environment, slot, group, floor=floor),
        disruption_budget={
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(own, namespace, labels),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
        },
        gateway_policies=gateway_policies(environment, slot, group),
    )


def _workload(
    environment: Environment, slot: SlotName, group: ReplicaGroup, template: dict[str, Any], replicas: int | None
) -> dict[str, Any]:
    """A Deployment, or a LeaderWorkerSet where a replica spans nodes."""
    if distributed(environment, group):
        return leader_worker_set(environment, slot, group, template, replicas)
    labels = slot_labels(slot, group.name)
    spec: dict[str, Any] = {
        "selector": {"matchLabels": labels},
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": int(environment.promotion.ready_seconds) + 60,
        "strategy": _strategy(environment, group),
        "template": template,
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(slot_name(slot, group.name), environment.namespace, labels),
        "spec": spec,
    }


def _strategy(environment: Environment, group: ReplicaGroup) -> dict[str, Any]:
    """How a slot replaces its own pods. A GPU pool without a spare node cannot surge: there a pod leaves before the next one comes."""
    surge = group.gpu is None or group.gpu.max_nodes > group.replicas.max
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1 if surge else 0, "maxUnavailable": 0 if surge else 1}}
