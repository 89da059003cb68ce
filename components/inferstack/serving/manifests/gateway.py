"""What a platform's gateway must be told about a slot's Service beside the route; pure."""

from math import ceil
from typing import Any

from inferstack.cluster.names import metadata, slot_labels, slot_name
from inferstack.environment import Environment, Platform, SlotName
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.groups import ReplicaGroup

GATEWAY_KINDS = ("GCPBackendPolicy", "HealthCheckPolicy")
_PROBE_SECONDS = 5


def gateway_policies(environment: Environment, slot: SlotName, group: ReplicaGroup) -> tuple[dict[str, Any], ...]:
    """On GKE the load balancer cuts a request after 30 s and probes `/` unless it is told otherwise; elsewhere nothing."""
    if environment.platform is not Platform.GKE:
        return ()
    name = slot_name(slot, group.name)
    target = {"group": "", "kind": "Service", "name": name}
    settings = {
        "timeoutSec": ceil(environment.gateway.timeout_seconds),
        "connectionDraining": {"drainingTimeoutSec": ceil(environment.drain.pre_stop_seconds + environment.drain.seconds)},
        "logging": {"enabled": True, "sampleRate": 100000},
    }
    probe = {
        "checkIntervalSec": _PROBE_SECONDS,
        "timeoutSec": 3,
        "healthyThreshold": 1,
        "unhealthyThreshold": 2,
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
