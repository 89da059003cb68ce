"""The phases of an operation that is turned back: all traffic to the live slot, if that is healthy now; nothing flaps. Pure."""

from inferstack.environment import SlotName
from inferstack.promotion.conditions import late, lower_floor
from inferstack.promotion.journal import Journal, Operation, Outcome, Phase
from inferstack.promotion.platform import Observation
from inferstack.promotion.shares import rolls
from inferstack.promotion.steps import DRAIN_POLL_SECONDS, POLL_SECONDS, Finish, Note, Rest, Scale, Settle, SetWeights, Step, Wait
from inferstack.promotion.weights import Weights


def revert(journal: Journal, op: Operation, seen: Observation) -> Step:
    """All traffic to the slot that is live by the journal, if it verifies now; else the better one stays and a person is called."""
    source = journal.active
    home, old, new = Weights.share(source, 100), seen.slots[source], seen.slots[op.target]
    if seen.weights == home:
        return Note(Phase.REVERT_SETTLE if op.shifted else Phase.CLEAN, changes={"weights": home})
    if old.ready == 0:
        return Note(Phase.FREEZE, reason=f"{source} has no ready replica to go back to")
    if old.ready < op.needed and new.ready > 0 and not late(op, seen, op.policy.ready_seconds):
        if old.replicas < op.needed:
            return Scale(source, op.needed)
        if rolls(op) and not late(op, seen, op.policy.settle_seconds):
            return Wait(POLL_SECONDS, f"{source} has {old.ready} of {op.needed} replicas ready again")
    if journal.weights != home:
        return Note(Phase.REVERT, changes={"weights": home, "shifted": True}, same_deadline=True)
    return SetWeights(home, verify=source)


def revert_settle(journal: Journal, op: Operation, seen: Observation) -> Step:
    home = Weights.share(journal.active, 100)
    if seen.weights != home:
        return Note(Phase.REVERT)
    if late(op, seen, op.policy.settle_seconds):
        return Note(Phase.REVERT_DRAIN, reason="the gateway did not prove the way back in time")
    return Settle(journal.active, None, 100, op.policy.settle_count)


def revert_drain(journal: Journal, op: Operation, seen: Observation) -> Step:
    if seen.weights != Weights.share(journal.active, 100):
        return Note(Phase.REVERT)
    in_flight = seen.slots[op.target].in_flight
    if in_flight == 0 or late(op, seen, op.policy.drain_seconds):
        return Note(Phase.CLEAN)
    return Wait(DRAIN_POLL_SECONDS, f"{op.target} finishes {'unknown' if in_flight is None else in_flight} requests")


def clean(journal: Journal, op: Operation, seen: Observation) -> Step:
    """A version that failed keeps nothing running; a slot that is still the way back (of a rollback, or before it was rendered over) keeps
    what it had."""
    if seen.weights is None or seen.weights.reach(op.target):
        return Note(Phase.REVERT)
    if op.kind == "promote" and journal.previous is not op.target and seen.slots[op.target].replicas > 0:
        return Scale(op.target, 0)
    return lower_floor(op, journal.active, seen) or Finish(Outcome.REVERTED, op.reason)


def freeze(journal: Journal, op: Operation, seen: Observation) -> Step:
    """Neither slot is surely good: leave the traffic where it does least harm and never move it to and fro."""
    better = max(SlotName, key=lambda slot: (seen.slots[slot].ready, seen.weights.of(slot) if seen.weights else 0))
    wanted = Weights.share(better, 100)
    if seen.weights is None or seen.weights == wanted or seen.slots[better].ready == 0:
        return Note(Phase.FROZEN)
    if journal.weights != wanted:
        return Note(Phase.FREEZE, changes={"weights": wanted})
    return SetWeights(wanted, verify=better)


def frozen(journal: Journal, op: Operation, seen: Observation) -> Step:
    home = journal.active
    if seen.weights == Weights.share(home, 100) and seen.slots[home].ready > 0:
        return Note(Phase.REVERT)
    if seen.weights is not None and journal.weights != seen.weights:  # what was intended and never came about
        return Note(Phase.FROZEN, changes={"weights": seen.weights}, same_deadline=True)
    return Rest(f"frozen: {op.reason}. Mend {home}, then run `inferstack recover`", page=True)
