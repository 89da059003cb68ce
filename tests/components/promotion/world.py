"""An in-memory platform with virtual time: two slots, a gateway with a delay, traffic, faults on demand, and every call recorded.

`World` is the cluster and outlives processes; `Process` is one promoter's view of it and implements the protocol. After every call
`World.check` looks at the invariants that can be seen from outside.
"""

import bisect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from inferstack.environment import Engine, Gates, Model, Resources, SlotName
from inferstack.promotion import commands
from inferstack.promotion import lease as leases
from inferstack.promotion.commands import Session
from inferstack.promotion.events import Event
from inferstack.promotion.journal import Journal, Phase, Policy, dump, load
from inferstack.promotion.lease import Lease
from inferstack.promotion.measure import Counters, Histogram, Snapshot
from inferstack.promotion.platform import (
    Agreement,
    Conflict,
    Exercise,
    Health,
    Observation,
    Seen,
    SlotFailed,
    SlotObservation,
)
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.transition import NotNow
from inferstack.promotion.weights import Weights

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN
BOUNDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, math.inf)


class Killed(BaseException):
    """The process died here."""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Behaviour:
    """How a version behaves once it runs."""

    start_seconds: float | None = 3.0
    """Until a replica is ready; None: never."""
    crashes_every: float | None = None
    errors: float = 0.0
    errors_live: float = 0.0
    """Errors that only live traffic meets."""
    ttft: float = 0.1
    ttft_live: float = 0.0
    agreement: float = 1.0
    leak: float = 0.0
    """Share of its memory that it grows by in each request."""
    warms: bool = True
    verifies: bool = True
    failure: str | None = None
    metrics: bool = True


@dataclass
class Slot:
    spec: SlotSpec | None = None
    started: list[float] = field(default_factory=list)
    """Start times of its replicas."""
    floor: int = 1
    requests: float = 0
    errors: float = 0
    ttft: tuple[float, ...] = (0.0,) * 9
    touched: float = 0
    verifies: bool = True
    in_flight_until: float = 0
    restarts: int = 0


def version(quantization: str = "gguf", image: str | None = None) -> SlotSpec:
    model = Model(name="m", source="package://m", quantization=quantization)  # type: ignore[arg-type]
    return SlotSpec((model,), Engine(image=image), Resources(), replicas=1, generation=1)


class World:
    """What is there, whoever looks."""

    def __init__(self, replicas: int = 2, delay: float = 0.5) -> None:
        self.environment = "test"
        self.time = 1_000_000.0
        self.jumped = 0.0
        self.replicas = replicas
        self.delay = delay
        self.rate = 20.0
        self.slower = 1.0
        """How much longer everything takes, whichever slot it is in: other work on the machine."""
        self.crowds = False
        """The machine becomes slower when all traffic has moved, for good."""
        self.marked = 0.1
        """Share of the requests that carry the header of a cohort."""
        first = version()
        self.slots = {BLUE: Slot(first), GREEN: Slot()}
        self.slots[BLUE].started = [self.time - 1000] * replicas
        self.slots[BLUE].floor = replicas
        self.weights: Weights | None = Weights(100, 0)
        self.routed: list[tuple[float, Weights]] = [(self.time - 1000, Weights(100, 0))]
        self.journal: str | None = None
        self.journal_version = 0
        self.lease: Lease | None = None
        self.gone: set[str] = set()
        self.behaviours: dict[str, Behaviour] = {}
        self.drift: tuple[str, ...] = ()
        self.calls: list[str] = []
        self.kill_at: tuple[int, str] | None = None
        self.before_call: Callable[[str, Process], None] = lambda name, process: None
        self.served: dict[str, float] = {}
        """Live requests by version."""
        self.violations: list[str] = []
        self._read: tuple[str, Journal | None] = ("", None)

    # ---- time and traffic

    def behaviour(self, slot: SlotName) -> Behaviour:
        spec = self.slots[slot].spec
        return self.behaviours.get(spec.version, Behaviour()) if spec else Behaviour()

    def ready(self, slot: SlotName) -> int:
        behaviour = self.behaviour(slot)
        if behaviour.start_seconds is None or self.slots[slot].spec is None:
            return 0
        ready = 0
        for start in self.slots[slot].started:
            age = self.time - start
            up = behaviour.start_seconds <= age
            if behaviour.crashes_every and age >= behaviour.crashes_every:
                up = False
            ready += up
        return ready

    def effective(self) -> Weights:
        return next(weights for since, weights in reversed(self.routed) if since <= self.time)

    def advance(self, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:
            step = min(0.5, end - self.time)
            self.time += step
            weights = self.effective()
            marked = self.marked if weights.cohort else 0.0
            for slot in SlotName:
                own = marked if weights.cohort and weights.cohort.slot is slot else 0.0
                share = (1 - marked) * weights.of(slot) / 100 + own
                if share:
                    self._serve(slot, self.rate * step * share, live=True)
                    self.slots[slot].in_flight_until = self.time + 1.0
                behaviour = self.behaviour(slot)
                if behaviour.crashes_every:
                    for index, start in enumerate(self.slots[slot].started):
                        if self.time - start > behaviour.crashes_every + 2:
                            self.slots[slot].started[index] = self.time
                            self.slots[slot].restarts += 1

    def jump(self, seconds: float) -> None:
        """The wall clock is set; nothing else gets older."""
        self.time += seconds
        self.jumped += seconds
        self.routed = [(since + seconds, weights) for since, weights in self.routed]
        for slot in self.slots.values():
            slot.started = [start + seconds for start in slot.started]
            slot.in_flight_until += seconds

    def _serve(self, slot: SlotName, count: float, *, live: bool) -> None:
        state, behaviour = self.slots[slot], self.behaviour(slot)
        state.requests += count
        state.errors += count * (behaviour.errors + (behaviour.errors_live if live else 0))
        ttft = self.slower * (behaviour.ttft + (behaviour.ttft_live if live else 0))
        state.ttft = tuple(old + count * (index == bisect.bisect_left(BOUNDS, ttft)) for index, old in enumerate(state.ttft))
        if live and state.spec is not None:
            self.served[state.spec.version] = self.served.get(state.spec.version, 0) + count

    def counters(self, slot: SlotName) -> Snapshot | None:
        state, behaviour = self.slots[slot], self.behaviour(slot)
        if not behaviour.metrics or self.ready(slot) == 0:
            return None
        memory = 1e9 * (1 + behaviour.leak * state.requests)
        return {
            f"{slot}-0": Counters(
                requests=state.requests,
                errors=state.errors,
                tokens=state.requests * 10,
                ttft=Histogram(BOUNDS, state.ttft),
                inter_token=Histogram(BOUNDS, state.ttft),
                resident_bytes=memory,
                started=state.touched,
            )
        }

    def stored(self) -> Journal | None:
        if self.journal and self._read[0] != self.journal:
            self._read = (self.journal, load(self.journal, self.environment))
        return self._read[1] if self.journal else None

    # ---- what must hold whatever happens

    def violate(self, text: str) -> None:
        self.violations.append(text)
        raise Broken(text)


class Process:
    """One promoter's handle; dead after a kill."""

    def __init__(self, world: World, holder: str = "alice@host:1") -> None:
        self.world = world
        self.holder = holder
        self.held: Lease | None = None
        self.dead = False
        self.calls: list[str] = []
        self.last_seen: Observation | None = None
        self.last_verified: dict[SlotName, int] = {}
        self.events: list[Event] = []

    # ---- clock

    def now(self) -> float:
        return self.world.time

    def elapsed(self) -> float:
        return self.world.time - self.world.jumped

    def sleep(self, seconds: float) -> None:
        if self.dead:
            raise Killed
        self.world.advance(max(seconds, 1e-3))

    # ---- recording

    def _call(self, name: str, work: Callable[[], Any]) -> Any:
        world = self.world
        if self.dead:
            raise Killed
        index = len(world.calls)
        world.calls.append(name)
        self.calls.append(name)
        if world.kill_at == (index, "before"):
            self.die()
        world.before_call(name, self)
        world.advance(0.01)
        value = work()
        if world.kill_at == (index, "after"):
            self.die()
        return value

    def die(self) -> None:
        self.dead = True
        self.world.gone.add(self.holder)
        raise Killed

    def _mutate(self, name: str, work: Callable[[], None]) -> None:
        def fenced() -> None:
            leases.check(self.world.lease, self.held) if self.held else self.world.violate(f"I6: {name} without a lease")
            if self.world.drift and not self._drift_allowed():
                self.world.violate(f"I8: {name} over drift")
            work()

        self._call(name, fenced)

    def _drift_allowed(self) -> bool:
        journal = self.world.stored()
        return (
            journal is None or journal.operation is None or journal.operation.policy.allow_drift or journal.operation.phase != "preflight"
        )

    # ---- the protocol

    def observe(self) -> Observation:
        def look() -> Observation:
            world = self.world
            slots = {}
            for slot, state in world.slots.items():
                behaviour = world.behaviour(slot)
                slots[slot] = SlotObservation(
                    replicas=len(state.started),
                    ready=world.ready(slot),
                    spec=state.spec,
                    floor=state.floor,
                    in_flight=1 if world.time < state.in_flight_until else 0,
                    failure=behaviour.failure if state.started and world.ready(slot) == 0 else None,
                    restarts=state.restarts,
                )
            named = frozenset(SlotName) if world.weights is not None else frozenset()
            self.last_seen = Observation(world.time, world.weights, slots, named, world.drift)
            return self.last_seen

        seen: Observation = self._call("observe", look)
        return seen

    def render(self, slot: SlotName, spec: SlotSpec) -> None:
        def work() -> None:
            world = self.world
            if self.last_seen is None or self.last_seen.weights is None or self.last_seen.weights.reach(slot):
                world.violate(f"I2: {slot} rendered while it has weight")
            state = world.slots[slot]
            if state.spec is None or state.spec.id != spec.id:
                state.spec, state.started, state.restarts = spec, [world.time] * spec.replicas, 0
                state.requests = state.errors = 0
                state.ttft, state.touched = (0.0,) * 9, world.time

        self._mutate("render", work)

    def set_weights(self, weights: Weights) -> None:
        def work() -> None:
            if self.last_seen is not None and self.last_seen.weights != self.world.weights:
                raise Conflict("the route was changed since it was looked at")
            self._check_switch(weights)
            self.world.weights = weights
            self.world.slower = 3.5 if self.world.crowds and weights.sole else self.world.slower
            self.world.routed.append((self.world.time + self.world.delay, weights))

        self._mutate("set_weights", work)

    def _check_switch(self, weights: Weights) -> None:
        world, seen = self.world, self.last_seen
        for slot in SlotName:
            before = world.weights.of(slot) if world.weights else 0
            joins = weights.reach(slot) and not (world.weights and world.weights.reach(slot))
            if weights.of(slot) <= before and not joins:
                continue
            if seen is None or seen.slots[slot].ready == 0:
                world.violate(f"I1: weight {weights.of(slot)} on {slot}, which was not seen ready")
            if self.calls[-2:] != ["verify", "set_weights"] or slot not in self.last_verified:
                world.violate(f"I4: {slot} got weight without being verified just before")
            journal = world.stored()
            operation = journal.operation if journal else None
            if operation is not None and slot is operation.target and operation.kind == "promote":
                live = seen.slots[slot.other].replicas if operation.policy.strategy != "rolling" else operation.needed
                needed = math.ceil(min(live, operation.policy.most) * weights.of(slot) / 100)
                if seen.slots[slot].ready < needed:
                    world.violate(f"I9: {slot} has {seen.slots[slot].ready} ready replicas for {weights.of(slot)} %, {needed} carry it")

    def scale(self, slot: SlotName, replicas: int) -> None:
        def work() -> None:
            state = self.world.slots[slot]
            rolling = (journal := self.world.stored()) and journal.operation and journal.operation.policy.strategy == "rolling"
            if replicas < len(state.started) and self.world.weights and self.world.weights.of(slot) == 100 and not rolling:
                self.world.violate(f"I2: the live slot {slot} was shrunk")
            state.started = (state.started + [self.world.time] * replicas)[:replicas]
            state.floor = replicas

        self._mutate("scale", work)

    def set_floor(self, slot: SlotName, floor: int) -> None:
        def work() -> None:
            self.world.slots[slot].floor = floor

        self._mutate("set_floor", work)

    def verify(self, slot: SlotName) -> Health:
        def work() -> Health:
            healthy = self.world.ready(slot) > 0 and self.world.behaviour(slot).verifies and self.world.slots[slot].verifies
            self.last_verified.pop(slot, None)
            if healthy:
                self.last_verified[slot] = len(self.world.calls)
            return Health(healthy, "" if healthy else "no answer")

        health: Health = self._call("verify", work)
        return health

    def probe(self, n: int, header: tuple[str, str] | None = None) -> tuple[Seen, ...]:
        def work() -> tuple[Seen, ...]:
            weights = self.world.effective()
            cohort = weights.cohort
            answers = []
            for index in range(n):
                slot = BLUE if (index * 37) % 100 < weights.blue else GREEN
                if cohort is not None and header == (cohort.name, cohort.value):
                    slot = cohort.slot
                spec = self.world.slots[slot].spec
                up = self.world.ready(slot) > 0 and spec is not None
                answers.append(Seen(slot, spec.generation) if up and spec else Seen(None, error="503"))
            return tuple(answers)

        seen: tuple[Seen, ...] = self._call("probe", work)
        return seen

    def warm(self, slot: SlotName) -> None:
        def work() -> None:
            if not self.world.behaviour(slot).warms:
                raise SlotFailed(f"{slot} did not answer its first request")

        self._call("warm", work)

    def exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        exercise: Exercise = self._call("exercise", lambda: self._sent(slot, n))
        return exercise

    def compare(self, slot: SlotName, against: SlotName, n: int) -> tuple[Exercise, Exercise]:
        both: tuple[Exercise, Exercise] = self._call("compare", lambda: (self._sent(slot, n), self._sent(against, n)))
        return both

    def _sent(self, slot: SlotName, n: int) -> Exercise:
        behaviour = self.world.behaviour(slot)
        self.world._serve(slot, n, live=False)
        if self.world.ready(slot) == 0:
            return Exercise(n, n, "connection refused")
        times = Histogram.of([self.world.slower * behaviour.ttft] * n)
        return Exercise(n, round(n * behaviour.errors), "500" if behaviour.errors else "", 1.0, times, times)

    def agreement(self, slot: SlotName, against: SlotName) -> Agreement | None:
        return self._call("agreement", lambda: Agreement(self.world.behaviour(slot).agreement, 200))  # type: ignore[no-any-return]

    def metrics(self, slot: SlotName) -> Snapshot | None:
        return self._call("metrics", lambda: self.world.counters(slot))  # type: ignore[no-any-return]

    def read_journal(self) -> tuple[Journal | None, str]:
        def work() -> tuple[Journal | None, str]:
            return self.world.stored(), str(self.world.journal_version) if self.world.journal else ""

        found: tuple[Journal | None, str] = self._call("read_journal", work)
        return found

    def write_journal(self, journal: Journal, expected_version: str) -> str:
        def work() -> str:
            world = self.world
            assert self.held is not None
            leases.check(world.lease, self.held)
            stored = str(world.journal_version) if world.journal else ""
            if stored != expected_version:
                raise Conflict(f"journal has version {stored}, expected {expected_version}")
            self._check_journal(journal)
            world.journal, world.journal_version = dump(journal), world.journal_version + 1
            return str(world.journal_version)

        written: str = self._call("write_journal", work)
        return written

    def _check_journal(self, journal: Journal) -> None:
        before = self.world.stored()
        operation = before.operation if before else None
        if operation is None or operation.kind != "promote" or journal.active is before.active:  # type: ignore[union-attr]
            return
        stages = {verdict.stage: verdict.result for verdict in operation.verdicts}
        if stages.get("pre-check") != "pass" or stages.get("post-check") != "pass":
            self.world.violate(f"I5: committed with checks {stages}")

    def acquire_lease(self, holder: str) -> Lease:
        def work() -> Lease:
            world = self.world
            gone = world.lease is not None and world.lease.holder in world.gone
            self.held = world.lease = leases.acquire(world.lease, holder, world.time, holder_gone=gone)
            return self.held

        lease: Lease = self._call("acquire_lease", work)
        return lease

    def renew_lease(self) -> Lease:
        def work() -> Lease:
            assert self.held is not None
            self.held = self.world.lease = leases.renew(self.world.lease, self.held, self.world.time)
            return self.held

        lease: Lease = self._call("renew_lease", work)
        return lease

    def release_lease(self) -> None:
        def work() -> None:
            assert self.held is not None
            self.world.lease, self.held = leases.release(self.world.lease, self.held), None

        self._call("release_lease", work)

    def read_lease(self) -> Lease | None:
        return self.world.lease

    # ---- for tests

    def session(self) -> Session:
        return Session(self.world.environment, self, self, self.events.append, self.holder, self.holder.partition("@")[0], version())


GATES = Gates(min_requests=20, window_seconds=10)


def policy(**changes: Any) -> Policy:
    base = Policy(
        ready_seconds=60, settle_count=5, settle_seconds=30, drain_seconds=10, rollback_window_seconds=100, floor=2, most=4, gates=GATES
    )
    return replace(base, **changes)


@contextmanager
def left_at(world: World, phase: Phase, how: type[BaseException]) -> Iterator[None]:
    """The promoter inside stops at its next call once the journal has `phase`: by `how`, which must come out of it."""

    def stop(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is phase:
            raise how

    before, world.before_call = world.before_call, stop
    with pytest.raises(how):
        yield
    world.before_call = before


def turn_back(session: Session) -> commands.Ended:
    """`abort`, or `recover` where there is nothing to turn back."""
    try:
        return commands.abort(session)
    except NotNow:
        return commands.recover(session)


def converged(world: World) -> str | None:
    """Why the world is not at rest with exactly one serving slot; None when it is."""
    journal = world.stored()
    if journal is None:
        return "there is no journal"
    if journal.operation is not None:
        return f"{journal.operation.kind} is unfinished: {journal.operation.phase}"
    if world.weights is None or world.weights.sole is not journal.active or journal.weights != world.weights:
        return f"weights are {world.weights}, the journal says {journal.weights} with {journal.active} live"
    if world.ready(journal.active) == 0:
        return f"{journal.active} is live and not ready"
    spec = world.slots[journal.active].spec
    if spec is None or spec.id != journal.specs[journal.active].id:
        return f"{journal.active} runs another spec than the journal says"
    return None
