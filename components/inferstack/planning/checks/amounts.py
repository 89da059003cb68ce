"""Are the amounts such that a process can start with them: CPU, memory and disk of a replica, memory of the cache, tokens of a step."""

from collections.abc import Iterator

from inferstack.environment import Environment, Platform
from inferstack.environment.quantity import quantity
from inferstack.planning import catalogue, fit, placement
from inferstack.planning.findings import Finding

_LEAST_CORES = 0.1
"""Less, and probes of an idle process time out."""
_LEAST_STORAGE = 256 * catalogue.MIB
"""Its folder for temporary files alone may hold this much."""
_LEAST_CACHE = 16 * catalogue.MIB
"""A server without a key in it, and the buffers of its clients."""
_USUAL_STEP = 2048
"""vLLM's own default of --max-num-batched-tokens; this kit's is made for CPUs."""
_MOST_CORES, _MOST_MEMORY = 2_048, 64 * 1024 * catalogue.GIB
"""More than any machine has that can be bought."""


def replica(e: Environment) -> Iterator[Finding]:
    """A replica's requests are enough for its process, and no more than a machine can have."""
    least_memory = int(catalogue.read("memory.yaml")["cpu_process_gib"] * catalogue.GIB)
    for group in placement.groups(e) if e.platform is not Platform.LOCAL else ():
        found, path = group.resources, f"{group.path}.resources"
        rows = [("cpu", _LEAST_CORES, float(_MOST_CORES), f"{_LEAST_CORES * 1000:.0f}m", str(_MOST_CORES))]
        rows.append(("memory", least_memory if group.on_gpu else 0, _MOST_MEMORY, f"{-(-least_memory // catalogue.MIB)}Mi", "64Ti"))
        rows.append(("ephemeral_storage", _LEAST_STORAGE, _MOST_MEMORY, f"{_LEAST_STORAGE // catalogue.MIB}Mi", "64Ti"))
        for key, least, most, shown_least, shown_most in rows:
            given = getattr(found, key)
            if quantity(given) < least:
                message = f"{given} is too little for a process to start and answer its probes."
                yield Finding("replica-too-small", "error", f"{path}.{key}", message, f"set {path}.{key} to {shown_least} or more.")
            elif quantity(given) > most:
                message = f"{given} is more than any machine has."
                yield Finding("replica-too-large", "error", f"{path}.{key}", message, f"set {path}.{key} to at most {shown_most}.")


def cache(e: Environment) -> Iterator[Finding]:
    """The response cache in the cluster has the memory that its server needs."""
    if e.cache.backend == "cluster" and quantity(e.cache.size) < _LEAST_CACHE:
        message = f"{fit.gib(quantity(e.cache.size))} are too little for the server itself."
        fix = f"set cache.size to {_LEAST_CACHE // catalogue.MIB}Mi or more, or cache.backend to none."
        yield Finding("cache-size-too-small", "error", "cache.size", message, fix)


def step(e: Environment) -> Iterator[Finding]:
    """A step of vLLM has a token for every sequence, else it refuses to start; longer prompts are taken in pieces (chunked prefill)."""
    tokens = e.engine.max_batch_tokens
    if e.engine.kind != "vllm":
        return
    if tokens < e.engine.max_sequences:
        message = f"a step of {tokens} tokens cannot hold one token of each of {e.engine.max_sequences} sequences: vLLM refuses to start."
        fix = f"set engine.max_batch_tokens to {e.engine.max_sequences} or more, or lower engine.max_sequences."
        yield Finding("step-below-sequences", "error", "engine.max_batch_tokens", message, fix)
    elif tokens < _USUAL_STEP:
        message = (
            f"prompts are taken in pieces of {tokens} tokens, and {_USUAL_STEP} are what vLLM takes by itself: first tokens come later."
        )
        yield Finding("step-small", "info", "engine.max_batch_tokens", message, f"set engine.max_batch_tokens to {_USUAL_STEP} or more.")


CHECKS = (replica, cache, step)
