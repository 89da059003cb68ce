"""Which replicas a slot has: one group, or one per tier when models of both tiers are served."""

from dataclasses import dataclass

from inferstack.environment import Environment, GpuPool, Model, Replicas, Resources


@dataclass(frozen=True)
class ReplicaGroup:
    """Replicas of a slot that serve the same models on the same kind of node."""

    name: str
    """Suffix of the group's objects; empty for the slot's only or first group."""
    tier: str
    models: tuple[Model, ...]
    gpu: GpuPool | None
    replicas: Replicas
    resources: Resources
    share: int
    """Share of the requests that name no tier, in percent."""


def replica_groups(environment: Environment) -> tuple[ReplicaGroup, ...]:
    """The groups of one slot. With models of one tier there is one group, on GPU nodes where `gpu` is set; with both tiers the
    `fast` models run on CPU and the `quality` models on GPU nodes."""
    slots, tiers = environment.slots, sorted({model.tier for model in environment.models})
    if len(tiers) == 1:
        return (ReplicaGroup("", tiers[0], environment.models, environment.gpu, slots.replicas, slots.resources, 100),)
    fast = tuple(model for model in environment.models if model.tier == "fast")
    quality = tuple(model for model in environment.models if model.tier == "quality")
    weights = (max(model.weight for model in fast), max(model.weight for model in quality))
    share = round(100 * weights[0] / max(sum(weights), 1))
    own = slots.quality
    return (
        ReplicaGroup("", "fast", fast, None, slots.replicas, slots.resources, share),
        ReplicaGroup(
            "quality",
            "quality",
            quality,
            environment.gpu,
            own.replicas if own else slots.replicas,
            own.resources if own else slots.resources,
            100 - share,
        ),
    )
