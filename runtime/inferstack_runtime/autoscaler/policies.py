"""The policies besides hybrid_smart: queue and KV targets (default), CPU and memory targets, two thresholds.

Targets follow Kubernetes' HorizontalPodAutoscaler: wanted = ceil(replicas * value / target), nothing within 10 % of the target, down to the
largest answer of the quiet time. Each answers `hold` where metrics are missing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

from inferstack_runtime.autoscaler.hybrid_smart import HybridSmart
from inferstack_runtime.autoscaler.signals import Bounds, Decision, Policy, Sample, line, to

TOLERANCE = 0.1


def wanted(replicas: int, value: float, target: float) -> int:
    """Replicas that bring a mean `value` per replica to its target, as the HorizontalPodAutoscaler counts."""
    change = value / target
    return replicas if abs(change - 1) <= TOLERANCE else ceil(replicas * change - 1e-9)


@dataclass(frozen=True)
class QueueAndCache:
    """Aims at waiting requests per replica and a share of the KV cache. `horizon`: samples a forecast looks ahead; it may only add."""

    bounds: Bounds = field(default_factory=Bounds)
    queue_target: float = 4
    kv_target: float = 0.8
    down_seconds: float = 300
    horizon: int = 0
    name: str = "queue"

    def decide(self, history: Sequence[Sample], changed: float) -> Decision:
        last = history[-1]
        if last.missing:
            return to(last.replicas, last.replicas, 0.0, "metrics are missing: hold")
        now, why = self._needs(last), f"{last.waiting:.0f} waiting, KV cache {last.kv_ratio:.0%}"
        if self.horizon and len(history) >= 5:
            slope, end = line([sample.kv_ratio * sample.replicas for sample in history[-10:]])
            ahead = ceil(max(0.0, end + slope * self.horizon) / self.kv_target - TOLERANCE)
            if ahead > now:
                now, why = ahead, f"{why}; the forecast asks for {ahead}"
        recent = [self._needs(sample) for sample in history if sample.time > last.time - self.down_seconds]
        return _stable(self.bounds, last.replicas, now, recent, why)

    def _needs(self, sample: Sample) -> int:
        replicas = max(1, sample.replicas)
        return max(wanted(replicas, sample.waiting / replicas, self.queue_target), wanted(replicas, sample.kv_ratio, self.kv_target))


@dataclass(frozen=True)
class CpuAndMemory:
    """Aims at shares of CPU and memory."""

    bounds: Bounds = field(default_factory=Bounds)
    cpu_target: float = 0.7
    memory_target: float = 0.8
    down_seconds: float = 300
    name: str = "cpu"

    def decide(self, history: Sequence[Sample], changed: float) -> Decision:
        last = history[-1]
        if last.missing:
            return to(last.replicas, last.replicas, 0.0, "metrics are missing: hold")
        recent = [self._needs(sample) for sample in history if sample.time > last.time - self.down_seconds]
        return _stable(self.bounds, last.replicas, self._needs(last), recent, f"CPU {last.cpu:.0%}, memory {last.memory:.0%}")

    def _needs(self, sample: Sample) -> int:
        return max(wanted(sample.replicas, sample.cpu, self.cpu_target), wanted(sample.replicas, sample.memory, self.memory_target))


@dataclass(frozen=True)
class Thresholds:
    """One replica more above either upper threshold, one fewer below both lower ones, then a pause."""

    bounds: Bounds = field(default_factory=Bounds)
    cpu_up: float = 0.7
    cpu_down: float = 0.3
    memory_up: float = 0.8
    memory_down: float = 0.4
    cooldown_seconds: float = 300
    name: str = "thresholds"

    def decide(self, history: Sequence[Sample], changed: float) -> Decision:
        last = history[-1]
        if last.missing:
            return to(last.replicas, last.replicas, 0.0, "metrics are missing: hold")
        up = last.cpu > self.cpu_up or last.memory > self.memory_up
        down = last.cpu < self.cpu_down and last.memory < self.memory_down
        target = self.bounds.keep(last.replicas + (1 if up else -1 if down else 0))
        why = f"CPU {last.cpu:.0%}, memory {last.memory:.0%}"
        if target != last.replicas and last.time - changed < self.cooldown_seconds:
            return to(last.replicas, last.replicas, 1.0, f"{why}; cooling down")
        return to(last.replicas, target, 1.0, why)


@dataclass(frozen=True)
class Fixed:
    """Always the fewest: what no scaling would cost."""

    bounds: Bounds = field(default_factory=Bounds)
    name: str = "fixed"

    def decide(self, history: Sequence[Sample], changed: float) -> Decision:
        last = history[-1]
        return to(last.replicas, self.bounds.keep(self.bounds.fewest), 1.0, "fixed")


def every_policy(
    bounds: Bounds,
    queue_target: float,
    kv_target: float,
    cpu_target: float,
    memory_target: float,
    down_seconds: float,
    forecast_samples: int = 10,
) -> list[Policy]:
    """The policies that the back-test compares."""
    return [
        Fixed(bounds),
        CpuAndMemory(bounds, cpu_target, memory_target, down_seconds),
        Thresholds(bounds),
        HybridSmart(bounds),
        QueueAndCache(bounds, queue_target, kv_target, down_seconds),
        QueueAndCache(bounds, queue_target, kv_target, down_seconds, horizon=forecast_samples, name="queue_forecast"),
    ]


def _stable(bounds: Bounds, replicas: int, now: int, recent: Iterable[int], why: str) -> Decision:
    """Up at once, down only as far as every answer of the quiet time allows."""
    target = now if now >= replicas else min(replicas, max([now, *recent]))
    kept = bounds.keep(target)
    limit = "" if kept == target else f"; bounded from {target}"
    return to(replicas, kept, 1.0, why + limit)
