"""What happens beside a promotion: machines that slow down, clocks that are set, people who change things by hand."""

from dataclasses import replace

import pytest

from inferstack.environment import Gates, Promotion
from inferstack.promotion import commands
from inferstack.promotion.journal import JournalUnreadable, Outcome, Phase
from inferstack.promotion.transition import NotNow
from inferstack.promotion.weights import Cohort, Weights
from tests.components.promotion.world import BLUE, GREEN, Behaviour, Process, World, converged, policy, version

NEW = version("int8")


def promote(world: World, holder: str = "alice@host:1", **changes: object) -> commands.Ended:
    return commands.promote(Process(world, holder).session(), lambda spec: NEW, policy(**changes))


@pytest.mark.parametrize(("live_only", "outcome"), [(0.0, Outcome.COMMITTED), (0.12, Outcome.REVERTED)])
def test_a_machine_that_gets_slower_after_the_switch_is_not_the_versions_fault(live_only: float, outcome: Outcome) -> None:
    for strategy in ("blue_green", "rolling"):
        world = World()
        world.crowds = True
        world.behaviours[NEW.version] = Behaviour(ttft_live=live_only)
        ended = promote(world, strategy=strategy)
        assert ended.outcome is outcome
        assert converged(world) is None


def test_what_is_suspected_after_the_switch_is_looked_at_again_with_both_slots_side_by_side() -> None:
    world = World()
    world.behaviours[NEW.version] = Behaviour(ttft_live=0.12)
    assert promote(world).outcome is Outcome.REVERTED
    assert [weights.green for _, weights in world.routed[1:]] == [100, 50, 0]
    world = World()
    world.crowds = True
    assert promote(world).outcome is Outcome.COMMITTED
    assert [weights.green for _, weights in world.routed[1:]] == [100, 50, 100]


def test_a_version_that_is_slow_for_live_traffic_alone_is_turned_back_inside_the_windows_of_the_first_weight() -> None:
    world, gates = World(), Gates()
    world.behaviours[NEW.version] = Behaviour(ttft_live=0.5)
    ended = promote(world, gates=gates, steps=Promotion().steps)
    assert ended.outcome is Outcome.REVERTED
    (begin, first), (end, last) = world.routed[1:]
    assert (first.green, last.green) == (Promotion().steps[0], 0) == (10, 0)
    assert world.served[NEW.version] < 0.05 * sum(world.served.values())
    assert end - begin < gates.window_seconds + 5, "two looks inside of windows, and no rest between them"


@pytest.mark.parametrize("trouble", ["ready", "verifies"])
def test_an_old_slot_that_cannot_take_its_share_again_gets_none_and_turns_nothing_back(trouble: str) -> None:
    """It fails between the suspicion and the split: the new version is judged by itself, and nobody is frozen for the old one's fault."""
    world = World()
    world.crowds = True

    def old_fails(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.operation and journal.operation.split:
            world.slower = 1.0
            world.slots[BLUE].verifies = trouble != "verifies"
            world.slots[BLUE].started = [] if trouble == "ready" else world.slots[BLUE].started

    world.before_call = old_fails
    ended = promote(world)
    assert ended.outcome is Outcome.COMMITTED
    assert [weights.green for _, weights in world.routed[1:]] == [100]
    assert converged(world) is None


def lasts(jump: float, phase: Phase) -> float:
    """Seconds of a promotion whose machine's clock is set by `jump` in `phase`, or which sleeps for as long."""
    world, jumped = World(delay=3.0), [False]
    call = "metrics" if phase in (Phase.PRECHECK, Phase.POSTCHECK) else "probe" if phase is Phase.SETTLE else "observe"

    def set_clock(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is phase and name == call and not jumped[0]:
            jumped[0] = True
            world.jump(jump)

    world.before_call = set_clock
    process = Process(world)
    began = process.elapsed()
    ended = commands.promote(process.session(), lambda spec: NEW, policy())
    assert (ended.outcome, jumped) == (Outcome.COMMITTED, [True])
    assert world.lease is not None
    return process.elapsed() - began


@pytest.mark.parametrize("jump", [-7200.0, -20.0, 20.0, 7200.0])
@pytest.mark.parametrize("phase", [Phase.READY, Phase.PRECHECK, Phase.SETTLE, Phase.POSTCHECK, Phase.DRAIN])
def test_a_clock_that_is_set_makes_no_window_longer_or_shorter_and_no_deadline_pass(jump: float, phase: Phase) -> None:
    assert lasts(jump, phase) == pytest.approx(lasts(0.0, phase), abs=2)


def test_the_journal_of_another_environment_is_not_gone_on_with() -> None:
    world = World()
    promote(world)
    assert world.journal is not None
    world.journal = world.journal.replace('"environment": "test"', '"environment": "staging"')
    before = world.weights
    for command in (promote, lambda world: commands.recover(Process(world).session())):
        with pytest.raises(JournalUnreadable, match="of environment staging, not of test"):
            command(world)
    assert world.weights == before


def test_a_version_gets_the_replicas_that_are_asked_for() -> None:
    world = World(replicas=2)
    ended = commands.promote(Process(world).session(), lambda spec: replace(NEW, replicas=3), policy())
    assert ended.outcome is Outcome.COMMITTED
    assert len(world.slots[GREEN].started) == 3
    with pytest.raises(NotNow, match=r"slots\.replicas\.max lets a slot have 4"):
        commands.promote(Process(world).session(), lambda spec: replace(NEW, replicas=5), policy())


@pytest.mark.parametrize("edited", [Weights(50, 50), Weights(100, 0), Weights(0, 100, Cohort("x", "y", BLUE))], ids=str)
def test_weights_that_somebody_moved_between_promotions_block_and_are_put_back_by_recover(edited: Weights) -> None:
    world = World()
    promote(world)
    world.weights = edited
    world.routed.append((world.time, edited))
    started = list(world.slots[BLUE].started)
    ended = promote(world)
    assert ended.outcome is Outcome.REFUSED
    assert "`inferstack recover`" in ended.entry.reason  # type: ignore[union-attr]
    assert world.weights == edited
    assert commands.shrink(Process(world).session()).entry is None, "the keeper leaves it to a person"
    assert world.weights == edited
    ended = commands.recover(Process(world).session())
    assert ended.outcome is Outcome.REVERTED
    assert f"weights were {edited}" in ended.entry.reason  # type: ignore[union-attr]
    assert (world.weights, ended.journal.previous) == (Weights(0, 100), BLUE)
    assert world.slots[BLUE].started == started, "the way back was stopped"
    assert converged(world) is None
    assert promote(world).outcome is Outcome.COMMITTED


def test_a_live_slot_that_is_down_gets_no_traffic_back() -> None:
    world = World()
    promote(world)
    world.weights = Weights(100, 0)
    world.routed.append((world.time, world.weights))
    world.slots[GREEN].verifies = False
    assert commands.recover(Process(world).session()).outcome is Outcome.FROZEN
    assert world.weights == Weights(100, 0)
