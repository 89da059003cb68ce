"""How near a quantized model is to the unquantized one: on a committed text, position by position.

The reference is the same model file with all matrices in bfloat16, which for a file that is quantized itself means: dequantized.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferstack_runtime.engines.decoder import Decoder
from inferstack_runtime.engines.source import ModelSource
from inferstack_runtime.kernels import BLOCK_POSITIONS, SAMPLE_RESULT, SAMPLE_SPEC, SEGMENT

REFERENCE = "none"
GATE = 0.95
"""Least top-1 agreement of a format that is fit to serve."""
_SEPARATOR = "\n----\n"
_ROWS = 64
"""Positions per step: bounds the logits held."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of a comparison. Divergence in nats per token, sizes in bytes."""

    quantization: str
    tokens: int
    top1_agreement: float
    kl_divergence: float
    """Mean of KL(unquantized || quantized)."""
    perplexity: float
    reference_perplexity: float
    weight_bytes: int
    reference_weight_bytes: int
    seconds: float
    """Time that the quantized model took for all positions."""
    reference_seconds: float

    @property
    def perplexity_ratio(self) -> float:
        return self.perplexity / self.reference_perplexity

    def passes(self, gate: float) -> bool:
        return self.top1_agreement >= gate

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"perplexity_ratio": self.perplexity_ratio}


def evaluation_texts() -> list[str]:
    """The committed text set."""
    return files("inferstack_runtime.engines").joinpath("data/evaluation.txt").read_text(encoding="utf-8").strip().split(_SEPARATOR)


def evaluate(source: ModelSource, quantization: str, *, threads: int, cache: Path | None, texts: list[str] | None = None) -> Agreement:
    """Compare `quantization` with the unquantized model; raises `ModelLoadError`, or `ValueError` for texts of less than two tokens."""
    prompts = [source.tokenizer.encode(text) for text in texts or evaluation_texts()]
    longest = max(len(prompt) for prompt in prompts)
    if min(len(prompt) for prompt in prompts) < 2:
        raise ValueError("a text of the evaluation set has less than two tokens")
    context = -(-longest // BLOCK_POSITIONS) * BLOCK_POSITIONS
    candidate = Decoder(source, quantization, context=context, threads=threads, cache=cache)
    reference = Decoder(source, REFERENCE, context=context, threads=threads, cache=cache, cache_type="f32")
    same = divergence = own_loss = reference_loss = 0.0
    seconds = [0.0, 0.0]
    total = 0
    try:
        for decoder in (candidate, reference):
            decoder.allocate_cache(context // BLOCK_POSITIONS)
        for prompt in prompts:
            for (own, own_time), (exact, exact_time), targets in zip(
                _logits(candidate, prompt), _logits(reference, prompt), _targets(prompt), strict=True
            ):
                p, q = _log_softmax(exact), _log_softmax(own)
                rows = np.arange(len(targets))
                same += float((exact.argmax(axis=1) == own.argmax(axis=1)).sum())
                divergence += float((np.exp(p) * (p - q)).sum())
                own_loss -= float(q[rows, targets].sum())
                reference_loss -= float(p[rows, targets].sum())
                total += len(targets)
                seconds[0] += own_time
                seconds[1] += exact_time
        return Agreement(
            quantization=quantization,
            tokens=total,
            top1_agreement=same / total,
            kl_divergence=divergence / total,
            perplexity=math.exp(own_loss / total),
            reference_perplexity=math.exp(reference_loss / total),
            weight_bytes=candidate.weight_bytes,
            reference_weight_bytes=reference.weight_bytes,
            seconds=seconds[0],
            reference_seconds=seconds[1],
        )
    finally:
        candidate.close()
        reference.close()


def _targets(prompt: list[int]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(prompt) - 1, _ROWS):
        yield np.array(prompt[start + 1 : start + 1 + _ROWS], np.int64)


def _logits(decoder: Decoder, prompt: list[int]) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Logits of every position but the last, `_ROWS` at a time, and the seconds that they took."""
    blocks = -(-len(prompt) // BLOCK_POSITIONS)
    tables = np.arange(blocks, dtype=np.int32)[None]
    for start in range(0, len(prompt) - 1, _ROWS):
        rows = min(_ROWS, len(prompt) - 1 - start)
        specs = np.zeros(rows, SAMPLE_SPEC)
        specs["row"], specs["repetition"], specs["alternatives"] = np.arange(rows), 1, -1
        logits = np.empty((rows, decoder.shape.vocabulary), np.float32)
        began = time.perf_counter()
        decoder.step(
            np.array(prompt[start : start + rows], np.int32),
            np.arange(start, start + rows, dtype=np.int32),
            np.array([(0, 0, rows)], SEGMENT),
            tables,
            specs,
            np.zeros(rows, SAMPLE_RESULT),
            logits,
        )
        yield logits, time.perf_counter() - began


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
