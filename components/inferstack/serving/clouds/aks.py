"""The cloud side of an environment on AKS."""

from typing import Any

import pulumi

from inferstack.cloud.aks.cache import AksCache
from inferstack.cloud.aks.cluster import AksCluster, AksClusterArgs
from inferstack.cloud.aks.pool import SPOT_TAINT, AksGpuPool, AksGpuPoolArgs
from inferstack.cloud.aks.storage import AksStorage
from inferstack.environment import Environment
from inferstack.planning import gpu_machine, system_machine
from inferstack.serving.clouds import CloudSide, buckets, cluster_provider, service_accounts
from inferstack.serving.manifests.pod import Placement

WEIGHTS_CLAIM = "inferstack-weights"


def create(environment: Environment, name: str) -> CloudSide:
    """Cluster, GPU pool, weights and images, and the managed cache where one is asked for."""
    cloud, gpu, region = environment.cloud, environment.gpu, str(environment.region)
    system, protected = system_machine(environment), cloud.deletion_protection
    arguments: AksClusterArgs = {
        "region": region,
        "system_machine_type": system.name if system else str(cloud.system_machine_type),
        "system_min_nodes": cloud.system_nodes.min,
        "system_max_nodes": cloud.system_nodes.max,
        "node_cidr": cloud.network.cidr,
        "authorized_cidrs": list(cloud.network.authorized_cidrs),
        "upgrade_channel": {"rapid": "rapid", "regular": "stable", "stable": "patch"}[cloud.release_channel],
        "maintenance_start": cloud.maintenance_start,
        "deletion_protection": protected,
        "managed_prometheus": environment.monitoring.backend == "azure",
        "production": environment.production,
    }
    if cloud.kubernetes_version:
        arguments["kubernetes_version"] = cloud.kubernetes_version
    cluster = AksCluster(name, arguments)
    below: list[pulumi.Resource] = [cluster]
    if gpu:
        machine = gpu_machine(environment)
        pool: AksGpuPoolArgs = {
            "resource_group": cluster.resource_group,
            "cluster": cluster.name,
            "subnet": cluster.subnet,
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
            pool["reservation"] = gpu.reservation
        if gpu.partition:
            pool["partition"] = gpu.partition
        below.append(AksGpuPool(f"{name}-gpu", pool))
    storage = AksStorage(
        name,
        {
            "resource_group": cluster.resource_group,
            "region": region,
            "oidc_issuer": cluster.oidc_issuer,
            "kubelet_identity": cluster.kubelet_identity,
            "namespace": environment.namespace,
            "service_accounts": service_accounts(environment),
            "zone_redundant": environment.production,
            "deletion_protection": protected,
        },
    )
    cache_url = None
    if environment.cache.backend == "managed":
        cache_url = AksCache(
            f"{name}-cache",
            {
                "resource_group": cluster.resource_group,
                "region": region,
                "size": environment.cache.size,
                "high_availability": environment.cache.high_availability,
            },
        ).url
    outputs: dict[str, pulumi.Output[Any]] = {
        "kubeconfig": cluster.kubeconfig,
        "identifier": cluster.identifier,
        "clientId": storage.client_id,
        "weights": pulumi.Output.concat("abfss://", storage.container, "@", storage.account, ".dfs.core.windows.net"),
        "registry": storage.registry,
    }
    return CloudSide(
        cluster_provider(cluster.kubeconfig, cluster.identifier, below),
        cache_url,
        outputs,
        storage.account,
        storage.container,
        cluster.resource_group,
    )


def placed(environment: Environment, side: CloudSide) -> Placement:
    """Pods act as the environment's identity, read weights through the blob driver, and tolerate spot nodes where they are asked for."""
    spot = environment.gpu is not None and environment.gpu.capacity == "spot"
    claim = {"persistentVolumeClaim": {"claimName": WEIGHTS_CLAIM, "readOnly": True}}
    return Placement(
        pod_labels={"azure.workload.identity/use": "true"},
        service_account_annotations={"azure.workload.identity/client-id": side.outputs["clientId"]},
        weights_volume=claim if buckets(environment) else None,
        tolerations=({"key": SPOT_TAINT, "operator": "Equal", "value": "spot", "effect": "NoSchedule"},) if spot else (),
    )
