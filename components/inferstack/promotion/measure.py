"""What a slot did in a window: cumulative counters of its replicas, taken twice and subtracted. Pure.

before = {"blue-0": Counters(...)}; after = ...
stats = window(before, after)                 # WindowStats
stats.ttft.quantile(0.95)                     # seconds
"""

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_FINE = tuple(1e-4 * 1.1**index for index in range(170))


@dataclass(frozen=True)
class Histogram:
    """Observations by bucket: `counts[i]` fell at or below `bounds[i]` seconds and above the bound before; the last bound is infinite."""

    bounds: tuple[float, ...] = (math.inf,)
    counts: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Histogram":
        """Seconds measured one by one, in buckets 10 % apart from 0.1 ms to 1,000 s."""
        counts = [0.0] * (len(_FINE) + 1)
        for sample in samples:
            counts[bisect.bisect_left(_FINE, sample)] += 1
        return cls((*_FINE, math.inf), tuple(counts))

    @property
    def total(self) -> float:
        return sum(self.counts)

    def minus(self, earlier: "Histogram") -> "Histogram":
        """What came since `earlier`; a counter that went down was restarted, so all of it is new."""
        if earlier.bounds != self.bounds or any(new < old for new, old in zip(self.counts, earlier.counts, strict=True)):
            return self
        return Histogram(self.bounds, tuple(new - old for new, old in zip(self.counts, earlier.counts, strict=True)))

    def plus(self, other: "Histogram") -> "Histogram":
        """Both together, on the bounds that both have (counts move up to the next common bound)."""
        if self.total == 0:
            return other
        if other.total == 0:
            return self
        if self.bounds == other.bounds:
            return Histogram(self.bounds, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))
        bounds = tuple(sorted(set(self.bounds) & set(other.bounds)))
        merged = [0.0] * len(bounds)
        for histogram in (self, other):
            for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
                merged[bisect.bisect_left(bounds, bound)] += count
        return Histogram(bounds, tuple(merged))

    def quantile(self, q: float) -> float | None:
        """Value at quantile `q`, linear inside its bucket as Prometheus' histogram_quantile does; None without observations."""
        if self.total == 0:
            return None
        rank, seen, lower = q * self.total, 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count and seen + count >= rank:
                return lower if math.isinf(bound) else lower + (bound - lower) * (rank - seen) / count
            seen += count
            lower = bound if not math.isinf(bound) else lower
        return lower


@dataclass(frozen=True)
class Counters:
    """One replica's cumulative figures since its process started."""

    requests: float = 0
    errors: float = 0
    tokens: float = 0
    ttft: Histogram = field(default_factory=Histogram)
    inter_token: Histogram = field(default_factory=Histogram)
    resident_bytes: float = 0
    bounded_bytes: float = 0
    """Upper bound of the caches in it that fill up with use (KV cache)."""
    cache_hits: float = 0
    cache_false_hits: float = 0
    started: float = 0
    """Start of the process, epoch seconds: another value is another process."""


Snapshot = Mapping[str, Counters]
"""By replica."""


@dataclass(frozen=True)
class WindowStats:
    """What a slot did between two snapshots."""

    requests: float = 0
    errors: float = 0
    tokens: float = 0
    ttft: Histogram = field(default_factory=Histogram)
    inter_token: Histogram = field(default_factory=Histogram)
    seconds: float = 0
    replicas: int = 0
    restarts: int = 0
    """Replicas whose process was replaced or that went away inside the window."""
    resident_growth: float | None = None
    """Largest growth of one replica's resident memory beyond its bounded caches, as a share of its start; None if unknown."""
    cache_hits: float = 0
    cache_false_hits: float = 0

    @property
    def error_ratio(self) -> float:
        return self.errors / self.requests if self.requests else 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    def with_failures(self, failures: float) -> "WindowStats":
        """Failures that the sender saw and the slot could not count (a connection that broke)."""
        missed = max(0.0, failures - self.errors)
        return WindowStats(**{**self.__dict__, "errors": self.errors + missed, "requests": max(self.requests, failures)})


def window(before: Snapshot, after: Snapshot, seconds: float) -> WindowStats:
    """The difference of two snapshots of one slot, over all replicas. A cache that fills up to its bound is no growth."""
    stats = WindowStats(seconds=seconds, replicas=len(after))
    growth: list[float] = []
    restarts = len(set(before) - set(after))
    for replica, new in after.items():
        old = before.get(replica, Counters())
        if replica in before and (old.started != new.started or new.requests < old.requests):
            restarts += 1
            old = Counters()
        elif replica in before and old.resident_bytes > 0:
            growth.append((new.resident_bytes - old.resident_bytes - new.bounded_bytes) / old.resident_bytes)
        stats = WindowStats(
            requests=stats.requests + new.requests - old.requests,
            errors=stats.errors + new.errors - old.errors,
            tokens=stats.tokens + new.tokens - old.tokens,
            ttft=stats.ttft.plus(new.ttft.minus(old.ttft)),
            inter_token=stats.inter_token.plus(new.inter_token.minus(old.inter_token)),
            seconds=seconds,
            replicas=len(after),
            cache_hits=stats.cache_hits + new.cache_hits - old.cache_hits,
            cache_false_hits=stats.cache_false_hits + new.cache_false_hits - old.cache_false_hits,
        )
    return WindowStats(**{**stats.__dict__, "restarts": restarts, "resident_growth": max(growth, default=None)})


def leak(before: Snapshot, after: Snapshot) -> float | None:
    """Largest growth of one replica's resident memory over requests that fill no cache, as a share; None when none was there twice."""
    shares = [
        (new.resident_bytes - before[replica].resident_bytes) / before[replica].resident_bytes
        for replica, new in after.items()
        if replica in before and before[replica].resident_bytes > 0 and before[replica].started == new.started
    ]
    return max(shares, default=None)


def larger(new: Histogram, old: Histogram) -> float:
    """z of the one-sided Mann-Whitney test (Mann and Whitney 1947, normal approximation with tie correction): large when `new`
    is stochastically larger than `old`, 0 when either is empty. Buckets are ties, so coarse buckets make the test careful."""
    bounds = sorted(set(new.bounds) & set(old.bounds))
    a, b = (_on(histogram, bounds) for histogram in (new, old))
    n, m = sum(a), sum(b)
    total = n + m
    if not n or not m or total < 2:
        return 0.0
    below, u, ties = 0.0, 0.0, 0.0
    for x, y in zip(a, b, strict=True):
        u += x * (below + y / 2)
        below += y
        ties += (x + y) ** 3 - (x + y)
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def _on(histogram: Histogram, bounds: list[float]) -> list[float]:
    counts = [0.0] * len(bounds)
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        counts[bisect.bisect_left(bounds, bound)] += count
    return counts
