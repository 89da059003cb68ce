"""Promote, roll back, recover and abort: what the commands do, apart from how they show it.

Each takes the lease first; who does not get it (LeaseHeld) has touched nothing.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from inferstack.environment import Environment
from inferstack.environment import Platform as PlatformName
from inferstack.planning.savings import replica_hourly_usd
from inferstack.promotion.drift import find_drift
from inferstack.promotion.events import Emit, Event
from inferstack.promotion.executor import Executor
from inferstack.promotion.journal import Entry, Journal, Outcome, Policy
from inferstack.promotion.lease import LeaseHeld
from inferstack.promotion.platform import Clock, Observation, Platform
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.steps import Rest
from inferstack.promotion.transition import NotNow, ask_abort, bootstrap, put_back, start_promotion, start_rollback, take_up
from inferstack.promotion.weights import Weights

NO_PRICE = "what a replica costs is not known here (set slots.replica_hourly_usd where the price tables have no machine)"


@dataclass(frozen=True)
class Session:
    """Who works on which environment. `holder` names the lease, `by` the person or pipeline."""

    environment: str
    platform: Platform
    clock: Clock
    emit: Emit
    holder: str
    by: str
    base: SlotSpec
    """What the environment file asks for: the first journal's spec of a slot that no promotion rendered."""


@dataclass(frozen=True)
class Ended:
    """Where a command left the environment. `entry`: the operation that ended in it, None when none did."""

    journal: Journal
    entry: Entry | None
    rest: Rest

    @property
    def outcome(self) -> Outcome | None:
        if self.entry is not None:
            return self.entry.outcome
        return Outcome.FROZEN if self.journal.operation is not None else None


def policy_of(environment: Environment, **changes: object) -> Policy:
    """What the environment file says about promotions; `changes` are fields of Policy."""
    wanted, slots = environment.promotion, environment.slots
    least, most = (1, 1) if environment.platform is PlatformName.LOCAL else (max(slots.replicas.min, 1), slots.replicas.max)
    policy = Policy(
        strategy=wanted.strategy,
        steps=wanted.steps,
        step_seconds=wanted.step_seconds,
        ready_seconds=wanted.ready_seconds,
        settle_count=wanted.settle_count,
        drain_seconds=environment.drain.pre_stop_seconds + environment.drain.seconds,
        rollback_window_seconds=wanted.rollback_window_seconds,
        floor=least,
        most=most,
        idle_replicas=slots.idle_replicas,
        gates=wanted.gates,
        hourly_usd=replica_hourly_usd(environment),
        header=(wanted.header.name.lower(), wanted.header.value) if wanted.header else None,
    )
    policy = replace(policy, **changes)  # type: ignore[arg-type]
    return replace(policy, header=None) if policy.strategy == "rolling" else policy  # it moves replica by replica


def promote(session: Session, change: Callable[[SlotSpec], SlotSpec], policy: Policy) -> Ended:
    """Promote what `change` makes of the live slot's spec; an unfinished promotion of the same version is taken up instead.

    Raises NotNow, LeaseHeld, PlatformError, JournalUnreadable.
    """

    def begin(journal: Journal | None, seen: Observation) -> Journal:
        journal = _stored(session, journal, seen)
        operation = journal.operation
        base = journal.specs.get(journal.active, session.base)
        spec = change(replace(base, replicas=session.base.replicas))
        if operation is not None and operation.kind == "promote" and operation.spec.version == spec.version:
            session.emit(Event("step", f"taking up the unfinished promotion of {operation.spec.summary}", seen.time, operation.phase))
            return take_up(journal, seen.time)
        _require_possible(base, spec, policy)
        return start_promotion(journal, spec, policy, session.by, _new_id(), seen.time)

    return _run(session, begin)


def _require_possible(live: SlotSpec, spec: SlotSpec, policy: Policy) -> None:
    """Raises NotNow when a slot cannot have what is asked for, or a gate that is set could never be judged."""
    if spec.replicas > max(policy.most, live.replicas):
        raise NotNow(f"slot.replicas is {spec.replicas}, and slots.replicas.max lets a slot have {policy.most}")
    if policy.gates.usd_per_million_tokens is not None and policy.hourly_usd is None:
        raise NotNow(
            f"gates.usd_per_million_tokens is set, and {NO_PRICE}; leave that gate out, or set gates.inter_token_p95_seconds instead"
        )
    if policy.gates.accuracy is not None and policy.accuracy is None and not spec.unquantized and not live.unquantized:
        raise NotNow(
            "gates.accuracy is set, and neither the live slot serves the unquantized model nor was the new version measured against it: "
            "`inferstack-runtime eval --source … --quantization … --json > FILE`, then `--evaluation FILE`"
        )


def rollback(session: Session, policy: Policy) -> Ended:
    """Back to the previous version; an unfinished rollback is taken up, an unfinished promotion turned back."""

    def begin(journal: Journal | None, seen: Observation) -> Journal:
        journal = _stored(session, journal, seen)
        operation = journal.operation
        if operation is None:
            return start_rollback(journal, policy, session.by, _new_id(), seen.time)
        if operation.kind == "rollback":
            return take_up(journal, seen.time)
        return ask_abort(journal, session.by, seen.time)

    return _run(session, begin)


def recover(session: Session, wait_seconds: float = 0, policy: Policy | None = None) -> Ended:
    """Finish whatever is unfinished; with nothing unfinished, undo weights that no promotion moved.

    Waits up to `wait_seconds` for the lease of a holder that may have died.
    """

    def begin(journal: Journal | None, seen: Observation) -> Journal:
        journal = _stored(session, journal, seen)
        if journal.operation is None and seen.weights is not None and seen.weights != Weights.share(journal.active, 100):
            return put_back(journal, seen.weights, policy or Policy(), session.by, _new_id(), seen.time)
        return take_up(journal, seen.time)

    deadline = session.clock.elapsed() + wait_seconds
    while True:
        try:
            return _run(session, begin)
        except LeaseHeld as error:
            if session.clock.elapsed() >= deadline:
                raise
            session.emit(Event("wait", str(error), session.clock.now()))
            session.clock.sleep(min(2.0, max(0.1, deadline - session.clock.elapsed())))


def shrink(session: Session) -> Ended:
    """Shrink the previous slot if its rollback window is over. Raises NotNow while an operation is unfinished."""

    def begin(journal: Journal | None, seen: Observation) -> Journal:
        journal = _stored(session, journal, seen)
        if journal.operation is not None:
            raise NotNow(f"a {journal.operation.kind} is unfinished ({journal.phase}): `inferstack recover` finishes it")
        return journal

    return _run(session, begin)


def abort(session: Session) -> Ended:
    """Turn an unfinished promotion back. Raises NotNow when there is none."""
    return _run(session, lambda journal, seen: ask_abort(_stored(session, journal, seen), session.by, seen.time))


def _run(session: Session, begin: Callable[[Journal | None, Observation], Journal]) -> Ended:
    executor = Executor(session.platform, session.clock, session.emit)
    with executor.leased(session.holder):
        started = executor.start(begin)
        operation = started.operation
        journal, rest = executor.run()
    ended = [entry for entry in journal.history if entry not in started.history]
    # an automatic rollback ends after the promotion that it undoes: what the caller asked for has then not come about
    entry = next((entry for entry in reversed(ended)), None)
    if operation is not None and entry is not None and entry.id != operation.id:
        entry = replace(entry, outcome=Outcome.REVERTED)
    return Ended(journal, entry, rest)


def _stored(session: Session, journal: Journal | None, seen: Observation) -> Journal:
    if journal is not None:
        return journal
    live = seen.weights.sole if seen.weights is not None else None
    specs = {slot: observed.spec or session.base for slot, observed in seen.slots.items() if observed.replicas > 0 or slot is live}
    return bootstrap(session.environment, seen.weights, specs, session.base.replicas)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def preview(session: Session, change: Callable[[SlotSpec], SlotSpec], policy: Policy) -> dict[str, Any]:
    """What a promotion would do, without taking the lease or changing anything. Raises NotNow, PlatformError, JournalUnreadable."""
    executor = Executor(session.platform, session.clock, session.emit)
    stored, seen = executor.read(), executor.observe()
    journal = _stored(session, stored, seen)
    live = seen.slots[journal.active]
    base = journal.specs.get(journal.active, session.base)
    spec = change(replace(base, replicas=session.base.replicas))
    _require_possible(base, spec, policy)
    replicas = max(live.replicas, policy.floor, spec.replicas)
    return {
        "environment": session.environment,
        "strategy": policy.strategy,
        "steps": list(policy.steps),
        "header": list(policy.header) if policy.header else None,
        "live_slot": str(journal.active),
        "target_slot": str(journal.active.other),
        "live": base.summary,
        "new": spec.summary,
        "changed": spec.version != base.version,
        "generation": journal.generation + 1,
        "replicas": replicas,
        "overlap": overlap(policy, replicas),
        "drift": list(find_drift(journal, seen)),
        "unfinished": None if journal.operation is None else str(journal.operation.phase),
    }


def overlap(policy: Policy, replicas: int) -> str:
    """What both slots beside each other cost until the old one is shrunk, in words."""
    extra = 1 if policy.strategy == "rolling" else replicas
    checks = len(policy.steps) * max(policy.step_seconds, policy.gates.window_seconds)
    hours = (checks + policy.drain_seconds + (0 if policy.strategy == "rolling" else policy.rollback_window_seconds)) / 3600
    how = f"{extra} more replicas for about {hours * 60:.0f} min once they are ready"
    if policy.hourly_usd is None:
        return f"{how}; {NO_PRICE}"
    return f"{how}: {extra * policy.hourly_usd * hours:.2f} $ ({extra * policy.hourly_usd:.2f} $/h)"
