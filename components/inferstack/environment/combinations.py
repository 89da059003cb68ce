"""Settings that are valid alone and cannot work together."""

from collections.abc import Iterator
from datetime import date

from inferstack.environment.kinds import Layer, Platform
from inferstack.environment.problems import MISSING, Problem
from inferstack.environment.schema import Environment
from inferstack.environment.traffic import ROUTING_HEADERS


def check_combinations(environment: Environment) -> list[Problem]:
    """Combinations of valid values that cannot work, as problems; pure."""
    return [problem for check in (_waivers, _place, _cache, _slots, _gpu, _engine, _promotion, _gateway) for problem in check(environment)]


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
    if e.platform is Platform.LOCAL and e.layer is not Layer.ALL:
        yield Problem("layer", str(e.layer), "all, because platform is local")


def _cache(e: Environment) -> Iterator[Problem]:
    if e.platform is Platform.LOCAL and e.cache.backend in ("cluster", "managed"):
        yield Problem("cache.backend", e.cache.backend, "process, external or none, because platform is local")
    if e.platform is not Platform.LOCAL and e.cache.backend == "process":
        yield Problem("cache.backend", "process", f"cluster, managed, external or none, because platform is {e.platform}")
    if e.platform is Platform.KUBERNETES and e.cache.backend == "managed":
        yield Problem("cache.backend", "managed", "cluster, external or none: an existing cluster has no managed cache")
    if e.cache.backend == "cluster" and e.cache.high_availability:
        yield Problem(
            "cache.high_availability", True, "false, because cache.backend is cluster (one disposable replica); managed has a standby"
        )
    if e.cache.backend == "external" and not e.cache.url_secret:
        yield Problem("cache.url_secret", MISSING, "a secret's name, because cache.backend is external")
    if e.cache.backend != "external" and e.cache.identity:
        yield Problem("cache.identity", e.cache.identity, f"nothing, because cache.backend is {e.cache.backend} (external only)")


def _slots(e: Environment) -> Iterator[Problem]:
    if e.slots.replicas.min > e.slots.replicas.max:
        yield Problem("slots.replicas.min", e.slots.replicas.min, f"at most slots.replicas.max ({e.slots.replicas.max})")
    if e.slots.idle_replicas > e.slots.replicas.max:
        yield Problem("slots.idle_replicas", e.slots.idle_replicas, f"at most slots.replicas.max ({e.slots.replicas.max})")
    if e.slots.quality and len({model.tier for model in e.models}) < 2:
        yield Problem("slots.quality", "set", "nothing: the models are all of one tier, which slots.replicas holds for")
    if e.slots.quality and e.slots.quality.replicas.min > e.slots.quality.replicas.max:
        yield Problem("slots.quality.replicas.min", e.slots.quality.replicas.min, "at most slots.quality.replicas.max")


def _engine(e: Environment) -> Iterator[Problem]:
    if e.platform is Platform.LOCAL and e.engine.kind not in ("native", "transformers"):
        yield Problem("engine.kind", e.engine.kind, "native or transformers, because platform is local")
    if e.platform is not Platform.LOCAL and not e.engine.image:
        yield Problem("engine.image", MISSING, f"REPOSITORY@sha256:DIGEST, because platform is {e.platform}")
    if e.engine.kind != "vllm":
        for key in ("tensor_parallel", "pipeline_parallel"):
            if getattr(e.engine, key) > 1:
                yield Problem(f"engine.{key}", getattr(e.engine, key), f"1, because engine.kind is {e.engine.kind} (vllm splits a model)")
    if e.engine.device != "auto" and e.engine.kind not in ("native", "transformers"):
        yield Problem("engine.device", e.engine.device, f"auto, because engine.kind is {e.engine.kind}: its image decides")
    if e.engine.cpu_fallback and e.engine.device != "cuda":
        yield Problem("engine.cpu_fallback", True, f"false, because engine.device is {e.engine.device}; only cuda needs a fallback")
    if e.engine.device == "cuda" and e.engine.kind == "native" and not e.engine.cpu_fallback:
        yield Problem(
            "engine.device", "cuda", "auto or cpu, because engine.kind is native, which computes on the CPU; or engine.cpu_fallback"
        )
    names = [model.name for model in e.models]
    for index, model in enumerate(e.models):
        if model.name in names[:index]:
            yield Problem(f"models[{index}].name", model.name, "a name that no other model has")
    if e.engine.kind in ("vllm", "sglang", "llamacpp", "openai"):
        for tier in sorted({model.tier for model in e.models}):
            served = [model.name for model in e.models if model.tier == tier]
            if len(served) > 1:
                yield Problem("models", served, f"one model per tier, because an engine image of kind {e.engine.kind} serves one")


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
    if e.gateway.existing and e.gateway.class_name:
        yield Problem("gateway.class_name", e.gateway.class_name, "nothing, because gateway.existing names a Gateway")
