"""The cloud side of an environment on AKS."""

from typing import Any

import pulumi
import pulumi_azure_native as azure
import pulumi_kubernetes as k8s

from inferstack.cloud.aks.cache import AksCache
from inferstack.cloud.aks.cluster import AksCluster
from inferstack.cloud.aks.gateway import CONTROLLER_NAMESPACE, AksGateway
from inferstack.cloud.aks.pool import SPOT_TAINT, AksGpuPool, AksGpuPoolArgs
from inferstack.cloud.aks.storage import AksStorage
from inferstack.cluster.images import charts
from inferstack.environment import ALB_CLASS, Environment
from inferstack.planning.catalogue import zones
from inferstack.serving.clouds import CloudSide, buckets, cluster_provider, cluster_settings, pool_settings, service_accounts
from inferstack.serving.manifests.pod import Placement

WEIGHTS_CLAIM = "inferstack-weights"
_CHART_NAMESPACE = "azure-alb-helm"
"""Where the controller's release is recorded; the chart makes the controller's own namespace."""


def create(environment: Environment, name: str) -> CloudSide:
    """Cluster, GPU pool, weights and images, and the managed cache where one is asked for."""
    cloud, gpu, region = environment.cloud, environment.gpu, str(environment.region)
    by_gateway = environment.gateway.class_name == ALB_CLASS
    options = _subscription(cloud.subscription)
    cluster = AksCluster(
        name,
        {
            **cluster_settings(environment),
            "upgrade_channel": {"rapid": "rapid", "regular": "stable", "stable": "patch"}[cloud.release_channel],
            "managed_prometheus": environment.monitoring.backend == "azure",
            "production": environment.production,
            "zones": list(zones("aks").get(region, ())) if environment.production else [],
            "admin_group_ids": list(environment.cloud.admin_groups),
            "istio_gateway": not by_gateway,
            "more_cidrs": [cloud.network.gateway_cidr] if by_gateway else [],
        },
        options,
    )
    below: list[pulumi.Resource] = [cluster]
    if gpu:
        pool: AksGpuPoolArgs = {
            **pool_settings(environment, gpu),
            "resource_group": cluster.resource_group,
            "cluster": cluster.name,
            "subnet": cluster.subnet,
            "control_plane_identity": cluster.control_plane_identity,
        }
        below.append(AksGpuPool(f"{name}-gpu", pool, options))
    storage = AksStorage(
        name,
        {
            "resource_group": cluster.resource_group,
            "region": region,
            "oidc_issuer": cluster.oidc_issuer,
            "kubelet_identity": cluster.kubelet_identity,
            "namespace": environment.namespace,
            "service_accounts": service_accounts(environment),
            "container": next(iter(buckets(environment, "abfss")), "weights"),
            "zone_redundant": environment.production,
            "deletion_protection": cloud.deletion_protection,
        },
        options,
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
                "subnet": cluster.subnet,
                "clients": [storage.principal_id] if environment.cache.identity else [],
            },
            options,
        ).url
    kubernetes = cluster_provider(cluster.kubeconfig, cluster.identifier, below)
    gateway = _application_gateway(environment, name, cluster, kubernetes, options) if by_gateway else None
    outputs: dict[str, pulumi.Output[Any]] = {
        "kubeconfig": cluster.kubeconfig,
        "identifier": cluster.identifier,
        "clientId": storage.client_id,
        "weights": pulumi.Output.concat("abfss://", storage.container, "@", storage.account, ".dfs.core.windows.net"),
        "registry": storage.registry,
        "known": known(cluster, storage, gateway),
    }
    return CloudSide(
        kubernetes,
        cache_url,
        outputs=outputs,
        storage_account=storage.account,
        storage_container=storage.container,
        storage_group=cluster.resource_group,
        gateway=_gateway_object(gateway) if gateway else {},
    )


def _subscription(identifier: str | None) -> pulumi.ResourceOptions | None:
    """Options of everything in Azure where the environment names its subscription; else that of the provider's own configuration."""
    provider = azure.Provider("azure", subscription_id=identifier) if identifier else None
    return pulumi.ResourceOptions(provider=provider) if provider else None


def _application_gateway(
    environment: Environment, name: str, cluster: AksCluster, kubernetes: k8s.Provider, options: pulumi.ResourceOptions | None
) -> AksGateway:
    """Application Gateway for Containers and its controller."""
    made = AksGateway(
        f"{name}-gateway",
        {
            "resource_group": cluster.resource_group,
            "resource_group_id": cluster.group.id,
            "region": str(environment.region),
            "network": cluster.network,
            "subnet_cidr": environment.cloud.network.gateway_cidr,
            "oidc_issuer": cluster.oidc_issuer,
            "node_resource_group": cluster.node_resource_group,
        },
        options,
    )
    chart = charts()["alb_controller"]
    k8s.helm.v3.Release(
        "alb-controller",
        chart=chart["name"],
        version=chart["version"],
        namespace=_CHART_NAMESPACE,
        create_namespace=True,
        values={"albController": {"namespace": CONTROLLER_NAMESPACE, "podIdentity": {"clientID": made.client_id}}},
        opts=pulumi.ResourceOptions(provider=kubernetes, depends_on=[made]),
    )
    return made


def _gateway_object(made: AksGateway) -> dict[str, Any]:
    """What the Gateway object says of Application Gateway for Containers."""
    address = {"type": "alb.networking.azure.io/alb-frontend", "value": made.frontend}
    return {"metadata": {"annotations": {"alb.networking.azure.io/alb-id": made.gateway_id}}, "spec": {"addresses": [address]}}


def known(cluster: AksCluster, storage: AksStorage, gateway: AksGateway | None) -> pulumi.Output[dict[str, dict[str, str]]]:
    """What Azure said of the resources that Kubernetes objects refer to, so that these can be rendered without asking it again."""
    named = [cluster.group, storage.account_resource, storage.container_resource, *([gateway.entry] if gateway else [])]
    identified = [gateway.controller, gateway.association] if gateway else []
    return pulumi.Output.all(
        **{made.pulumi_resource_name: pulumi.Output.all(id=made.id) for made in identified},
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
        weights_volume=claim if buckets(environment, "abfss") else None,
        tolerations=({"key": SPOT_TAINT, "operator": "Equal", "value": "spot", "effect": "NoSchedule"},) if spot else (),
    )
