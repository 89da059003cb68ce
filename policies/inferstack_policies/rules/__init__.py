"""All rules, in the order of the documentation."""

from inferstack_policies.model import Rule
from inferstack_policies.rules import (
    access,
    availability,
    clusters,
    cost,
    gpu,
    images,
    network,
    pods,
    resources,
    secrets,
    slots,
    storage,
    workloads,
)

RULES: tuple[Rule, ...] = (
    *pods.RULES,
    *resources.RULES,
    *workloads.RULES,
    *images.RULES,
    *secrets.RULES,
    *access.RULES,
    *network.RULES,
    *availability.RULES,
    *gpu.RULES,
    *slots.RULES,
    *clusters.RULES,
    *storage.RULES,
    *cost.RULES,
)
