"""What to do next: `next_step(journal, observation)`, pure, for blue-green, canary and rolling promotions and for rollbacks.

The journal says what was intended, the observation what is. Every handler first asks whether the world still allows its phase, so that
a plan taken up after a kill, a pod loss or somebody's edit does what is right now and not what was right then.

blue_green  all replicas of the new slot first, then the weights, by `steps`
canary      the same with steps below 100, compared with the live slot in the same window
rolling     replica by replica from one slot to the other: one more than the live slot has, instead of twice as many
"""

import math
from collections.abc import Callable
from dataclasses import replace

from inferstack.environment import SlotName
from inferstack.promotion.drift import find_drift
from inferstack.promotion.gates import RETRY_SECONDS, TRIES
from inferstack.promotion.journal import Journal, Operation, Outcome, Phase
from inferstack.promotion.platform import Observation, SlotObservation
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.steps import (
    Check,
    Finish,
    Forget,
    Note,
    Render,
    Rest,
    RollBack,
    Scale,
    SetFloor,
    Settle,
    SetWeights,
    Step,
    Verify,
    Wait,
    Warm,
)
from inferstack.promotion.weights import Weights

POLL_SECONDS = 1.0
"""Between two looks while something starts."""
DRAIN_POLL_SECONDS = 0.2
SETTLE_POLL_SECONDS = 0.1


def next_step(journal: Journal, observation: Observation) -> Step:
    """The one thing to do now."""
    operation = journal.operation
    if operation is None:
        return _at_rest(journal, observation)
    if observation.time < operation.since:  # the clock was set back: count the phase's time from now
        return Note(operation.phase, changes={"since": observation.time})
    return _HANDLERS[operation.phase](journal, operation, observation)


def shares(operation: Operation) -> tuple[int, ...]:
    """The new slot's percents, step by step. Rolling: one replica after another."""
    if operation.kind == "rollback":
        return (100,)
    if _rolls(operation):
        return tuple(100 * (index + 1) // operation.needed for index in range(operation.needed))
    return operation.policy.steps


def wanted_weights(journal: Journal, operation: Operation) -> Weights:
    """The weights of the operation's step."""
    return Weights.share(operation.target, shares(operation)[operation.step])


def replicas_for(operation: Operation, percent: int) -> int:
    """Replicas that carry `percent` of the live load. Never more than the slot may have, never fewer than one."""
    if _rolls(operation):
        return max(1, math.ceil(operation.needed * percent / 100))
    return operation.needed


# ---- at rest


def _at_rest(journal: Journal, observation: Observation) -> Step:
    if journal.kept_until is None or journal.previous is None:
        return Rest()
    if observation.time < journal.kept_until:
        return Rest(f"{journal.previous} stays warm for a rollback", until=journal.kept_until)
    if observation.weights is None or observation.weights.of(journal.previous) > 0:
        return Rest(f"{journal.previous} still has weight and is left alone", page=True)
    if observation.slots[journal.previous].replicas > journal.idle_replicas:
        return Scale(journal.previous, journal.idle_replicas)
    return Forget()


# ---- forward


def _preflight(journal: Journal, op: Operation, seen: Observation) -> Step:
    live, weights = seen.slots[journal.active], seen.weights
    if weights is None or seen.named != frozenset(SlotName):
        return Finish(Outcome.REFUSED, "the route does not name both slots as backends: run `inferstack up` or `pulumi up` first")
    if weights.sole is not journal.active:
        return Finish(
            Outcome.REFUSED, f"live weights are {weights}, expected all on {journal.active}: `inferstack recover` sets that right"
        )
    if op.kind == "promote" and live.ready == 0 and not op.policy.allow_unhealthy_live:
        return Finish(
            Outcome.REFUSED,
            f"the live slot {journal.active} has no ready replica, so there would be no way back; "
            "--accept-unhealthy-live promotes all the same",
        )
    drift = find_drift(journal, seen)
    if drift and not op.policy.allow_drift:
        return Finish(Outcome.REFUSED, "drift: " + "; ".join(drift) + " (--allow-drift promotes all the same)")
    if op.kind == "rollback" and journal.previous is not op.target:
        return Finish(Outcome.REFUSED, "there is no previous version to go back to")
    needed = min(max(live.replicas, op.policy.floor, 1), max(op.policy.most, live.replicas, 1))
    changes = {"needed": needed, "rendered": seen.time}
    target = seen.slots[op.target]
    if op.kind == "rollback" and _runs(target, op) and target.ready >= needed:
        return Note(Phase.PRECHECK, changes=changes)
    return Note(Phase.RENDER, changes=changes)


def _render(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (moved := _moved_before_shift(journal, op, seen)) is not None:
        return moved
    if _runs(seen.slots[op.target], op):
        return Note(Phase.READY, same_deadline=True)
    if _late(op, seen, op.policy.ready_seconds):
        return _give_up(op, f"{op.target} could not be rendered within {op.policy.ready_seconds:.0f} s")
    return Render(op.target, _sized(op))


def _ready(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (moved := _moved_before_shift(journal, op, seen)) is not None:
        return moved
    target = seen.slots[op.target]
    if not _runs(target, op):
        return Note(Phase.RENDER, same_deadline=True)
    broken = _broken(op, target)
    if broken:
        return _give_up(op, broken)
    needed = _needed_now(op, seen.slots[journal.active])
    if needed != op.needed:
        return Note(Phase.READY, changes={"needed": needed}, same_deadline=True)
    wanted = replicas_for(op, shares(op)[0])
    if target.failure is not None:
        return _give_up(op, f"{op.target} cannot become ready: {target.failure}")
    short = target.replicas < wanted or (target.floor is not None and target.floor < wanted)
    if target.ready >= wanted and not short:
        return Note(Phase.WARM, changes={} if op.restarts is not None else {"restarts": target.restarts})
    if _late(op, seen, op.policy.ready_seconds) or seen.time - op.rendered >= 2 * op.policy.ready_seconds:
        why = f": {target.waiting}" if target.waiting else ""
        return _give_up(op, f"{op.target} has {target.ready} of {wanted} replicas ready after {op.policy.ready_seconds:.0f} s{why}")
    if short:
        return Scale(op.target, max(wanted, target.replicas))
    return Wait(POLL_SECONDS, f"{target.ready} of {wanted} replicas ready" + (f" ({target.waiting})" if target.waiting else ""))


def _warm(journal: Journal, op: Operation, seen: Observation) -> Step:
    return _unfit(journal, op, seen) or Warm(op.target)


def _precheck(journal: Journal, op: Operation, seen: Observation) -> Step:
    unfit = _unfit(journal, op, seen)
    if unfit is not None:
        return unfit
    if op.kind == "rollback":
        return Verify(op.target)
    if op.attempts and _too_soon(op, seen):
        return Wait(RETRY_SECONDS, f"measuring again, try {op.attempts + 1} of {TRIES}")
    live = journal.active if seen.slots[journal.active].ready else None
    return Check("pre-check", op.target, live, 0)


def _shift(journal: Journal, op: Operation, seen: Observation) -> Step:
    target, percent = seen.slots[op.target], shares(op)[op.step]
    wanted, before = wanted_weights(journal, op), _weights_before(journal, op)
    if seen.weights is None or seen.weights not in (wanted, before):
        return _give_up(
            op, f"weights were changed by somebody else to {seen.weights or 'something that cannot be read'}, expected {before}"
        )
    broken = _broken(op, target)
    if broken:
        return _give_up(op, broken)
    if (grown := _needed_now(op, seen.slots[journal.active])) != op.needed:
        return Note(Phase.SHIFT, changes={"needed": grown}, same_deadline=True)
    needed = replicas_for(op, percent)
    if target.ready < needed and _late(op, seen, op.policy.ready_seconds):
        return _give_up(op, f"{op.target} has {target.ready} of {needed} replicas ready after {op.policy.ready_seconds:.0f} s")
    if target.replicas < needed:
        return Scale(op.target, needed)
    if (prepared := _prepare_live(journal, op, seen)) is not None:
        return prepared
    if target.ready < needed:
        return Wait(POLL_SECONDS, f"{target.ready} of {needed} replicas ready")
    if seen.weights == wanted:
        return Note(Phase.SETTLE)
    if journal.weights != wanted:
        return Note(Phase.SHIFT, changes={"weights": wanted, "shifted": True}, same_deadline=True)
    return SetWeights(wanted, verify=op.target)


def _settle(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (trouble := _trouble_with_weight(journal, op, seen)) is not None:
        return trouble
    if _late(op, seen, op.policy.settle_seconds):
        return _give_up(
            op, f"{op.policy.settle_count} answers in a row did not come from {op.target} within {op.policy.settle_seconds:.0f} s"
        )
    percent = shares(op)[op.step]
    enough = op.policy.settle_count if percent == 100 else max(op.policy.settle_count, math.ceil(300 / percent))  # 95 % meet the new slot
    return Settle(op.target, op.spec.generation, percent, enough)


def _postcheck(journal: Journal, op: Operation, seen: Observation) -> Step:
    if (trouble := _trouble_with_weight(journal, op, seen)) is not None:
        return trouble
    if op.kind == "rollback":
        return Note(Phase.COMMIT)
    if op.attempts and _too_soon(op, seen):
        return Wait(RETRY_SECONDS, f"measuring again, try {op.attempts + 1} of {TRIES}")
    live = journal.active if shares(op)[op.step] < 100 else None
    return Check("post-check", op.target, live, max(op.policy.gates.window_seconds, op.policy.step_seconds))


def _commit(journal: Journal, op: Operation, seen: Observation) -> Step:
    return _trouble_with_weight(journal, op, seen) or Note(Phase.DRAIN)


def _drain(journal: Journal, op: Operation, seen: Observation) -> Step:
    """After the commit: `journal.active` is the new slot; the old one only finishes what it has, and stays as large as it was."""
    old, new = op.target.other, seen.slots[op.target]
    if new.ready == 0 and seen.slots[old].ready > 0 and op.kind == "promote":
        return RollBack(f"{op.target} has no ready replica any more")
    in_flight = seen.slots[old].in_flight
    if in_flight == 0 or _late(op, seen, op.policy.drain_seconds):
        return Note(
            Phase.RELEASE, reason="" if in_flight == 0 else f"{old} still had {in_flight} requests after {op.policy.drain_seconds:.0f} s"
        )
    return Wait(DRAIN_POLL_SECONDS, f"{old} finishes {'unknown' if in_flight is None else in_flight} requests")


def _release(journal: Journal, op: Operation, seen: Observation) -> Step:
    return _lower_floor(op, op.target, seen) or Finish(Outcome.COMMITTED)


# ---- back


def _revert(journal: Journal, op: Operation, seen: Observation) -> Step:
    """All traffic to the slot that is live by the journal, if it verifies now; else the better one stays and a person is called."""
    source = journal.active
    home, old, new = Weights.share(source, 100), seen.slots[source], seen.slots[op.target]
    if seen.weights == home:
        return Note(Phase.REVERT_SETTLE if op.shifted else Phase.CLEAN, changes={"weights": home})
    if old.ready == 0:
        return Note(Phase.FREEZE, reason=f"{source} has no ready replica to go back to")
    if old.ready < op.needed and new.ready > 0 and not _late(op, seen, op.policy.ready_seconds):
        if old.replicas < op.needed:
            return Scale(source, op.needed)
        if _rolls(op) and not _late(op, seen, op.policy.settle_seconds):
            return Wait(POLL_SECONDS, f"{source} has {old.ready} of {op.needed} replicas ready again")
    if journal.weights != home:
        return Note(Phase.REVERT, changes={"weights": home, "shifted": True}, same_deadline=True)
    return SetWeights(home, verify=source)


def _revert_settle(journal: Journal, op: Operation, seen: Observation) -> Step:
    home = Weights.share(journal.active, 100)
    if seen.weights != home:
        return Note(Phase.REVERT)
    if _late(op, seen, op.policy.settle_seconds):
        return Note(Phase.REVERT_DRAIN, reason="the gateway did not prove the way back in time")
    return Settle(journal.active, None, 100, op.policy.settle_count)


def _revert_drain(journal: Journal, op: Operation, seen: Observation) -> Step:
    if seen.weights != Weights.share(journal.active, 100):
        return Note(Phase.REVERT)
    in_flight = seen.slots[op.target].in_flight
    if in_flight == 0 or _late(op, seen, op.policy.drain_seconds):
        return Note(Phase.CLEAN)
    return Wait(DRAIN_POLL_SECONDS, f"{op.target} finishes {'unknown' if in_flight is None else in_flight} requests")


def _clean(journal: Journal, op: Operation, seen: Observation) -> Step:
    """A version that failed keeps nothing running; a rollback's target is still the last good one and keeps what it had."""
    if seen.weights is None or seen.weights.of(op.target) > 0:
        return Note(Phase.REVERT)
    if op.kind == "promote" and seen.slots[op.target].replicas > 0:
        return Scale(op.target, 0)
    return _lower_floor(op, journal.active, seen) or Finish(Outcome.REVERTED, op.reason)


def _freeze(journal: Journal, op: Operation, seen: Observation) -> Step:
    """Neither slot is surely good: leave the traffic where it does least harm and never move it to and fro."""
    better = max(SlotName, key=lambda slot: (seen.slots[slot].ready, seen.weights.of(slot) if seen.weights else 0))
    wanted = Weights.share(better, 100)
    if seen.weights is None or seen.weights == wanted or seen.slots[better].ready == 0:
        return Note(Phase.FROZEN)
    if journal.weights != wanted:
        return Note(Phase.FREEZE, changes={"weights": wanted})
    return SetWeights(wanted, verify=better)


def _frozen(journal: Journal, op: Operation, seen: Observation) -> Step:
    home = journal.active
    if seen.weights == Weights.share(home, 100) and seen.slots[home].ready > 0:
        return Note(Phase.REVERT)
    return Rest(f"frozen: {op.reason}. Mend {home}, then run `inferstack recover`", page=True)


# ---- shared questions


def _rolls(op: Operation) -> bool:
    return op.policy.strategy == "rolling" and op.kind == "promote"


def _prepare_live(journal: Journal, op: Operation, seen: Observation) -> Step | None:
    """Before weights move: the live slot may not shrink while a way back is kept; rolling gives up what the steps so far replaced."""
    live = seen.slots[journal.active]
    if _rolls(op):
        covered = replicas_for(op, shares(op)[op.step - 1]) if op.step else 0
        return Scale(journal.active, op.needed - covered) if covered and live.replicas > op.needed - covered else None
    return SetFloor(journal.active, op.needed) if live.floor is not None and live.floor < op.needed else None


def _lower_floor(op: Operation, slot: SlotName, seen: Observation) -> Step | None:
    """The promotion is over: the scaler may shrink the live slot again."""
    floor = seen.slots[slot].floor
    return SetFloor(slot, op.policy.floor) if floor is not None and floor > op.policy.floor else None


def _runs(slot: SlotObservation, op: Operation) -> bool:
    return slot.spec is not None and slot.spec.id == op.spec.id


def _sized(op: Operation) -> SlotSpec:
    return replace(op.spec, replicas=replicas_for(op, shares(op)[0]))


def _needed_now(op: Operation, live: SlotObservation) -> int:
    """The live load may have grown since; it never shrinks what was asked for."""
    if _rolls(op):
        return op.needed
    return max(op.needed, min(live.replicas, max(op.policy.most, op.needed)))


def _late(op: Operation, seen: Observation, seconds: float) -> bool:
    return seen.time - op.since >= seconds


def _too_soon(op: Operation, seen: Observation) -> bool:
    last = op.verdicts[-1].time if op.verdicts else 0
    return 0 <= seen.time - last < RETRY_SECONDS


def _give_up(op: Operation, reason: str) -> Note:
    return Note(Phase.REVERT, reason=reason)


def _moved_before_shift(journal: Journal, op: Operation, seen: Observation) -> Step | None:
    """A slot with weight is never changed: before the shift the target must have none."""
    if seen.weights is None:
        return _give_up(op, "the route disappeared")
    if seen.weights.of(op.target) > 0:
        return _give_up(op, f"weights were changed by somebody else to {seen.weights} before {op.target} was ready")
    return None


def _weights_before(journal: Journal, op: Operation) -> Weights:
    return Weights.share(op.target, shares(op)[op.step - 1]) if op.step else Weights.share(op.target, 0)


def _broken(op: Operation, target: SlotObservation) -> str | None:
    if not _runs(target, op):
        return f"{op.target} no longer runs what was rendered"
    if target.failure is not None and target.ready == 0:
        return f"{op.target} failed: {target.failure}"
    if op.restarts is not None and target.restarts > op.restarts:
        return f"{op.target} restarted {target.restarts - op.restarts} times since it was ready"
    return None


def _unfit(journal: Journal, op: Operation, seen: Observation) -> Step | None:
    """Between ready and shift: back to READY when replicas left, given up when it is another version now."""
    moved = _moved_before_shift(journal, op, seen)
    if moved is not None:
        return moved
    target = seen.slots[op.target]
    broken = _broken(op, target)
    if broken:
        return _give_up(op, broken)
    needed = replicas_for(op, shares(op)[0])
    if _needed_now(op, seen.slots[journal.active]) != op.needed or target.ready < needed or target.replicas < needed:
        return Note(Phase.READY, same_deadline=True)
    return None


def _trouble_with_weight(journal: Journal, op: Operation, seen: Observation) -> Step | None:
    """While the target carries traffic: the weights are still ours, and it is still ready and the same."""
    wanted = wanted_weights(journal, op)
    if seen.weights != wanted:
        return _give_up(
            op, f"weights were changed by somebody else to {seen.weights or 'something that cannot be read'}, expected {wanted}"
        )
    target = seen.slots[op.target]
    if target.ready == 0:
        return _give_up(op, f"{op.target} lost its last ready replica")
    broken = _broken(op, target)
    return _give_up(op, broken) if broken else None


_HANDLERS: dict[Phase, Callable[[Journal, Operation, Observation], Step]] = {
    Phase.PREFLIGHT: _preflight,
    Phase.RENDER: _render,
    Phase.READY: _ready,
    Phase.WARM: _warm,
    Phase.PRECHECK: _precheck,
    Phase.SHIFT: _shift,
    Phase.SETTLE: _settle,
    Phase.POSTCHECK: _postcheck,
    Phase.COMMIT: _commit,
    Phase.DRAIN: _drain,
    Phase.RELEASE: _release,
    Phase.REVERT: _revert,
    Phase.REVERT_SETTLE: _revert_settle,
    Phase.REVERT_DRAIN: _revert_drain,
    Phase.CLEAN: _clean,
    Phase.FREEZE: _freeze,
    Phase.FROZEN: _frozen,
}
