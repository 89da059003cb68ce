"""The cloud side of an environment: what lies below its Kubernetes objects, and how a slot's stack finds it again.

A cloud's own module is imported only for its environments: its SDK is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_kubernetes as k8s

from inferstack.cluster.names import slot_name
from inferstack.cluster.resources import provider
from inferstack.environment import Environment, GpuPool, Platform, SlotName
from inferstack.planning import gpu_machine, system_machine
from inferstack.serving.manifests.engines import bucket
from inferstack.serving.manifests.groups import replica_groups
from inferstack.serving.manifests.pod import Placement


@dataclass(frozen=True)
class CloudSide:
    """What the Kubernetes side of an environment needs from below it."""

    provider: k8s.Provider
    cache_url: pulumi.Output[str] | None = None
    cache_authority: pulumi.Output[str] | None = None
    outputs: dict[str, pulumi.Output[Any]] = field(default_factory=dict)
    """What the stack exports: kubeconfig (a secret), identifier, and what pods are told about their identity."""
    storage_account: pulumi.Output[str] | None = None
    storage_container: pulumi.Output[str] | None = None
    storage_group: pulumi.Output[str] | None = None
    gateway: dict[str, Any] = field(default_factory=dict)
    """What the Gateway object says of the cloud's own gateway, merged into it."""


def create(environment: Environment, name: str) -> CloudSide:
    """Make the cloud side of an environment; on `kubernetes` that is a provider for the cluster that is there."""
    if environment.platform is Platform.GKE:
        from inferstack.serving.clouds import gke

        return gke.create(environment, name)
    if environment.platform is Platform.AKS:
        from inferstack.serving.clouds import aks

        return aks.create(environment, name)
    return CloudSide(provider("kubernetes", context=environment.context))


def attach(environment: Environment, name: str) -> CloudSide:
    """The cloud side that the environment's own stack made, found by a reference to that stack."""
    if environment.platform is Platform.KUBERNETES:
        return create(environment, name)
    above = pulumi.StackReference(f"{pulumi.get_organization()}/{pulumi.get_project()}/{name}")
    keys = ["kubeconfig", "identifier", *(["clientId"] if environment.platform is Platform.AKS else [])]
    outputs = {key: above.require_output(key) for key in keys}
    return CloudSide(cluster_provider(outputs["kubeconfig"], outputs["identifier"]), outputs=outputs)


def placed(environment: Environment, name: str, side: CloudSide) -> Placement:
    """What pods are told by the cloud: identity, weights, taints of spot nodes."""
    if environment.platform is Platform.GKE:
        from inferstack.serving.clouds import gke

        return gke.placed(environment, name)
    if environment.platform is Platform.AKS:
        from inferstack.serving.clouds import aks

        return aks.placed(environment, side)
    return Placement()


class ClusterSettings(TypedDict):
    """Arguments that the clusters of both clouds take."""

    region: str
    system_machine_type: str
    system_min_nodes: int
    system_max_nodes: int
    node_cidr: str
    authorized_cidrs: list[str]
    maintenance_start: str
    deletion_protection: bool
    kubernetes_version: NotRequired[str]


def cluster_settings(environment: Environment) -> ClusterSettings:
    """What an environment says of its cluster, wherever it is."""
    cloud, system = environment.cloud, system_machine(environment)
    found: ClusterSettings = {
        "region": str(environment.region),
        "system_machine_type": system.name if system else str(cloud.system_machine_type),
        "system_min_nodes": cloud.system_nodes.min,
        "system_max_nodes": cloud.system_nodes.max,
        "node_cidr": cloud.network.cidr,
        "authorized_cidrs": list(cloud.network.authorized_cidrs),
        "maintenance_start": cloud.maintenance_start,
        "deletion_protection": cloud.deletion_protection,
    }
    if cloud.kubernetes_version:
        found["kubernetes_version"] = cloud.kubernetes_version
    return found


class PoolSettings(TypedDict):
    """Arguments that the GPU pools of both clouds take."""

    accelerator: str
    machine_type: str
    capacity: str
    on_demand_floor: int
    min_nodes: int
    max_nodes: int
    zones: list[str]
    driver: str
    reservation: NotRequired[str]
    partition: NotRequired[str]
    disk_gb: NotRequired[int]


def pool_settings(environment: Environment, gpu: GpuPool) -> PoolSettings:
    """What an environment says of its GPU pool, wherever it is."""
    machine = gpu_machine(environment)
    found: PoolSettings = {
        "accelerator": gpu.accelerator,
        "machine_type": machine.name if machine else str(gpu.machine_type),
        "capacity": gpu.capacity,
        "on_demand_floor": gpu.on_demand_floor,
        "min_nodes": gpu.min_nodes,
        "max_nodes": gpu.max_nodes,
        "zones": list(gpu.zones),
        "driver": gpu.driver,
    }
    if gpu.reservation:
        found["reservation"] = gpu.reservation
    if gpu.partition:
        found["partition"] = gpu.partition
    if gpu.disk_gb:
        found["disk_gb"] = gpu.disk_gb
    return found


def service_accounts(environment: Environment) -> list[str]:
    """Kubernetes service accounts of both slots."""
    return [slot_name(slot, group.name) for slot in SlotName for group in replica_groups(environment)]


def buckets(environment: Environment, scheme: str) -> list[str]:
    """Buckets or containers of this cloud (`gs`, `abfss`) that the models come from."""
    return [found for model in environment.models if model.source.startswith(f"{scheme}://") and (found := bucket(model))]


def cluster_provider(kubeconfig: pulumi.Output[str], identifier: pulumi.Output[str], below: Sequence[pulumi.Resource] = ()) -> k8s.Provider:
    """The provider for a cluster that this environment makes, ready when its nodes are; the kubeconfig is kept as a secret."""
    secret: pulumi.Output[str] = pulumi.Output.secret(kubeconfig)
    return provider("kubernetes", kubeconfig=secret, identifier=identifier, depends_on=below)
