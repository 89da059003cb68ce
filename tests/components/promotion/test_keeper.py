"""Between promotions: what Prometheus reads, and the previous slot shrunk once its window is over."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from inferstack.platforms.keeper import page, serve, tend
from inferstack.platforms.prometheus_text import samples
from inferstack.promotion import commands
from inferstack.promotion.exposition import exposition
from inferstack.promotion.journal import Outcome, Phase
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Cohort, Weights
from tests.components.promotion.world import BLUE, GREEN, Process, World, left_at, policy, version

NEW = version("int8")


def promoted() -> World:
    world = World()
    assert commands.promote(Process(world).session(), lambda spec: NEW, policy()).outcome is Outcome.COMMITTED
    return world


def interrupted_at_settle(world: World, spec: SlotSpec, **changes: Any) -> None:
    """A promotion of `spec` that its promoter left while the weights settle."""
    with left_at(world, Phase.SETTLE, KeyboardInterrupt):
        commands.promote(Process(world).session(), lambda live: spec, policy(**changes))


def figures(text: str) -> dict[tuple[str, ...], float]:
    return {(name, *(value for key, value in labels.items() if key != "environment")): number for name, labels, number in samples(text)}


def test_a_page_says_phase_weights_and_what_ended() -> None:
    world = promoted()
    found = figures(page("test", Process(world)))
    assert found["inferstack_slot_weight_ratio", "blue"] == 0
    assert found["inferstack_slot_weight_ratio", "green"] == 1
    assert found["inferstack_slot_active", "green"] == 1
    assert {
        phase: value
        for (name, phase, *_), value in ((key, value) for key, value in found.items() if len(key) > 1)
        if name.endswith("_phase")
    } == {phase: float(phase is Phase.IDLE) for phase in Phase}
    assert found["inferstack_promotion_generation",] == 2
    assert found["inferstack_promotion_duration_seconds", "promote", "committed"] > 0
    journal = world.stored()
    assert journal is not None
    assert found["inferstack_rollback_window_end_timestamp_seconds", "blue"] == journal.kept_until


def test_a_page_says_what_is_under_way_and_escapes_what_people_chose() -> None:
    world = World()

    interrupted_at_settle(world, NEW, header=("x-cohort", 'be"ta\\'))
    text = exposition("test", world.stored(), world.weights)
    found = figures(text)
    assert found["inferstack_promotion_phase", "settle"] == 1
    assert ("inferstack_promotion_started_timestamp_seconds", "promote", "green") in found
    assert 'value="be\\"ta\\\\"' in text
    assert world.weights == Weights(100, 0, Cohort("x-cohort", 'be"ta\\', GREEN))


def test_every_name_has_its_help_and_type_once() -> None:
    lines = page("test", Process(promoted())).splitlines()
    for kind in ("HELP", "TYPE"):
        heads = [line.split()[2] for line in lines if line.startswith(f"# {kind} ")]
        assert len(heads) == len(set(heads))
        assert {line.partition("{")[0] for line in lines if not line.startswith("#")} == set(heads)
    assert exposition("test", None, None) == "\n"


def test_the_previous_slot_is_shrunk_when_its_window_is_over_and_not_before() -> None:
    world, said = promoted(), list[str]()
    assert not tend(Process(world, "keeper@host:9").session(), said.append)
    assert len(world.slots[BLUE].started) == 2
    world.advance(101)
    assert tend(Process(world, "keeper@host:9").session(), said.append)
    assert len(world.slots[BLUE].started) == 1
    assert said == ["blue: its rollback window is over, it was shrunk to 1"]
    assert not tend(Process(world, "keeper@host:9").session(), said.append), "once is enough"


def test_an_unfinished_promotion_and_a_held_lease_are_left_alone() -> None:
    world, said = promoted(), list[str]()
    world.advance(101)
    holder = Process(world, "alice@host:1")
    holder.acquire_lease("alice@host:1")
    assert not tend(Process(world, "keeper@host:9").session(), said.append)
    assert "alice@host:1" in said[0]
    holder.release_lease()

    interrupted_at_settle(world, version("int4"))
    before = world.journal
    assert not tend(Process(world, "keeper@host:9").session(), said.append)
    assert world.journal == before


@contextmanager
def served(world: World) -> Iterator[str]:
    server = serve(Process(world).session(), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_prometheus_is_answered_and_a_journal_that_cannot_be_read_is_no_empty_page() -> None:
    world = promoted()
    with served(world) as address:
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "inferstack_promotion_phase" in answer.read().decode()
        world.journal = '{"schema": 99}'
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{address}/metrics")
