"""Random sequences of commands, kills, API errors, lost pods, scaler writes, clock jumps, operator edits and a second promoter.

Whatever happens in between, the invariants hold after every call, and once the trouble is over one `recover` ends with exactly one
serving slot. INFERSTACK_SEQUENCES sets how many sequences are run (100; nightly 2,000).
"""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from inferstack.promotion import commands
from inferstack.promotion.journal import Outcome
from inferstack.promotion.lease import LeaseHeld, LeaseLost
from inferstack.promotion.platform import Conflict, PlatformError, Unavailable
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.transition import NotNow
from inferstack.promotion.weights import Weights
from tests.components.promotion.world import BLUE, GREEN, Behaviour, Killed, Process, World, converged, policy, version

SEQUENCES = int(os.environ.get("INFERSTACK_SEQUENCES", "100"))
GOOD = [version("int8"), version("int4"), version("fp16")]
BAD = {
    version("nf4").version: Behaviour(errors=0.5),
    version("awq").version: Behaviour(errors_live=0.5),
    version("gptq").version: Behaviour(start_seconds=None),
    version("fp8").version: Behaviour(crashes_every=20),
}
VERSIONS = [*GOOD, version("nf4"), version("awq"), version("gptq"), version("fp8")]
FAULTS = [
    "kill before",
    "kill after",
    "unavailable",
    "unavailable after",
    "conflict",
    "lose pods",
    "scaler",
    "clock forward",
    "clock back",
    "edit weights",
    "second promoter",
]
ENDS = (Killed, PlatformError, LeaseHeld, LeaseLost, NotNow)


class Sequences(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(replicas=2)
        self.world.behaviours = dict(BAD)
        self.people = 0
        self.edited = False

    def process(self) -> Process:
        self.people += 1
        return Process(self.world, f"p{self.people}@host:{self.people}")

    def run(self, work: Callable[[commands.Session], Any], faults: list[tuple[int, str]]) -> None:
        world, process, start = self.world, self.process(), len(self.world.calls)
        due = {start + at: fault for at, fault in faults}

        def trouble(name: str, caller: Process) -> None:
            fault = due.pop(len(world.calls) - 1, None)
            if fault is not None and caller is process:
                self.cause(fault, name, caller)

        world.before_call = trouble
        try:
            work(process.session())
        except ENDS:
            pass
        finally:
            world.before_call = lambda name, caller: None
            world.gone.add(process.holder)
            world.kill_at = None

    def cause(self, fault: str, name: str, process: Process) -> None:
        world = self.world
        match fault:
            case "kill before":
                process.die()
            case "kill after" | "unavailable after":
                world.kill_at = (len(world.calls) - 1, "after") if fault == "kill after" else None
            case "unavailable":
                raise Unavailable(f"{name}: 503")
            case "conflict":
                raise Conflict(f"{name}: 409")
            case "lose pods":
                slot = GREEN if len(world.calls) % 2 else BLUE
                lost = len(world.slots[slot].started) // 2
                world.slots[slot].started = [world.time] * lost + world.slots[slot].started[lost:]
            case "scaler":
                slot = world.slots[GREEN if len(world.calls) % 2 else BLUE]
                if 0 < len(slot.started) < 4:
                    slot.started = [*slot.started, world.time]
            case "clock forward":
                world.jump(300)
            case "clock back":
                world.jump(-200)
            case "edit weights":
                if world.ready(BLUE) and world.ready(GREEN):
                    self.edited = True
                    world.weights = Weights(50, 50)
                    world.routed.append((world.time, world.weights))
            case "second promoter":
                other = Process(world, "intruder@other:1")
                kept = world.before_call
                world.before_call = lambda name, caller: None
                try:
                    commands.promote(other.session(), lambda spec: GOOD[0], policy())
                except ENDS:
                    pass
                finally:
                    world.before_call = kept

    FAULT_LISTS = st.lists(st.tuples(st.integers(0, 90), st.sampled_from(FAULTS)), max_size=4)

    @rule(
        spec=st.sampled_from(VERSIONS),
        strategy=st.sampled_from(["blue_green", "canary", "rolling"]),
        faults=FAULT_LISTS,
    )
    def promote(self, spec: SlotSpec, strategy: str, faults: list[tuple[int, str]]) -> None:
        steps = (10, 50, 100) if strategy == "canary" else (100,)
        self.run(lambda session: commands.promote(session, lambda _: spec, policy(strategy=strategy, steps=steps)), faults)

    @rule(faults=FAULT_LISTS)
    def rollback(self, faults: list[tuple[int, str]]) -> None:
        self.run(lambda session: commands.rollback(session, policy()), faults)

    @rule(faults=FAULT_LISTS)
    def recover(self, faults: list[tuple[int, str]]) -> None:
        self.run(commands.recover, faults)

    @rule(faults=FAULT_LISTS)
    def abort(self, faults: list[tuple[int, str]]) -> None:
        self.run(commands.abort, faults)

    @rule(seconds=st.integers(1, 400))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)

    def teardown(self) -> None:
        """The trouble is over: pods come back, somebody recovers once."""
        world = self.world
        assert world.violations == []
        if world.stored() is None:
            return
        world.advance(60)
        journal = world.stored()
        assert journal is not None
        behaves = world.behaviour(journal.active)
        if journal.operation is None and self.edited and world.weights is not None and world.weights != journal.weights:
            world.weights = journal.weights  # nobody's operation: the operator takes the edit back
            world.routed.append((world.time, world.weights))
        if world.ready(journal.active) == 0 and not journal.operation and (behaves.crashes_every or behaves.start_seconds is None):
            return
        ended = commands.recover(self.process().session())
        problem = converged(world)
        if ended.outcome is Outcome.FROZEN:
            assert world.ready(journal.active) == 0 or world.behaviour(journal.active).crashes_every, "frozen although the way back is good"
            return
        assert problem is None, problem


Sequences.TestCase.settings = settings(
    max_examples=SEQUENCES, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
test_whatever_happens_one_recovery_ends_with_one_serving_slot = Sequences.TestCase
