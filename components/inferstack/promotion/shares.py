"""What the step of an operation asks for: the new slot's share of the traffic, the weights, the replicas that carry it. Pure."""

import math
from dataclasses import replace

from inferstack.promotion.journal import Operation
from inferstack.promotion.platform import SlotObservation
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Cohort, Weights

EVEN = 50
"""Percent of either slot while both are compared once more."""


def rolls(op: Operation) -> bool:
    return op.policy.strategy == "rolling" and op.kind == "promote"


def shares(operation: Operation) -> tuple[int, ...]:
    """The new slot's percents, step by step. Rolling: one replica after another. 0: only the requests with the header.

    A split goes back from all traffic to a share that the old slot carries: half of it, or what its last replica of rolling had.
    """
    if operation.kind == "rollback":
        return (100,)
    steps = (0, *operation.policy.steps) if operation.policy.header else operation.policy.steps
    if rolls(operation):
        steps = tuple(100 * (index + 1) // operation.needed for index in range(operation.needed))
    if not operation.split:
        return steps
    return (*steps[:-1], steps[-2] if rolls(operation) and len(steps) > 1 else EVEN, 100)


def splits(operation: Operation) -> bool:
    """Whether the operation's step is the one that goes back from all traffic."""
    return operation.split and operation.step == operation.count - 2


def cohort(operation: Operation) -> Cohort | None:
    """The requests that go to the new slot for their header while it has not got all of them."""
    header = operation.policy.header
    return Cohort(*header, operation.target) if header and operation.kind == "promote" and not rolls(operation) else None


def wanted_weights(operation: Operation) -> Weights:
    """The weights of the operation's step."""
    return _at(operation, operation.step)


def weights_before(operation: Operation) -> Weights:
    """The weights of the step before."""
    if splits(operation):
        return Weights.share(operation.target, 100)
    return _at(operation, operation.step - 1) if operation.step else Weights.share(operation.target, 0)


def _at(operation: Operation, step: int) -> Weights:
    percent = shares(operation)[step]
    return Weights.share(operation.target, percent, cohort(operation) if percent < 100 else None)


def replicas_for(operation: Operation, percent: int) -> int:
    """Replicas that carry `percent` of the live load. Never more than the slot may have, never fewer than one."""
    if rolls(operation):
        return max(1, math.ceil(operation.needed * percent / 100))
    return operation.needed


def carried_back(operation: Operation) -> int:
    """Ready replicas that the old slot must have for its share of a split."""
    return max(1, operation.needed - (replicas_for(operation, shares(operation)[operation.step]) if rolls(operation) else 0))


def needed_now(op: Operation, live: SlotObservation) -> int:
    """The live load may have grown since; it never shrinks what was asked for."""
    if rolls(op):
        return op.needed
    return max(op.needed, min(live.replicas, max(op.policy.most, op.needed)))


def sized(op: Operation) -> SlotSpec:
    return replace(op.spec, replicas=replicas_for(op, shares(op)[0]))
