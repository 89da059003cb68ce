"""Objects that every environment's namespace has: isolation, bounds, priority; pure."""

from typing import Any

from inferstack.cluster.names import component_labels, metadata
from inferstack.environment import Environment


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
