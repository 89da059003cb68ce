"""What a policy sees of a slot, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Action = Literal["scale_up", "scale_down", "hold"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a slot. Shares are 0 to 1 and means over its ready replicas; `waiting` is the sum; `time` is in seconds."""

    time: float
    replicas: int
    cpu: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
    waiting: float = 0.0
    kv_ratio: float = 0.0
    error_ratio: float = 0.0
    missing: bool = False
    """The metrics are unknown or too old: nothing may be concluded from them."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there should be, how sure that is (0 to 1), and why."""

    action: Action
    target_replicas: int
    confidence: float
    reasoning: str


class Policy(Protocol):
    """Decides from the samples so far, the oldest first; `changed` is when the number last changed."""

    @property
    def name(self) -> str: ...

    def decide(self, history: Sequence[Sample], changed: float) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most replicas; `cap` is the most that the budget pays for, None without a budget."""

    fewest: int = 1
    most: int = 10
    cap: int | None = None

    @property
    def highest(self) -> int:
        """The most that may run. The floor of the service level goes before the budget."""
        return max(self.fewest, self.most if self.cap is None else min(self.most, self.cap))

    def keep(self, wanted: int) -> int:
        """The number inside the bounds."""
        return max(self.fewest, min(wanted, self.highest))

    def beside(self, replicas: int, cap: int | None) -> "Bounds":
        """The bounds where others use a part of the budget and `cap` is what is left: it stops growth, and takes none of `replicas`."""
        if cap is None or self.cap is None:
            return self
        return Bounds(self.fewest, self.most, max(cap, min(replicas, self.cap)))


def to(replicas: int, target: int, confidence: float, reasoning: str) -> Decision:
    """The decision that leads from one number to another."""
    action: Action = "hold" if target == replicas else "scale_up" if target > replicas else "scale_down"
    return Decision(action, target, confidence, reasoning)


def replica_cap(budget_hourly_usd: float, replica_hourly_usd: float, fixed_hourly_usd: float = 0.0) -> int:
    """Most replicas that an hourly budget pays for, 0 where not even one; prices in USD per hour. Raises ValueError for a price of 0."""
    if replica_hourly_usd <= 0:
        raise ValueError(f"replica_hourly_usd is {replica_hourly_usd}: expected a price above 0")
    return max(0, int((budget_hourly_usd - fixed_hourly_usd) / replica_hourly_usd + 1e-9))


def line(values: Sequence[float]) -> tuple[float, float]:
    """Least-squares line through equally spaced values: (slope per step, value at the last)."""
    count = len(values)
    if count < 2:
        return 0.0, values[-1] if values else 0.0
    middle, mean = (count - 1) / 2, sum(values) / count
    slope = sum((i - middle) * (v - mean) for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(count))
    return slope, mean + slope * (count - 1 - middle)
