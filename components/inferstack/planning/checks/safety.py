"""Is it safe to run: hashes, protection, the way in, the control plane, tiers."""

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from inferstack.environment import ALB_CLASS, ENGINE_IMAGES, UNMEASURED, Environment, Platform
from inferstack.planning import placement
from inferstack.planning.findings import Finding

_WIDEST = 8
"""Bits of the widest range of addresses that one owner can have."""
_OLDEST_MINOR = 30
"""Of Kubernetes 1, the first that knows a sleep before the stop without a feature gate (KEP-3960)."""
_PRIVATE = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
"""RFC 1918 and RFC 6598."""
_PODS, _SERVICES, _PROXIES = (ipaddress.IPv4Network(text) for text in ("10.64.0.0/14", "10.68.0.0/20", "10.69.0.0/23"))
"""What the clusters of both clouds give to pods and services, and GKE to the proxies of its load balancers."""
_AZURE_OWN = {
    f"Azure itself ({text})": ipaddress.IPv4Network(text) for text in ("169.254.0.0/16", "172.30.0.0/16", "172.31.0.0/16", "192.0.2.0/24")
}
"""No network of an AKS cluster may have these (learn.microsoft.com/azure/aks/configure-kubenet, IP address planning)."""


def hashes(e: Environment) -> Iterator[Finding]:
    """Models are known by their hash in production."""
    for i, model in enumerate(e.models):
        if e.production and not model.digest:
            message = f"`{model.name}` has no digest: other weights could be served under the same name."
            yield Finding("model-hash", "error", f"models[{i}].digest", message, "set digest to the sha256 of the weights file.")


def production(e: Environment) -> Iterator[Finding]:
    """Production keeps a replica when one leaves, and refuses to be deleted."""
    if not e.production:
        return
    for group in placement.groups(e):
        low, path = group.replicas.min, f"{group.path}.replicas.min"
        if low < 2:
            message = "one replica leaves with its node, and nothing serves." if low else "production may go to zero replicas."
            yield Finding("production-replicas", "error", path, message, f"set {path} to 2 or more.")
    if e.platform in (Platform.GKE, Platform.AKS) and not e.cloud.deletion_protection:
        message = "cluster, bucket and registry of production can be deleted."
        yield Finding("production-unprotected", "error", "cloud.deletion_protection", message, "set cloud.deletion_protection to true.")


def way_in(e: Environment) -> Iterator[Finding]:
    """What the internet reaches is encrypted."""
    if not e.gateway.internal and not e.gateway.tls_secret and not e.gateway.existing:
        message = "the gateway is public and its listener is plain HTTP: API keys would cross the internet readable."
        yield Finding("public-without-tls", "error", "gateway.tls_secret", message, "set gateway.tls_secret, or gateway.internal to true.")
    elif e.gateway.port == 443 and not e.gateway.tls_secret and not e.gateway.existing:
        message = "the listener on port 443 is plain HTTP: clients that speak TLS there get no answer."
        yield Finding("port-without-tls", "warning", "gateway.port", message, "set gateway.tls_secret, or another gateway.port.")


def key_sets(e: Environment) -> Iterator[Finding]:
    """Keys that JWTs are checked with come from somebody who can prove who they are, or from inside the cluster."""
    url = urlsplit(e.access.jwks_url or "")
    host = url.hostname or ""
    inside = host in ("localhost", "127.0.0.1") or host.endswith((".svc", ".svc.cluster.local")) or "." not in host
    if url.scheme == "http" and not inside and e.engine.kind not in ENGINE_IMAGES:  # which read no key set
        message = f"the key set of `{host}` is fetched in plain HTTP: whoever stands between can sign any token."
        fix = "use an https:// address."
        yield Finding("key-set-without-tls", "error" if e.production else "warning", "access.jwks_url", message, fix)


def control_plane(e: Environment) -> Iterator[Finding]:
    """The control plane is not open to everybody, and is not older than the objects need."""
    if e.platform not in (Platform.GKE, Platform.AKS):
        return
    gke = e.platform is Platform.GKE
    for i, text in enumerate(e.cloud.network.authorized_cidrs):
        path = f"cloud.network.authorized_cidrs[{i}]"
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            yield Finding("cidr-invalid", "error", path, f"`{text}` is no address range: {error}.", f"write {_ranges(text)}.")
            continue
        if network.version == 6:
            message = f"`{text}` is an IPv6 range, and the control plane's address is IPv4."
            yield Finding("cidr-invalid", "error", path, message, "name the IPv4 range of the same place.")
        elif network.prefixlen < _WIDEST:
            message = f"`{text}` lets everybody reach the control plane."
            yield Finding(
                "control-plane-open",
                "error",
                path,
                message,
                "name the ranges of your offices and runners" + (", or leave the list empty (IAM only)." if gke else "."),
            )
    version = e.cloud.kubernetes_version
    if version:
        form = re.fullmatch(r"1\.(\d{1,2})(\.\d{1,3}(-gke\.\d+)?)?", version)
        if form is None or int(form[1]) < _OLDEST_MINOR:
            message = f"`{version}` is no Kubernetes version of 1.{_OLDEST_MINOR} or newer, whose pods can sleep before they stop."
            yield Finding(
                "kubernetes-too-old",
                "error",
                "cloud.kubernetes_version",
                message,
                'leave it out (the release channel chooses), or name a supported minor version in quotes ("1.33": YAML reads 1.30 as 1.3).',
            )


def _ranges(text: str) -> str:
    """The ranges that were probably meant: the network, or the one address."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        return "it as 203.0.113.0/24"
    return f"{address.network} or {address.ip}/{address.max_prefixlen}"


def administrators(e: Environment) -> Iterator[Finding]:
    """AKS without local accounts obeys whom Entra ID knows; owning the subscription gives no right to the objects in a cluster."""
    if e.platform is Platform.AKS and not e.cloud.admin_groups and e.layer.value != "slot":
        message = "no group administers the cluster: whoever runs `pulumi up` needs a role on Kubernetes objects from elsewhere."
        fix = "name a group, or assign the role Azure Kubernetes Service RBAC Cluster Admin (see docs/guide/clouds.md)."
        yield Finding("administrators-unset", "info", "cloud.admin_groups", message, fix)


def network_range(e: Environment) -> Iterator[Finding]:
    """The nodes' address range is one, and has room."""
    path, text = "cloud.network.cidr", e.cloud.network.cidr
    if e.platform not in (Platform.GKE, Platform.AKS):
        return
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        yield Finding("cidr-invalid", "error", path, f"`{text}` is no address range: {error}.", f"write {_ranges(text)}.")
        return
    if not any(network.subnet_of(private) for private in _PRIVATE):
        message = f"`{text}` is not private: nodes could not reach the hosts of the internet that have these addresses."
        yield Finding("cidr-public", "warning", path, message, "use a range of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10.")
    taken = {"pods": _PODS, "services": _SERVICES} | ({"its load balancers": _PROXIES} if e.platform is Platform.GKE else _AZURE_OWN)
    for use, other in taken.items():
        if network.overlaps(other):
            message = f"`{text}` overlaps {other}, where the addresses of {use} are."
            yield Finding("cidr-overlap", "error", path, message, "use a range outside 10.64.0.0/13, for instance 10.0.0.0/16.")
            return
    yield from _gateway_range(e, network)
    wanted = e.cloud.system_nodes.max + (e.gpu.max_nodes + e.gpu.on_demand_floor if e.gpu else 0)
    if network.num_addresses - 5 < 2 * wanted:
        message = f"`{text}` has {network.num_addresses} addresses, too few for {wanted} nodes, as many surge nodes and 5 reserved ones."
        yield Finding("cidr-too-small", "error", path, message, "use a /24 or larger, for instance 10.0.0.0/16.")


def _gateway_range(e: Environment, nodes: ipaddress.IPv4Network) -> Iterator[Finding]:
    """Application Gateway for Containers has a /24 or more of its own, beside nodes, pods and services."""
    if e.platform is not Platform.AKS or e.gateway.class_name != ALB_CLASS:
        return
    path, text = "cloud.network.gateway_cidr", e.cloud.network.gateway_cidr
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        yield Finding("cidr-invalid", "error", path, f"`{text}` is no address range: {error}.", f"write {_ranges(text)}.")
        return
    if network.prefixlen > 24:
        yield Finding("cidr-too-small", "error", path, f"`{text}` is smaller than a /24, which the gateway needs.", "use a /24.")
    for use, other in {"nodes": nodes, "pods": _PODS, "services": _SERVICES}.items():
        if network.overlaps(other):
            message = f"`{text}` overlaps {other}, where the addresses of {use} are."
            yield Finding("cidr-overlap", "error", path, message, "use a /24 outside them, for instance 10.70.0.0/24.")
            return


def tiers(e: Environment) -> Iterator[Finding]:
    """Untagged requests go somewhere, and both tiers together get all of them."""
    weights: dict[str, int] = {}
    for model in e.models:
        weights[model.tier] = max(weights.get(model.tier, 0), model.weight)
    if len(weights) > 1 and sum(weights.values()) != 100:
        shares = ", ".join(f"{tier} {weight}" for tier, weight in sorted(weights.items()))
        message = f"the tiers' shares of untagged requests are {shares}: together {sum(weights.values())}, not 100."
        yield Finding(
            "tier-weights", "error", "models", message, "set weight so that fast and quality add up to 100, for instance 80 and 20."
        )
    elif len(weights) == 1 and not any(weights.values()):
        yield Finding(
            "tier-weights", "error", "models", "every model has weight 0: untagged requests have nowhere to go.", "set weight to 100."
        )


def cache(e: Environment) -> Iterator[Finding]:
    """The managed cache is the engine that the cloud has, and semantic search has a vector index."""
    if e.cache.backend == "managed" and e.platform is Platform.AKS and e.cache.engine == "valkey":
        message = "the managed cache of Azure is Redis."
        yield Finding("cache-engine", "error", "cache.engine", message, "set cache.engine to redis, or cache.backend to cluster.")
    if e.cache.backend == "managed" and e.platform is Platform.GKE and e.cache.engine == "redis":
        message = "the managed cache that GKE environments use is Memorystore for Valkey."
        yield Finding("cache-engine", "error", "cache.engine", message, "set cache.engine to valkey, or cache.backend to cluster.")
    if (
        e.cache.backend in ("none", "process")
        and e.engine.kind not in ENGINE_IMAGES
        and e.platform is not Platform.LOCAL
        and e.slots.replicas.max > 1
    ):
        message = "without a shared cache every replica counts requests and tokens for itself: a key gets its limits once per replica."
        yield Finding("limits-not-shared", "warning", "cache.backend", message, "use cache.backend cluster or managed.")


def engine_image(e: Environment) -> Iterator[Finding]:
    """What this kit's own engines do beside inference, an engine image does not."""
    if e.engine.kind not in ENGINE_IMAGES:
        return
    if e.engine.kind == "openai" and not e.gateway.internal:
        message = "the gateway is public, and what key an image of kind openai checks, if any, is not known."
        fix = "set gateway.internal to true, or use kind vllm, sglang or llamacpp, which are given a key."
        yield Finding("engine-without-keys", "error" if e.production else "warning", "engine.kind", message, fix)
    if e.engine.kind in UNMEASURED:
        message = f"an image of kind {e.engine.kind} reports neither requests nor times of tokens: gates of a promotion stay inconclusive."
        fix = "use engine.kind native, vllm or sglang where versions are promoted; else bring new ones in by `pulumi up`."
        yield Finding("gates-unmeasured", "info", "engine.kind", message, fix)
    if e.cache.backend not in ("none", "process"):
        message = f"an engine image of kind {e.engine.kind} uses no response cache, and counts no requests in one: it would stand idle."
        yield Finding("cache-unused", "warning", "cache.backend", message, "leave cache.backend out, or use engine.kind native.")


CHECKS = (administrators, engine_image, hashes, production, way_in, key_sets, control_plane, network_range, tiers, cache)
