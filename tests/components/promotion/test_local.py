"""The local adapter: killed at every change of this machine, over files and recorded processes; and with real parts under load."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from inferstack.environment import SlotName, parse_environment
from inferstack.local import layout as layouts
from inferstack.local.gateway import Ports, routes
from inferstack.local.layout import Layout, read_json, write_json
from inferstack.local.machine import LocalMachine, SlotState
from inferstack.local.parts import Part
from inferstack.local.slots import runtime_config
from inferstack.platforms import local as adapter
from inferstack.platforms.local import LocalPlatform
from inferstack.promotion import commands, filestore
from inferstack.promotion.journal import Outcome
from inferstack.promotion.measure import Counters, Histogram
from inferstack.promotion.platform import Agreement, Exercise, Health, Seen
from inferstack.promotion.spec import SlotSpec, with_settings
from tests.components.promotion.world import Killed

BLUE, GREEN = SlotName.BLUE, SlotName.GREEN
ENVIRONMENT = parse_environment(
    {
        "platform": "local",
        "models": [{"name": "m", "source": "file:///m"}],
        "cache": {"backend": "none"},
        "promotion": {"steps": [100], "ready_seconds": 30, "settle_count": 3, "gates": {"min_requests": 5, "window_seconds": 3}},
    }
)
PORTS = Ports(1, 2, None, {"blue": 3, "green": 4}, {"blue": 5, "green": 6})


class Recorder:
    """Counts changes of the machine and kills the process before or after the one that it is told."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.kill_at: tuple[int, str] | None = None

    @contextmanager
    def change(self, name: str) -> Iterator[None]:
        index = len(self.changes)
        self.changes.append(name)
        if self.kill_at == (index, "before"):
            raise Killed
        yield
        if self.kill_at == (index, "after"):
            raise Killed


class Machine(LocalMachine):
    """The real handle over real files; only the processes and Envoy are recorded instead of started."""

    def __init__(self, root: Path, recorder: Recorder) -> None:
        super().__init__(Layout(root, "local"), ENVIRONMENT, PORTS)
        self.recorder, self.time, self.bad_generation = recorder, 1000.0, -1
        self.posts = 0
        self.running: dict[str, tuple[Any, float]] = {}
        self.layout.make()
        write_json(self.layout.state, {"environment": "local", "desired": "up", "digest": "", "ports": PORTS.to_json()})
        write_json(self.layout.keys, {"secret": "", "keys": []})
        for slot in SlotName:
            write_json(self.layout.slot_config(slot), runtime_config(self.layout, ENVIRONMENT, slot, PORTS))
            self.running[slot] = (self.slot_config(slot), 0.0)
        write_json(self.layout.routes, routes({"blue": 100, "green": 0}, 600))

    def slot(self, slot: str) -> SlotState:
        config = self.slot_config(slot)
        alive = slot in self.running
        ready = alive and self.time - self.running[slot][1] > 2
        return SlotState(slot, "", "", config, alive, ready, False, None if ready else "loading", config["identity"]["generation"], None, 0)

    def start_slot_unlocked(self, slot: str, config: Any = None) -> None:
        wanted = self._own(slot, self.slot_config(slot) if config is None else config)
        if slot in self.running and read_json(self.layout.slot_config(slot)) == wanted:
            return
        if slot in self.running:
            with self.recorder.change(f"end {slot}"):
                assert self.weights()[slot] == 0, f"I2: {slot} was ended while it had weight"
                del self.running[slot]
        write_json(self.layout.slot_config(slot), wanted)
        with self.recorder.change(f"start {slot}"):
            self.running[slot] = (wanted, self.time)

    def stop_slot(self, slot: str, grace_seconds: float | None = None) -> bool:
        with self.recorder.change(f"end {slot}"):
            assert self.weights()[slot] == 0, f"I2: {slot} was ended while it had weight"
            return self.running.pop(slot, None) is not None

    def healthy(self, slot: str) -> bool:
        return self.slot(slot).ready

    def serves_routes(self, version: str) -> bool:
        return True

    def generation(self, slot: str) -> int:
        return int(self.slot_config(slot)["identity"]["generation"])


class Adapter(LocalPlatform):
    """The real adapter; what it measures over HTTP is answered from the recorded machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.machine = machine

    def now(self) -> float:
        return self.machine.time

    elapsed = now

    def sleep(self, seconds: float) -> None:
        self.machine.time += max(seconds, 0.001)

    def verify(self, slot: SlotName) -> Health:
        return Health(self.machine.slot(slot).ready)

    def probe(self, n: int, header: tuple[str, str] | None = None) -> tuple[Seen, ...]:
        live = next(slot for slot in SlotName if self.machine.weights()[slot] == 100)
        return (Seen(live, self.machine.generation(live)),) * n

    def warm(self, slot: SlotName) -> None:
        assert self.machine.slot(slot).ready

    def exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        self.machine.posts += n
        return Exercise(n, 0, seconds=0.1, ttft=Histogram.of([0.1] * n), inter_token=Histogram.of([0.1] * n))

    def compare(self, slot: SlotName, against: SlotName, n: int) -> tuple[Exercise, Exercise]:
        return self.exercise(slot, n), self.exercise(against, n)

    def agreement(self, slot: SlotName, against: SlotName) -> Agreement:
        return Agreement(1.0, 10)

    def metrics(self, slot: SlotName) -> dict[str, Counters]:
        requests = self.machine.time * 10 + self.machine.posts
        errors = requests * 0.5 if self.machine.generation(slot) == self.machine.bad_generation and self.machine.weights()[slot] else 0
        bins = Histogram((0.1, 1e9), (requests, 0))
        return {f"{slot}-0": Counters(requests, errors, requests, bins, bins, 1e9)}

    def session(self, holder: str) -> commands.Session:
        return commands.Session("local", self, self, lambda event: None, holder, "test", SlotSpec.from_environment(ENVIRONMENT))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Machine]:
    """Machines whose every file write and process is a crash point."""
    current: list[Recorder] = []
    write, store = layouts.write_whole, filestore.FileStore._write

    def write_file(path: Path, text: str, mode: int = 0o600) -> None:
        with current[-1].change(f"write {path.name}"):
            write(path, text, mode)

    def write_state(path: Path, document: Any) -> None:
        with current[-1].change(f"write {path.name}"):
            store(path, document)

    def is_asked(layout: Layout, name: str) -> object:
        return machines[-1].running.get(name.removeprefix("slot-"))

    machines: list[Machine] = []
    monkeypatch.setattr(layouts, "write_whole", write_file)
    monkeypatch.setattr(filestore.FileStore, "_write", staticmethod(write_state))
    monkeypatch.setattr(adapter, "read_part", is_asked)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def build() -> Machine:
        current.append(Recorder())
        machines.append(Machine(tmp_path / str(len(machines)), current[-1]))
        current[-1].changes.clear()
        return machines[-1]

    return build


def promote(machine: Machine, holder: str) -> commands.Ended:
    change = {"slot.quantization": "int8"}
    return commands.promote(Adapter(machine).session(holder), lambda spec: with_settings(spec, change), commands.policy_of(ENVIRONMENT))


def rollback(machine: Machine, holder: str) -> commands.Ended:
    return commands.rollback(Adapter(machine).session(holder), commands.policy_of(ENVIRONMENT))


@pytest.mark.parametrize("case", ["promote", pytest.param("reverted", marks=pytest.mark.slow), "rollback"])
def test_killed_at_any_change_of_this_machine_one_rerun_converges(make: Callable[[], Machine], case: str) -> None:
    command = rollback if case == "rollback" else promote

    def start() -> Machine:
        machine = make()
        if case == "rollback":
            assert promote(machine, "a").outcome is Outcome.COMMITTED
            machine.recorder.changes.clear()
        if case == "reverted":
            machine.bad_generation = 2
        return machine

    clean = start()
    assert command(clean, "a").outcome is (Outcome.REVERTED if case == "reverted" else Outcome.COMMITTED)
    total = len(clean.recorder.changes)
    survived = 0
    for index in range(total):
        for when in ("before", "after"):
            machine = start()
            machine.recorder.kill_at = (index, when)
            with pytest.raises(Killed):
                command(machine, "a")
            machine.recorder.kill_at = None
            machine.time += 40
            journal, _ = Adapter(machine).read_journal()
            kind = "rollback" if case == "rollback" else "promote"
            ended = journal is not None and journal.operation is None and journal.history and journal.history[-1].kind == kind
            if ended:
                commands.recover(Adapter(machine).session("b"))
            else:
                command(machine, "b")
            journal, _ = Adapter(machine).read_journal()
            where = f"killed {when} {index} ({clean.recorder.changes[index]}): {journal.history if journal else None}"
            assert journal is not None, where
            assert journal.operation is None, where
            weights = machine.weights()
            assert weights[journal.active] == 100, where
            assert machine.slot(journal.active).ready, where
            live = machine.slot_config(journal.active)["models"][0]["quantization"]
            assert live == ("int8" if case == "promote" else "gguf") or (case == "reverted" and machine.generation(journal.active) > 2), (
                where
            )
            survived += 1
    print(f"{case} on the local adapter: {survived} of {2 * total} crash points survived (writes of files and processes)")


def test_a_gateway_that_has_ended_is_said_and_not_waited_for(make: Callable[[], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    machine, asked = make(), adapter.read_part

    def part(layout: Layout, name: str) -> object:
        ended = name == "gateway" and "start green" in machine.recorder.changes
        return Part("gateway", "token", ()) if ended else asked(layout, name)

    monkeypatch.setattr(adapter, "read_part", part)
    monkeypatch.setattr(machine, "healthy", lambda slot: "start green" not in machine.recorder.changes)
    began = machine.time
    for outcome, words in ((Outcome.REVERTED, "green failed"), (Outcome.REFUSED, "the live slot blue has no ready replica")):
        ended = promote(machine, "a")
        assert ended.entry is not None
        assert (ended.outcome, words in ended.entry.reason) == (outcome, True)
        assert "the gateway has ended; `inferstack recover local` starts it again" in ended.entry.reason
    assert machine.time - began < ENVIRONMENT.promotion.ready_seconds / 2


def test_a_configuration_that_somebody_edited_is_drift_and_no_spec(make: Callable[[], Machine]) -> None:
    machine = make()
    assert promote(machine, "a").outcome is Outcome.COMMITTED
    config = machine.slot_config("green")
    config["engine"]["max_sequences"] = 7
    write_json(machine.layout.slot_config("green"), config)
    seen = Adapter(machine).observe()
    assert seen.slots[GREEN].spec is None
    assert "green" in seen.drift[0]
    assert promote(machine, "a").outcome is Outcome.REFUSED


def test_a_slot_that_failed_leaves_nothing_that_the_next_up_would_start(make: Callable[[], Machine]) -> None:
    machine = make()
    machine.bad_generation = 2
    assert promote(machine, "a").outcome is Outcome.REVERTED
    assert machine.slot_config("green")["models"] == machine.slot_config("blue")["models"]
    assert machine.slot_config("green")["identity"]["slot"] == "green"
    assert "green" not in machine.running
    assert json.loads((machine.layout.directory / "journal.json").read_text())["phase"] == "idle"


@pytest.mark.parts
def test_promotions_and_rollbacks_under_real_load_lose_nothing() -> None:
    from tests.components.promotion.proof.scenarios import pairs

    found = pairs(2, "light", 120)
    assert found["promotions"] == found["rollbacks"] == 2
    assert found["reverted"] == []
    load = found["load"]
    assert load["requests"] > 100
    assert (load["lost"], load["truncated"], load["wrong"]) == (0, 0, 0), load["reasons"]
    assert min(item["total"] for item in found["rollback_seconds"]) < 2


@pytest.mark.parts
def test_the_naive_switch_loses_requests_on_the_same_harness() -> None:
    from tests.components.promotion.proof.scenarios import naive

    load = naive(2, "light", wait_ready=False)["load"]
    assert load["lost"] + load["truncated"] > 0


@pytest.mark.parts
@pytest.mark.parametrize("fault", ["erroring", "wrong-answer", "leaking"])
def test_a_bad_version_meets_no_request_of_a_client(fault: str) -> None:
    from tests.components.promotion.proof import scenarios
    from tests.components.promotion.proof.arena import Load, arena

    with arena("light", **scenarios.QUICK) as made, Load(made) as load:
        found = scenarios._try(made, load, fault, {})
    assert found["outcome"] == "reverted", found
    assert found["met"] == 0
    assert found["lost_or_truncated"] == 0
