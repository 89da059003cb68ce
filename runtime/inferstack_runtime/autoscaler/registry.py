"""What is registered for scaling, what was decided last, and the next decision. No I/O."""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from inferstack_runtime.autoscaler.config import PolicyConfig
from inferstack_runtime.autoscaler.policies import every_policy
from inferstack_runtime.autoscaler.signals import Bounds, Decision, Policy, Sample, to

KEPT_SAMPLES = 240
POLICIES = tuple(policy.name for policy in every_policy(Bounds(), 1, 1, 1, 1, 0))


def policy_named(name: str, bounds: Bounds, aims: PolicyConfig) -> Policy:
    """One of `POLICIES`, with its bounds and targets."""
    every = every_policy(bounds, aims.queue, aims.kv, aims.cpu, aims.memory, aims.down_seconds, aims.forecast_samples)
    return {policy.name: policy for policy in every}[name]


@dataclass(frozen=True, slots=True)
class Registration:
    """What somebody asked for."""

    model_key: str
    scaling_policy: str
    min_instances: int
    max_instances: int

    def entries(self) -> dict[str, str]:
        """Its entries in a ConfigMap; the key is the target's."""
        return {key: str(value) for key, value in asdict(self).items() if key != "model_key"}


def registration_of(key: str, data: Mapping[str, str]) -> Registration | None:
    """The registration in a ConfigMap's entries, None where there is none; raises ValueError that names what is wrong."""
    if not data:
        return None
    policy = data.get("scaling_policy", "queue")
    if policy not in POLICIES:
        raise ValueError(f"scaling_policy is {policy!r}: expected one of {', '.join(POLICIES)}")
    bounds = {}
    for name in ("min_instances", "max_instances"):
        text = data.get(name, "")
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"{name} is {text!r}: expected a number of replicas")
        bounds[name] = int(text)
    if bounds["min_instances"] > bounds["max_instances"]:
        raise ValueError(f"min_instances {bounds['min_instances']} is above max_instances {bounds['max_instances']}")
    return Registration(key, policy, **bounds)


@dataclass
class Scaled:
    """One registered slot. `changed`: when its number last changed, in seconds."""

    registration: Registration
    policy: Policy
    bounds: Bounds
    changed: float = float("-inf")
    history: deque[Sample] = field(default_factory=lambda: deque(maxlen=KEPT_SAMPLES))
    last: Decision | None = None

    def decide(self, sample: Sample, bounds: Bounds) -> Decision:
        """What should happen after this look. `bounds`: those of now, which hold also where the policy would leave things as they are."""
        self.history.append(sample)
        decision = self.policy.decide(list(self.history), self.changed)
        kept = bounds.keep(decision.target_replicas)
        if kept != decision.target_replicas:
            decision = to(sample.replicas, kept, 1.0, f"{decision.reasoning}; into the bounds {bounds.fewest} to {bounds.highest}")
        self.last = decision
        return decision

    def rest(self, now: float) -> None:
        """Somebody has set it to 0, and its bounds would not: it stays stopped until somebody starts it."""
        self.last = to(0, 0, 1.0, "stopped: it has 0 replicas, which its bounds do not allow; start it to have it scaled")
        self.history.append(Sample(now, 0, missing=True))

    def to_json(self) -> dict[str, Any]:
        """The registration, its bounds, and the last look and decision."""
        return {
            **asdict(self.registration),
            "replica_cap": self.bounds.cap,
            "decision": asdict(self.last) if self.last is not None else None,
            "sample": asdict(self.history[-1]) if self.history else None,
        }


def scaled(registration: Registration, aims: PolicyConfig, cap: int | None, before: Mapping[str, Scaled]) -> Scaled:
    """The slot under a registration; what was seen before goes on."""
    bounds = Bounds(registration.min_instances, registration.max_instances, cap)
    new = Scaled(registration, policy_named(registration.scaling_policy, bounds, aims), bounds)
    old = before.get(registration.model_key)
    if old is not None:
        new.history, new.changed = old.history, old.changed
    return new
