"""What each policy would have done with a load: replicas, dollars, minutes in which the service level was missed.

A fluid model: a replica answers `capacity` requests per second, new ones are ready after `start_seconds`, what is not answered waits, what
does not fit the queues is refused. The KV cache is in use as the replicas are busy, and full while requests wait. Memory is taken at start.
It compares policies on the same load; it is no forecast of latencies.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from inferstack_runtime.autoscaler.signals import Policy, Sample
from inferstack_runtime.autoscaler.traces import Trace


@dataclass(frozen=True)
class Replica:
    """What one replica can do. `capacity` in requests per second; `gpu`: its work is done by a GPU, so that its CPU is nearly idle."""

    capacity: float
    start_seconds: float = 120.0
    queue: int = 256
    memory: float = 0.6
    gpu: bool = False
    hourly_usd: float | None = None


@dataclass(frozen=True)
class Result:
    """One policy over one trace. `cost_usd` is None where no price is known."""

    policy: str
    cost_usd: float | None
    slo_minutes_missed: float
    replica_hours: float
    mean_replicas: float
    max_replicas: int
    changes: int
    refused_requests: float
    longest_wait_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Numbers, rounded for people; nothing where a price is unknown."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items() if value is not None}


_BUSY_CPU_OF_GPU_REPLICAS = 0.15


def run(policy: Policy, trace: Trace, replica: Replica, first: int, slo_seconds: float = 5.0) -> Result:
    """Replay a trace against a policy; a step misses the service level when a new request would wait longer, or one is refused."""
    starts = [float("-inf")] * first
    history: list[Sample] = []
    waiting, changed, changes, refused_all, missed, longest, held = 0.0, float("-inf"), 0, 0.0, 0.0, 0.0, 0.0
    most = first
    for index, rate in enumerate(trace.rates):
        now = index * trace.step
        ready = max(0, sum(1 for start in starts if start + replica.start_seconds <= now))
        able, asked = ready * replica.capacity * trace.step, rate * trace.step
        served = min(able, waiting + asked)
        left = waiting + asked - served
        waiting = min(left, float(ready * replica.queue))
        refused = left - waiting
        wait = waiting / (ready * replica.capacity) if ready else (float("inf") if left else 0.0)
        busy = served / able if able else 0.0
        held += len(starts) * trace.step
        refused_all += refused
        longest = max(longest, 0.0 if wait == float("inf") else wait)
        missed += trace.step / 60 if wait > slo_seconds or refused > 1e-9 else 0.0
        cpu = busy * (_BUSY_CPU_OF_GPU_REPLICAS if replica.gpu else 1.0)
        failed = refused / (served + refused) if served + refused else 0.0
        history.append(
            Sample(now, len(starts), cpu, replica.memory, busy if replica.gpu else 0.0, waiting, 1.0 if waiting else busy, failed)
        )
        target = policy.decide(history[-120:], changed).target_replicas
        if target != len(starts):
            changes, changed = changes + 1, now
            starts = (starts + [now] * (target - len(starts)))[:target]
        most = max(most, len(starts))
    hours = held / 3600
    cost = None if replica.hourly_usd is None else hours * replica.hourly_usd
    return Result(policy.name, cost, missed, hours, held / trace.seconds, most, changes, refused_all, longest)


def compare(policies: Iterable[Policy], trace: Trace, replica: Replica, first: int, slo_seconds: float = 5.0) -> list[Result]:
    """Every policy over the same trace."""
    return [run(policy, trace, replica, first, slo_seconds) for policy in policies]
