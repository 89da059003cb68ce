"""The commands: exit codes, plain lines, JSON events, what an interruption says."""

import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferstack import cli
from inferstack.cli import _promotion, _records, output, run, status
from inferstack.environment import load_environment
from inferstack.promotion import lease
from inferstack.promotion.platform import Unavailable
from tests.components.promotion.world import BLUE, GREEN, Behaviour, Process, World, converged, version

FILE = """config:
  inferstack:environment:
    platform: local
    models: [{name: m, source: "package://m", quantization: gguf}]
    cache: {backend: none}
    slots: {replicas: {min: 2, max: 4}}
    promotion: {settle_count: 5, gates: {window_seconds: 10}}
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project whose environment `local` is this world."""
    (tmp_path / "Pulumi.yaml").write_text("name: p\nruntime: python\n")
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "Pulumi.local.yaml").write_text(FILE)
    made = World()
    made.environment = "local"
    made.behaviours[version("int8").version] = Behaviour()
    made.slots[BLUE].spec = _promotion.SlotSpec.from_environment(load_environment(tmp_path / "stacks", "local"))

    def opened(name: str, project: Path | None, *, running: bool = True) -> _promotion.Opened:
        environment = load_environment(tmp_path / "stacks", "local")
        return _promotion.Opened(tmp_path, name, environment, Process(made, "me@host:1"))

    monkeypatch.setattr(_promotion, "open_environment", opened)
    monkeypatch.setattr(_promotion, "holder_name", lambda: "me@host:1")
    monkeypatch.chdir(tmp_path)
    return made


def test_a_promotion_says_what_it_does_and_where_it_ended(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 0
    out = capsys.readouterr().out
    for part in (
        "m gguf",
        "m int8",
        "weights to blue 0 / green 100",
        "pre-check: pass",
        "green serves m int8",
        "inferstack rollback local",
        "\x1b",
    ):
        assert (part in out) == (part != "\x1b")
    assert run(["rollback", "local", "--yes"]) == 0
    assert world.weights is not None
    assert world.weights.sole is BLUE


def test_events_are_one_json_object_a_line_and_the_last_says_the_state(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["promote", "local", "--set", "slot.quantization=int8", "--strategy", "canary", "--steps", "10,100", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"step", "rates", "verdict", "done"} <= {event["event"] for event in events}
    last = events[-1]
    assert (last["outcome"], last["active_slot"], last["previous_slot"], last["phase"]) == ("committed", "green", "blue", "idle")
    assert last["weights"] == {"blue": 0, "green": 100}
    assert any(event["weights"] == {"blue": 90, "green": 10} for event in events[:-1])
    assert run(["history", "local", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["history"][0]["outcome"] == "committed"


def test_every_key_of_every_event_is_documented(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (Path(__file__).parents[3] / "docs" / "guide" / "promotion.md").read_text().splitlines()
    told = {words[1]: set(words) for line in lines if len(words := line.split("`")) > 2 and line.startswith("| `")}
    slots = next(set(line.split("`")) for line in lines if line.startswith("`slots`"))
    state = {"flaky": 0}

    def flaky(name: str, process: Process) -> None:
        state["flaky"] += 1
        if state["flaky"] % 40 == 0:
            raise Unavailable(f"{name}: 503")

    world.before_call = flaky
    run(["promote", "local", "--set", "slot.quantization=int8", "--json"])
    run(["promote", "local", "--set", "slot.quantization=int8", "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == set(told) - {"event"}
    for event in events:
        assert set(event) <= {"event", "time", "phase", "weights", "text"} | told[event["event"]], event
        for slot in event.get("slots", {}).values():
            assert set(slot) <= slots


def test_a_canary_ends_with_both_versions_side_by_side(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["promote", "local", "--set", "slot.quantization=int8", "--strategy", "canary", "--steps", "20,100"]) == 0
    out = capsys.readouterr().out
    for part in ("post-check at 20 %", "post-check at 100 %", "TTFT p95", "tokens/s"):
        assert part in out
    assert run(["history", "local", "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["history"][0]
    found = {(check["stage"], check["percent"]): check for check in entry["comparison"]}
    canary = found["post-check", 20]
    assert set(found) == {("pre-check", None), ("post-check", 20), ("post-check", 100)}
    assert canary["live"]["requests"] > 3 * canary["new"]["requests"] > 0
    assert canary["new"]["ttft_p95"] > 0


def test_a_bad_version_ends_with_4_and_the_reason(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.behaviours = {}
    original = world.behaviour
    world.behaviour = lambda slot: Behaviour(errors=0.5) if slot is GREEN else original(slot)  # type: ignore[method-assign]
    assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 4
    assert "requests failed" in capsys.readouterr().err
    assert converged(world) is None


def test_the_second_promoter_ends_with_5_and_the_holder(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.lease = lease.acquire(None, "ci@runner:7", world.time)
    assert run(["promote", "local", "--json"]) == 5
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["holder"] == "ci@runner:7"
    assert "since" in error["message"]
    assert not {"render", "set_weights", "scale", "write_journal"} & set(world.calls)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["promote", "local", "--set", "slot.quantisation=int8"], "slot.quantization"),
        (["promote", "local", "--set", "nonsense"], "KEY=VALUE"),
        *(
            (["promote", "local", "--steps", steps], "rising")
            for steps in ("50,10", "0", "5", "100,50", "5,5,100", "101", "-5,100", "ten", "")
        ),
        (["promote", "local", "--strategy", "sideways"], "blue_green"),
        (["promote", "local", "--steps", "10,100", "--strategy", "rolling"], "replica by replica"),
        (["promote", "local", "--set", "slot.replicas=9"], "slots.replicas.max"),
        (["promote", "local", "--set", "slot.quantization=int9"], "expected one of none, bf16"),
        (["promote", "local", "--set", "slot.context=lots", "--set", "=3"], "--set is '=3': expected KEY=VALUE"),
        (["promote", "local", "--set", "slot.image=registry.example/x:1"], "on one machine this installation's runtime serves"),
        (["promote", "local", "--set", "slot.engine.kind=sglang"], "expected native or transformers"),
        (["promote", "local", "--header", "X-Cohort"], "NAME=VALUE"),
        (["promote", "local", "--header", "X-Tier=fast"], "routes nothing yet"),
        (["promote", "local", "--header", "X-Cohort=beta", "--strategy", "rolling"], "replica by replica"),
        (["promote", "local", "--file", "missing.yaml"], "missing.yaml"),
        (["rollback", "local"], "no previous version"),
        (["abort", "local"], "unfinished"),
    ],
)
def test_wrong_input_ends_with_2_and_changes_nothing(
    world: World, arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert word in capsys.readouterr().err
    assert not {"render", "set_weights", "scale"} & set(world.calls)


def test_the_gate_on_accuracy_takes_an_evaluation_of_the_very_format(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stacks" / "Pulumi.local.yaml").write_text(FILE.replace("{window_seconds: 10}", "{window_seconds: 10, accuracy: 0.95}"))
    arguments = ["promote", "local", "--set", "slot.quantization=int8"]
    report = tmp_path / "evaluation.json"
    assert run(arguments) == 2
    assert "inferstack-runtime eval" in capsys.readouterr().err
    report.write_text(json.dumps({"quantization": "int4", "top1_agreement": 0.99}))
    assert run([*arguments, "--evaluation", str(report)]) == 2
    assert "this one is of int4" in capsys.readouterr().err
    report.write_text("not json")
    assert run([*arguments, "--evaluation", str(report)]) == 2
    assert not {"render", "set_weights", "scale"} & set(world.calls)
    report.write_text(json.dumps({"quantization": "int8", "top1_agreement": 0.90, "kl_divergence": 0.1}))
    assert run([*arguments, "--evaluation", str(report)]) == 4
    assert "90.0% agreement with the unquantized model" in capsys.readouterr().err
    report.write_text(json.dumps({"quantization": "int8", "top1_agreement": 0.97}))
    assert run([*arguments, "--evaluation", str(report)]) == 0


def test_a_gate_on_the_price_is_refused_where_no_price_is_known(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stacks" / "Pulumi.local.yaml").write_text(
        FILE.replace("window_seconds: 10", "window_seconds: 10, usd_per_million_tokens: 2")
    )
    assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 2
    assert "what a replica costs is not known here" in capsys.readouterr().err
    assert not {"acquire_lease", "render", "set_weights", "scale"} & set(world.calls)


def test_a_stated_price_gives_the_cost_of_the_overlap_and_lets_the_gate_judge(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ceiling, code in ((1000, 0), (0.001, 4)):
        stated = FILE.replace("window_seconds: 10", f"window_seconds: 10, usd_per_million_tokens: {ceiling}")
        stated = stated.replace("slots: {", "slots: {replica_hourly_usd: 0.25, ")
        (tmp_path / "stacks" / "Pulumi.local.yaml").write_text(stated)
        assert run(["promote", "local", "--set", "slot.quantization=int8", "--dry-run"]) == 0
        assert "(0.50 $/h)" in capsys.readouterr().out
        assert run(["promote", "local", "--set", f"slot.quantization=int{4 if code else 8}"]) == code
        assert "not known" not in capsys.readouterr().err


def test_a_dry_run_changes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["promote", "local", "--set", "slot.quantization=int8", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["live_slot"], plan["target_slot"], plan["changed"], plan["replicas"]) == ("blue", "green", True, 2)
    assert set(world.calls) == {"read_journal", "observe"}


def test_settings_come_from_a_file_too(world: World, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("slot:\n  quantization: int4\n  engine: {threads: 2}\n")
    assert run(["promote", "local", "--file", "new.yaml", "--set", "slot.quantization=int8"]) == 0
    spec = world.slots[GREEN].spec
    assert spec is not None
    assert (spec.models[0].quantization, spec.engine.threads) == ("int8", 2)


def test_an_interruption_leaves_what_can_be_resumed_and_says_how(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(name: str, process: Process) -> None:
        if name == "set_weights":
            raise KeyboardInterrupt

    world.before_call = interrupt
    assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 130
    error = capsys.readouterr().err
    assert "shift" in error
    assert "inferstack recover local" in error
    world.before_call = lambda name, process: None
    assert world.lease is not None
    assert world.lease.holder == "", "the lease was not freed"
    assert run(["recover", "local"]) == 0
    assert world.weights is not None
    assert world.weights.sole is GREEN


def test_an_interruption_before_anything_began_is_told_too(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_promotion, "open_environment", interrupt)
    assert run(["promote", "local"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("how", [["--json"], []], ids=["json", "lines"])
@pytest.mark.parametrize("until", ["read_journal", "acquire_lease", "release_lease"])
@pytest.mark.parametrize(
    "fault", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")], ids=["reader gone", "disk full"]
)
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_promotion_goes_on_when_nobody_reads_what_it_says_and_ends_with_its_own_code(
    world: World, monkeypatch: pytest.MonkeyPatch, how: list[str], until: str, fault: OSError, bad: bool
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if until in world.calls:
                raise fault
            return len(text)

    closed: list[bool] = []
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(output, "silence", lambda stream: (closed.append(True), monkeypatch.setattr(sys, "stdout", io.StringIO())))
    if bad:
        original = world.behaviour
        world.behaviour = lambda slot: Behaviour(errors=0.5) if slot is GREEN else original(slot)  # type: ignore[method-assign]
    assert run(["promote", "local", "--set", "slot.quantization=int8", *how]) == (4 if bad else 0)
    assert closed
    assert converged(world) is None
    assert world.weights is not None
    assert world.weights.sole is (BLUE if bad else GREEN)


class Gone(io.StringIO):
    """What cannot be written to any more."""

    fault: OSError = BrokenPipeError(32, "Broken pipe")

    def write(self, text: str) -> int:
        raise self.fault


class Full(Gone):
    fault = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("stream", "kind", "arguments", "code"),
    [
        ("stdout", Gone, ["history", "local"], 0),
        ("stdout", Gone, ["history", "local", "--json"], 0),
        ("stdout", Gone, ["drift", "local"], 0),
        ("stdout", Full, ["history", "local"], 5),
        ("stdout", Full, ["drift", "local", "--json"], 5),
        ("stderr", Gone, ["promote", "local", "--steps", "0"], 2),
        ("stderr", Full, ["rollback", "local", "--json"], 2),
    ],
)
def test_a_reader_that_has_gone_is_no_failure_and_an_output_that_was_lost_is(
    world: World, monkeypatch: pytest.MonkeyPatch, stream: str, kind: type[Gone], arguments: list[str], code: int
) -> None:
    monkeypatch.setattr(sys, stream, kind())
    for module in (cli, output):
        monkeypatch.setattr(module, "silence", lambda _: monkeypatch.setattr(sys, stream, io.StringIO()))
    assert run(arguments) == code


@pytest.mark.parametrize("how", [["--json"], []], ids=["json", "lines"])
def test_a_watch_ends_when_its_reader_goes_also_while_nothing_changes(
    world: World, monkeypatch: pytest.MonkeyPatch, how: list[str]
) -> None:
    reader, writer = os.pipe()
    first: list[str] = []
    make, looks = status._look, iter(range(100))

    def counted(*arguments: Any) -> Callable[[], dict[str, Any]]:
        look = make(*arguments)
        return lambda: look() | {"generation": 0 * next(looks)}

    monkeypatch.setattr(status, "_look", counted)
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.1)

    def head() -> None:
        with os.fdopen(reader, encoding="utf-8") as lines:
            first.append(lines.readline())

    thread = threading.Thread(target=head)
    thread.start()
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run(["status", "local", "--watch", *how]) == 0
    thread.join()
    assert "local" in first[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interruption_that_says_how_to_go_on(
    world: World, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    world.before_call = lambda name, process: signal.raise_signal(number) if name == "warm" else None
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    try:
        assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 130
        assert "inferstack recover local" in capsys.readouterr().err
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_was_lost_is_heeded_all_the_same(
    world: World, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(number, signal.default_int_handler)  # what runs in the background ignores SIGINT

    def lose(name: str, process: Process) -> None:
        if name == "warm":
            with contextlib.suppress(KeyboardInterrupt):  # as where the interpreter calls back and ignores what comes out
                signal.raise_signal(number)

    world.before_call = lose
    try:
        assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 130
    finally:
        signal.signal(number, before)
    assert "inferstack recover local" in capsys.readouterr().err
    assert world.weights is not None
    assert world.weights.sole is BLUE
    world.before_call = lambda name, process: None
    assert run(["recover", "local"]) == 0, "what was asked once counts once"
    assert world.weights.sole is GREEN


def test_what_is_unfinished_is_told_with_who_works_on_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object] | None] = []

    def look() -> None:
        told.append(_records.unfinished_json(world.stored(), world.lease, world.time))

    def interrupt(name: str, process: Process) -> None:
        if name == "warm":
            look()
            raise KeyboardInterrupt

    look()
    world.before_call = interrupt
    assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 130
    look()
    nothing, during, after = told
    assert nothing is None
    assert during is not None
    assert after is not None
    assert (during["kind"], during["target"], during["promoter"]) == ("promote", "green", "me@host:1")
    assert "me@host:1 works on it" in _records.unfinished_text("local", during)
    assert after["promoter"] is None
    assert "`inferstack recover local` finishes it" in _records.unfinished_text("local", after)
    world.lease = lease.Lease("me@host:1", 1, world.time - 60, world.time - 60)
    look()
    assert told[-1] == after, "a lease that has ended is nobody's"


def test_an_aborted_promotion_is_done(world: World) -> None:
    def interrupt(name: str, process: Process) -> None:
        if name == "warm":
            raise KeyboardInterrupt

    world.before_call = interrupt
    assert run(["promote", "local"]) == 130
    world.before_call = lambda name, process: None
    assert run(["abort", "local"]) == 0
    assert converged(world) is None


def test_drift_ends_with_3(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", "local"]) == 0
    world.drift = ("the image of blue was changed",)
    assert run(["drift", "local", "--json"]) == 3
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["drift"] == ["the image of blue was changed"]
    assert run(["promote", "local"]) == 2
    assert run(["promote", "local", "--allow-drift"]) == 0


@pytest.mark.parametrize("command", ["history", "drift", "promote", "rollback", "recover", "abort"])
def test_another_environments_journal_is_refused_by_every_command(world: World, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(["promote", "local", "--set", "slot.quantization=int8"]) == 0
    assert world.journal is not None
    world.journal = world.journal.replace('"environment": "local"', '"environment": "staging"')
    before, weights = world.journal, world.weights
    capsys.readouterr()
    assert run([command, "local"]) == 5
    assert "is of environment staging, not of local" in capsys.readouterr().err
    assert (world.journal, world.weights) == (before, weights)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("slot: " + "{a: " * 1000 + "1" + "}" * 1000, "nested this deep"),
        ("slot: &all {engine: *all}", "nested this deep"),
        ("slot.quantization: int8\nslot.quantization: int4", "a second time"),
        ("slot: {quantization: 2020-01-01}", "2020-01-01"),
    ],
    ids=["deep", "in itself", "twice", "a day"],
)
def test_a_file_means_what_it_would_mean_as_an_environment(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "new.yaml").write_text(text)
    assert run(["promote", "local", "--file", "new.yaml"]) == 2
    assert word in capsys.readouterr().err
    assert not {"render", "set_weights"} & set(world.calls)
