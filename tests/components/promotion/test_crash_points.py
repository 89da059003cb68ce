"""Killed before and after every single platform call, a promotion or rollback ends right after one re-run."""

import contextlib
from collections.abc import Callable

import pytest

from inferstack.promotion import commands
from inferstack.promotion.journal import Outcome, Policy
from inferstack.promotion.lease import LeaseLost
from inferstack.promotion.platform import PlatformError
from tests.components.promotion.world import BLUE, GREEN, Behaviour, Killed, Process, World, converged, policy, turn_back, version

NEW = version("int8")


def promote(world: World, plan: Policy, holder: str = "alice@host:1") -> commands.Ended:
    return commands.promote(Process(world, holder).session(), lambda spec: NEW, plan)


def rollback(world: World, plan: Policy, holder: str = "alice@host:1") -> commands.Ended:
    return commands.rollback(Process(world, holder).session(), plan)


def fresh(bad: bool) -> World:
    world = World()
    if bad:
        world.behaviours[NEW.version] = Behaviour(errors_live=0.5)
    return world


def crowded(bad: bool) -> World:
    """The machine is slower after the switch, and `bad`: the new version too, for live traffic."""
    world = World()
    world.crowds = True
    world.behaviours[NEW.version] = Behaviour(ttft_live=0.12 if bad else 0.0)
    return world


def promoted(_: bool) -> World:
    world = World()
    assert promote(world, policy()).outcome is Outcome.COMMITTED
    world.calls.clear()
    return world


CASES: list[tuple[str, Callable[[bool], World], Callable[..., commands.Ended], Policy, bool]] = [
    ("blue-green", fresh, promote, policy(), False),
    ("canary", fresh, promote, policy(strategy="canary", steps=(10, 50, 100)), False),
    ("canary by header", fresh, promote, policy(strategy="canary", steps=(100,), header=("x-cohort", "beta")), False),
    ("rolling", fresh, promote, policy(strategy="rolling"), False),
    ("blue-green reverted after the switch", fresh, promote, policy(), True),
    ("canary reverted at its first step", fresh, promote, policy(strategy="canary", steps=(10, 50, 100)), True),
    ("canary by header reverted", fresh, promote, policy(strategy="canary", steps=(100,), header=("x-cohort", "beta")), True),
    ("rolling reverted", fresh, promote, policy(strategy="rolling"), True),
    ("blue-green split after the switch", crowded, promote, policy(), False),
    ("rolling split after the switch", crowded, promote, policy(strategy="rolling"), False),
    ("blue-green reverted from a split", crowded, promote, policy(), True),
    ("rollback", promoted, rollback, policy(), False),
]

SHORT = ("blue-green", "rolling reverted", "rollback")
"""One of each direction for the fast lane; the others have more calls."""


@pytest.mark.parametrize(
    ("name", "make", "command", "plan", "bad"),
    [pytest.param(*case, id=case[0], marks=() if case[0] in SHORT else pytest.mark.slow) for case in CASES],
)
def test_killed_anywhere_one_rerun_converges(
    name: str, make: Callable[[bool], World], command: Callable[..., commands.Ended], plan: Policy, bad: bool
) -> None:
    clean = make(bad)
    ended = command(clean, plan)
    assert ended.outcome is (Outcome.REVERTED if bad else Outcome.COMMITTED)
    assert converged(clean) is None
    total = len(clean.calls)
    survived = 0
    for index in range(total):
        for when in ("before", "after"):
            world = make(bad)
            world.kill_at = (index, when)
            try:
                command(world, plan)
            except Killed:
                pass
            else:
                raise AssertionError(f"call {index} was never made")
            world.kill_at = None
            rerun(world, command, plan)
            problem = converged(world)
            assert problem is None, f"{name}: killed {when} call {index} ({world.calls[index]}): {problem}"
            journal = world.stored()
            assert journal is not None
            expected = version().version if bad or command is rollback else NEW.version
            assert journal.specs[journal.active].version == expected, f"{name}: killed {when} call {index} ({world.calls[index]})"
            survived += 1
    assert survived == 2 * total
    print(f"{name}: {survived} of {2 * total} crash points survived")


def state(world: World) -> tuple[object, ...]:
    """Everything that a promoter can change."""
    slots = tuple((slot, found.spec, len(found.started), found.floor) for slot, found in world.slots.items())
    return world.journal, world.journal_version, world.weights, world.lease, slots


@pytest.mark.parametrize("other", [commands.recover, turn_back], ids=["recover", "abort"])
@pytest.mark.parametrize(
    ("name", "make", "command", "plan", "bad"),
    [pytest.param(*case, id=case[0], marks=() if case[0] == "rollback" else pytest.mark.slow) for case in CASES],
)
def test_paused_anywhere_and_overtaken_it_changes_nothing(
    name: str,
    make: Callable[[bool], World],
    command: Callable[..., commands.Ended],
    plan: Policy,
    bad: bool,
    other: Callable[[commands.Session], commands.Ended],
) -> None:
    clean = make(bad)
    command(clean, plan)
    calls = clean.calls
    holds = range(calls.index("acquire_lease") + 1, len(calls) - 1)  # the last call gives the lease back
    for index in holds:
        world = make(bad)
        left: list[tuple[object, ...]] = []

        def pause(called: str, process: Process, world: World = world, left: list[tuple[object, ...]] = left, index: int = index) -> None:
            if process.holder == "alice@host:1" and len(world.calls) - 1 == index:
                world.advance(40)
                other(Process(world, "bob@other:2").session())
                left.append(state(world))

        world.before_call = pause
        with contextlib.suppress(LeaseLost, PlatformError):  # after its last write there is nothing that it could be refused
            command(world, plan)
        assert left == [state(world)], f"{name}: paused before call {index} ({calls[index]})"
        problem = converged(world)
        assert problem is None, f"{name}: paused before call {index} ({calls[index]}): {problem}"
    print(f"{name} overtaken by {other.__name__}: {len(holds)} of {len(holds)} pauses changed nothing")


def rerun(world: World, command: Callable[..., commands.Ended], plan: Policy) -> None:
    """The same command once more; when the killed one had ended already there is nothing to take up."""
    journal = world.stored()
    at_rest = journal is not None and journal.operation is None and journal.history
    finished = at_rest and (command is promote or journal.history[-1].kind == "rollback")  # type: ignore[union-attr]
    if finished:
        commands.recover(Process(world, "bob@host:2").session())
    else:
        command(world, plan, "bob@host:2")


def test_the_lease_of_a_promoter_killed_on_another_machine_ends_by_itself() -> None:
    world = World()
    world.kill_at = (20, "after")
    with pytest.raises(Killed):
        promote(world, policy())
    world.kill_at = None
    world.gone.clear()
    ended = commands.recover(Process(world, "bob@other:2").session(), wait_seconds=40)
    assert ended.outcome is Outcome.COMMITTED
    assert world.weights is not None
    assert world.weights.sole is GREEN
    assert BLUE is ended.journal.previous
