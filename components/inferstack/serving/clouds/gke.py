"""The cloud side of an environment on GKE."""

from typing import Any

import pulumi

from inferstack.cloud.gke.cache import GkeCache
from inferstack.cloud.gke.cluster import GkeCluster
from inferstack.cloud.gke.pool import GkeGpuPool, GkeGpuPoolArgs
from inferstack.cloud.gke.storage import GkeStorage, account_email
from inferstack.cluster.storage import AUTHORITY_ENTRY
from inferstack.environment import Environment
from inferstack.planning import gpu_machine, placement
from inferstack.serving.clouds import CloudSide, buckets, cluster_provider, cluster_settings, pool_settings, service_accounts
from inferstack.serving.manifests.config import CACHE_SECRET_PATH
from inferstack.serving.manifests.pod import Placement


def create(environment: Environment, name: str) -> CloudSide:
    """Cluster, GPU pool, weights and images, and the managed cache where one is asked for."""
    cloud, gpu, region = environment.cloud, environment.gpu, str(environment.region)
    project, protected = str(cloud.project), cloud.deletion_protection
    cluster = GkeCluster(
        name,
        {
            **cluster_settings(environment),
            "project": project,
            "release_channel": cloud.release_channel,
            "managed_prometheus": environment.monitoring.backend == "gmp",
        },
    )
    below: list[pulumi.Resource] = [cluster]
    if gpu:
        machine = gpu_machine(environment)
        pool: GkeGpuPoolArgs = {
            **pool_settings(environment, gpu),
            "project": project,
            "region": region,
            "cluster": cluster.name,
            "node_service_account": cluster.node_service_account,
            "gpus_per_node": placement.gpus_per_node(environment, machine) if machine else gpu.count,
            "sharing": gpu.sharing,
            "local_ssd": gpu.local_ssd,
            "image_disk": gpu.image_disk or "",
            "compact_placement": gpu.compact_placement,
            "huge_pages": cloud.huge_pages,
        }
        below.append(GkeGpuPool(f"{name}-gpu", pool))
    storage = GkeStorage(
        name,
        {
            "project": project,
            "region": region,
            "namespace": environment.namespace,
            "service_accounts": service_accounts(environment),
            "readable_buckets": sorted(set(buckets(environment, "gs"))),
            "deletion_protection": protected,
        },
    )
    cache_url, authority = None, None
    if environment.cache.backend == "managed":
        cache = GkeCache(
            f"{name}-cache",
            {
                "project": project,
                "region": region,
                "network": cluster.network,
                "subnetwork": cluster.subnetwork,
                "size": environment.cache.size,
                "high_availability": environment.cache.high_availability,
                "clients": [storage.service_account] if environment.cache.identity else [],
                "deletion_protection": protected,
            },
        )
        # The authority signs for this instance alone, whose certificate names no address: to trust it is to know the instance.
        trust = f"?ssl_ca_certs={CACHE_SECRET_PATH}/{AUTHORITY_ENTRY}&ssl_check_hostname=false"
        cache_url, authority = pulumi.Output.concat(cache.url, trust), cache.certificates
    kubeconfig: pulumi.Output[str] = pulumi.Output.secret(cluster.kubeconfig)
    outputs: dict[str, pulumi.Output[Any]] = {
        "kubeconfig": kubeconfig,
        "identifier": cluster.identifier,
        "weights": pulumi.Output.concat("gs://", storage.bucket),
        "registry": storage.registry,
    }
    return CloudSide(cluster_provider(cluster.kubeconfig, cluster.identifier, below), cache_url, authority, outputs)


def placed(environment: Environment, name: str) -> Placement:
    """Pods act as the environment's service account and read weights through Cloud Storage FUSE."""
    found = buckets(environment, "gs")
    # Folders of a bucket are parts of names: without implicit-dirs only those with an object of their own would be seen.
    attributes = {"bucketName": "".join(found[:1]), "mountOptions": "implicit-dirs"}
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": attributes}
    return Placement(
        pod_annotations={"gke-gcsfuse/volumes": "true"} if found else {},
        service_account_annotations={"iam.gke.io/gcp-service-account": account_email(name, str(environment.cloud.project))},
        weights_volume={"csi": csi} if found else None,
    )
