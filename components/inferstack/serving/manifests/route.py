"""Gateway, route and the route's template; pure.

The route always names both slots; only weights move. `spec.rules` belongs to whoever moves weights: it renders them by
`route_rules(template, weights)` from the template that the environment's update owns, so that a change of a timeout or match reaches the
route without an update ever moving traffic.
"""

import json
from collections.abc import Iterator, Mapping
from math import ceil, gcd
from typing import Any

from inferstack.cluster.names import GATEWAY, ROUTE, ROUTE_TEMPLATE, component_labels, metadata, slot_name
from inferstack.environment import Environment, Platform, SlotName
from inferstack.serving.manifests.engines import profile
from inferstack.serving.manifests.groups import replica_groups

TEMPLATE_KEY = "rules.json"
TIER_HEADER = "X-Tier"
_CLASSES = {
    (Platform.GKE, True): "gke-l7-rilb",
    (Platform.GKE, False): "gke-l7-regional-external-managed",
    (Platform.AKS, True): "istio",
    (Platform.AKS, False): "istio",
}
"""GatewayClass by platform and whether the gateway is internal."""


def route_template(environment: Environment) -> list[dict[str, Any]]:
    """The route's rules without weights: each backend names its slot (`slot`) and its share of the slot's weight in percent (`share`)."""
    groups = replica_groups(environment)
    longest = f"{ceil(environment.gateway.timeout_seconds)}s"  # whole: a duration of the Gateway API has no fraction
    timeouts = {"request": longest, "backendRequest": longest}
    rules: list[dict[str, Any]] = []
    if len(groups) > 1:
        for group in groups:
            header = {"type": "Exact", "name": TIER_HEADER, "value": group.tier}
            rules.append(
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [header]}],
                    "timeouts": timeouts,
                    "backendRefs": [_backend(environment, slot, group.name, 100) for slot in SlotName],
                }
            )
    shared = [_backend(environment, slot, group.name, group.share) for slot in SlotName for group in groups]
    rules.append({"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "timeouts": timeouts, "backendRefs": shared})
    return rules


def route_rules(
    template: list[dict[str, Any]], weights: Mapping[str, int], cohort: tuple[str, str, str] | None = None
) -> list[dict[str, Any]]:
    """`spec.rules` for slot weights in percent, for instance `{"blue": 90, "green": 10}`; every backend is named at every weight.

    `cohort` (header name, value, slot) takes its requests to one slot by a rule before the others, made of the template's last rule.
    """
    if cohort is not None:
        name, value, slot = cohort
        header = {"type": "Exact", "name": name, "value": value}
        matches = [match | {"headers": [header]} for match in template[-1]["matches"]]
        first = route_rules([template[-1] | {"matches": matches}], {str(each): 100 if each == slot else 0 for each in SlotName})
        return first + route_rules(template, weights)
    return [rule | {"backendRefs": list(_weighted(rule["backendRefs"], weights))} for rule in template]


def _weighted(backends: list[dict[str, Any]], weights: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The backends with their weights: percent where a slot has one group, else at most 1,000, which is the most that a load balancer of
    Google's takes (Compute Engine API, `WeightedBackendService.weight`)."""
    shares = [backend["share"] for backend in backends]
    divisor = gcd(*shares) or 1
    if max(shares) > 10 * divisor:
        divisor = 10
    for backend in backends:
        whole = weights[backend["slot"]] * backend["share"]
        weight = max(1, round(whole / divisor)) if whole else 0
        yield {key: value for key, value in backend.items() if key not in ("slot", "share")} | {"weight": weight}


def _backend(environment: Environment, slot: SlotName, group: str, share: int) -> dict[str, Any]:
    backend: dict[str, Any] = {
        "group": "",
        "kind": "Service",
        "name": slot_name(slot, group),
        "port": environment.engine.port,
        "slot": str(slot),
        "share": share,
    }
    if not profile(environment.engine.kind).own_identity:
        identity = [{"name": "x-inferstack-slot", "value": str(slot)}]
        backend["filters"] = [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": identity}}]
    return backend


def route(environment: Environment) -> dict[str, Any]:
    """The HTTPRoute as it is first made: all weight on the initial slot."""
    weights = {str(slot): 100 if slot is environment.slots.initial else 0 for slot in SlotName}
    parent: dict[str, Any] = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}
    if environment.gateway.existing:
        namespace, _, name = environment.gateway.existing.partition("/")
        parent |= {"name": name, "namespace": namespace}
    spec: dict[str, Any] = {"parentRefs": [parent], "rules": route_rules(route_template(environment), weights)}
    if environment.gateway.hostname:
        spec["hostnames"] = [environment.gateway.hostname]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(ROUTE, environment.namespace, component_labels("route")),
        "spec": spec,
    }


def template_map(environment: Environment) -> dict[str, Any]:
    """The ConfigMap with the route's template."""
    content = json.dumps(route_template(environment), indent=2, sort_keys=True) + "\n"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(ROUTE_TEMPLATE, environment.namespace, component_labels("route")),
        "data": {TEMPLATE_KEY: content},
    }


def gateway(environment: Environment) -> dict[str, Any] | None:
    """The Gateway; None where an existing one is named."""
    wanted = environment.gateway
    if wanted.existing:
        return None
    tls = wanted.tls_secret is not None
    listener: dict[str, Any] = {
        "name": "https" if tls else "http",
        "protocol": "HTTPS" if tls else "HTTP",
        "port": wanted.port,
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
    if wanted.hostname:
        listener["hostname"] = wanted.hostname
    if tls:
        listener["tls"] = {"mode": "Terminate", "certificateRefs": [{"group": "", "kind": "Secret", "name": wanted.tls_secret}]}
    spec: dict[str, Any] = {
        "gatewayClassName": wanted.class_name or _CLASSES[environment.platform, wanted.internal],
        "listeners": [listener],
    }
    if environment.platform is Platform.AKS and environment.gateway.class_name in (None, "istio"):
        spec["infrastructure"] = {"annotations": _azure_annotations(wanted.port, wanted.internal)}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": metadata(GATEWAY, environment.namespace, component_labels("gateway")),
        "spec": spec,
    }


def _azure_annotations(port: int, internal: bool) -> dict[str, str]:
    """Annotations of the load balancer in front of Istio: a TCP probe, because `GET /` answers 404 and would take every node out."""
    prefix = "service.beta.kubernetes.io"
    found = {f"{prefix}/port_{port}_health-probe_protocol": "tcp"}
    return found | ({f"{prefix}/azure-load-balancer-internal": "true"} if internal else {})
