"""What to do next: `next_step(journal, observation)`, pure, for blue-green, canary and rolling promotions and for rollbacks.

The journal says what was intended, the observation what is. Every handler first asks whether the world still allows its phase, so that
a plan taken up after a kill, a pod loss or somebody's edit does what is right now and not what was right then.

blue_green  all replicas of the new slot first, then the weights, by `steps`
canary      the same with steps below 100, compared with the live slot in the same window
rolling     replica by replica from one slot to the other: one more than the live slot has, instead of twice as many
"""

from collections.abc import Callable

from inferstack.promotion import backward, forward
from inferstack.promotion.journal import Journal, Operation, Phase
from inferstack.promotion.platform import Observation
from inferstack.promotion.steps import Forget, Note, Rest, Scale, Step


def next_step(journal: Journal, observation: Observation) -> Step:
    """The one thing to do now."""
    operation = journal.operation
    if operation is None:
        return _at_rest(journal, observation)
    if observation.time < operation.since:  # the clock was set back: count the phase's time from now
        return Note(operation.phase, changes={"since": observation.time})
    return _HANDLERS[operation.phase](journal, operation, observation)


def _at_rest(journal: Journal, observation: Observation) -> Step:
    if journal.kept_until is None or journal.previous is None:
        return Rest()
    if observation.time < journal.kept_until:
        return Rest(f"{journal.previous} stays warm for a rollback", until=journal.kept_until)
    if observation.weights is None or observation.weights.reach(journal.previous):
        return Rest(f"{journal.previous} still has weight and is left alone", page=True)
    if observation.slots[journal.previous].replicas > journal.idle_replicas:
        return Scale(journal.previous, journal.idle_replicas)
    return Forget()


_HANDLERS: dict[Phase, Callable[[Journal, Operation, Observation], Step]] = {
    Phase.PREFLIGHT: forward.preflight,
    Phase.RENDER: forward.render,
    Phase.READY: forward.ready,
    Phase.WARM: forward.warm,
    Phase.PRECHECK: forward.precheck,
    Phase.SHIFT: forward.shift,
    Phase.SETTLE: forward.settle,
    Phase.POSTCHECK: forward.postcheck,
    Phase.COMMIT: forward.commit,
    Phase.DRAIN: forward.drain,
    Phase.RELEASE: forward.release,
    Phase.REVERT: backward.revert,
    Phase.REVERT_SETTLE: backward.revert_settle,
    Phase.REVERT_DRAIN: backward.revert_drain,
    Phase.CLEAN: backward.clean,
    Phase.FREEZE: backward.freeze,
    Phase.FROZEN: backward.frozen,
}
