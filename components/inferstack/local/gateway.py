"""Envoy's configuration: one listener, one cluster per slot, weights in a watched route file.

The same things that a Gateway and an HTTPRoute say on a cluster: both slots are always named, only weights move, a slot that is
not ready gets nothing, a stream is passed on as it comes and lives as long as the environment's longest request.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inferstack.environment import SlotName
from inferstack.promotion.weights import Cohort

ROUTE_CONFIG = "inferstack"
HEALTH_INTERVAL_SECONDS = 1
UPSTREAM_IDLE_SECONDS = 3
"""Idle connections to a slot are closed sooner than its server would (75 s; uvicorn 5 s), so that no request meets a closing one."""
MOST_CONNECTIONS = 65_536
"""Envoy's own ceiling of 1024 requests per cluster is below what a slot's bounded queue decides on."""
_TYPE = "type.googleapis.com/envoy"


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one environment."""

    gateway: int
    gateway_admin: int
    cache: int | None
    slots: Mapping[str, int]
    slot_metrics: Mapping[str, int]
    monitors: Mapping[str, int] = field(default_factory=dict)
    """Of the keeper, and of Prometheus and Alertmanager where they are installed."""

    def to_json(self) -> dict[str, Any]:
        return {
            "gateway": self.gateway,
            "gateway_admin": self.gateway_admin,
            "cache": self.cache,
            "slots": dict(self.slots),
            "slot_metrics": dict(self.slot_metrics),
            "monitors": dict(self.monitors),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Ports":
        return cls(data["gateway"], data["gateway_admin"], data["cache"], data["slots"], data["slot_metrics"], data.get("monitors", {}))


def cluster_name(slot: str) -> str:
    return f"inferstack-{slot}"


def bootstrap(environment: str, ports: Ports, routes: Path) -> dict[str, Any]:
    """Envoy's static configuration; everything but the weights."""
    return {
        "node": {"id": environment, "cluster": "inferstack"},
        "admin": {"address": _address(ports.gateway_admin)},
        "static_resources": {
            "listeners": [_listener(ports.gateway, routes)],
            "clusters": [_cluster(slot, ports.slots[slot]) for slot in SlotName],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": MOST_CONNECTIONS,
                    },
                }
            ]
        },
    }


def routes(weights: Mapping[str, int], timeout_seconds: float, cohort: Cohort | None = None) -> dict[str, Any]:
    """The watched route file for `weights` (percent, both slots, together 100); its version is a hash of its content.

    The last route takes every request; with a `cohort` another one stands before it.

    Raises ValueError for weights that are not that.
    """
    names = {str(slot) for slot in SlotName}
    if set(weights) != names or sum(weights.values()) != 100 or min(weights.values()) < 0:
        raise ValueError(
            f"weights must name {' and '.join(sorted(names))} with shares from 0 to 100 that add up to 100, not {dict(weights)}"
        )
    found = [_route({"prefix": "/"}, weights, timeout_seconds)]
    if cohort is not None:
        header = {"name": cohort.name.lower(), "string_match": {"exact": cohort.value}}
        all_to_it = {str(slot): 100 if slot == cohort.slot else 0 for slot in SlotName}
        found.insert(0, _route({"prefix": "/", "headers": [header]}, all_to_it, timeout_seconds))
    resource = {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": ROUTE_CONFIG,
        "virtual_hosts": [{"name": "inferstack", "domains": ["*"], "routes": found}],
    }
    version = hashlib.sha256(json.dumps(resource, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": version, "resources": [resource]}


def _route(match: dict[str, Any], weights: Mapping[str, int], timeout_seconds: float) -> dict[str, Any]:
    return {
        "match": match,
        "route": {
            "weighted_clusters": {"clusters": [{"name": cluster_name(slot), "weight": weights[slot]} for slot in SlotName]},
            "timeout": f"{timeout_seconds:g}s",
            "idle_timeout": f"{timeout_seconds:g}s",
            "retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2},
        },
    }


def read_weights(document: Mapping[str, Any]) -> dict[str, int]:
    """The weights that a route file sets."""
    return _weights(_routes(document)[-1])


def read_cohort(document: Mapping[str, Any]) -> Cohort | None:
    """The cohort that a route file sends to one slot."""
    first, *others = _routes(document)
    if not others:
        return None
    header = first["match"]["headers"][0]
    slot = next(slot for slot, weight in _weights(first).items() if weight == 100)
    return Cohort(header["name"], header["string_match"]["exact"], SlotName(slot))


def _routes(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["resources"][0]["virtual_hosts"][0]["routes"]
    return found


def _weights(route: Mapping[str, Any]) -> dict[str, int]:
    by_cluster = {item["name"]: int(item["weight"]) for item in route["route"]["weighted_clusters"]["clusters"]}
    return {str(slot): by_cluster[cluster_name(slot)] for slot in SlotName}


def applied_version(config_dump: Mapping[str, Any]) -> str | None:
    """The version of the routes that Envoy serves now, from its admin answer `/config_dump?resource=dynamic_route_configs`."""
    for item in config_dump.get("configs", []):
        if item.get("route_config", {}).get("name") == ROUTE_CONFIG:
            version = item.get("version_info")
            return str(version) if version else None
    return None


def cluster_healthy(clusters: Mapping[str, Any], slot: str) -> bool:
    """Whether every endpoint of the slot passes its health checks, from the admin answer `/clusters?format=json`."""
    hosts = [
        host
        for item in clusters.get("cluster_statuses", [])
        if item.get("name") == cluster_name(slot)
        for host in item.get("host_statuses", [])
    ]
    return bool(hosts) and all(host.get("health_status") == {"eds_health_status": "HEALTHY"} for host in hosts)


def _listener(port: int, routes: Path) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inferstack",
        "codec_type": "AUTO",
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "inferstack"},
        "rds": {
            "route_config_name": ROUTE_CONFIG,
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(routes), "watched_directory": {"path": str(routes.parent)}},
            },
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"}}
        ],
        "stream_idle_timeout": "0s",  # the route's own idle timeout holds
        "use_remote_address": True,
        "generate_request_id": True,
        "normalize_path": True,
        "merge_slashes": True,
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": "gateway", "address": _address(port), "enable_reuse_port": False, "filter_chains": [chain]}


def _cluster(slot: str, port: int) -> dict[str, Any]:
    options = {
        "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
    }
    limits = {"max_connections": MOST_CONNECTIONS, "max_pending_requests": MOST_CONNECTIONS, "max_requests": MOST_CONNECTIONS}
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": cluster_name(slot),
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": cluster_name(slot), "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "circuit_breakers": {"thresholds": [limits]},
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},  # a slot that is not ready gets nothing at all
            "update_merge_window": "0s",  # else a slot that fell and came back within a second stays without traffic for the rest of it
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": f"{HEALTH_INTERVAL_SECONDS}s",
                "no_traffic_interval": f"{HEALTH_INTERVAL_SECONDS}s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz"},
            }
        ],
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
