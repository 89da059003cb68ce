"""Two slots asked at the same moments, with as much to do on both sides."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from inferstack.platforms import pairs
from inferstack.platforms.pairs import compare
from inferstack.platforms.slot_client import SlotClient, Timing


class Engine:
    """A replica whose tokens take as long as it and all engines of its machine have to do; nothing is waited for, only counted."""

    def __init__(self, machine: "Machine", slower: float = 1.0, streams: int = 0, models: tuple[str, ...] = ("m",)) -> None:
        self.machine, self.slower, self.streams, self.models = machine, slower, streams, models
        self.running = streams
        self.labels: list[str] = []
        self.asked: list[str] = []
        self.beside: list[int] = []
        machine.engines.append(self)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        with self.machine.lock:
            self.running += 1
        try:
            yield
        finally:
            with self.machine.lock:
                self.running -= 1


class Machine:
    """Engines that share its cores."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.lock = threading.Lock()
        self.round = threading.Barrier(2 * 4)


class Client(SlotClient):
    """Asks an engine without a network."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.models = engine, engine.models

    def readiness(self) -> dict[str, Any]:
        return {"ready": True, "in_flight": self.engine.running}

    def generate(self, model: str, *arguments: Any, label: str = "", **options: Any) -> Timing:
        engine = self.engine
        with engine.run():
            engine.machine.round.wait(10)  # all of it are under way
            with engine.machine.lock:
                busy = sum(each.running > 0 for each in engine.machine.engines)
                took = 0.01 * engine.slower * engine.running * busy
                engine.beside.append(engine.running)
            engine.labels.append(label)
            engine.asked.append(model)
            engine.machine.round.wait(10)
        return Timing(ttft=took, gaps=(took,) * 7)

    def occupy(self, model: str, stop: threading.Event, begun: threading.Event) -> None:
        with self.engine.run():
            begun.set()
            stop.wait(10)


def slower_by(slower: float, streams: int, live_streams: int) -> float:
    machine = Machine()
    new, live = Engine(machine, slower, streams), Engine(machine, 1.0, live_streams)
    mine, theirs = compare([Client(new)], [Client(live)], 4)
    assert (mine.sent, theirs.sent, mine.failures, theirs.failures) == (4, 4, 0, 0)
    assert sorted(new.labels) == sorted(live.labels), "the same prompts"
    assert (new.running, live.running) == (streams, live_streams), "nothing stays behind"
    value, before = mine.inter_token.quantile(0.5), theirs.inter_token.quantile(0.5)
    assert value is not None
    assert before is not None
    return value / before


@pytest.mark.parametrize("streams", [0, 1, 8, 16])
@pytest.mark.parametrize("slower", [1.0, 1.3, 3.0])
def test_a_version_shows_as_slow_as_it_is_whatever_the_live_slot_has_to_do(slower: float, streams: int) -> None:
    assert slower_by(slower, 0, streams) == pytest.approx(slower, rel=0.11)  # buckets are 10 % apart
    assert slower_by(slower, streams, 0) == pytest.approx(slower, rel=0.11), "after the switch it is the old slot that is idle"


def test_as_many_run_in_a_replica_of_either_slot() -> None:
    machine = Machine()
    new, other, live = Engine(machine), Engine(machine), Engine(machine, streams=6)
    compare([Client(new), Client(other)], [Client(live)], 4)
    # six streams and four pairs in the live replica, two times six and four pairs in both new ones
    assert max(live.beside) == 10
    assert max(new.beside) == max(other.beside) == 8


def test_the_same_model_is_asked_on_both_sides_and_their_replicas_in_turn() -> None:
    machine = Machine()
    quality = Engine(machine, models=("large",))
    first, second = Engine(machine, models=("small",)), Engine(machine, models=("small",))
    live = Engine(machine, models=("large", "small"))
    compare([Client(quality), Client(first), Client(second)], [Client(live)], 4)
    assert (len(quality.asked), len(first.asked), len(second.asked)) == (2, 1, 1)
    assert sorted(live.asked) == ["large", "large", "small", "small"]


def test_no_replica_to_send_to_is_a_failure_of_that_slot_alone() -> None:
    mine, theirs = compare([], [Client(Engine(Machine()))], 4)
    assert (mine.failures, mine.first_failure) == (4, "no replica to send to")
    assert (theirs.sent, theirs.failures) == (0, 0)


def test_what_cannot_be_counted_is_not_guessed_and_what_is_large_is_bounded() -> None:
    assert pairs._to_add(None, 3.0, 1, 1) == (0, 0)
    assert pairs._to_add(0.0, 1000.0, 1, 1) == (pairs.MOST_OCCUPIED, 0)
    assert pairs._to_add(8.0, 0.0, 1, 1) == (0, 8)
    assert pairs._to_add(0.4, 0.0, 1, 1) == (0, 0)
