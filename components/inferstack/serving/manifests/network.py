"""Who may talk to a slot's pods, and to whom they may talk; pure."""

from typing import Any
from urllib.parse import urlsplit

from inferstack.cluster.names import COMPONENT_LABEL, component_labels, metadata, slot_labels, slot_name, worker_component
from inferstack.environment import METRICS_PORT, Environment, SlotName
from inferstack.serving.manifests.distributed import distributed
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.groups import ReplicaGroup

_METADATA_SERVERS = ("169.254.169.254/32", "169.254.169.252/32")
"""Identity of a pod on GKE (the node's metadata server) and on Azure's instances."""


def slot_policy(environment: Environment, slot: SlotName, group: ReplicaGroup) -> dict[str, Any]:
    """The slot's NetworkPolicy.

    In: the API from anywhere, because the proxies of a cloud's gateway have no pod to select, and every request needs a key; metrics from
    the cluster only. Out: names, the cache, HTTPS for weights and key sets, the ports that the addresses of key sets and traces name, and a
    cloud's metadata server. The pods of a replica that spans nodes talk to each other on whatever ports their libraries choose.
    """
    engine = profile(environment.engine.kind)
    ingress: list[dict[str, Any]] = [{"ports": [tcp(environment.engine.port)]}]
    if engine.own_metrics_port:
        ingress.append({"from": [{"namespaceSelector": {}}], "ports": [tcp(METRICS_PORT)]})
    egress: list[dict[str, Any]] = [dns(), {"ports": [tcp(443)]}]
    if environment.cache.backend == "cluster":
        egress.append({"to": [{"podSelector": {"matchLabels": component_labels("cache")}}], "ports": [tcp(6379)]})
    if environment.cache.backend in ("managed", "external"):
        egress.append({"ports": [tcp(6379), tcp(6380), tcp(10000)]})
    named = {port_of(url) for url in (environment.monitoring.otlp_endpoint, environment.access.jwks_url) if url} - {443}
    if named:
        egress.append({"ports": [tcp(port) for port in sorted(named)]})
    if environment.platform in ("gke", "aks"):
        egress.append({"to": [{"ipBlock": {"cidr": cidr}} for cidr in _METADATA_SERVERS], "ports": [tcp(80), tcp(988)]})
    labels = slot_labels(slot, group.name)
    pods: dict[str, Any] = {"matchLabels": labels}
    if distributed(environment, group):
        both = {"key": COMPONENT_LABEL, "operator": "In", "values": [labels[COMPONENT_LABEL], worker_component(group.name)]}
        shared = {key: value for key, value in labels.items() if key != COMPONENT_LABEL}
        pods = {"matchLabels": shared, "matchExpressions": [both]}
        ingress.append({"from": [{"podSelector": pods}]})
        egress.append({"to": [{"podSelector": pods}]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(slot_name(slot, group.name), environment.namespace, labels),
        "spec": {"podSelector": pods, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress},
    }


def dns() -> dict[str, Any]:
    """The egress rule for name resolution."""
    return {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def port_of(url: str) -> int:
    """The port that an address of HTTP names, or that of its scheme."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def tcp(port: int) -> dict[str, Any]:
    """One port of a rule."""
    return {"protocol": "TCP", "port": port}
