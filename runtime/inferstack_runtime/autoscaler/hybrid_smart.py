"""The policy `hybrid_smart`: one score of five parts, one replica at a time. Kept for compatibility.

utilization = 0.3 CPU + 0.3 memory + 0.4 GPU
score       = 0.4 utilization + 0.2 trend + 0.2 queue + 0.1 error + 0.1 prediction
queue       = waiting / 10, at most 1
error       = 1 above 5 % failed, the share / 0.05 above 1 %, else 0
trend       = rise of the utilization over the last 5 points, 0 to 1
prediction  = next value of the line through the last 10 points, 0 to 1

One more replica above 0.8, one fewer below 0.5, then 300 s of quiet.

At a steady load the trend is 0, so that the score of a slot that is entirely overloaded and fails is 0.8: it fires only while things
get worse. On CPUs, where the GPU's share is 0, the ceiling is lower still. It is therefore not the default; the back-test shows why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from inferstack_runtime.autoscaler.signals import Bounds, Decision, Sample, line, to

UP, DOWN = 0.8, 0.5
QUIET_SECONDS = 300.0
WINDOW_SECONDS = 300.0
KEPT_WINDOWS = 3
_TREND_POINTS, _LINE_POINTS = 5, 10


@dataclass(frozen=True)
class Score:
    """The five parts, each 0 to 1, and their weighted sum."""

    utilization: float
    trend: float
    queue: float
    error: float
    prediction: float

    @property
    def value(self) -> float:
        return 0.4 * self.utilization + 0.2 * self.trend + 0.2 * self.queue + 0.1 * self.error + 0.1 * self.prediction


def utilization(sample: Sample) -> float:
    """Weighted use of CPU, memory and GPU, 0 to 1."""
    return 0.3 * sample.cpu + 0.3 * sample.memory + 0.4 * sample.gpu


def error_part(ratio: float) -> float:
    """What a share of failed requests counts, 0 to 1."""
    return 1.0 if ratio > 0.05 else ratio / 0.05 if ratio > 0.01 else 0.0


def score(history: Sequence[Sample]) -> Score:
    """The score of the last sample; samples older than three windows do not count. Raises ValueError without samples."""
    if not history:
        raise ValueError("hybrid_smart: no samples")
    last = history[-1]
    values = [utilization(sample) for sample in history if sample.time >= last.time - KEPT_WINDOWS * WINDOW_SECONDS]
    recent = values[-_TREND_POINTS:]
    slope, end = line(values[-_LINE_POINTS:])
    return Score(
        utilization=values[-1],
        trend=_unit(recent[-1] - recent[0]) if len(recent) == _TREND_POINTS else 0.0,
        queue=min(last.waiting / 10, 1.0),
        error=error_part(last.error_ratio),
        prediction=_unit(end + slope) if len(values) >= _LINE_POINTS else _unit(values[-1]),
    )


@dataclass(frozen=True)
class HybridSmart:
    """See the module."""

    bounds: Bounds = field(default_factory=Bounds)
    name: str = "hybrid_smart"

    def decide(self, history: Sequence[Sample], changed: float) -> Decision:
        last = history[-1]
        if last.missing:
            return to(last.replicas, last.replicas, 0.0, "metrics are missing: hold")
        found = score(history)
        confidence = min(1.0, len(history) / _LINE_POINTS)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in vars(found).items())
        step = 1 if found.value > UP else -1 if found.value < DOWN else 0
        target = self.bounds.keep(last.replicas + step)
        if target != last.replicas and last.time - changed < QUIET_SECONDS:
            return to(last.replicas, last.replicas, confidence, f"score {found.value:.2f} ({parts}); quiet time")
        return to(last.replicas, target, confidence, f"score {found.value:.2f} ({parts})")


def _unit(value: float) -> float:
    return max(0.0, min(1.0, value))
