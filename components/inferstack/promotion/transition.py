"""How the journal changes: starting an operation, and what a step's result means for it. Pure."""

from dataclasses import replace

from inferstack.environment import SlotName
from inferstack.promotion.gates import TRIES
from inferstack.promotion.journal import HISTORY_LENGTH, Entry, Journal, Operation, Outcome, Phase, Policy
from inferstack.promotion.shares import shares, splits, wanted_weights
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.steps import (
    Check,
    Finish,
    Forget,
    Note,
    Render,
    Result,
    RollBack,
    Scale,
    SetFloor,
    Settle,
    SetWeights,
    Step,
    Warm,
)
from inferstack.promotion.weights import Weights


class NotNow(Exception):
    """What was asked does not fit the journal; the message says what does."""


def start_promotion(journal: Journal, spec: SlotSpec, policy: Policy, by: str, operation_id: str, now: float) -> Journal:
    """Begin promoting `spec` into the idle slot, with the next generation. Raises NotNow while something is unfinished."""
    _must_rest(journal)
    generation = journal.generation + 1
    target = journal.active.other
    operation = Operation(operation_id, "promote", by, target, replace(spec, generation=generation), policy, now, since=now)
    return replace(journal, generation=generation, operation=operation, idle_replicas=policy.idle_replicas)


def start_rollback(journal: Journal, policy: Policy, by: str, operation_id: str, now: float) -> Journal:
    """Begin going back to the previous slot's last good spec. Raises NotNow when there is none."""
    _must_rest(journal)
    if journal.previous is None or journal.previous not in journal.specs:
        raise NotNow("there is no previous version to go back to: nothing was promoted yet, or the last promotion was reverted")
    policy = replace(policy, allow_drift=True)
    spec = journal.specs[journal.previous]
    operation = Operation(operation_id, "rollback", by, journal.previous, spec, policy, now, since=now)
    return replace(journal, operation=operation, idle_replicas=policy.idle_replicas)


def put_back(journal: Journal, found: Weights, policy: Policy, by: str, operation_id: str, now: float) -> Journal:
    """Begin giving all traffic back to the live slot, after somebody moved weights while nothing was unfinished. The other slot stays as
    it is."""
    target = journal.active.other
    spec = journal.specs.get(target) or journal.specs[journal.active]
    reason = f"weights were {found}, and no promotion had moved them: all traffic goes back to {journal.active}"
    operation = Operation(
        operation_id, "rollback", by, target, spec, policy, now, phase=Phase.REVERT, since=now, reason=reason, decided=now
    )
    return replace(journal, operation=operation)


def ask_abort(journal: Journal, by: str, now: float) -> Journal:
    """Turn an unfinished operation back. Raises NotNow when there is none, or when it is committed already."""
    operation = journal.operation
    if operation is None:
        raise NotNow("no promotion is unfinished")
    if operation.phase in (Phase.DRAIN, Phase.RELEASE):
        raise NotNow(f"{operation.target} is committed already: `inferstack recover` ends the clean-up, `inferstack rollback` goes back")
    if operation.phase in (Phase.REVERT, Phase.REVERT_SETTLE, Phase.REVERT_DRAIN, Phase.CLEAN):
        return journal
    return replace(journal, operation=_enter(operation, Phase.REVERT, now, f"aborted by {by}"))


def take_up(journal: Journal, now: float) -> Journal:
    """Go on with an unfinished operation: time without a promoter counts for no deadline; a frozen one tries the way back."""
    operation = journal.operation
    if operation is None:
        return journal
    if operation.phase is Phase.FROZEN:
        return replace(journal, operation=_enter(operation, Phase.REVERT, now))
    return replace(journal, operation=replace(operation, since=now, rendered=now if operation.rendered else 0))


def advance(journal: Journal, step: Step, result: Result, now: float) -> Journal:
    """The journal after `step` ended with `result`; unchanged when nothing needs to be remembered."""
    if isinstance(step, Forget):
        return replace(journal, kept_until=None)
    operation = journal.operation
    if operation is None:
        return journal
    match step:
        case Note():
            return _note(journal, operation, step, now)
        case Finish():
            return _finish(journal, operation, step.outcome, step.reason, now)
        case RollBack():
            return _roll_back(journal, operation, step.reason, now)
        case Check():
            return _checked(journal, operation, result, now)
        case Settle() if result.ok:
            return _go(journal, operation, Phase.REVERT_DRAIN if operation.phase is Phase.REVERT_SETTLE else Phase.POSTCHECK, now)
        case SetWeights():
            return _weights_set(journal, operation, result, now)
        case Warm() | Render() | Scale() | SetFloor() if not result.ok:
            return _failed(journal, operation, result.reason, now)
        case Warm():
            return _go(journal, operation, Phase.PRECHECK, now)
        case Render():
            return replace(journal, operation=replace(operation, phase=Phase.READY))  # ready_seconds count from the start of rendering
        case _:
            return journal


def _must_rest(journal: Journal) -> None:
    operation = journal.operation
    if operation is not None:
        raise NotNow(
            f"the {operation.kind} of {operation.spec.summary} to {operation.target} by {operation.by} is unfinished ({operation.phase}): "
            "`inferstack recover` finishes it, `inferstack abort` turns it back"
        )


def _enter(operation: Operation, phase: Phase, now: float, reason: str = "") -> Operation:
    decided = now if phase is Phase.REVERT and operation.phase is not Phase.REVERT and not operation.decided else operation.decided
    return replace(operation, phase=phase, since=now, attempts=0, reason=operation.reason or reason, decided=decided)


def _go(journal: Journal, operation: Operation, phase: Phase, now: float, reason: str = "") -> Journal:
    return replace(journal, operation=_enter(operation, phase, now, reason))


def _note(journal: Journal, operation: Operation, step: Note, now: float) -> Journal:
    changes = dict(step.changes)
    weights = changes.pop("weights", journal.weights)
    entered = _enter(operation, step.phase, now, step.reason)
    if step.same_deadline:
        entered = replace(entered, since=operation.since, attempts=operation.attempts)
    journal = replace(journal, weights=weights, operation=replace(entered, **changes))
    if step.phase is Phase.RENDER and operation.phase is Phase.PREFLIGHT:
        return _overwrite_target(journal, operation)
    if step.phase is Phase.DRAIN:
        return _commit(journal, operation)
    return journal


def _overwrite_target(journal: Journal, operation: Operation) -> Journal:
    """The target's former content goes now: it is no way back any more. A rollback renders that very content."""
    if operation.kind == "rollback":
        return journal
    specs = {slot: spec for slot, spec in journal.specs.items() if slot is not operation.target}
    return replace(journal, specs=specs, previous=None, kept_until=None)


def _commit(journal: Journal, operation: Operation) -> Journal:
    """From here on the target is live by the journal, and the other slot is the way back."""
    return replace(
        journal,
        active=operation.target,
        previous=operation.target.other,
        specs={**journal.specs, operation.target: operation.spec},
        kept_until=None,
    )


def _weights_set(journal: Journal, operation: Operation, result: Result, now: float) -> Journal:
    phase = operation.phase
    if result.ok:
        after = {Phase.SHIFT: Phase.SETTLE, Phase.REVERT: Phase.REVERT_SETTLE, Phase.FREEZE: Phase.FROZEN}[phase]
        return _go(journal, operation, after, now)
    if phase is Phase.SHIFT and splits(operation):  # the old slot cannot take its share: the new one is judged alone
        alone = replace(operation, step=operation.step + 1)
        return _go(replace(journal, weights=wanted_weights(alone)), alone, Phase.SHIFT, now)
    if phase is Phase.SHIFT:
        return _failed(journal, operation, result.reason, now)
    return _go(journal, operation, Phase.FREEZE if phase is Phase.REVERT else Phase.FROZEN, now, result.reason)


def _checked(journal: Journal, operation: Operation, result: Result, now: float) -> Journal:
    verdict = result.verdict
    if verdict is None:
        return journal
    if operation.phase is Phase.POSTCHECK:
        verdict = replace(verdict, percent=shares(operation)[operation.step])
    operation = replace(operation, verdicts=(*operation.verdicts[-11:], verdict), baseline=result.baseline or operation.baseline)
    if verdict.result == "inconclusive":
        if result.split:
            return _go(journal, replace(operation, split=True), Phase.SHIFT, now)
        if operation.attempts + 1 < TRIES:
            return replace(journal, operation=replace(operation, attempts=operation.attempts + 1))
        return _failed(journal, operation, f"{verdict.stage} is inconclusive after {TRIES} tries: {'; '.join(verdict.reasons)}", now)
    if verdict.result == "fail":
        return _failed(journal, operation, f"{verdict.stage}: {'; '.join(verdict.reasons)}", now)
    if operation.phase is Phase.PRECHECK:
        return _go(journal, operation, Phase.SHIFT, now)
    if operation.step + 1 < len(shares(operation)):
        return _go(journal, replace(operation, step=operation.step + 1), Phase.SHIFT, now)
    return _go(journal, operation, Phase.COMMIT, now)


def _failed(journal: Journal, operation: Operation, reason: str, now: float) -> Journal:
    return _go(journal, operation, Phase.REVERT, now, reason)


def _roll_back(journal: Journal, operation: Operation, reason: str, now: float) -> Journal:
    ended = _finish(journal, operation, Outcome.COMMITTED, reason, now)
    return start_rollback(ended, operation.policy, f"{operation.by} (automatic: {reason})", f"{operation.id}-back", now)


def _finish(journal: Journal, operation: Operation, outcome: Outcome, reason: str, now: float) -> Journal:
    entry = Entry(
        id=operation.id,
        kind=operation.kind,
        by=operation.by,
        slot=operation.target,
        generation=operation.spec.generation,
        version=operation.spec.version,
        summary=operation.spec.summary,
        started=operation.started,
        ended=now,
        outcome=outcome,
        reason=reason,
        verdicts=operation.verdicts,
    )
    before = (replace(earlier, verdicts=()) for earlier in journal.history)
    kept = journal.kept_until
    if outcome is Outcome.COMMITTED:
        rolled = operation.policy.strategy == "rolling" and operation.kind == "promote"
        kept = now if rolled else now + operation.policy.rollback_window_seconds
    return replace(journal, operation=None, kept_until=kept, history=(*before, entry)[-HISTORY_LENGTH:])


def bootstrap(environment: str, weights: Weights | None, specs: dict[SlotName, SlotSpec], idle_replicas: int) -> Journal:
    """The first journal, from what is live. Raises NotNow when it cannot be told which slot is live."""
    if weights is None or weights.sole is None:
        raise NotNow(f"which slot is live cannot be told from the weights ({weights or 'no route'}): put all on one slot first")
    live = weights.sole
    if live not in specs:
        raise NotNow(f"{live} has all the weight but runs nothing: start the environment first")
    return Journal(
        environment=environment,
        active=live,
        weights=weights,
        generation=max(spec.generation for spec in specs.values()),
        specs={live: specs[live]},
        idle_replicas=idle_replicas,
    )
