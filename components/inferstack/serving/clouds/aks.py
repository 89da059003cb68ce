"""The cloud side of an environment on AKS."""

from typing import Any

import pulumi

from inferstack.cloud.aks.cache import AksCache
from inferstack.cloud.aks.cluster import AksCluster
from inferstack.cloud.aks.pool import SPOT_TAINT, AksGpuPool, AksGpuPoolArgs
from inferstack.cloud.aks.storage import AksStorage
from inferstack.environment import Environment
from inferstack.planning.catalogue import zones
from inferstack.serving.clouds import CloudSide, buckets, cluster_provider, cluster_settings, pool_settings, service_accounts
from inferstack.serving.manifests.pod import Placement

WEIGHTS_CLAIM = "inferstack-weights"


def create(environment: Environment, name: str) -> CloudSide:
    """Cluster, GPU pool, weights and images, and the managed cache where one is asked for."""
    cloud, gpu, region = environment.cloud, environment.gpu, str(environment.region)
    cluster = AksCluster(
        name,
        {
            **cluster_settings(environment),
            "upgrade_channel": {"rapid": "rapid", "regular": "stable", "stable": "patch"}[cloud.release_channel],
            "managed_prometheus": environment.monitoring.backend == "azure",
            "production": environment.production,
            "zones": list(zones("aks").get(region, ())) if environment.production else [],
            "admin_group_ids": [],
        },
    )
    below: list[pulumi.Resource] = [cluster]
    if gpu:
        pool: AksGpuPoolArgs = {
            **pool_settings(environment, gpu),
            "resource_group": cluster.resource_group,
            "cluster": cluster.name,
            "subnet": cluster.subnet,
        }
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
            "deletion_protection": cloud.deletion_protection,
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
        "known": known(cluster, storage),
    }
    return CloudSide(
        cluster_provider(cluster.kubeconfig, cluster.identifier, below),
        cache_url,
        outputs=outputs,
        storage_account=storage.account,
        storage_container=storage.container,
        storage_group=cluster.resource_group,
    )


def known(cluster: AksCluster, storage: AksStorage) -> pulumi.Output[dict[str, dict[str, str]]]:
    """What Azure said of the resources that Kubernetes objects refer to, so that these can be rendered without asking it again."""
    named = (cluster.group, storage.account_resource, storage.container_resource)
    return pulumi.Output.all(
        **{made.pulumi_resource_name: pulumi.Output.all(name=made.name) for made in named},
        **{storage.identity.pulumi_resource_name: pulumi.Output.all(clientId=storage.client_id)},
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
