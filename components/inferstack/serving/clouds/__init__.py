"""The cloud side of an environment: what lies below its Kubernetes objects, and how a slot's stack finds it again.

A cloud's own module is imported only for its environments: its SDK is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from inferstack.cluster.names import slot_name
from inferstack.cluster.resources import provider
from inferstack.environment import Environment, Platform, SlotName
from inferstack.serving.manifests.engines import bucket
from inferstack.serving.manifests.groups import replica_groups
from inferstack.serving.manifests.pod import Placement


@dataclass(frozen=True)
class CloudSide:
    """What the Kubernetes side of an environment needs from below it."""

    provider: k8s.Provider
    cache_url: pulumi.Output[str] | None = None
    outputs: dict[str, pulumi.Output[Any]] = field(default_factory=dict)
    """What the stack exports: kubeconfig (a secret), identifier, and what pods are told about their identity."""
    storage_account: pulumi.Output[str] | None = None
    storage_container: pulumi.Output[str] | None = None
    storage_group: pulumi.Output[str] | None = None


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


def service_accounts(environment: Environment) -> list[str]:
    """Kubernetes service accounts of both slots."""
    return [slot_name(slot, group.name) for slot in SlotName for group in replica_groups(environment)]


def buckets(environment: Environment) -> list[str]:
    """Buckets or containers that the models come from."""
    return [found for model in environment.models if (found := bucket(model))]


def cluster_provider(kubeconfig: pulumi.Output[str], identifier: pulumi.Output[str], below: Sequence[pulumi.Resource] = ()) -> k8s.Provider:
    """The provider for a cluster that this environment makes, ready when its nodes are; the kubeconfig is kept as a secret."""
    secret: pulumi.Output[str] = pulumi.Output.secret(kubeconfig)
    return provider("kubernetes", kubeconfig=secret, identifier=identifier, depends_on=below)
