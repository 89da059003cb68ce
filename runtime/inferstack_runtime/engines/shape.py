"""The shape of a Llama-shaped decoder, read from a model file, and the tables that follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.base import ModelLoadError

GGUF_ARCHITECTURES = {"llama": False, "mistral": False, "qwen2": True, "qwen3": True}
"""Architectures of GGUF files; True: the halves of a head rotate against each other, else neighbours do."""

MAX_SIZE = (1 << 31) - 1
"""Sizes cross into the kernels as 32-bit numbers."""


class UnsupportedArchitecture(ModelLoadError):
    """The native engine does not serve this model; the transformers engine may."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes in elements. `frequencies` are the rotary angles per position, float64 [head_dim / 2]."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context: int
    window: int
    """Sliding attention window in positions; 0: none."""
    epsilon: float
    rotates_halves: bool
    frequencies: NDArray[np.float64]
    rotation_scale: float = 1.0

    def rotation(self, positions: int) -> NDArray[np.float32]:
        """[positions][2][head_dim]: cosines, then sines signed for `x * cos + partner * sin` with neighbours as partners."""
        angles = np.arange(positions, dtype=np.float32)[:, None] * self.frequencies.astype(np.float32)
        table = np.empty((positions, 2, self.head_dim), np.float32)
        table[:, 0, 0::2] = table[:, 0, 1::2] = np.cos(angles) * self.rotation_scale
        table[:, 1, 1::2] = np.sin(angles) * self.rotation_scale
        table[:, 1, 0::2] = -table[:, 1, 1::2]
        return table

    def check_layers(self, path: Path, tensors: int) -> None:
        """Raise `ModelLoadError` where a model of so many tensors cannot hold the layers."""
        if self.layers > tensors:
            raise ModelLoadError(f"{path}: number of layers: is {self.layers}, the model has {tensors} tensors")

    def check(self, path: Path) -> "DecoderShape":
        """Itself, if the kernels can run it.

        Raises `UnsupportedArchitecture` with the size that does not fit, `ModelLoadError` for heads that no model can share out.
        """
        if self.heads % self.key_value_heads:
            raise ModelLoadError(f"{path}: {self.heads} heads cannot share {self.key_value_heads} key-value heads evenly")
        problems = {
            "hidden size": (self.hidden, self.hidden % 32 == 0, "a multiple of 32"),
            "feed-forward size": (self.feed_forward, self.feed_forward % 32 == 0, "a multiple of 32"),
            "head size": (self.head_dim, self.head_dim % 32 == 0 and self.head_dim <= 256, "a multiple of 32 up to 256"),
            "heads per key-value head": (
                self.heads // self.key_value_heads,
                self.heads // self.key_value_heads <= 48,
                "at most 48",
            ),
        }
        for name, (value, fits, expected) in problems.items():
            if not fits:
                raise UnsupportedArchitecture(f"{path}: {name} is {value}, the native engine needs {expected}")
        return self


def shape_from_gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], factors: NDArray[np.float32] | None, path: Path
) -> DecoderShape:
    """The shape that GGUF metadata gives; `factors` is the content of `rope_freqs.weight`. Raises `ModelLoadError` naming the field."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in GGUF_ARCHITECTURES:
        known = ", ".join(GGUF_ARCHITECTURES)
        raise UnsupportedArchitecture(f"{path}: general.architecture: is {architecture!r}, the native engine serves {known}")

    def number(key: str, default: float | None = None, *, least: float = 0) -> float:
        value = metadata.get(f"{architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
            raise ModelLoadError(
                f"{path}: {architecture}.{key}: is {value!r}, expected a number{f' of at least {least:g}' if least else ''}"
            )
        return value

    def whole(key: str, default: int | None = None, *, least: int = 1) -> int:
        value = number(key, default, least=least)
        if value != int(value) or value > MAX_SIZE:
            raise ModelLoadError(f"{path}: {architecture}.{key}: is {value!r}, expected a whole number up to {MAX_SIZE}")
        return int(value)

    scaling = metadata.get(f"{architecture}.rope.scaling.type", "linear")  # by the factor, which is 1 where the file names none
    if scaling not in ("none", "linear"):
        raise UnsupportedArchitecture(f"{path}: {architecture}.rope.scaling.type: is {scaling!r}, the native engine serves none and linear")
    for key in ("expert_count", "attention.logit_softcapping"):
        if number(key, 0):
            raise UnsupportedArchitecture(f"{path}: {architecture}.{key}: is set, the native engine does not serve it")
    hidden, heads = whole("embedding_length"), whole("attention.head_count")
    head_dim = whole("attention.key_length", hidden // heads)
    if whole("rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedArchitecture(
            f"{path}: {architecture}.rope.dimension_count: a part of a head rotates, the native engine needs all of it"
        )
    frequencies = float(number("rope.freq_base", 10000.0, least=1)) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling == "linear":
        old = number("rope.scale_linear", 1.0, least=1e-6)  # its name before version 3 of the format
        frequencies /= float(number("rope.scaling.factor", old, least=1e-6))
    if factors is not None:
        if factors.shape != frequencies.shape:
            raise ModelLoadError(f"{path}: rope_freqs.weight: has {factors.shape} values, expected {frequencies.shape}")
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise ModelLoadError(f"{path}: rope_freqs.weight: holds a value that is no number above 0")
        frequencies = frequencies / factors
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelLoadError(f"{path}: token_embd.weight: missing")
    shape = DecoderShape(
        architecture=architecture,
        layers=whole("block_count"),
        hidden=hidden,
        heads=heads,
        key_value_heads=whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        feed_forward=whole("feed_forward_length"),
        vocabulary=int(embedding.shape[0]),
        context=whole("context_length"),
        window=whole("attention.sliding_window", 0, least=0),
        epsilon=float(number("attention.layer_norm_rms_epsilon")),
        rotates_halves=GGUF_ARCHITECTURES[architecture],
        frequencies=frequencies,
    ).check(path)
    shape.check_layers(path, len(tensors))
    return shape
