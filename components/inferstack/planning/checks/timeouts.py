"""The timeout chain: every layer waits for the one below it, so that no answer is cut.

preStop + drain < grace <= what the autoscaler and a spot notice allow;  drain <= gateway timeout;  longest answer <= gateway timeout;
loading <= the time to become ready
"""

from collections.abc import Iterator

from inferstack.environment import ENGINE_IMAGES, Environment, Platform
from inferstack.planning import catalogue, fit
from inferstack.planning.checks.memory import environment_fit, gpu_served
from inferstack.planning.findings import Finding
from inferstack_policies.rules.availability import SHORTEST_START

AUTOSCALER_GRACE_SECONDS = 600
"""Cluster autoscaler's max-graceful-termination-sec: what it waits for a pod before it removes a node (default on GKE and AKS)."""
SPOT_NOTICE_SECONDS = {Platform.GKE: 15, Platform.AKS: 30}
"""What pods get of a spot notice. GKE: 15 of 30 s (docs/concepts/spot-vms); AKS: 30 s (scheduled events, Preempt)."""
DECODE_EFFICIENCY = 0.6
"""Share of a GPU's memory bandwidth that decoding reaches; 0.77 was measured on an A100 for one sequence (vLLM 0.23, Llama-3.1-8B)."""


def grace(e: Environment) -> Iterator[Finding]:
    """Grace is no longer than the autoscaler waits."""
    if e.platform is Platform.LOCAL or e.drain.grace_seconds <= AUTOSCALER_GRACE_SECONDS:
        return
    message = (
        f"grace of {e.drain.grace_seconds:g} s is longer than the {AUTOSCALER_GRACE_SECONDS} s "
        "that the cluster autoscaler waits before it removes a node."
    )
    fix = f"set drain.grace_seconds to at most {AUTOSCALER_GRACE_SECONDS}, and drain.seconds below it."
    yield Finding("grace-beyond-autoscaler", "error", "drain.grace_seconds", message, fix)


def gateway(e: Environment) -> Iterator[Finding]:
    """The gateway waits at least as long as a leaving replica and as the longest answer."""
    timeout = e.gateway.timeout_seconds
    if e.platform is not Platform.LOCAL and e.drain.grace_seconds > AUTOSCALER_GRACE_SECONDS and timeout >= AUTOSCALER_GRACE_SECONDS:
        return  # the drain must become shorter than this anyway
    if timeout < max(1, e.drain.seconds):
        message = f"the gateway cuts a request after {timeout:g} s, and a leaving replica would go on for {e.drain.seconds:g} s."
        fix = f"set gateway.timeout_seconds to at least {max(1, e.drain.seconds):g}, or lower drain.seconds."
        yield Finding("gateway-below-drain", "error", "gateway.timeout_seconds", message, fix)
        return
    longest = longest_answer_seconds(e)
    if longest is not None and timeout < longest:
        message = (
            f"the gateway cuts a request after {timeout:g} s; an answer over the whole context takes about {longest:.0f} s on this GPU."
        )
        fix = f"set gateway.timeout_seconds to {_rounded(longest)}, or lower context."
        yield Finding("gateway-below-answer", "error", "gateway.timeout_seconds", message, fix)
    elif longest is not None and e.drain.seconds < longest <= AUTOSCALER_GRACE_SECONDS:
        message = f"drain leaves running streams {e.drain.seconds:g} s; an answer over the whole context takes about {longest:.0f} s."
        fix = (
            f"set drain.seconds to {_rounded(longest)} and drain.grace_seconds above it, or accept that clients repeat the longest answers."
        )
        yield Finding("drain-below-answer", "info", "drain.seconds", message, fix)


def _rounded(seconds: float) -> int:
    return int(-(-seconds // 30) * 30)


def longest_answer_seconds(e: Environment) -> float | None:
    """Time of an answer that fills the context, all slots of the batch busy; None without GPU figures, or where no model reaches that far.

    Decoding reads the weights once per step and every sequence's cache: bytes / (bandwidth x DECODE_EFFICIENCY) per token,
    the cache at half its final length on average, and no more of it than fits.
    """
    result, models = environment_fit(e), gpu_served(e)
    if result is None or e.gpu is None or result.room <= 0 or any(model.context > model.architecture.context for model in models):
        return None
    kind = catalogue.gpus()[e.gpu.accelerator]
    context = max(model.context for model in models)
    tokens = min(result.cache_tokens, context * e.engine.max_sequences) / 2
    heaviest = max(fit.weight_bytes(m.architecture, m.quantization, m.source) for m in models)
    shards = e.engine.tensor_parallel * e.engine.pipeline_parallel
    step = (heaviest / shards + tokens * result.cache_per_token) / (kind.bandwidth * DECODE_EFFICIENCY)
    return context * step * e.engine.pipeline_parallel


def spot_notice(e: Environment) -> Iterator[Finding]:
    """On spot nodes, what does not end within the notice is lost."""
    notice = SPOT_NOTICE_SECONDS.get(e.platform)
    if e.gpu is None or e.gpu.capacity != "spot" or notice is None or e.drain.grace_seconds <= notice:
        return
    if not e.gpu.on_demand_floor:
        return  # a pool without a floor is said to be one, with the same ways out
    message = f"a spot node of {e.platform} gives pods {notice} s, and grace is {e.drain.grace_seconds:g} s: longer streams are cut."
    fix = "let clients repeat them, keep an on_demand_floor, or use capacity on_demand."
    yield Finding("spot-notice", "warning", "drain.grace_seconds", message, fix)


def ready(e: Environment) -> Iterator[Finding]:
    """A new replica has the time to start, load its weights and warm up; else it is killed before its first answer, again and again."""
    given, path = e.promotion.ready_seconds, "promotion.ready_seconds"
    if e.platform is Platform.LOCAL:
        if given < _PROCESS_START:
            message = f"a process that starts, loads and warms up is seldom ready within {given:g} s."
            yield Finding("ready-too-short", "warning", path, message, f"set {path} to {_PROCESS_START} or more; the default is 600.")
    elif given < SHORTEST_START:
        message = f"a replica gets {given:g} s to start and load its weights before it is killed; {SHORTEST_START} s are needed."
        fix = f"set {path} to {SHORTEST_START} or more (1800 where GPU nodes must come first)."
        yield Finding("ready-too-short", "error", path, message, fix)


_PROCESS_START = 10
"""Seconds; the smallest bundled model takes two or three on an idle machine, and twice as long beside another slot."""


def pre_stop(e: Environment) -> Iterator[Finding]:
    """A leaving replica goes on accepting until its removal has reached every gateway; an engine image does so while it drains, too."""
    given, path = e.drain.pre_stop_seconds, "drain.pre_stop_seconds"
    given += e.drain.seconds if e.engine.kind in ENGINE_IMAGES else 0
    if e.platform is not Platform.LOCAL and given < 1:
        message = f"a replica that leaves accepts for {given:g} s more, and gateways learn of it a second or more later: requests fail."
        yield Finding("pre-stop-short", "warning", path, message, f"set {path} to 3 or more; the default is 10.")


CHECKS = (grace, gateway, spot_notice, ready, pre_stop)
