"""The phases of an operation that goes on: from the first look to the old slot's last answer. Pure, one function a phase."""

import math

from inferstack.environment import SlotName
from inferstack.promotion.conditions import (
    broken_reason,
    give_up,
    late,
    lower_floor,
    moved_before_shift,
    runs,
    too_soon,
    trouble_with_weight,
    unfit,
)
from inferstack.promotion.drift import find_drift
from inferstack.promotion.gates import RETRY_SECONDS, TRIES
from inferstack.promotion.journal import Journal, Operation, Outcome, Phase
from inferstack.promotion.platform import Observation
from inferstack.promotion.shares import carried_back, needed_now, replicas_for, rolls, shares, sized, splits, wanted_weights, weights_before
from inferstack.promotion.steps import (
    DRAIN_POLL_SECONDS,
    POLL_SECONDS,
    Check,
    Finish,
    Note,
    Render,
    RollBack,
    Scale,
    SetFloor,
    Settle,
    SetWeights,
    Step,
    Wait,
    Warm,
)


def preflight(journal: Journal, op: Operation, seen: Observation) -> Step:
    live, weights = seen.slots[journal.active], seen.weights
    if weights is None or seen.named != frozenset(SlotName):
        return Finish(Outcome.REFUSED, "the route does not name both slots as backends: run `inferstack up` or `pulumi up` first")
    if weights.sole is not journal.active:
        return Finish(
            Outcome.REFUSED, f"live weights are {weights}, expected all on {journal.active}: `inferstack recover` sets that right"
        )
    if op.kind == "promote" and live.ready == 0 and not op.policy.allow_unhealthy_live:
        why = live.failure or live.waiting
        return Finish(
            Outcome.REFUSED,
            f"the live slot {journal.active} has no ready replica{f' ({why})' if why else ''}, so there would be no way back; "
            "--accept-unhealthy-live promotes all the same",
        )
    drift = find_drift(journal, seen)
    if drift and not op.policy.allow_drift:
        return Finish(Outcome.REFUSED, "drift: " + "; ".join(drift) + " (--allow-drift promotes all the same)")
    if op.kind == "rollback" and journal.previous is not op.target:
        return Finish(Outcome.REFUSED, "there is no previous version to go back to")
    asked = op.spec.replicas if op.kind == "promote" else 1
    needed = min(max(live.replicas, op.policy.floor, asked, 1), max(op.policy.most, live.replicas, 1))
    changes = {"needed": needed, "rendered": seen.time}
    target = seen.slots[op.target]
    if op.kind == "rollback" and runs(target, op) and target.ready >= needed:  # still warm: nothing but the weights moves
        return Note(Phase.SHIFT, changes=changes)
    return Note(Phase.RENDER, changes=changes)


def render(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (moved := moved_before_shift(op, seen)) is not None:
        return moved
    if runs(seen.slots[op.target], op):
        return Note(Phase.READY, same_deadline=True)
    if late(op, seen, op.policy.ready_seconds):
        return give_up(f"{op.target} could not be rendered within {op.policy.ready_seconds:.0f} s")
    return Render(op.target, sized(op))


def ready(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (moved := moved_before_shift(op, seen)) is not None:
        return moved
    target = seen.slots[op.target]
    if not runs(target, op):
        return Note(Phase.RENDER, same_deadline=True)
    if (broken := broken_reason(op, target)) is not None:
        return give_up(broken)
    needed = needed_now(op, seen.slots[journal.active])
    if needed != op.needed:
        return Note(Phase.READY, changes={"needed": needed}, same_deadline=True)
    wanted = replicas_for(op, shares(op)[0])
    if target.failure is not None:
        return give_up(f"{op.target} cannot become ready: {target.failure}")
    short = target.replicas < wanted or (target.floor is not None and target.floor < wanted)
    if target.ready >= wanted and not short:
        return Note(Phase.WARM, changes={} if op.restarts is not None else {"restarts": target.restarts})
    if late(op, seen, op.policy.ready_seconds) or seen.time - op.rendered >= 2 * op.policy.ready_seconds:
        why = f": {target.waiting}" if target.waiting else ""
        return give_up(f"{op.target} has {target.ready} of {wanted} replicas ready after {op.policy.ready_seconds:.0f} s{why}")
    if short:
        return Scale(op.target, max(wanted, target.replicas))
    return Wait(POLL_SECONDS, f"{target.ready} of {wanted} replicas ready" + (f" ({target.waiting})" if target.waiting else ""))


def warm(journal: Journal, op: Operation, seen: Observation) -> Step:
    return unfit(journal, op, seen) or Warm(op.target)


def precheck(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (trouble := unfit(journal, op, seen)) is not None:
        return trouble
    if op.kind == "rollback":
        return Note(Phase.SHIFT)  # the slot is verified right before its weight is set
    if op.attempts and too_soon(op, seen):
        return Wait(RETRY_SECONDS, f"measuring again, try {op.attempts + 1} of {TRIES}")
    live = journal.active if seen.slots[journal.active].ready else None
    return Check("pre-check", op.target, live, 0)


def shift(journal: Journal, op: Operation, seen: Observation) -> Step:
    target, percent = seen.slots[op.target], shares(op)[op.step]
    wanted, before = wanted_weights(op), weights_before(op)
    if seen.weights is None or seen.weights not in (wanted, before):
        return give_up(f"weights were changed by somebody else to {seen.weights or 'something that cannot be read'}, expected {before}")
    if (broken := broken_reason(op, target)) is not None:
        return give_up(broken)
    if (grown := needed_now(op, seen.slots[journal.active])) != op.needed:
        return Note(Phase.SHIFT, changes={"needed": grown}, same_deadline=True)
    needed = replicas_for(op, percent)
    if target.ready < needed and late(op, seen, op.policy.ready_seconds):
        return give_up(f"{op.target} has {target.ready} of {needed} replicas ready after {op.policy.ready_seconds:.0f} s")
    if target.replicas < needed:
        return Scale(op.target, needed)
    if (prepared := _prepare_live(journal, op, seen)) is not None:
        return prepared
    if target.ready < needed:
        return Wait(POLL_SECONDS, f"{target.ready} of {needed} replicas ready")
    if seen.weights == wanted:
        return Note(Phase.SETTLE)
    if splits(op) and seen.slots[journal.active].ready < carried_back(op):
        return Note(Phase.SHIFT, changes={"step": op.step + 1, "weights": before})
    if journal.weights != wanted:
        return Note(Phase.SHIFT, changes={"weights": wanted, "shifted": True}, same_deadline=True)
    return SetWeights(wanted, verify=journal.active if splits(op) else op.target)


def _prepare_live(journal: Journal, op: Operation, seen: Observation) -> Step | None:
    """Before weights move: the live slot may not shrink while a way back is kept; rolling gives up what the steps so far replaced."""
    live = seen.slots[journal.active]
    if rolls(op):
        covered = replicas_for(op, shares(op)[op.step - 1]) if op.step else 0
        return Scale(journal.active, op.needed - covered) if covered and live.replicas > op.needed - covered else None
    return SetFloor(journal.active, op.needed) if live.floor is not None and live.floor < op.needed else None


def settle(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (trouble := trouble_with_weight(op, seen)) is not None:
        return trouble
    if late(op, seen, op.policy.settle_seconds):
        return give_up(f"{op.policy.settle_count} answers in a row did not come from {op.target} within {op.policy.settle_seconds:.0f} s")
    percent = shares(op)[op.step]
    if splits(op):
        return Settle(journal.active, None, 100 - percent, max(op.policy.settle_count, math.ceil(300 / (100 - percent))))
    if percent in (0, 100):
        return Settle(op.target, op.spec.generation, percent, op.policy.settle_count, op.policy.header if percent == 0 else None)
    return Settle(op.target, op.spec.generation, percent, max(op.policy.settle_count, math.ceil(300 / percent)))  # 95 % meet the new slot


def postcheck(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (trouble := trouble_with_weight(op, seen)) is not None:
        return trouble
    if op.kind == "rollback":
        return Note(Phase.COMMIT)
    if op.attempts and too_soon(op, seen):
        return Wait(RETRY_SECONDS, f"measuring again, try {op.attempts + 1} of {TRIES}")
    live = journal.active if shares(op)[op.step] < 100 else None
    return Check("post-check", op.target, live, max(op.policy.gates.window_seconds, op.policy.step_seconds))


def commit(journal: Journal, op: Operation, seen: Observation) -> Step:
    return trouble_with_weight(op, seen) or Note(Phase.DRAIN)


def drain(journal: Journal, op: Operation, seen: Observation) -> Step:
    """After the commit: `journal.active` is the new slot; the old one only finishes what it has, and stays as large as it was."""
    old, new = op.target.other, seen.slots[op.target]
    if new.ready == 0 and seen.slots[old].ready > 0 and op.kind == "promote":
        return RollBack(f"{op.target} has no ready replica any more")
    in_flight = seen.slots[old].in_flight
    if in_flight == 0 or late(op, seen, op.policy.drain_seconds):
        return Note(
            Phase.RELEASE, reason="" if in_flight == 0 else f"{old} still had {in_flight} requests after {op.policy.drain_seconds:.0f} s"
        )
    return Wait(DRAIN_POLL_SECONDS, f"{old} finishes {'unknown' if in_flight is None else in_flight} requests")


def release(journal: Journal, op: Operation, seen: Observation) -> Step:
    return lower_floor(op, op.target, seen) or Finish(Outcome.COMMITTED, op.reason)  # what outlived the drain
