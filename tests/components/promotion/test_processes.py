"""Real processes on this machine: versions compared while streams run, commands killed, stopped and doubled."""

import pytest

from inferstack.platforms import slot_client
from tests.components.promotion.proof import faulty_runtime, kills, points
from tests.components.promotion.proof.arena import Client, Load, arena
from tests.components.promotion.proof.faulty_runtime import CODES

pytestmark = pytest.mark.parts


def test_beside_eight_streams_an_equal_version_passes_and_one_three_times_as_slow_is_caught() -> None:
    with arena("light", window_seconds=4) as made, Load(made, (Client("streams", 8, 24, True),)) as load:
        same = made.promote()
        slow = made.promote({"slot.engine.max_queue": CODES["three-times"]})
        results = load.stop()
    assert same.outcome == "committed", same.reason
    assert slow.outcome == "reverted"
    assert "at the same moments" in slow.reason
    assert all(result["outcome"] == "ok" for result in results)
    met = [result for result in results if result["slot"] == "blue" and result["started"] > slow.started]
    assert met == [], "the slow version got no request of a client"


def test_commands_killed_at_random_recover_with_one_command() -> None:
    found = kills.kills(4, seed=7)
    assert found["problems"] == []
    assert found["survived"] == 4
    assert (found["load"]["lost"], found["load"]["truncated"]) == (0, 0), found["load"]["reasons"]


def test_commands_and_parts_killed_at_chosen_points_recover_with_one_command() -> None:
    found = points.points(4, seed=43)
    assert found["problems"] == []
    assert found["reached"] >= 2
    assert found["missed"] == []


def test_a_second_promoter_is_told_who_holds_the_lease_and_a_stopped_one_writes_nothing_more() -> None:
    found = kills.seconds(3, seed=11)
    assert found["problems"] == []
    assert (found["load"]["lost"], found["load"]["truncated"]) == (0, 0), found["load"]["reasons"]


def test_faults_that_only_live_traffic_shows_spare_promotions_own_requests() -> None:
    assert set(faulty_runtime.SYNTHETIC_TOKENS) == {1, slot_client.TOKENS, slot_client.OCCUPY_TOKENS}
