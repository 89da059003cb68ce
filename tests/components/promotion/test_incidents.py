"""What users of other tools reported, one test each: none of it can happen here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferstack.cli._records import unfinished_json
from inferstack.environment import Environment, InvalidEnvironment, SlotName, parse_environment
from inferstack.local.gateway import Ports, bootstrap, routes
from inferstack.promotion import commands
from inferstack.promotion.journal import Outcome, Phase
from inferstack.promotion.lease import LeaseHeld, LeaseLost
from inferstack.promotion.platform import Observation
from inferstack.promotion.spec import with_settings
from inferstack.promotion.weights import Cohort, Weights
from inferstack.serving.manifests.route import route_rules, route_template
from tests.components.kubernetes import environment
from tests.components.promotion.world import BLUE, GREEN, Behaviour, Broken, Process, World, converged, left_at, policy, version

NEW = version("int8")
MARKED: dict[str, Any] = {"strategy": "canary", "steps": (100,), "header": ("x-cohort", "beta")}


def promote(world: World, holder: str = "alice@host:1", **changes: object) -> commands.Ended:
    return commands.promote(Process(world, holder).session(), lambda spec: NEW, policy(**changes))


def test_a_rollback_never_goes_to_a_slot_that_fails_its_check_now() -> None:
    world = World()
    assert promote(world).outcome is Outcome.COMMITTED
    world.slots[BLUE].verifies = False
    ended = commands.rollback(Process(world).session(), policy())
    assert ended.outcome is Outcome.REVERTED
    assert world.weights == Weights(0, 100)
    assert "blue does not verify" in ended.entry.reason  # type: ignore[union-attr]


def test_with_both_slots_bad_the_better_one_stays_frozen_and_nothing_flaps() -> None:
    world = World()
    world.behaviours[NEW.version] = Behaviour(errors_live=0.5)

    def blue_dies(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is Phase.POSTCHECK:
            world.slots[BLUE].verifies = False

    world.before_call = blue_dies
    ended = promote(world)
    assert ended.outcome is Outcome.FROZEN
    assert ended.rest.page
    assert world.weights == Weights(0, 100) == ended.journal.weights
    assert world.calls.count("set_weights") == 1
    assert len(world.slots[GREEN].started) == 2, "the slot that serves was scaled down"
    assert len(world.slots[BLUE].started) == 2
    world.slots[BLUE].verifies = True
    world.before_call = lambda name, process: None
    assert commands.recover(Process(world, "bob@host:2").session()).outcome is Outcome.REVERTED
    assert world.weights == Weights(100, 0)


@pytest.mark.parametrize("phase", [Phase.RENDER, Phase.READY, Phase.WARM, Phase.PRECHECK, Phase.SHIFT, Phase.SETTLE, Phase.POSTCHECK])
@pytest.mark.parametrize("command", [commands.abort, lambda session: commands.rollback(session, policy())], ids=["abort", "rollback"])
def test_a_promotion_stuck_in_any_phase_can_be_turned_back(phase: Phase, command: object) -> None:
    world = World()
    with left_at(world, phase, KeyboardInterrupt):
        promote(world)
    world.gone.add("alice@host:1")
    ended = command(Process(world, "bob@host:2").session())  # type: ignore[operator]
    assert ended.outcome is Outcome.REVERTED
    assert converged(world) is None
    assert world.weights == Weights(100, 0)


def test_an_abort_before_anything_was_rendered_keeps_the_way_back_warm() -> None:
    world = World()
    promote(world)
    with left_at(world, Phase.PREFLIGHT, KeyboardInterrupt):
        commands.promote(Process(world).session(), lambda spec: version("int4"), policy())
    assert commands.abort(Process(world).session()).outcome is Outcome.REVERTED
    world.calls.clear()
    assert commands.rollback(Process(world).session(), policy()).outcome is Outcome.COMMITTED
    assert not {"render", "scale", "warm"} & set(world.calls)


def test_the_old_version_is_kept_at_full_size_for_an_instant_rollback() -> None:
    world = World(replicas=3)
    promote(world, idle_replicas=1)
    assert len(world.slots[BLUE].started) == 3
    assert world.slots[BLUE].floor == 3, "the scaler may shrink the way back"
    world.calls.clear()
    started = world.time
    assert commands.rollback(Process(world).session(), policy()).outcome is Outcome.COMMITTED
    assert not {"render", "scale", "warm"} & set(world.calls)
    moved = next(when for when, weights in reversed(world.routed) if weights == Weights(100, 0))
    assert moved - started < 2


def test_checks_do_not_begin_before_the_gateway_shows_the_new_version() -> None:
    world = World(delay=18.0)
    order: list[str] = []

    def watch(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is Phase.POSTCHECK:
            order.append(f"{world.effective().green}")

    world.before_call = watch
    assert promote(world).outcome is Outcome.COMMITTED
    assert set(order) == {"100"}


def test_readiness_counts_only_replicas_of_the_rendered_spec() -> None:
    """An old pod that still answers in the idle slot is not the new version."""
    world = World()
    promote(world)
    commands.rollback(Process(world).session(), policy())
    assert world.ready(GREEN) == 2
    newer = version("int4")
    world.behaviours[newer.version] = Behaviour(start_seconds=None)
    ended = commands.promote(Process(world).session(), lambda spec: newer, policy())
    assert ended.outcome is Outcome.REVERTED
    assert "0 of 2 replicas ready" in ended.entry.reason  # type: ignore[union-attr]


def test_a_change_of_the_idle_slot_never_touches_the_live_one() -> None:
    world = World(replicas=3)
    before = replace_slot(world)
    world.behaviours[NEW.version] = Behaviour(start_seconds=None)
    assert promote(world, floor=before[2]).outcome is Outcome.REVERTED
    assert replace_slot(world) == before


def replace_slot(world: World) -> tuple[object, ...]:
    slot = world.slots[BLUE]
    return slot.spec, tuple(slot.started), slot.floor, world.weights


def test_the_new_slot_grows_with_a_live_slot_that_the_scaler_grew_meanwhile() -> None:
    world = World(replicas=2)

    def grow(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is Phase.WARM and len(world.slots[BLUE].started) == 2:
            world.slots[BLUE].started += [world.time - 100] * 2

    world.before_call = grow
    assert promote(world).outcome is Outcome.COMMITTED
    assert len(world.slots[GREEN].started) == 4


def test_the_live_slot_cannot_shrink_while_weights_move() -> None:
    world = World(replicas=4)
    world.slots[BLUE].floor = 2
    floors: list[int] = []

    def watch(name: str, process: Process) -> None:
        if name == "set_weights":
            floors.append(world.slots[BLUE].floor)

    world.before_call = watch
    promote(world, strategy="canary", steps=(10, 100))
    assert floors == [4, 4]


def test_the_old_slot_is_shrunk_once_its_window_is_over() -> None:
    world = World(replicas=2)
    promote(world, idle_replicas=0)
    commands.recover(Process(world).session())
    assert len(world.slots[BLUE].started) == 2, "shrunk inside its rollback window"
    world.advance(200)
    commands.recover(Process(world).session())
    assert len(world.slots[BLUE].started) == 0
    world.calls.clear()
    assert commands.rollback(Process(world).session(), policy()).outcome is Outcome.COMMITTED, "still possible, with a start"
    assert "scale" in world.calls


def test_an_old_promoter_that_wakes_up_beside_the_new_one_changes_nothing() -> None:
    world = World()
    state = {"stolen": False}

    def steal(name: str, process: Process) -> None:
        if name == "set_weights" and not state["stolen"]:
            state["stolen"] = True
            world.lease = replace(world.lease, holder="bob@other:9", generation=world.lease.generation + 1)  # type: ignore[type-var, union-attr]

    world.before_call = steal
    with pytest.raises(LeaseLost, match="bob@other:9"):
        promote(world)
    assert world.weights == Weights(100, 0)


def test_no_weight_goes_to_a_slot_that_lost_its_replicas_after_the_check() -> None:
    world = World()

    def lose(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is Phase.SHIFT:
            world.slots[GREEN].started = []

    world.before_call = lose
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert "set_weights" not in world.calls


def test_the_old_slot_is_not_shrunk_before_traffic_has_left_it() -> None:
    world = World(delay=18.0)
    world.behaviours[version().version] = Behaviour()
    sizes: list[int] = []

    def watch(name: str, process: Process) -> None:
        if world.effective().blue > 0:
            sizes.append(len(world.slots[BLUE].started))

    world.before_call = watch
    promote(world, idle_replicas=0, rollback_window_seconds=0)
    assert set(sizes) == {2}
    assert len(world.slots[BLUE].started) == 0


def test_a_route_that_does_not_name_both_slots_is_refused() -> None:
    world = World()
    process = Process(world)
    look = process.observe

    def one_backend() -> Observation:
        return replace(look(), named=frozenset({SlotName.BLUE}))

    process.observe = one_backend  # type: ignore[method-assign]
    ended = commands.promote(process.session(), lambda spec: NEW, policy(allow_drift=True))
    assert ended.outcome is Outcome.REFUSED
    assert not {"render", "set_weights", "scale"} & set(world.calls)


def test_a_canary_by_header_gives_the_new_version_only_the_marked_requests_first() -> None:
    world, header = World(), ("x-cohort", "beta")
    process = Process(world)
    ended = commands.promote(process.session(), lambda spec: NEW, policy(strategy="canary", steps=(20, 100), header=header))
    assert ended.outcome is Outcome.COMMITTED
    cohort = Cohort(*header, GREEN)
    assert [weights for _, weights in world.routed[1:]] == [Weights(100, 0, cohort), Weights(80, 20, cohort), Weights(0, 100)]
    assert world.weights == Weights(0, 100), "no rule of the cohort is left behind"


def test_a_version_that_fails_its_marked_requests_meets_no_other() -> None:
    world, header = World(), ("x-cohort", "beta")
    world.behaviours[NEW.version] = Behaviour(errors_live=0.5)
    ended = promote(world, strategy="canary", steps=(20, 100), header=header)
    assert ended.outcome is Outcome.REVERTED
    assert [weights for _, weights in world.routed[1:]] == [Weights(100, 0, Cohort(*header, GREEN)), Weights(100, 0)]


def test_a_setting_of_a_promotion_that_nobody_reads_is_refused_and_never_ignored() -> None:
    for wrong in ({"strategy": "canary", "canaryTrafficPercent": 10}, {"strategy": "sideways"}, {"steps": [50, 10]}):
        with pytest.raises(InvalidEnvironment):
            parse_environment({"platform": "local", "models": [{"name": "m", "source": "package://m"}], "promotion": wrong})
    with pytest.raises(InvalidEnvironment, match="slot"):
        with_settings(version(), {"slot.canary": 10})


def test_no_route_pins_sessions_so_a_change_of_weights_drains_no_listener() -> None:
    ports = Ports(8080, 9901, None, {"blue": 8001, "green": 8002}, {"blue": 9001, "green": 9002})
    assert "sessionPersistence" not in str(route_rules(route_template(environment()), {"blue": 1, "green": 99}))
    assert "stateful_session" not in str(bootstrap("local", ports, Path("/x/routes.json")))
    assert "hash_policy" not in str(routes({"blue": 1, "green": 99}, 600))


def test_a_canary_that_hardly_anybody_asks_is_compared_by_the_same_synthetic_load_on_both_slots() -> None:
    world = World()
    world.marked = 0.01
    ended = promote(world, **MARKED)
    assert ended.outcome is Outcome.COMMITTED
    assert ended.entry is not None
    marked = next(verdict for verdict in ended.entry.verdicts if verdict.percent == 0)
    assert (marked.figures["new.requests"] or 0) >= policy().gates.min_requests, "filled up, never passed silently"
    world.behaviours[version("int4").version] = Behaviour(ttft=0.9)
    ended = commands.promote(Process(world).session(), lambda spec: version("int4"), policy(**MARKED))
    assert ended.outcome is Outcome.REVERTED


def test_a_canary_by_header_that_nobody_asks_is_inconclusive_and_says_what_to_do() -> None:
    world = World()
    world.marked = 0.0
    ended = promote(world, **MARKED)
    assert ended.outcome is Outcome.REVERTED
    assert ended.entry is not None
    assert ended.entry.reason == (
        "post-check is inconclusive after 4 tries: no request with the header x-cohort: beta came in 10 s: send some through the gateway "
        "meanwhile, give them longer by promotion.step_seconds, or promote without the header"
    )
    assert world.served.get(NEW.version, 0) == 0


def with_promotion(**wanted: object) -> Environment:
    base = {"platform": "local", "models": [{"name": "m", "source": "package://m"}], "cache": {"backend": "none"}}
    return parse_environment({**base, "promotion": wanted})


def test_a_header_of_the_environment_is_a_promotions_first_step_and_rolling_has_none() -> None:
    found = with_promotion(strategy="canary", header={"name": "X-Cohort", "value": "beta"}, steps=[10, 100])
    assert commands.policy_of(found).header == ("x-cohort", "beta")
    assert commands.policy_of(found, header=("x-other", "1")).header == ("x-other", "1")
    assert commands.policy_of(found, strategy="rolling").header is None
    for wrong in ({"name": "X-Tier", "value": "fast"}, {"name": "a b", "value": "1"}, {"name": "X-Cohort", "value": ""}, {"name": "X"}):
        with pytest.raises(InvalidEnvironment, match=r"promotion\.header"):
            with_promotion(header=wrong)
    with pytest.raises(InvalidEnvironment, match="replica by replica"):
        with_promotion(strategy="rolling", header={"name": "X-Cohort", "value": "beta"})


def test_streams_on_the_old_slot_get_their_time_before_anything_ends_there() -> None:
    world = World()
    stream_ends = world.time + 60

    def stream(name: str, process: Process) -> None:
        world.slots[BLUE].in_flight_until = stream_ends

    world.before_call = stream
    promote(world, drain_seconds=120, rollback_window_seconds=0, idle_replicas=0)
    assert len(world.slots[BLUE].started) == 0
    assert world.time >= stream_ends


def test_a_stream_that_outlives_the_drain_goes_on_while_its_slot_is_warm_and_is_told_of() -> None:
    world = World()

    def stream(name: str, process: Process) -> None:
        world.slots[BLUE].in_flight_until = world.time + 60
        journal = world.stored()
        if journal and journal.phase is Phase.RELEASE:
            found = unfinished_json(journal, world.lease, world.time)
            assert found is not None
            assert found["reason"] is None, "nothing is turned back"

    world.before_call = stream
    ended = promote(world, drain_seconds=5)
    assert ended.outcome is Outcome.COMMITTED
    assert ended.entry is not None
    assert "blue still had" in ended.entry.reason
    assert len(world.slots[BLUE].started) == 2


def test_two_promoters_the_second_touches_nothing_and_learns_who_holds_the_lease() -> None:
    world = World()
    found: list[LeaseHeld] = []

    def second(name: str, process: Process) -> None:
        if name != "warm" or found:
            return
        before = (world.journal, world.weights, world.slots[GREEN].spec)
        with pytest.raises(LeaseHeld) as held:
            promote(world, holder="bob@other:2")
        found.append(held.value)
        assert before == (world.journal, world.weights, world.slots[GREEN].spec)

    world.before_call = second
    assert promote(world).outcome is Outcome.COMMITTED
    assert "alice@host:1" in str(found[0])
    assert "since" in str(found[0])


def test_missing_metrics_never_pass() -> None:
    world = World()
    world.behaviours[NEW.version] = Behaviour(metrics=False)
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert "no metrics" in ended.entry.reason  # type: ignore[union-attr]
    assert "set_weights" not in world.calls


def test_drift_blocks_a_promotion_unless_overridden() -> None:
    world = World()
    promote(world)
    world.drift = ("the image of green was changed",)
    ended = promote(world)
    assert ended.outcome is Outcome.REFUSED
    assert "the image of green was changed" in ended.entry.reason  # type: ignore[union-attr]
    assert promote(world, allow_drift=True).outcome is Outcome.COMMITTED


def test_drift_does_not_block_a_rollback() -> None:
    world = World()
    promote(world)
    world.drift = ("the image of green was changed",)
    assert commands.rollback(Process(world).session(), policy()).outcome is Outcome.COMMITTED


def test_weights_that_somebody_moved_are_not_overwritten_forward() -> None:
    world = World()

    def operator(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is Phase.POSTCHECK:
            world.weights = Weights(100, 0)
            world.routed.append((world.time, world.weights))

    world.before_call = operator
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert "somebody else" in ended.entry.reason  # type: ignore[union-attr]
    assert world.weights == Weights(100, 0)


def test_a_new_version_that_dies_right_after_the_commit_is_rolled_back_by_itself() -> None:
    world = World()

    def die(name: str, process: Process) -> None:
        journal = world.stored()
        if journal and journal.phase is Phase.DRAIN and journal.active is GREEN:
            world.slots[GREEN].started = []

    world.before_call = die
    world.slots[BLUE].in_flight_until = world.time + 5
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert world.weights == Weights(100, 0)
    assert converged(world) is None


BAD = {
    "slow": Behaviour(ttft=2.0),
    "erroring": Behaviour(errors=0.2),
    "wrong answers": Behaviour(agreement=0.05),
    "leaking": Behaviour(leak=0.01),
    "crash loop": Behaviour(crashes_every=3.2),
    "crash loop with a reason": Behaviour(start_seconds=None, failure="CrashLoopBackOff"),
    "never ready": Behaviour(start_seconds=None),
    "does not warm": Behaviour(warms=False),
    "does not verify": Behaviour(verifies=False),
    "no metrics": Behaviour(metrics=False),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_version_is_reverted_before_any_live_request_met_it(kind: str) -> None:
    world = World()
    world.behaviours[NEW.version] = BAD[kind]
    ended = promote(world)
    assert ended.outcome is Outcome.REVERTED
    assert world.served.get(NEW.version, 0) == 0
    assert converged(world) is None
    assert ended.journal.previous is None, "a slot that failed is no way back"


@pytest.mark.parametrize("behaviour", [Behaviour(errors_live=0.3), Behaviour(ttft_live=3.0)], ids=["errors", "slow"])
def test_what_only_live_traffic_shows_is_reverted_after_the_switch(behaviour: Behaviour) -> None:
    world = World()
    world.behaviours[NEW.version] = behaviour
    ended = promote(world, strategy="canary", steps=(5, 50, 100))
    assert ended.outcome is Outcome.REVERTED
    assert world.served[NEW.version] < 0.05 * sum(world.served.values())


def test_an_error_free_unchanged_version_is_promoted_again_and_again() -> None:
    world = World()
    for _ in range(10):
        ended = commands.promote(Process(world).session(), lambda spec: spec, policy())
        assert ended.outcome is Outcome.COMMITTED
    assert ended.journal.generation == 11


def test_the_world_that_these_tests_run_in_notices_a_broken_invariant() -> None:
    world = World()
    process = Process(world)
    process.acquire_lease("alice@host:1")
    process.observe()
    with pytest.raises(Broken, match="I1"):
        process.set_weights(Weights(0, 100))
    with pytest.raises(Broken, match="I2"):
        process.render(BLUE, NEW)
