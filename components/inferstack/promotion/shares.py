"""What the step of an operation asks for: the new slot's share of the traffic, the weights, the replicas that carry it. Pure."""

import math
from dataclasses import replace

from inferstack.promotion.journal import Operation
from inferstack.promotion.platform import SlotObservation
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights


def rolls(op: Operation) -> bool:
    return op.policy.strategy == "rolling" and op.kind == "promote"


def shares(operation: Operation) -> tuple[int, ...]:
    """The new slot's percents, step by step. Rolling: one replica after another."""
    if operation.kind == "rollback":
        return (100,)
    if rolls(operation):
        return tuple(100 * (index + 1) // operation.needed for index in range(operation.needed))
    return operation.policy.steps


def wanted_weights(operation: Operation) -> Weights:
    """The weights of the operation's step."""
    return Weights.share(operation.target, shares(operation)[operation.step])


def weights_before(op: Operation) -> Weights:
    return Weights.share(op.target, shares(op)[op.step - 1]) if op.step else Weights.share(op.target, 0)


def replicas_for(operation: Operation, percent: int) -> int:
    """Replicas that carry `percent` of the live load. Never more than the slot may have, never fewer than one."""
    if rolls(operation):
        return max(1, math.ceil(operation.needed * percent / 100))
    return operation.needed


def needed_now(op: Operation, live: SlotObservation) -> int:
    """The live load may have grown since; it never shrinks what was asked for."""
    if rolls(op):
        return op.needed
    return max(op.needed, min(live.replicas, max(op.policy.most, op.needed)))


def sized(op: Operation) -> SlotSpec:
    return replace(op.spec, replicas=replicas_for(op, shares(op)[0]))
