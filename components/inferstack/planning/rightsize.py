"""What a replica should request, from what its processes used: the vertical side of scaling. Pure; what asks a Prometheus is the command.

The margin and the rounding up are those of Kubernetes' Vertical Pod Autoscaler (recommender: `recommendation-margin-fraction` 0.15). Its
target percentile of 90 is for requests that may be exceeded; here memory's request is its limit, so that memory takes the highest value
seen, and never less than what the planner knows the weights, the whole KV cache and the process to need. CPU takes the 95th percentile.
"""

import math
from dataclasses import dataclass

from inferstack.environment import Environment
from inferstack.environment.quantity import quantity
from inferstack.planning import fit, placement
from inferstack.planning.savings import replica_hourly_usd

MARGIN = 1.15
CPU_STEP = 0.1
MEMORY_STEP = 128 * 2**20
FEWEST_SECONDS = 3600.0
"""Less than this was not seen enough to conclude from."""


@dataclass(frozen=True, slots=True)
class Used:
    """The busiest replica of a group: CPU in cores (95th percentile of 5 minutes), memory in bytes (highest), and how long it was seen."""

    cpu_cores: float
    memory_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Requests for one group of replicas; `path` is the section of the environment that holds them."""

    path: str
    cpu: str
    memory: str
    now_cpu: str
    now_memory: str
    why: str
    saves_hourly_usd: float | None
    """Of one replica; negative where the recommendation costs more, None where the price is unknown or a GPU decides it."""

    @property
    def changes(self) -> dict[str, str]:
        """The keys to set; none where what is requested is right."""
        found = {}
        if quantity(self.cpu) != quantity(self.now_cpu):
            found[f"{self.path}.resources.cpu"] = self.cpu
        if quantity(self.memory) != quantity(self.now_memory):
            found[f"{self.path}.resources.memory"] = self.memory
        return found


def recommend(environment: Environment, group: placement.Group, used: Used) -> Recommendation:
    """The requests that follow from `used`; raises ValueError where too little was seen."""
    if used.seconds < FEWEST_SECONDS:
        raise ValueError(f"only {used.seconds / 60:.0f} minutes were seen, expected at least {FEWEST_SECONDS / 60:.0f}")
    needed, why = _planned(environment, group), "the highest that was seen"
    wanted = used.memory_bytes * MARGIN
    if needed is not None and needed > wanted:
        wanted, why = float(needed), f"weights, a full KV cache and the process, though only {fit.gib(used.memory_bytes)} was seen"
    cpu, memory = _cores(used.cpu_cores * MARGIN), f"{math.ceil(wanted / MEMORY_STEP) * MEMORY_STEP // 2**20}Mi"
    now = group.resources
    return Recommendation(
        path=group.path,
        cpu=cpu,
        memory=memory,
        now_cpu=now.cpu,
        now_memory=now.memory,
        why=f"CPU {used.cpu_cores:.2f} cores at the 95th percentile; memory: {why}",
        saves_hourly_usd=_saving(environment, group, cpu, memory),
    )


def _cores(wanted: float) -> str:
    """As a quantity, rounded up to tenths of a core."""
    return f"{max(1, math.ceil(wanted / CPU_STEP - 1e-9)) * 100}m"


def _planned(environment: Environment, group: placement.Group) -> int | None:
    """What the planner knows a CPU replica to need; None on GPU nodes and for models that are not in the catalogue."""
    models = [served for _, model in group.models if (served := placement.served(model))]
    if group.on_gpu or len(models) < len(group.models):
        return None
    return fit.host_bytes(models, int(quantity(environment.engine.kv_cache)))


def _saving(environment: Environment, group: placement.Group, cpu: str, memory: str) -> float | None:
    if group.on_gpu or group.path != "slots":
        return None
    resources = environment.slots.resources.model_copy(update={"cpu": cpu, "memory": memory})
    changed = environment.model_copy(update={"slots": environment.slots.model_copy(update={"resources": resources})})
    before, after = replica_hourly_usd(environment), replica_hourly_usd(changed)
    return None if before is None or after is None else round(before - after, 6)
