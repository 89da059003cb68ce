"""The cloud side of an environment on GKE."""

from typing import Any

import pulumi

from inferstack.cloud.gke.cache import GkeCache
from inferstack.cloud.gke.cluster import GkeCluster, GkeClusterArgs
from inferstack.cloud.gke.pool import GkeGpuPool, GkeGpuPoolArgs
from inferstack.cloud.gke.storage import GkeStorage, account_email
from inferstack.environment import Environment
from inferstack.planning import gpu_machine, placement, system_machine
from inferstack.serving.clouds import CloudSide, buckets, cluster_provider, service_accounts
from inferstack.serving.manifests.pod import Placement


def create(environment: Environment, name: str) -> CloudSide:
    """Cluster, GPU pool, weights and images, and the managed cache where one is asked for."""
    cloud, gpu, region = environment.cloud, environment.gpu, str(environment.region)
    project, protected = str(cloud.project), cloud.deletion_protection
    system = system_machine(environment)
    arguments: GkeClusterArgs = {
        "project": project,
        "region": region,
        "system_machine_type": system.name if system else str(cloud.system_machine_type),
        "system_min_nodes": cloud.system_nodes.min,
        "system_max_nodes": cloud.system_nodes.max,
        "node_cidr": cloud.network.cidr,
        "authorized_cidrs": list(cloud.network.authorized_cidrs),
        "release_channel": cloud.release_channel,
        "maintenance_start": cloud.maintenance_start,
        "deletion_protection": protected,
        "managed_prometheus": environment.monitoring.backend == "gmp",
    }
    if cloud.kubernetes_version:
        arguments["kubernetes_version"] = cloud.kubernetes_version
    cluster = GkeCluster(name, arguments)
    below: list[pulumi.Resource] = [cluster]
    if gpu:
        machine = gpu_machine(environment)
        pool: GkeGpuPoolArgs = {
            "project": project,
            "region": region,
            "cluster": cluster.name,
            "node_service_account": cluster.node_service_account,
            "accelerator": gpu.accelerator,
            "machine_type": machine.name if machine else str(gpu.machine_type),
            "gpus_per_node": placement.gpus_per_node(environment, machine) if machine else gpu.count,
            "capacity": gpu.capacity,
            "on_demand_floor": gpu.on_demand_floor,
            "min_nodes": gpu.min_nodes,
            "max_nodes": gpu.max_nodes,
            "zones": list(gpu.zones),
            "driver": gpu.driver,
            "sharing": gpu.sharing,
            "local_ssd": gpu.local_ssd,
            "compact_placement": gpu.compact_placement,
            "huge_pages": cloud.huge_pages,
        }
        if gpu.reservation:
            pool["reservation"] = gpu.reservation
        if gpu.partition:
            pool["partition"] = gpu.partition
        if gpu.image_disk:
            pool["image_disk"] = gpu.image_disk
        below.append(GkeGpuPool(f"{name}-gpu", pool))
    storage = GkeStorage(
        name,
        {
            "project": project,
            "region": region,
            "namespace": environment.namespace,
            "service_accounts": service_accounts(environment),
            "deletion_protection": protected,
        },
    )
    cache_url = None
    if environment.cache.backend == "managed":
        cache_url = GkeCache(
            f"{name}-cache",
            {
                "project": project,
                "region": region,
                "network": cluster.network,
                "subnetwork": cluster.subnetwork,
                "size": environment.cache.size,
                "high_availability": environment.cache.high_availability,
                "deletion_protection": protected,
            },
        ).url
    kubeconfig: pulumi.Output[str] = pulumi.Output.secret(cluster.kubeconfig)
    outputs: dict[str, pulumi.Output[Any]] = {
        "kubeconfig": kubeconfig,
        "identifier": cluster.identifier,
        "weights": pulumi.Output.concat("gs://", storage.bucket),
        "registry": storage.registry,
    }
    return CloudSide(cluster_provider(cluster.kubeconfig, cluster.identifier, below), cache_url, outputs)


def placed(environment: Environment, name: str) -> Placement:
    """Pods act as the environment's service account and read weights through Cloud Storage FUSE."""
    found = buckets(environment)
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": {"bucketName": "".join(found[:1])}}
    return Placement(
        pod_annotations={"gke-gcsfuse/volumes": "true"} if found else {},
        service_account_annotations={"iam.gke.io/gcp-service-account": account_email(name, str(environment.cloud.project))},
        weights_volume={"csi": csi} if found else None,
    )
