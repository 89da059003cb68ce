"""What reaches what: policies around every pod, no way in without encryption and authentication."""

from collections.abc import Iterator, Sequence

from inferstack_policies.model import Context, Finding, Resource, Rule
from inferstack_policies.shapes import WORKLOADS, at, labels_of_templates, mapping, selects, sequence, words

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
            own = [p for p in near if selects(at(p.props, "spec", "podSelector"), labels)]
            missing |= {"Ingress", "Egress"} - {kind for p in own for kind in _kinds(p)}
            missing |= {kind for p in own for kind in _kinds(p) if _lets_all(p, kind)}
        if missing:
            yield Finding(workload, "", f"no NetworkPolicy holds the pods' {' and '.join(sorted(missing, reverse=True)).lower()}.")


def _lets_all(policy: Resource, kind: str) -> bool:
    """A rule without a word about peers and ports opens the pods to everything, whatever other policies say."""
    return any(not mapping(rule) for rule in sequence(at(policy.props, "spec", kind.lower())))


def default_deny(resources: Sequence[Resource], _: Context) -> Iterator[Finding]:
    policies = [r for r in resources if r.kind == "NetworkPolicy" and r.is_kubernetes]
    for namespace in (r for r in resources if r.kind == "Namespace" and r.is_kubernetes):
        denying = [
            p
            for p in policies
            if p.namespace == namespace.object_name
            and not mapping(at(p.props, "spec", "podSelector"))
            and not sequence(at(p.props, "spec", "ingress"))
            and not sequence(at(p.props, "spec", "egress"))
        ]
        kinds = {kind for p in denying for kind in _kinds(p)}
        if not {"Ingress", "Egress"} <= kinds:
            yield Finding(namespace, "", "what no policy names is allowed in the namespace.")


def public_service(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    kind = at(r.props, "spec", "type")
    annotations = mapping(r.metadata.get("annotations"))
    internal = any(str(annotations.get(key, "")).lower() == value for key, value in _INTERNAL.items())
    if kind == "LoadBalancer" and not internal:
        yield "spec.type", "a public load balancer leads to the pods past the gateway's TLS and limits."
    if kind == "NodePort":
        yield "spec.type", "every node opens a port that leads to the pods past the gateway."
    if sequence(at(r.props, "spec", "externalIPs")):
        yield "spec.externalIPs", "whoever sets external addresses can take over traffic of others."


def encrypted(r: Resource, context: Context) -> Iterator[tuple[str, str]]:
    name = str(at(r.props, "spec", "gatewayClassName") or "")
    inside = str(at(r.props, "spec", "infrastructure", "annotations", _AZURE_INTERNAL)).lower() == "true"
    by_load_balancer = context.platform == "aks" and name == "istio" and not inside
    if not by_load_balancer and not any(part in name for part in _PUBLIC_CLASSES):
        return
    for i, listener in enumerate(sequence(at(r.props, "spec", "listeners"))):
        if mapping(listener).get("protocol") in ("HTTP", "TCP", "UDP"):
            yield f"spec.listeners[{i}].protocol", f"the public listener of {name} is not encrypted: keys cross the internet readable."


def shared_listener(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    for i, listener in enumerate(sequence(at(r.props, "spec", "listeners"))):
        if at(listener, "allowedRoutes", "namespaces", "from") == "All":
            yield f"spec.listeners[{i}].allowedRoutes", "any namespace may attach a route, and take traffic of this host."


def retired(r: Resource, _: Context) -> Iterator[tuple[str, str]]:
    if r.kind in ("Ingress", "IngressClass"):
        name = at(r.props, "spec", "ingressClassName") or mapping(r.metadata.get("annotations")).get("kubernetes.io/ingress.class") or ""
        if r.kind == "IngressClass":
            name = r.object_name
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
        ("kube-score:service-type", "KSV0108"),
        frozenset({"Service"}),
        public_service,
    ),
    Rule(
        "gateway-encrypted",
        "error",
        "API keys are bearer tokens: who reads one has it.",
        "Give the listener TLS (gateway.tls_secret), or use an internal class.",
        (),
        frozenset({"Gateway"}),
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
