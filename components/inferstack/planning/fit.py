"""Does a model fit: weights by format, keys and values, activations and margin, per GPU and per shard.

    weights      parameters x bits of the format / 8, embeddings in their own width, divided over all shards
    cache/token  2 x layers x KV heads x head dimension x bytes, heads divided over tensor shards, layers over pipeline stages;
                 with latent attention layers x latent values x bytes, whole on every tensor shard; a layer with a sliding window keeps
                 no more than the window
    activations  the larger of the sampler (copies of float32 logits per sequence) and one layer's MLP over the step's tokens

Constants and their sources: ``data/memory.yaml`` and ``data/formats.yaml``; docs/fit.md compares the results with public figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inferstack.planning import catalogue
from inferstack.planning.catalogue import GIB, Architecture


@dataclass(frozen=True, slots=True)
class Served:
    """One model as it is served: what it is, in which format, how long a sequence may be."""

    architecture: Architecture
    quantization: str
    context: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory of one GPU (of each shard), in bytes."""

    budget: int
    """What the engine may use: memory less margin."""
    weights: int
    activations: int
    outside: int
    cache_per_token: int
    context: int
    sequences: int
    window: int = 0
    windowed_per_token: int = 0
    """What of `cache_per_token` a sequence needs for the tokens of its window only."""

    @property
    def used(self) -> int:
        """Needed before the first token of cache."""
        return self.weights + self.activations + self.outside

    @property
    def room(self) -> int:
        """Left for keys and values; negative when the model does not even load."""
        return self.budget - self.used

    @property
    def cache_tokens(self) -> int:
        """Tokens, over all sequences, whose keys and values fit where no window is longer than its sequence."""
        return max(0, self.room) // self.cache_per_token

    def sequence_bytes(self, tokens: int) -> int:
        """Keys and values of one sequence of this length."""
        return (self.cache_per_token - self.windowed_per_token) * tokens + self.windowed_per_token * min(tokens, self.window)

    @property
    def full_sequences(self) -> int:
        """Sequences of the whole context that fit at once: the largest batch at this context."""
        return max(0, self.room) // self.sequence_bytes(self.context)

    @property
    def needed(self) -> int:
        """With every sequence at its longest."""
        return self.used + self.sequence_bytes(self.context) * self.sequences

    def largest_context(self, sequences: int = 1) -> int:
        """The longest context that this many sequences can have at once."""
        share = max(0, self.room) // max(1, sequences)
        whole = self.cache_per_token - self.windowed_per_token
        if share < self.sequence_bytes(self.window) or not self.window:
            return share // self.cache_per_token
        return (share - self.windowed_per_token * self.window) // whole if whole else self.context


def usual_utilization() -> float:
    """The share of a GPU's memory that an engine is allowed unless it is told another."""
    return float(catalogue.read("memory.yaml")["utilization"])


def weight_bytes(architecture: Architecture, quantization: str, source: str = "") -> int:
    """Bytes of all weights in a format; for `gguf` the width that the source's name gives away, else that of Q8_0."""
    if architecture.shipped is not None and quantization in ("none", "bf16", "fp16"):
        return architecture.shipped
    form = catalogue.formats()[quantization]
    named = catalogue.gguf_bits(source) if quantization == "gguf" else None
    if named is not None:
        return math.ceil(architecture.parameters * named / 8)
    embedding = architecture.embedding_parameters
    linear = architecture.parameters - embedding
    return math.ceil((linear * form.linear_bits + embedding * form.embedding_bits) / 8)


def cache_bytes_per_token(architecture: Architecture, tensor_parallel: int = 1, pipeline_parallel: int = 1, bits: int = 16) -> int:
    """Keys and values of one token on one shard. A KV head is never split: with more shards than heads it is repeated, as a latent is."""
    if architecture.latent:
        return math.ceil(architecture.kv_layers / pipeline_parallel) * architecture.latent * bits // 8
    heads = math.ceil(architecture.kv_heads / tensor_parallel)
    layers = math.ceil(architecture.kv_layers / pipeline_parallel)
    return 2 * layers * heads * architecture.head_dim * bits // 8


def activation_bytes(architecture: Architecture, sequences: int, batch_tokens: int, tensor_parallel: int = 1) -> int:
    """Peak of a step beside weights and cache."""
    copies: float = catalogue.read("memory.yaml")["sampler_copies"]
    sampler = copies * sequences * architecture.vocab * 4
    mlp = batch_tokens * (2 * architecture.intermediate / tensor_parallel + 4 * architecture.hidden) * 2
    return math.ceil(max(sampler, mlp))


def gpu_fit(
    models: Sequence[Served],
    memory: int,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    sequences: int,
    batch_tokens: int,
    utilization: float | None = None,
    windows: bool = False,
) -> Fit:
    """The memory of one of `tensor_parallel` x `pipeline_parallel` GPUs of `memory` bytes that serve `models` in one process.

    `utilization`: the share of the memory that the engine may use, where it is not the usual one. `windows`: the engine frees what lies
    outside a sliding window.
    Several models share the budget: weights add up, activations do not happen at once, the cache is counted for the hungriest.
    """
    constants = catalogue.read("memory.yaml")
    shards = tensor_parallel * pipeline_parallel
    share = usual_utilization() if utilization is None else utilization
    per_token = {m.architecture: cache_bytes_per_token(m.architecture, tensor_parallel, pipeline_parallel) for m in models}
    hungriest = max(per_token, key=lambda shape: per_token[shape])
    return Fit(
        budget=int(memory * share),
        weights=sum(math.ceil(weight_bytes(m.architecture, m.quantization, m.source) / shards) for m in models),
        activations=max(activation_bytes(m.architecture, sequences, batch_tokens, tensor_parallel) for m in models),
        outside=int(constants["outside_gib" if shards == 1 else "outside_gib_parallel"] * GIB),
        cache_per_token=per_token[hungriest],
        context=max(m.context for m in models),
        sequences=sequences,
        window=hungriest.window if windows else 0,
        windowed_per_token=per_token[hungriest] * hungriest.windowed_layers // hungriest.kv_layers if windows else 0,
    )


def host_bytes(models: Sequence[Served], kv_cache: int) -> int:
    """Memory of a CPU replica: weights, the bound of its cache, and the process."""
    process = int(catalogue.read("memory.yaml")["cpu_process_gib"] * GIB)
    return sum(weight_bytes(m.architecture, m.quantization, m.source) for m in models) + kv_cache + process


def partition_memory(gpu: catalogue.Gpu, profile: str) -> int:
    """Memory of one MIG slice, from the profile's name (`2g.20gb`), never more than its share of what CUDA offers."""
    whole = max(_gigabytes(p) for p in gpu.mig)
    return gpu.memory * _gigabytes(profile) // whole


def partitions_per_gpu(gpu: catalogue.Gpu, profile: str) -> int:
    """Slices of one profile that a GPU gives: seven compute slices, and its memory."""
    whole = max(_gigabytes(p) for p in gpu.mig)
    return max(1, min(7 // int(profile.partition("g")[0]), whole // _gigabytes(profile)))


def _gigabytes(profile: str) -> int:
    return int(profile.partition(".")[2].removesuffix("gb"))


def gib(size: float) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB"
