"""Is it safe to run: digests, protection, the way in, the control plane, tiers."""

import ipaddress
import re
from collections.abc import Iterator

from inferstack.environment import Environment, Platform
from inferstack.planning import placement
from inferstack.planning.findings import Finding

_OLDEST_KUBERNETES = (1, 24)


def digests(e: Environment) -> Iterator[Finding]:
    """Images by digest, but for one that was built on this machine and is in no registry; models by hash in production."""
    built_here = (e.engine.image or "").startswith("localhost/") and not e.production
    if e.engine.image and not re.search(r"@sha256:[0-9a-f]{64}$", e.engine.image) and not built_here:
        cut = "a digest of 64 hexadecimal digits is missing" if "@" in e.engine.image else "a tag, which can move under a running slot"
        message = f"`{e.engine.image}`: {cut}."
        yield Finding(
            "image-digest", "error", "engine.image", message, "use REPOSITORY@sha256:DIGEST (`crane digest` or the build's output)."
        )
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


def control_plane(e: Environment) -> Iterator[Finding]:
    """The control plane is not open to everybody, and is not older than the objects need."""
    for i, text in enumerate(e.cloud.network.authorized_cidrs):
        path = f"cloud.network.authorized_cidrs[{i}]"
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield Finding("cidr-invalid", "error", path, f"`{text}` is no address range.", "write it as 203.0.113.0/24.")
            continue
        if network.prefixlen == 0:
            message = f"`{text}` lets everybody reach the control plane."
            yield Finding(
                "control-plane-open",
                "error",
                path,
                message,
                "name the ranges of your offices and runners, or leave the list empty (IAM only).",
            )
    version = e.cloud.kubernetes_version
    if version:
        try:
            parts = tuple(int(part) for part in version.split(".")[:2])
        except ValueError:
            parts = ()
        if len(parts) < 2 or parts < _OLDEST_KUBERNETES:
            message = f"`{version}` is no Kubernetes version of 1.24 or newer."
            yield Finding(
                "kubernetes-too-old",
                "error",
                "cloud.kubernetes_version",
                message,
                "leave it out (the release channel chooses), or name a supported minor version.",
            )


def network_range(e: Environment) -> Iterator[Finding]:
    """The nodes' address range is one, and has room."""
    path, text = "cloud.network.cidr", e.cloud.network.cidr
    if e.platform not in (Platform.GKE, Platform.AKS):
        return
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        yield Finding("cidr-invalid", "error", path, f"`{text}` is no address range: {error}.", "write it as 10.0.0.0/16.")
        return
    wanted = e.cloud.system_nodes.max + (e.gpu.max_nodes + e.gpu.on_demand_floor if e.gpu else 0)
    if network.num_addresses - 5 < 2 * wanted:
        message = f"`{text}` has {network.num_addresses} addresses, too few for {wanted} nodes, as many surge nodes and 5 reserved ones."
        yield Finding("cidr-too-small", "error", path, message, "use a /24 or larger, for instance 10.0.0.0/16.")


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
        and e.engine.kind in ("native", "transformers")
        and e.platform is not Platform.LOCAL
        and e.slots.replicas.max > 1
    ):
        message = "without a shared cache every replica counts requests and tokens for itself: a key gets its limits once per replica."
        yield Finding("limits-not-shared", "warning", "cache.backend", message, "use cache.backend cluster or managed.")


def engine_image(e: Environment) -> Iterator[Finding]:
    """What this kit's own engines do beside inference, an engine image does not."""
    if e.engine.kind in ("native", "transformers"):
        return
    if e.engine.kind == "openai" and not e.gateway.internal:
        message = "the gateway is public, and what key an image of kind openai checks, if any, is not known."
        fix = "set gateway.internal to true, or use kind vllm, sglang or llamacpp, which are given a key."
        yield Finding("engine-without-keys", "error" if e.production else "warning", "engine.kind", message, fix)
    if e.cache.backend not in ("none", "process"):
        message = (
            f"an engine image of kind {e.engine.kind} does not use the response cache; limits and tiers of keys are not applied either."
        )
        yield Finding("cache-unused", "info", "cache.backend", message, "set cache.backend to none, unless other pods use the cache.")


CHECKS = (engine_image, digests, production, way_in, control_plane, network_range, tiers, cache)
