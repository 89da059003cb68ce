"""What every machine's API server gets at the start: custom resources, the Gateway controller's rights, metrics."""

from typing import Any

from machine.layout import NODE_ADDRESS, Machine

GATEWAY_CLASS = "traefik"


def gateway_class() -> list[dict[str, Any]]:
    """Traefik as Gateway API controller: its class, and what it may read and write."""
    rules = [
        {
            "apiGroups": [""],
            "resources": ["namespaces", "nodes", "services", "secrets", "configmaps", "pods"],
            "verbs": ["get", "list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["gateway.networking.k8s.io"], "resources": [f"{one}/status" for one in _WITH_STATUS], "verbs": ["update", "patch"]},
    ]
    return [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "traefik-gateway"}, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "traefik-gateway"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "traefik-gateway"},
            "subjects": [{"kind": "User", "name": "traefik", "apiGroup": "rbac.authorization.k8s.io"}],
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": GATEWAY_CLASS},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
    ]


_WITH_STATUS = ("gatewayclasses", "gateways", "httproutes", "grpcroutes", "tcproutes", "tlsroutes", "backendtlspolicies", "listenersets")


def metrics_service(m: Machine) -> list[dict[str, Any]]:
    """metrics-server, which runs on the node, as an aggregated API."""
    return aggregated("metrics-server", "metrics.k8s.io", "v1beta1", m.ports.metrics)


def aggregated(name: str, group: str, version: str, port: int) -> list[dict[str, Any]]:
    """The API `group/version` served by a program on the node, at ``port``."""
    namespace = "kube-system"
    of_service = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [of_service]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-node", "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{version}.{group}"},
            "spec": {
                "group": group,
                "version": version,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": name, "namespace": namespace},
            },
        },
    ]


def kwok_node(name: str, accelerators: int = 0) -> dict[str, Any]:
    """A node that exists only in the API server."""
    capacity: dict[str, str] = {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "200Gi"}
    if accelerators:
        capacity["nvidia.com/gpu"] = str(accelerators)
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"capacity": capacity, "allocatable": capacity},
    }
