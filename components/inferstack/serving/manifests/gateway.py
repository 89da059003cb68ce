"""What a platform's gateway must be told about a slot's Service, and about the route, beside the route itself; pure."""

from math import ceil
from typing import Any

from inferstack.cluster.names import ROUTE, component_labels, metadata, slot_labels, slot_name
from inferstack.environment import ALB_CLASS, Environment, Platform, SlotName
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.groups import ReplicaGroup

GATEWAY_KINDS = ("GCPBackendPolicy", "HealthCheckPolicy")
_PROBE_SECONDS, _PROBE_TIMEOUT = 5, 3
_HEALTHY, _UNHEALTHY = 1, 2
_ALB = "alb.networking.azure.io/v1"


def gateway_policies(environment: Environment, slot: SlotName, group: ReplicaGroup) -> tuple[dict[str, Any], ...]:
    """What is said of a slot's Service.

    The load balancer of GKE cuts a request after 30 s and probes `/` unless it is told otherwise; Application Gateway for Containers
    probes `/` too. Other gateways follow the Service's endpoints.
    """
    if environment.platform is Platform.GKE:
        return _gke(environment, slot, group)
    return (_alb_probe(environment, slot, group),) if environment.gateway.class_name == ALB_CLASS else ()


def route_policy(environment: Environment) -> dict[str, Any] | None:
    """What is said of the route: Application Gateway for Containers cuts a request after 60 s unless it is told otherwise."""
    if environment.gateway.class_name != ALB_CLASS:
        return None
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": ROUTE}
    return {
        "apiVersion": _ALB,
        "kind": "RoutePolicy",
        "metadata": metadata(ROUTE, environment.namespace, component_labels("route")),
        "spec": {"targetRef": target, "default": {"timeouts": {"routeTimeout": f"{ceil(environment.gateway.timeout_seconds)}s"}}},
    }


def _alb_probe(environment: Environment, slot: SlotName, group: ReplicaGroup) -> dict[str, Any]:
    name = slot_name(slot, group.name)
    probe = {
        "interval": f"{_PROBE_SECONDS}s",
        "timeout": f"{_PROBE_TIMEOUT}s",
        "healthyThreshold": _HEALTHY,
        "unhealthyThreshold": _UNHEALTHY,
        "port": environment.engine.port,
        "http": {"path": profile(environment.engine.kind).ready_path, "match": {"statusCodes": [{"start": 200, "end": 299}]}},
    }
    return {
        "apiVersion": _ALB,
        "kind": "HealthCheckPolicy",
        "metadata": metadata(name, environment.namespace, slot_labels(slot, group.name)),
        "spec": {"targetRef": {"group": "", "kind": "Service", "name": name}, "default": probe},
    }


def _gke(environment: Environment, slot: SlotName, group: ReplicaGroup) -> tuple[dict[str, Any], ...]:
    name = slot_name(slot, group.name)
    target = {"group": "", "kind": "Service", "name": name}
    settings = {
        "timeoutSec": ceil(environment.gateway.timeout_seconds),
        "connectionDraining": {"drainingTimeoutSec": ceil(environment.drain.pre_stop_seconds + environment.drain.seconds)},
        "logging": {"enabled": True, "sampleRate": 100000},
    }
    probe = {
        "checkIntervalSec": _PROBE_SECONDS,
        "timeoutSec": _PROBE_TIMEOUT,
        "healthyThreshold": _HEALTHY,
        "unhealthyThreshold": _UNHEALTHY,
        "config": {
            "type": "HTTP",
            "httpHealthCheck": {"port": environment.engine.port, "requestPath": profile(environment.engine.kind).ready_path},
        },
    }
    return tuple(
        {
            "apiVersion": "networking.gke.io/v1",
            "kind": kind,
            "metadata": metadata(name, environment.namespace, slot_labels(slot, group.name)),
            "spec": {"default": default, "targetRef": target},
        }
        for kind, default in zip(GATEWAY_KINDS, (settings, probe), strict=True)
    )
