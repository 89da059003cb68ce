"""Whether the world still allows what a phase is about to do, and the step that answers when it does not. Pure."""

from inferstack.environment import SlotName
from inferstack.promotion.gates import RETRY_SECONDS
from inferstack.promotion.journal import Journal, Operation, Phase
from inferstack.promotion.platform import Observation, SlotObservation
from inferstack.promotion.shares import needed_now, replicas_for, shares, wanted_weights
from inferstack.promotion.steps import Note, SetFloor, Step


def runs(slot: SlotObservation, op: Operation) -> bool:
    return slot.spec is not None and slot.spec.id == op.spec.id


def broken_reason(op: Operation, target: SlotObservation) -> str | None:
    if not runs(target, op):
        return f"{op.target} no longer runs what was rendered"
    if target.failure is not None and target.ready == 0:
        return f"{op.target} failed: {target.failure}"
    if op.restarts is not None and target.restarts > op.restarts:
        return f"{op.target} restarted {target.restarts - op.restarts} times since it was ready"
    return None


def late(op: Operation, seen: Observation, seconds: float) -> bool:
    return seen.time - op.since >= seconds


def too_soon(op: Operation, seen: Observation) -> bool:
    """What was missing may come later. A suspicion is looked into at once: who waits lets more requests meet it."""
    last = op.verdicts[-1] if op.verdicts else None
    return last is not None and not last.suspected and 0 <= seen.time - last.time < RETRY_SECONDS


def give_up(reason: str) -> Note:
    return Note(Phase.REVERT, reason=reason)


def moved_before_shift(op: Operation, seen: Observation) -> Step | None:
    """A slot with weight is never changed: before the shift the target must have none."""
    if seen.weights is None:
        return give_up("the route disappeared")
    if seen.weights.reach(op.target):
        return give_up(f"weights were changed by somebody else to {seen.weights} before {op.target} was ready")
    return None


def unfit(journal: Journal, op: Operation, seen: Observation) -> Step | None:
    """Between ready and shift: back to READY when replicas left, given up when it is another version now."""
    if (moved := moved_before_shift(op, seen)) is not None:
        return moved
    target = seen.slots[op.target]
    if (broken := broken_reason(op, target)) is not None:
        return give_up(broken)
    needed = replicas_for(op, shares(op)[0])
    if needed_now(op, seen.slots[journal.active]) != op.needed or target.ready < needed or target.replicas < needed:
        return Note(Phase.READY, same_deadline=True)
    return None


def trouble_with_weight(op: Operation, seen: Observation) -> Step | None:
    """While the target carries traffic: the weights are still ours, and it is still ready and the same."""
    wanted = wanted_weights(op)
    if seen.weights != wanted:
        return give_up(f"weights were changed by somebody else to {seen.weights or 'something that cannot be read'}, expected {wanted}")
    target = seen.slots[op.target]
    if target.ready == 0:
        return give_up(f"{op.target} lost its last ready replica")
    broken = broken_reason(op, target)
    return give_up(broken) if broken else None


def lower_floor(op: Operation, slot: SlotName, seen: Observation) -> Step | None:
    """The promotion is over: the scaler may shrink the live slot again."""
    floor = seen.slots[slot].floor
    return SetFloor(slot, op.policy.floor) if floor is not None and floor > op.policy.floor else None
