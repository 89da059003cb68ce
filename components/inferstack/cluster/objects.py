"""Objects that every environment's namespace has: isolation, bounds, priority; pure."""

from typing import Any

from inferstack.cluster.names import GPU_RESOURCE, component_labels, metadata
from inferstack.environment import Environment, SlotName
from inferstack.planning.placement import gpus_per_pod, groups


def namespace(environment: Environment) -> dict[str, Any]:
    """The namespace, with the restricted pod security standard enforced."""
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": metadata(environment.namespace, None, component_labels("namespace") | restricted),
    }


def default_deny(environment: Environment) -> dict[str, Any]:
    """Nothing talks to anything that another policy does not allow."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("inferstack-default-deny", environment.namespace, component_labels("network")),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }


def gateway_policy(environment: Environment) -> dict[str, Any]:
    """A gateway whose proxies run as pods of this namespace (Istio, Envoy Gateway) may receive and forward requests."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("inferstack-gateway", environment.namespace, component_labels("network")),
        "spec": {
            "podSelector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "inferstack"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{}],
            "egress": [{}],
        },
    }


_OTHER_PODS = 16
"""Cache, monitoring and the proxies of a gateway that live in the namespace too, and what replaces them."""


def quota(environment: Environment) -> dict[str, Any]:
    """Bounds of the namespace: both slots at their most, each with one more replica while it rolls; a mistake cannot buy more GPUs."""
    stages, pods, gpus = environment.engine.pipeline_parallel, _OTHER_PODS, 0
    for group in groups(environment):
        most = len(SlotName) * (group.replicas.max + 1) * (stages if group.on_gpu else 1)
        pods += most
        gpus += most * gpus_per_pod(environment) if group.on_gpu else 0
    hard = {"pods": str(pods)} | ({f"requests.{GPU_RESOURCE}": str(gpus)} if gpus else {})
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": metadata("inferstack", environment.namespace, component_labels("quota")),
        "spec": {"hard": hard},
    }


def priority_class(environment: Environment) -> dict[str, Any]:
    """Serving pods go before batch work; only `production` environments get it, because it holds for the whole cluster."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": metadata(f"inferstack-{environment.namespace}-serving", None, component_labels("priority")),
        "value": 100000,
        "globalDefault": False,
        "description": "Serving pods of the inferstack namespace; above batch work, below what the cluster itself needs.",
    }
