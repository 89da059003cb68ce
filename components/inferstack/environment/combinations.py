"""Settings that are valid alone and cannot work together."""

import re
from collections.abc import Iterator
from datetime import date

from inferstack.environment.kinds import ALB_CLASS, ENGINE_IMAGES, METRICS_PORT, TENSOR_PARALLEL, Layer, Platform
from inferstack.environment.problems import MISSING, Problem
from inferstack.environment.quantity import quantity
from inferstack.environment.schema import Environment
from inferstack.environment.traffic import ROUTING_HEADERS


def check_combinations(environment: Environment) -> list[Problem]:
    """Combinations of valid values that cannot work, as problems; pure."""
    return [
        problem
        for check in (_waivers, _place, _access, _cache, _slots, _prices, _gpu, _engine, _promotion, _gateway, _monitoring)
        for problem in check(environment)
    ]


def _waivers(e: Environment) -> Iterator[Problem]:
    """Days that are in the calendar."""
    for index, waiver in enumerate(e.waivers):
        try:
            date.fromisoformat(waiver.expires)
        except ValueError:
            yield Problem(f"waivers[{index}].expires", waiver.expires, "a day of the calendar, YYYY-MM-DD")


def _place(e: Environment) -> Iterator[Problem]:
    if e.platform in (Platform.GKE, Platform.AKS) and not e.region:
        yield Problem("region", MISSING, f"a region, because platform is {e.platform}")
    if e.platform is Platform.GKE and not e.cloud.project:
        yield Problem("cloud.project", MISSING, "the Google Cloud project, because platform is gke")
    if e.layer is Layer.SLOT and e.slot is None:
        yield Problem("slot", MISSING, "blue or green, because layer is slot")
    if e.layer is not Layer.SLOT and e.slot is not None:
        yield Problem("slot", str(e.slot), f"nothing, because layer is {e.layer}")
    if e.namespace == "default" or e.namespace.startswith("kube-"):
        yield Problem("namespace", e.namespace, "a namespace of the environment's own, because it is made and deleted with it")
    if e.platform in (Platform.GKE, Platform.AKS):
        nodes, path = e.cloud.system_nodes, "cloud.system_nodes.min"
        if nodes.min < 1:
            yield Problem(path, nodes.min, "1 or more: the cluster's own pods run there")
        elif nodes.min > nodes.max:
            yield Problem(path, nodes.min, f"at most cloud.system_nodes.max ({nodes.max})")
    if e.platform is Platform.LOCAL and e.layer is not Layer.ALL:
        yield Problem("layer", str(e.layer), "all, because platform is local")


def _access(e: Environment) -> Iterator[Problem]:
    if not e.access.tiers:
        yield Problem("access.tiers", "{}", "at least one tier, for instance `default`")
    for name in e.access.tiers:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", name):
            yield Problem(f"access.tiers.{name}", MISSING, "a name of letters, digits, `-`, `_` and `.`, at most 63")
    if e.access.jwt_audience and not e.access.jwks_url:
        yield Problem("access.jwt_audience", e.access.jwt_audience, "nothing, because access.jwks_url is unset: no JWT is read")


def _cache(e: Environment) -> Iterator[Problem]:
    if e.platform is Platform.LOCAL and e.cache.backend in ("cluster", "managed"):
        yield Problem("cache.backend", e.cache.backend, "process, external or none, because platform is local")
    if e.platform is not Platform.LOCAL and e.cache.backend == "process":
        yield Problem("cache.backend", "process", f"cluster, managed, external or none, because platform is {e.platform}")
    if e.platform is Platform.KUBERNETES and e.cache.backend == "managed":
        yield Problem("cache.backend", "managed", "cluster, external or none: an existing cluster has no managed cache")
    if e.cache.backend != "managed" and e.cache.high_availability:
        expected = f"false, because cache.backend is {e.cache.backend}; only managed has a standby"
        yield Problem("cache.high_availability", True, expected)
    if e.cache.backend == "external" and not e.cache.url_secret:
        yield Problem("cache.url_secret", MISSING, "a secret's name, because cache.backend is external")
    own = {Platform.GKE: "google", Platform.AKS: "azure"}.get(e.platform)
    if e.cache.identity and e.cache.backend not in ("managed", "external"):
        yield Problem("cache.identity", e.cache.identity, f"nothing, because cache.backend is {e.cache.backend} (managed or external only)")
    elif e.cache.identity and e.cache.backend == "managed" and e.cache.identity != own:
        yield Problem("cache.identity", e.cache.identity, f"{own}, because platform is {e.platform}")
    if e.cache.backend != "external" and e.cache.url_secret:
        yield Problem("cache.url_secret", e.cache.url_secret, f"nothing, because cache.backend is {e.cache.backend}")
    if e.cache.backend == "none" and e.cache.semantic.enabled:
        why = f"engine.kind is {e.engine.kind}, which has no response cache" if e.engine.kind in ENGINE_IMAGES else "cache.backend is none"
        yield Problem("cache.semantic.enabled", True, f"false, because {why}")


def _slots(e: Environment) -> Iterator[Problem]:
    if e.slots.replicas.min > e.slots.replicas.max:
        yield Problem("slots.replicas.min", e.slots.replicas.min, f"at most slots.replicas.max ({e.slots.replicas.max})")
    for path, found in (("slots", e.slots.resources), ("slots.quality", (e.slots.quality or e.slots).resources)):
        if found.cpu_limit and quantity(found.cpu_limit) < quantity(found.cpu) and (e.slots.quality or path == "slots"):
            yield Problem(f"{path}.resources.cpu_limit", found.cpu_limit, f"at least {path}.resources.cpu ({found.cpu})")
    if e.slots.idle_replicas > e.slots.replicas.max:
        yield Problem("slots.idle_replicas", e.slots.idle_replicas, f"at most slots.replicas.max ({e.slots.replicas.max})")
    if e.slots.quality and len({model.tier for model in e.models}) < 2:
        yield Problem("slots.quality", "set", "nothing: the models are all of one tier, which slots.replicas holds for")
    if e.slots.quality and e.slots.quality.replicas.min > e.slots.quality.replicas.max:
        yield Problem("slots.quality.replicas.min", e.slots.quality.replicas.min, "at most slots.quality.replicas.max")


def _prices(e: Environment) -> Iterator[Problem]:
    """A replica's price is stated where no table has it, and for every tier or none."""
    quality = e.slots.quality if len({model.tier for model in e.models}) > 1 else None
    tiers = {"slots": e.slots.replica_hourly_usd} | ({"slots.quality": quality.replica_hourly_usd} if quality else {})
    stated = [path for path, price in tiers.items() if price is not None]
    for path, price in tiers.items():
        if price is not None and e.platform in (Platform.GKE, Platform.AKS):
            expected = f"nothing, because platform is {e.platform}: the price table has its machines"
            yield Problem(f"{path}.replica_hourly_usd", price, expected)
        elif price is None and stated:
            yield Problem(f"{path}.replica_hourly_usd", MISSING, f"a price, because {stated[0]}.replica_hourly_usd is set")


def _engine(e: Environment) -> Iterator[Problem]:
    if e.platform is Platform.LOCAL and e.engine.kind in ENGINE_IMAGES:
        yield Problem("engine.kind", e.engine.kind, "native or transformers, because platform is local")
    if e.platform is not Platform.LOCAL and not e.engine.image:
        yield Problem("engine.image", MISSING, f"REPOSITORY@sha256:DIGEST, because platform is {e.platform}")
    if e.engine.kind not in ENGINE_IMAGES:
        if e.engine.arguments:
            expected = (
                f"nothing, because engine.kind is {e.engine.kind}: its settings are those of `engine` (more arguments are for other images)"
            )
            yield Problem("engine.arguments", list(e.engine.arguments), expected)
        if e.engine.port == METRICS_PORT and e.platform is not Platform.LOCAL:
            yield Problem("engine.port", e.engine.port, f"another port than {METRICS_PORT}, where metrics are")
    for key, able in (("tensor_parallel", TENSOR_PARALLEL), ("pipeline_parallel", ("vllm",))):
        if getattr(e.engine, key) > 1 and e.engine.kind not in able:
            expected = f"1, because engine.kind is {e.engine.kind} ({' and '.join(able)} can split a model so)"
            yield Problem(f"engine.{key}", getattr(e.engine, key), expected)
    if e.engine.device != "auto" and e.engine.kind not in ("native", "transformers"):
        yield Problem("engine.device", e.engine.device, f"auto, because engine.kind is {e.engine.kind}: its image decides")
    if e.engine.cpu_fallback and e.engine.device != "cuda":
        yield Problem("engine.cpu_fallback", True, f"false, because engine.device is {e.engine.device}; only cuda needs a fallback")
    if e.engine.device == "cuda" and e.engine.kind == "native" and not e.engine.cpu_fallback:
        yield Problem(
            "engine.device", "cuda", "auto or cpu, because engine.kind is native, which computes on the CPU; or engine.cpu_fallback"
        )
    if e.engine.kind in ENGINE_IMAGES and e.scaling.renderer == "autoscaler":
        expected = f"hpa, keda or none, because engine.kind is {e.engine.kind}: the autoscaler reads the metrics of this kit's engines"
        yield Problem("scaling.renderer", "autoscaler", expected)
    if e.engine.hub_secret and (why := _no_hub(e)):
        yield Problem("engine.hub_secret", e.engine.hub_secret, f"nothing, because {why}")
    names = [model.name for model in e.models]
    for index, model in enumerate(e.models):
        if model.name in names[:index]:
            yield Problem(f"models[{index}].name", model.name, "a name that no other model has")
    if e.engine.kind in ENGINE_IMAGES:
        for tier in sorted({model.tier for model in e.models}):
            served = [model.name for model in e.models if model.tier == tier]
            if len(served) > 1:
                yield Problem("models", served, f"one model per tier, because an engine image of kind {e.engine.kind} serves one")


def _no_hub(e: Environment) -> str | None:
    """Why no slot would read a token of the hub; None where one does."""
    if e.platform is Platform.LOCAL:
        return "platform is local, whose processes read HF_TOKEN"
    if e.engine.kind in ("llamacpp", "openai"):
        return f"engine.kind is {e.engine.kind}, whose image reads no token from a file"
    return None if any(model.source.startswith("hf://") for model in e.models) else "no model's source is hf://"


def _gpu(e: Environment) -> Iterator[Problem]:
    if e.platform is Platform.LOCAL and e.gpu is not None:
        yield Problem("gpu", e.gpu.accelerator, "nothing: a local environment starts no GPU nodes")
    if e.cloud.huge_pages and e.platform is not Platform.GKE:
        yield Problem(
            "cloud.huge_pages", e.cloud.huge_pages, f"0, because platform is {e.platform} (only gke reserves huge pages by itself)"
        )
    if e.gpu and e.platform is not Platform.GKE:
        for key in ("local_ssd", "image_disk", "compact_placement"):
            if value := getattr(e.gpu, key):
                yield Problem(f"gpu.{key}", value, f"nothing, because platform is {e.platform} (gke only)")
    if e.gpu and e.gpu.min_nodes > e.gpu.max_nodes:
        yield Problem("gpu.min_nodes", e.gpu.min_nodes, f"at most gpu.max_nodes ({e.gpu.max_nodes})")
    if e.gpu and e.gpu.capacity == "reservation" and not e.gpu.reservation:
        yield Problem("gpu.reservation", MISSING, "a reservation's name, because gpu.capacity is reservation")
    if e.gpu and e.gpu.reservation and e.gpu.capacity != "reservation":
        yield Problem("gpu.reservation", e.gpu.reservation, f"nothing, because gpu.capacity is {e.gpu.capacity}, not reservation")
    if e.gpu and e.gpu.sharing == 1:
        yield Problem("gpu.sharing", 1, "2 or more clients, or 0: a GPU of one client is not shared")
    zones = e.gpu.zones if e.gpu else ()
    for index, zone in enumerate(zones):
        if zone in zones[:index]:
            yield Problem(f"gpu.zones[{index}]", zone, "a zone that is not named before it")


def _promotion(e: Environment) -> Iterator[Problem]:
    if e.drain.pre_stop_seconds + e.drain.seconds >= e.drain.grace_seconds:
        yield Problem(
            "drain.grace_seconds",
            e.drain.grace_seconds,
            f"more than pre_stop_seconds + seconds ({e.drain.pre_stop_seconds + e.drain.seconds:g})",
        )
    if e.promotion.steps and e.promotion.steps[-1] != 100:
        yield Problem("promotion.steps", list(e.promotion.steps), "weights that end with 100")
    if list(e.promotion.steps) != sorted(set(e.promotion.steps)):
        yield Problem("promotion.steps", list(e.promotion.steps), "weights that rise")
    if not e.promotion.steps:
        yield Problem("promotion.steps", [], "at least [100]")
    if e.promotion.header and e.promotion.header.name.lower() in ROUTING_HEADERS:
        yield Problem("promotion.header.name", e.promotion.header.name, "a header that routes nothing yet, for instance X-Cohort")
    if e.promotion.header and e.promotion.strategy == "rolling":
        yield Problem("promotion.header", e.promotion.header.name, "nothing, because promotion.strategy rolling moves replica by replica")


def _gateway(e: Environment) -> Iterator[Problem]:
    if e.platform is Platform.KUBERNETES and not (e.gateway.existing or e.gateway.class_name):
        yield Problem("gateway.class_name", MISSING, "a GatewayClass of the cluster, or gateway.existing, because platform is kubernetes")
    if e.gateway.class_name == ALB_CLASS:
        if e.platform not in (Platform.AKS, Platform.KUBERNETES):
            yield Problem("gateway.class_name", ALB_CLASS, f"another GatewayClass, because platform is {e.platform} (aks only)")
        elif e.gateway.internal:
            yield Problem("gateway.internal", True, f"false, because the frontends of {ALB_CLASS} are public only; istio has internal ones")
        elif e.gateway.port not in (80, 443):
            yield Problem("gateway.port", e.gateway.port, f"80 or 443, because gateway.class_name is {ALB_CLASS}")
    if e.gateway.existing and e.gateway.class_name:
        yield Problem("gateway.class_name", e.gateway.class_name, "nothing, because gateway.existing names a Gateway")


def _monitoring(e: Environment) -> Iterator[Problem]:
    home = {"gmp": Platform.GKE, "azure": Platform.AKS}.get(e.monitoring.backend)
    if home and e.platform not in (home, Platform.KUBERNETES):
        expected = f"bundled, operator or none, because platform is {e.platform} ({e.monitoring.backend} is the service of {home})"
        yield Problem("monitoring.backend", e.monitoring.backend, expected)
