"""Does it fit: on each GPU, and in the memory of a CPU replica."""

from collections.abc import Iterator, Sequence

from inferstack.environment import ENGINE_IMAGES, TENSOR_PARALLEL, Environment, Platform
from inferstack.environment.quantity import quantity
from inferstack.planning import caches, catalogue, fit, placement, shapes
from inferstack.planning.arguments import memory_shares, share_of
from inferstack.planning.findings import Finding

_FREE_WINDOWS = ("vllm", "llamacpp")
"""Engines that keep no more of a layer with a sliding window than the window: vLLM's hybrid cache manager, llama.cpp's iSWA cache."""

_RESERVE = ("llamacpp",)
"""Engines that reserve the cache of every sequence at its longest as they start: llama.cpp's `--ctx-size` is that of all of them."""


def gpu_served(e: Environment) -> list[fit.Served]:
    """The models on the GPU, as far as the catalogue knows them."""
    return [s for _, model in placement.gpu_models(e) if (s := placement.served(model))]


def gpu_memory(e: Environment) -> int | None:
    """Memory of the GPU, slice or share that one process gets."""
    kind = catalogue.gpu(e.gpu.accelerator) if e.gpu else None
    if e.gpu is None or kind is None:
        return None
    if e.gpu.partition and e.gpu.partition in kind.mig:
        return fit.partition_memory(kind, e.gpu.partition)
    return kind.memory // max(1, e.gpu.sharing)


def environment_fit(e: Environment) -> fit.Fit | None:
    """The fit of the environment's GPU models; None without GPU or where a model is not in the catalogue."""
    models, memory = gpu_served(e), gpu_memory(e)
    if not models or memory is None or len(models) < len(placement.gpu_models(e)):
        return None
    return _fit(e, models, memory)


def _fit(e: Environment, models: Sequence[fit.Served], memory: int, tensor: int | None = None) -> fit.Fit:
    return fit.gpu_fit(
        models,
        memory,
        tensor_parallel=tensor or e.engine.tensor_parallel,
        pipeline_parallel=e.engine.pipeline_parallel,
        sequences=e.engine.max_sequences,
        batch_tokens=e.engine.max_batch_tokens,
        utilization=_utilization(e),
        windows=e.engine.kind in _FREE_WINDOWS,
    )


def _utilization(e: Environment) -> float | None:
    """The share of its part of the GPU that an argument gives vLLM, which reckons it of the whole; None where none does."""
    given = [share_of(text) for _, _, text in memory_shares(e.engine.arguments)] if e.engine.kind == "vllm" else []
    clients = e.gpu.sharing if e.gpu and e.gpu.sharing else 1
    return min(1.0, given[-1] * clients) if given and given[-1] else None


def gpu_fits(e: Environment) -> Iterator[Finding]:
    """Weights, activations and the cache of one full sequence fit on each GPU."""
    result = environment_fit(e)
    if result is None or e.gpu is None:
        return
    first, model = placement.gpu_models(e)[0]
    where = f"{e.gpu.count} x " if e.gpu.count > 1 else ""
    name = f"{where}{e.gpu.accelerator}{f' ({e.gpu.partition})' if e.gpu.partition else ''}"
    numbers = (
        f"{model.name} in {model.quantization} needs {fit.gib(result.weights)} of weights and "
        f"{fit.gib(result.activations + result.outside)} to work in; of each GPU of {name}, {fit.gib(result.budget)} can be used"
    )
    if result.room <= 0:
        message = f"{numbers}: {fit.gib(-result.room)} too little."
        yield Finding("model-too-large", "error", f"models[{first}].quantization", message, _instead(e))
    elif any(m.context > m.architecture.context for m in gpu_served(e)):
        return  # said already: no GPU makes the model's own context longer
    elif result.full_sequences < 1:
        longest = result.largest_context()
        message = f"{numbers}: the rest holds {longest} tokens, not one sequence of {result.context}."
        fix = f"set context to at most {longest}; or {_instead(e)}"
        yield Finding("context-too-long", "error", f"models[{first}].context", message, fix)
    elif result.full_sequences < result.sequences and e.engine.kind in _RESERVE:
        message = (
            f"{numbers}: {e.engine.kind} reserves the cache of {result.sequences} sequences as it starts, and {result.full_sequences} fit."
        )
        longest = result.largest_context(result.sequences)
        fix = f"set engine.max_sequences to at most {result.full_sequences}, or context to at most {longest}."
        yield Finding("cache-reserved", "error", "engine.max_sequences", message, fix)
    elif result.full_sequences < result.sequences:
        message = (
            f"{result.full_sequences} of {result.sequences} sequences can have the whole context of {result.context} at once; "
            f"all of them {result.largest_context(result.sequences)} tokens each."
        )
        yield Finding(
            "cache-shared", "info", "engine.max_sequences", message, "nothing, if most sequences are shorter; else lower one of the two."
        )


def _instead(e: Environment) -> str:
    """Smallest changes that make it fit: a smaller format, more GPUs, another GPU."""
    assert e.gpu is not None
    models, memory, kind = gpu_served(e), gpu_memory(e), catalogue.gpus()[e.gpu.accelerator]
    assert memory is not None
    ways = []
    plain = e.model_copy(update={"engine": e.engine.model_copy(update={"arguments": ()})})
    if _utilization(e) is not None and _fit(plain, models, memory).full_sequences >= 1:
        ways.append("a larger share of the memory in engine.arguments")
    for form in sorted(catalogue.formats().values(), key=lambda f: -f.linear_bits):
        smaller = [fit.Served(m.architecture, form.name, m.context) for m in models]
        able = e.engine.kind in form.engines and kind.capability >= form.capability
        if able and form.name != models[0].quantization and _fit(e, smaller, memory).full_sequences >= 1:
            ways.append(f"quantization {form.name}")
            break
    if e.engine.kind in TENSOR_PARALLEL:
        for count in (2, 4, 8):
            splits = all(shapes.splits(m.architecture, count) for m in models)
            if count > e.engine.tensor_parallel and splits and _fit(e, models, memory, count).full_sequences >= 1:
                ways.append(f"gpu.count and engine.tensor_parallel {count}")
                break
    sold = (catalogue.gpus()[name] for name in catalogue.accelerators(e.platform.value))
    here = [
        k
        for k in sold
        if not e.region or e.region in catalogue.accelerator_zones(e.platform.value, k.name) or not catalogue.zones(e.platform.value)
    ]
    form = catalogue.formats()[models[0].quantization]
    enough = [k for k in here if k.capability >= form.capability and _fit(e, models, k.memory).full_sequences >= 1]
    if enough:
        best = min(enough, key=lambda k: k.memory)
        if best.name != e.gpu.accelerator or e.gpu.partition or e.gpu.sharing:
            ways.append(f"gpu.accelerator {best.name}")
    return f"use {', or '.join(ways)}." if ways else "serve a smaller model: no format or GPU of the catalogue is enough."


def cpu_fits(e: Environment) -> Iterator[Finding]:
    """Weights, cache and process fit in the memory of a CPU replica."""
    for group in placement.cpu_groups(e):
        models = [s for _, model in group.models if (s := placement.served(model))]
        if not models:
            continue
        bound, less = _host_cache(e, models)
        needed, limit = fit.host_bytes(models, bound), quantity(group.resources.memory)
        if needed <= limit:
            yield from _cache_bound(e, models, bound)
        else:
            message = (
                f"a replica needs {fit.gib(needed)} (weights and process {fit.gib(needed - bound)}, cache {fit.gib(bound)}) "
                f"and gets {fit.gib(limit)}."
            )
            path = f"{group.path}.resources.memory"
            fix = f"set {path} to {-(-needed // catalogue.GIB)}Gi, lower {less}, or serve a smaller format."
            yield Finding("memory-too-small", "error", path, message, fix)


def _host_cache(e: Environment, models: Sequence[fit.Served]) -> tuple[int, str]:
    """Bytes of the cache of a CPU replica, and the setting that bounds it."""
    if e.engine.kind not in _RESERVE:
        return int(quantity(e.engine.kv_cache)), "engine.kv_cache"
    reserved = _fit(e, models, 0)
    return reserved.sequence_bytes(reserved.context) * reserved.sequences, "engine.max_sequences"


def gpu_cache_bound(e: Environment) -> Iterator[Finding]:
    """The bound of this kit's own engines on a GPU lies between one sequence and the room that there is."""
    result = environment_fit(e)
    if result is None or e.engine.kind in ENGINE_IMAGES or result.room <= 0:
        return
    bound = int(quantity(e.engine.kv_cache))
    yield from _cache_bound(e, gpu_served(e), bound)
    if bound > result.room:
        message = f"kv_cache {fit.gib(bound)} is more than the {fit.gib(result.room)} that are left on each GPU."
        mebibytes = result.room // catalogue.MIB
        yield Finding("cache-too-large", "error", "engine.kv_cache", message, f"set engine.kv_cache to at most {mebibytes}Mi.")


def _cache_bound(e: Environment, models: Sequence[fit.Served], bound: int) -> Iterator[Finding]:
    """One sequence of the whole context fits in the bound of the cache."""
    if e.engine.kind in ENGINE_IMAGES:
        return
    for model in models:
        one = fit.cache_bytes_per_token(model.architecture) * model.context
        if one > bound and model.context <= model.architecture.context:  # beyond it, that is what is said
            longest = bound // fit.cache_bytes_per_token(model.architecture)
            message = (
                f"one sequence of {model.context} tokens of {model.architecture.name} needs {fit.gib(one)} of cache, "
                f"and kv_cache is {fit.gib(bound)}."
            )
            fix = f"set engine.kv_cache to at least {-(-one // catalogue.MIB)}Mi, or context to at most {longest}."
            yield Finding("cache-too-small", "error", "engine.kv_cache", message, fix)


def disk_fits(e: Environment) -> Iterator[Finding]:
    """Weights that a replica downloads fit in its ephemeral storage; buckets are mounted, packages are in the image."""
    for group in placement.groups(e) if e.platform is not Platform.LOCAL else ():
        models = [s for _, model in group.models if model.source.startswith("hf://") and (s := placement.served(model))]
        needed = sum(fit.weight_bytes(m.architecture, m.quantization, m.source) for m in models)
        limit = quantity(group.resources.ephemeral_storage)
        if needed > limit:
            path = f"{group.path}.resources.ephemeral_storage"
            message = f"weights of {fit.gib(needed)} are fetched into ephemeral storage of {fit.gib(limit)}."
            fix = f"set {path} to {-(-int(needed * 1.1) // catalogue.GIB)}Gi."
            yield Finding("storage-too-small", "error", path, message, fix)


def cluster_cache_fits(e: Environment) -> Iterator[Finding]:
    """The response cache fits on a node of the cluster, or into the largest size of the cloud's service."""
    size, path = quantity(e.cache.size), "cache.size"
    if e.cache.backend == "managed" and size > caches.largest_cache(e.platform.value) * catalogue.GIB:
        message = f"the managed cache of {e.platform} holds at most {caches.largest_cache(e.platform.value)}Gi in one node."
        yield Finding("cache-beyond-service", "error", path, message, f"set {path} to at most {caches.largest_cache(e.platform.value)}Gi.")
    machine = placement.system_machine(e)
    if e.cache.backend == "cluster" and machine:
        room = placement.allocatable(machine)[1] / caches.CACHE_OVERHEAD
        if size > room:
            message = f"`{machine.name}`, which the cache would run on, has room for {fit.gib(room)} of it."
            managed = " or cache.backend to managed" if size <= caches.largest_cache(e.platform.value) * catalogue.GIB else ""
            fix = f"set {path} to at most {int(room / catalogue.GIB)}Gi{managed}, or cloud.system_machine_type to a larger one."
            yield Finding("cache-larger-than-node", "error", path, message, fix)


CHECKS = (gpu_fits, cpu_fits, gpu_cache_bound, disk_fits, cluster_cache_fits)
