"""Speed of the engine alone, without HTTP: time of a step per batch size, and its share of what the machine allows.

The bounds are measured in the same run: bytes per second that all threads read, and 8-bit multiply-adds per second. A step must read all
weights and the caches of its sequences once, and multiply every weight by every row; the larger of both times bounds it from below.
"""

import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np

from inferstack_runtime.engines.decoder import Decoder
from inferstack_runtime.kernels import BLOCK_POSITIONS, SAMPLE_RESULT, SAMPLE_SPEC, SEGMENT


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """One shape of batch. `share` of the bound is 1 when nothing could be faster."""

    kind: str
    """`decode`: one row each of `sequences`; `prefill`: one sequence of `rows`."""
    sequences: int
    rows: int
    context: int
    seconds: float
    """Median of the steps."""
    best_seconds: float
    tokens_per_second: float
    bytes_read: int
    multiply_adds: int
    memory_share: float
    compute_share: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def measure(
    decoder: Decoder, limits: tuple[float, float], *, batches: tuple[int, ...], prompts: tuple[int, ...], context: int, seconds: float
) -> list[StepSpeed]:
    """Decode steps of `batches` sequences at `context` positions, then prompts; about `seconds` for each shape.

    `limits` are bytes read and 8-bit multiply-adds per second, measured just before (`Library.limits`).
    """
    blocks = -(-(context + max(prompts)) // BLOCK_POSITIONS)
    decoder.allocate_cache(max((max(batches) * -(-(context + 1) // BLOCK_POSITIONS)), blocks))
    return [
        _shape(decoder, kind, count, rows, at, seconds, limits)
        for kind, count, rows, at in [("decode", batch, 1, context) for batch in batches]
        + [("prefill", 1, prompt, 0) for prompt in prompts]
    ]


def _shape(decoder: Decoder, kind: str, sequences: int, rows: int, at: int, budget: float, limits: tuple[float, float]) -> StepSpeed:
    shape, total = decoder.shape, sequences * rows
    per_sequence = -(-(at + rows) // BLOCK_POSITIONS)
    tables = np.arange(sequences * per_sequence, dtype=np.int32).reshape(sequences, per_sequence)
    tokens = np.random.default_rng(0).integers(0, shape.vocabulary, total).astype(np.int32)
    positions = np.tile(np.arange(at, at + rows, dtype=np.int32), sequences)
    segments = np.array([(i, i * rows, rows) for i in range(sequences)], SEGMENT)
    specs = np.zeros(sequences, SAMPLE_SPEC)
    specs["row"], specs["target"], specs["alternatives"] = np.arange(1, sequences + 1) * rows - 1, -1, -1
    specs["repetition"] = 1
    results = np.zeros(sequences, SAMPLE_RESULT)
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 1000):
        start = time.perf_counter()
        decoder.step(tokens, positions, segments, tables, specs, results)
        times.append(time.perf_counter() - start)
    layers = shape.hidden * shape.head_dim * (shape.heads * 2 + shape.key_value_heads * 2) + 3 * shape.hidden * shape.feed_forward
    multiply_adds = total * shape.layers * layers + sequences * shape.vocabulary * shape.hidden
    attended = sequences * (rows * at + rows * (rows + 1) // 2)
    multiply_adds += 2 * attended * shape.heads * shape.head_dim * shape.layers
    bytes_read = decoder.weight_bytes + sequences * per_sequence * decoder.block_bytes
    median = statistics.median(times)
    return StepSpeed(
        kind=kind,
        sequences=sequences,
        rows=total,
        context=at,
        seconds=median,
        best_seconds=min(times),
        tokens_per_second=total / median,
        bytes_read=bytes_read,
        multiply_adds=multiply_adds,
        memory_share=bytes_read / limits[0] / median,
        compute_share=multiply_adds / limits[1] / median,
    )
