"""What reaches what: policies around every pod, no way in without encryption and authentication."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.rules.clusters import is_open
from inferstack_policies.shapes import WORKLOADS, at, labels_of_templates, mapping, number, selects, sequence, words

_AZURE_INTERNAL = "service.beta.kubernetes.io/azure-load-balancer-internal"
_INTERNAL = {
    "networking.gke.io/load-balancer-type": "internal",
    "cloud.google.com/load-balancer-type": "internal",
    _AZURE_INTERNAL: "true",
    "service.beta.kubernetes.io/aws-load-balancer-scheme": "internal",
    "service.beta.kubernetes.io/aws-load-balancer-internal": "true",
}
"""What each cloud must be told for a load balancer without a public address."""
_PUBLIC_CLASSES = ("external", "gxlb", "azure-alb")
_INTERNAL_CLASSES = ("rilb", "internal", "private")
_INGRESS_TLS = (
    "networking.gke.io/managed-certificates",
    "ingress.gcp.kubernetes.io/pre-shared-cert",
    "appgw.ingress.kubernetes.io/appgw-ssl-certificate",
    "alb.ingress.kubernetes.io/certificate-arn",
)
_INGRESS_INTERNAL = {"appgw.ingress.kubernetes.io/use-private-ip": "true", "alb.ingress.kubernetes.io/scheme": "internal"}
"""Where an Ingress says that it has a certificate, or no public address, in the words of its controller."""
_LAST_PORT = 65_535
_RETIRED_CLASSES = ("nginx", "addon-http-application-routing", "webapprouting.kubernetes.azure.com")


def _kinds(policy: Resource) -> set[str]:
    """What a NetworkPolicy holds; without `policyTypes` Ingress, and Egress where it has such rules."""
    types = at(policy.props, "spec", "policyTypes")
    if types is None:
        return {"Ingress", "Egress"} if sequence(at(policy.props, "spec", "egress")) else {"Ingress"}
    return words(types)


def covered(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    policies = [r for r in resources if r.kind == "NetworkPolicy" and r.is_kubernetes]
    for workload in (r for r in resources if r.kind in WORKLOADS and r.is_kubernetes):
        near = [p for p in policies if p.namespace == workload.namespace]
        missing: set[str] = set()
        for labels in labels_of_templates(workload):
            own = [p for p in near if selects(at(p.props, "spec", "podSelector") or {}, labels)]
            missing |= {"Ingress", "Egress"} - {kind for p in own for kind in _kinds(p)}
            missing |= {kind for p in own for kind in _kinds(p) if _lets_all(p, kind)}
        if missing:
            yield Finding(workload, "", f"no NetworkPolicy holds the pods' {' and '.join(sorted(missing, reverse=True)).lower()}.")


def _lets_all(policy: Resource, kind: str) -> bool:
    """A rule that narrows neither peers nor ports opens the pods to everything, whatever other policies say."""
    peers = "from" if kind == "Ingress" else "to"
    return any(
        _any_peer(sequence(mapping(rule).get(peers))) and _any_port(sequence(mapping(rule).get("ports")))
        for rule in sequence(at(policy.props, "spec", kind.lower()))
    )


def _any_peer(peers: Sequence[Any]) -> bool:
    """No peer is named, or one that is everything: the internet, or all pods of all namespaces."""
    return not peers or any(
        _everything(peer.get("namespaceSelector")) and ("podSelector" not in peer or _everything(peer.get("podSelector")))
        if "namespaceSelector" in peer
        else is_open(str(at(peer, "ipBlock", "cidr"))) and not sequence(at(peer, "ipBlock", "except"))
        for peer in map(mapping, peers)
    )


def _any_port(ports: Sequence[Any]) -> bool:
    return not ports or any(
        port.get("port") is None or (number(port.get("port")) in (0, 1) and (number(port.get("endPort")) or 0) >= _LAST_PORT)
        for port in map(mapping, ports)
    )


def _everything(selector: Any) -> bool:
    return not mapping(at(selector, "matchLabels")) and not sequence(at(selector, "matchExpressions"))


def default_deny(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    policies = [r for r in resources if r.kind == "NetworkPolicy" and r.is_kubernetes]
    for namespace in (r for r in resources if r.kind == "Namespace" and r.is_kubernetes):
        denying = [
            p
            for p in policies
            if p.namespace == namespace.object_name
            and _everything(at(p.props, "spec", "podSelector"))
            and not sequence(at(p.props, "spec", "ingress"))
            and not sequence(at(p.props, "spec", "egress"))
        ]
        kinds = {kind for p in denying for kind in _kinds(p)}
        if not {"Ingress", "Egress"} <= kinds:
            yield Finding(namespace, "", "what no policy names is allowed in the namespace.")


def public_service(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    kind = at(r.props, "spec", "type")
    annotations = mapping(r.metadata.get("annotations"))
    if kind == "LoadBalancer" and not _says(annotations, _INTERNAL):
        yield "spec.type", "a public load balancer leads to the pods past the gateway's TLS and limits."
    if kind == "NodePort":
        yield "spec.type", "every node opens a port that leads to the pods past the gateway."
    if sequence(at(r.props, "spec", "externalIPs")):
        yield "spec.externalIPs", "whoever sets external addresses can take over traffic of others."


def _says(annotations: Any, expected: Mapping[str, str]) -> bool:
    return any(str(mapping(annotations).get(key, "")).lower() == value for key, value in expected.items())


def encrypted(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    """A class is public by its name, or by the cloud that it is on; of another nobody can tell from the manifest."""
    if r.kind == "Ingress":
        yield from _ingress_encrypted(r)
        return
    name = str(at(r.props, "spec", "gatewayClassName") or "")
    inside = _says(at(r.props, "spec", "infrastructure", "annotations"), _INTERNAL) or any(part in name for part in _INTERNAL_CLASSES)
    by_load_balancer = context.platform == "aks" and name == "istio"
    if inside or not (by_load_balancer or any(part in name for part in _PUBLIC_CLASSES)):
        return
    for i, listener in enumerate(sequence(at(r.props, "spec", "listeners"))):
        if mapping(listener).get("protocol") in ("HTTP", "TCP", "UDP"):
            yield f"spec.listeners[{i}].protocol", f"the public listener of {name} is not encrypted: keys cross the internet readable."


def _ingress_encrypted(r: Resource) -> Iterator[tuple[str, str]]:
    annotations = mapping(r.metadata.get("annotations"))
    name = str(at(r.props, "spec", "ingressClassName") or annotations.get("kubernetes.io/ingress.class") or "")
    inside = _says(annotations, _INGRESS_INTERNAL) or any(part in name for part in _INTERNAL_CLASSES)
    if not inside and not sequence(at(r.props, "spec", "tls")) and not any(annotations.get(key) for key in _INGRESS_TLS):
        yield "spec.tls", "the Ingress names no certificate: keys cross the internet readable."


def shared_listener(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for i, listener in enumerate(sequence(at(r.props, "spec", "listeners"))):
        if at(listener, "allowedRoutes", "namespaces", "from") == "All":
            yield f"spec.listeners[{i}].allowedRoutes", "any namespace may attach a route, and take traffic of this host."


def retired(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind in ("Ingress", "IngressClass"):
        name = at(r.props, "spec", "ingressClassName") or mapping(r.metadata.get("annotations")).get("kubernetes.io/ingress.class") or ""
        if r.kind == "IngressClass":
            controlled = at(r.props, "spec", "controller") == "k8s.io/ingress-nginx"
            name = "nginx" if controlled else r.object_name
        if any(part in str(name) for part in _RETIRED_CLASSES):
            yield "spec.ingressClassName", f"`{name}`: Ingress-NGINX gets no fixes since March 2026."
    if r.type.startswith("azure-native:redis:") or r.type.startswith("azure-native:cache:"):
        yield "", "Azure Cache for Redis is being retired."
    if r.kind == "PodSecurityPolicy":
        yield "", "PodSecurityPolicy left Kubernetes with 1.25."


RULES = (
    Rule(
        "network-policy",
        "error",
        "A pod without a policy talks to everything in the cluster.",
        "Add a NetworkPolicy for its labels, Ingress and Egress.",
        ("CKV2_K8S_6", "kube-score:pod-networkpolicy"),
        check_stack=covered,
    ),
    Rule(
        "network-default-deny",
        "error",
        "New pods must start closed.",
        "Add a NetworkPolicy with an empty podSelector and no rules.",
        (),
        check_stack=default_deny,
    ),
    Rule(
        "service-public",
        "error",
        "The gateway is the one way in: it has TLS, keys are checked behind it, limits hold.",
        "Use type ClusterIP behind the gateway, or an internal load balancer.",
        ("kube-score:service-type", "KSV-0108"),
        frozenset({"Service"}),
        public_service,
    ),
    Rule(
        "gateway-encrypted",
        "error",
        "API keys are bearer tokens: who reads one has it.",
        "Give the listener TLS (gateway.tls_secret), or use an internal class.",
        (),
        frozenset({"Gateway", "Ingress"}),
        encrypted,
    ),
    Rule(
        "gateway-shared",
        "error",
        "A listener is a name that clients trust.",
        "Allow routes from: Same or Selector.",
        (),
        frozenset({"Gateway"}),
        shared_listener,
    ),
    Rule(
        "service-retired",
        "error",
        "What is retired gets no fixes, then stops.",
        "Use the Gateway API, Azure Managed Redis, Pod Security Admission.",
        (),
        frozenset({"Ingress", "IngressClass", "Redis", "PodSecurityPolicy"}),
        retired,
    ),
)
