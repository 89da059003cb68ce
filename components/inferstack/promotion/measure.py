"""What a slot did in a window: cumulative counters of its replicas, taken twice and subtracted. Pure.

before = {"blue-0": Counters(...)}; after = ...
stats = window(before, after)                 # WindowStats
stats.ttft.quantile(0.95)                     # seconds
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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

    @property
    def p95(self) -> float | None:
        return self.quantile(0.95)

    @property
    def mean(self) -> float | None:
        """With each observation in the middle of its bucket, those of the last one at its beginning; None without observations."""
        if self.total == 0:
            return None
        edges = itertools.pairwise((0.0, *self.bounds))
        return (
            sum(
                count * (lower if math.isinf(upper) else (lower + upper) / 2)
                for count, (lower, upper) in zip(self.counts, edges, strict=True)
            )
            / self.total
        )


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
    ttft_parts: tuple[float, ...] = ()
    """p95 of consecutive parts of the window, seconds: how much it varies by itself."""
    inter_token_parts: tuple[float, ...] = ()
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


def leak(looks: Sequence[Snapshot]) -> float | None:
    """Lasting growth of one replica's resident memory over equal portions of requests that fill no cache, as a share of its start.

    A process that was just started grows at first (buffers, thread stacks, pages touched for the first time) and then no more; a leak
    grows in every portion. So the smallest growth of a portion counts for each of them. None when no replica was there throughout.
    """
    shares = []
    for replica, first in looks[0].items() if len(looks) > 1 else ():
        seen = [look[replica] for look in looks if replica in look and look[replica].started == first.started]
        if len(seen) == len(looks) and first.resident_bytes > 0:
            growths = [later.resident_bytes - earlier.resident_bytes for earlier, later in itertools.pairwise(seen)]
            shares.append(min(growths) * len(growths) / first.resident_bytes)
    return max(shares, default=None)


def over(looks: Sequence[tuple[float, Snapshot | None]], parts: int) -> WindowStats | None:
    """The window from the first look (seconds, snapshot) to the last, with the p95 of up to `parts` consecutive parts of it.

    None when there was no look at the start or the end, or no replica at the end; looks between that failed are passed over.
    """
    good = [(when, snapshot) for when, snapshot in looks if snapshot]
    if len(good) < 2 or not looks[0][1] or not looks[-1][1]:
        return None
    whole = window(good[0][1], good[-1][1], good[-1][0] - good[0][0])
    steps = len(good) - 1
    cuts = [round(index * steps / min(parts, steps)) for index in range(min(parts, steps) + 1)]
    pieces = [window(good[a][1], good[b][1], good[b][0] - good[a][0]) for a, b in itertools.pairwise(cuts)]
    return replace(
        whole, ttft_parts=p95s([piece.ttft for piece in pieces]), inter_token_parts=p95s([piece.inter_token for piece in pieces])
    )


def p95s(parts: Iterable[Histogram]) -> tuple[float, ...]:
    """The 95th percentiles of those parts that saw anything, seconds."""
    return tuple(value for part in parts if (value := part.quantile(0.95)) is not None)
