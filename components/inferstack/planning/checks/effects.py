"""Settings that change nothing where they stand: whoever wrote them expects that they do."""

from collections.abc import Iterator

from inferstack.environment import ENGINE_IMAGES, Access, Cloud, Engine, Environment, Monitoring, Platform
from inferstack.planning import catalogue
from inferstack.planning.findings import Finding

_RULE = "setting-without-effect"


def other_platforms(e: Environment) -> Iterator[Finding]:
    """What names an account or cluster is of this platform; else it goes somewhere other than the file says."""
    for path, value, platform in (
        ("cloud.project", e.cloud.project, Platform.GKE),
        ("cloud.subscription", e.cloud.subscription, Platform.AKS),
        ("cloud.admin_groups", ", ".join(e.cloud.admin_groups), Platform.AKS),
        ("context", e.context, Platform.KUBERNETES),
    ):
        if value and e.platform is not platform:
            message = f"`{value}` has no effect: platform is {e.platform}, and only {platform} reads it."
            yield Finding(_RULE, "warning", path, message, f"leave it out, or set platform to {platform}.")
    if e.platform in (Platform.GKE, Platform.AKS):
        return
    said = ("project", "subscription", "admin_groups", "huge_pages")  # above, or as no valid value here
    given = [key for key in Cloud.model_fields if key not in said and getattr(e.cloud, key) != getattr(Cloud(), key)]
    pool = [key for key in ("machine_type", "zones", "min_nodes", "driver", "disk_gb") if e.gpu and key in e.gpu.model_fields_set]
    for path in (["region"] if e.region else []) + [f"cloud.{key}" for key in given] + [f"gpu.{key}" for key in pool]:
        message = f"it has no effect: platform is {e.platform}, where no cluster is made."
        yield Finding(_RULE, "warning", path, message, "leave it out, or set platform to gke or aks.")


def engine_images(e: Environment) -> Iterator[Finding]:
    """An engine image is told what the table of its arguments has; the rest is read by this kit's own engines alone."""
    kind = e.engine.kind
    if kind not in ENGINE_IMAGES:
        return
    told = set(catalogue.read("arguments.yaml")["engines"].get(kind, {}).values())
    sections = {"engine": (e.engine, Engine), "access": (e.access, Access), "monitoring": (e.monitoring, Monitoring)}
    for path in (
        *("engine.threads", "engine.max_queue", "engine.kv_cache", "engine.kv_dtype"),
        *("access.tiers", "access.jwks_url", "monitoring.otlp_endpoint"),
    ):
        section, _, key = path.partition(".")
        written, default = sections[section]
        if path not in told and getattr(written, key) != getattr(default(), key):
            message = f"it has no effect: engine.kind is {kind}, and only this kit's own engines read it."
            own = ", or give the engine's own argument in engine.arguments" if section == "engine" else ""
            yield Finding(_RULE, "warning", path, message, f"leave it out{own}, or use engine.kind native.")


def gateway(e: Environment) -> Iterator[Finding]:
    """The listener of somebody else's Gateway is theirs."""
    if e.gateway.existing and e.gateway.tls_secret:
        message = "it has no effect: gateway.existing names a Gateway, whose listeners its owner sets."
        yield Finding(_RULE, "warning", "gateway.tls_secret", message, "leave it out, or leave gateway.existing out.")


def steps(e: Environment) -> Iterator[Finding]:
    """A canary is a step below all of it; replicas that roll have no steps."""
    promotion, path = e.promotion, "promotion.steps"
    if promotion.strategy == "canary" and promotion.steps == (100,) and not promotion.header:
        message = "strategy canary has one step, and moves all weight at once."
        yield Finding(_RULE, "warning", path, message, "give smaller steps first, for instance [10, 50, 100], or use strategy blue_green.")
    if promotion.strategy == "rolling" and "steps" in promotion.model_fields_set and promotion.steps != (100,):
        message = "it has no effect: strategy rolling moves replica by replica, without weights."
        yield Finding(_RULE, "warning", path, message, "leave it out, or use strategy canary.")


CHECKS = (other_platforms, engine_images, gateway, steps)
