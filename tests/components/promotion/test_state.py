"""Journal, lease and file store; settings of a slot; metrics text."""

import copy
import errno
import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from inferstack.environment import InvalidEnvironment
from inferstack.platforms.holder import holder_name, is_gone
from inferstack.platforms.prometheus_text import counters
from inferstack.promotion import commands, filestore, journal, lease, whole
from inferstack.promotion.baseline import from_baseline
from inferstack.promotion.filestore import FileStore
from inferstack.promotion.journal import JournalUnreadable, Phase
from inferstack.promotion.lease import LeaseHeld, LeaseLost
from inferstack.promotion.plan import next_step
from inferstack.promotion.platform import Conflict, PlatformError, Unavailable
from inferstack.promotion.spec import SlotSpec, flatten, with_settings
from tests.components.promotion.world import Killed, Process, World, left_at, policy, version

GOLDEN = Path(__file__).with_name("golden") / "journal-schema-1.json"


def running() -> journal.Journal:
    """The journal of a promotion that was killed in its check."""
    world = World()
    with left_at(world, Phase.POSTCHECK, Killed):
        commands.promote(Process(world).session(), lambda spec: version("int8"), policy())
    found = world.stored()
    assert found is not None
    return found


def test_a_journal_survives_its_text() -> None:
    found = running()
    assert journal.load(journal.dump(found), "test") == found


def test_a_journal_that_an_earlier_version_wrote_is_read() -> None:
    found = journal.load(GOLDEN.read_text(), "test")
    assert found.phase is Phase.POSTCHECK
    assert found.operation is not None
    assert found.operation.spec.models[0].quantization == "int8"


def test_an_older_schema_is_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    document = journal.to_document(running())
    old = {**document, "live": document["active"]}
    del old["active"]

    def migrate(data: dict) -> dict:  # type: ignore[type-arg]
        return {**{key: value for key, value in data.items() if key != "live"}, "active": data["live"]}

    monkeypatch.setattr(journal, "SCHEMA", 2)
    monkeypatch.setitem(journal.MIGRATIONS, 1, migrate)
    assert journal.load(json.dumps(old), "test").active == document["active"]


def test_a_newer_schema_is_refused_and_nothing_is_touched() -> None:
    document = {**journal.to_document(running()), "schema": journal.SCHEMA + 1}
    with pytest.raises(JournalUnreadable, match="newer inferstack"):
        journal.load(json.dumps(document), "test")
    world = World()
    world.journal = json.dumps(document)
    world._read = ("", None)
    with pytest.raises(JournalUnreadable):
        commands.promote(Process(world).session(), lambda spec: spec, policy())
    assert not {"render", "set_weights", "scale", "write_journal"} & set(world.calls)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": true}', '{"schema": 1}', '{"schema": 0}', '{"schema": "1"}'])
def test_a_damaged_journal_says_what_to_do(text: str) -> None:
    with pytest.raises(JournalUnreadable):
        journal.load(text, "test")


@pytest.mark.parametrize(
    "edited",
    [
        {"previous": "blue"},
        {"generation": -1},
        {"idle_replicas": -1},
        *({"kept_until": time} for time in (math.nan, math.inf, 1e300, -1)),
        {"operation": json.loads(GOLDEN.read_text())["operation"] | {"started": 1e12}},
    ],
    ids=lambda edited: "=".join(map(str, *edited.items()))[:20],
)
def test_a_journal_that_contradicts_itself_is_refused(edited: dict[str, Any]) -> None:
    document = json.loads(GOLDEN.read_text())
    assert document["active"] == "blue"
    with pytest.raises(JournalUnreadable, match=next(iter(edited))):
        journal.load(json.dumps(document | edited), "test")


def _places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ():
        yield (*at, key)
        yield from _places(value, (*at, key))


def _loaded(document: Any) -> journal.Journal | None:
    """None when it is refused, and the refusal says what to do."""
    try:
        return journal.load(json.dumps(document), "test")
    except JournalUnreadable as error:
        told = str(error)
    assert any(words in told for words in ("restore it from a backup", "newer inferstack", "no released version"))
    return None


def test_a_journal_damaged_anywhere_is_refused_or_can_be_gone_on_with() -> None:
    found, random = running(), Random(5)
    whole, seen = journal.to_document(found), Process(World()).observe()
    for place in _places(whole):
        document = copy.deepcopy(whole)
        holder = functools.reduce(lambda part, key: part[key], place[:-1], document)
        value = random.choice(["gone", None, -1, 99, "x", [], {}, [1], True])
        if value == "gone" and isinstance(holder, dict):
            del holder[place[-1]]
        else:
            holder[place[-1]] = value
        read = _loaded(document)
        if read is None:
            continue
        next_step(read, seen)
        from_baseline(read.operation.baseline if read.operation else None)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b"[]", b'{"version": "x", "journal": {}}', b'{"journal": {"schema": 1}}'],
    ids=["empty", "half", "no text", "deep", "list", "version", "fields"],
)
def test_a_damaged_file_is_said_to_be_so_and_is_left_as_it_is(tmp_path: Path, text: bytes) -> None:
    store = FileStore(tmp_path, "test")
    store.journal.write_bytes(text)
    with pytest.raises(JournalUnreadable, match=r"journal\.json.*restore it from a backup"):
        store.read_journal()
    with pytest.raises((JournalUnreadable, Conflict)):
        store.write_journal(running(), "", None)
    assert store.journal.read_bytes() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"holder": 1}',
        '{"holder": "a", "generation": "x", "acquired": 0, "renewed": 0}',
        '{"holder": "a", "generation": 1, "acquired": 1e300, "renewed": NaN}',
    ],
)
def test_a_damaged_lease_is_nobodys_and_nothing_is_touched(tmp_path: Path, text: str) -> None:
    store = FileStore(tmp_path, "test")
    store.lease.write_text(text)
    with pytest.raises(JournalUnreadable, match=r"lease\.json"):
        store.acquire_lease("a", 0, holder_gone=False)
    assert store.lease.read_text() == text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "test")
    store.journal.mkdir()  # like a missing permission, but for every user
    with pytest.raises(PlatformError, match=r"journal\.json cannot be read: Is a directory"):
        store.read_journal()
    (tmp_path / "promotion.lock").mkdir()
    with pytest.raises(PlatformError, match=r"promotion\.lock cannot be opened"):
        store.acquire_lease("a", 0, holder_gone=False)


def test_a_stopped_process_with_the_lock_is_named_and_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestore, "LOCK_SECONDS", 0.1)
    store, other = FileStore(tmp_path, "test"), FileStore(tmp_path, "test")
    with store.locked(), pytest.raises(Unavailable, match=rf"process {os.getpid()} .*kill -CONT {os.getpid()}"), other.locked():
        pass
    with other.locked():
        pass


def test_writes_of_the_file_are_compare_and_swap(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "test")
    found = running()
    assert store.read_journal() == (None, "")
    first = store.write_journal(found, "", None)
    assert store.read_journal() == (found, first)
    with pytest.raises(Conflict):
        store.write_journal(found, "", None)
    second = store.write_journal(replace(found, generation=9), first, None)
    with pytest.raises(Conflict):
        store.write_journal(found, first, None)
    assert store.read_journal()[1] == second
    document = json.loads(store.journal.read_text())
    assert (document["phase"], document["active_slot"], document["previous_slot"]) == ("post-check", "blue", None)


def test_a_full_disk_leaves_the_former_journal_whole_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, kept = FileStore(tmp_path, "test"), running()
    version = store.write_journal(kept, "", None)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match=r"journal\.json cannot be written: No space left on device"):
            store.write_journal(replace(kept, generation=99), version, None)
    assert store.read_journal() == (kept, version)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["journal.json", "promotion.lock"], "nothing half written is left"
    assert store.write_journal(replace(kept, generation=99), version, None) == "2"


def test_a_full_disk_gives_back_the_room_that_was_kept_for_a_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, kept = FileStore(tmp_path, "test"), running()
    held = store.acquire_lease("a", 0, holder_gone=False)
    room = tmp_path / whole.RESERVE
    assert room.stat().st_blocks * 512 >= whole.RESERVE_BYTES, "a file with holes keeps no room"
    open_file = open

    def full(path: Any, *arguments: Any, **options: Any) -> Any:
        if room.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", full)
    version = store.write_journal(kept, "", held)
    assert not room.exists()
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    store.release_lease(held)
    store.acquire_lease("a", 0, holder_gone=False)
    assert not room.exists(), "there is none to keep"
    assert store.read_journal() == (kept, version)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(Unavailable, match="No space left on device; the former one is whole; free about 1 MiB there"):
        store.write_journal(kept, version, None)


def test_a_write_without_the_lease_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "test")
    held = store.acquire_lease("a", 0, holder_gone=False)
    store.acquire_lease("b", 100, holder_gone=False)
    with pytest.raises(LeaseLost, match="b"):
        store.write_journal(running(), "", held)
    with pytest.raises(LeaseLost):
        store.renew_lease(held, 101)
    store.release_lease(held)
    assert store.read_lease() is not None
    assert store.read_lease().holder == "b"  # type: ignore[union-attr]


def test_a_lease_has_one_holder_until_it_ends_and_its_generation_only_rises() -> None:
    first = lease.acquire(None, "a", 0)
    with pytest.raises(LeaseHeld, match="held by a since 1970-01-01"):
        lease.acquire(first, "b", 29)
    second = lease.acquire(first, "b", 31)
    third = lease.acquire(lease.release(second, second), "a", 32)
    assert [first.generation, second.generation, third.generation] == [1, 2, 3]
    assert lease.acquire(third, "b", 33, holder_gone=True).generation == 4
    assert lease.renew(first, first, 20).renewed == 20
    with pytest.raises(LeaseLost):
        lease.renew(second, first, 40)


def test_a_holder_is_gone_only_when_its_process_of_this_machine_is() -> None:
    me = holder_name()
    assert not is_gone(me)
    user, _, rest = me.partition("@")
    machine, pid, _ = rest.split(":")
    assert is_gone(f"{user}@{machine}:{pid}:other-start")
    assert not is_gone(f"{user}@elsewhere:{pid}:other-start")
    assert not is_gone("somebody")


def test_settings_change_what_they_name_and_all_faults_come_at_once() -> None:
    spec = with_settings(
        version(), {"slot.quantization": "int8", "slot.engine.threads": 2, "slot.replicas": 3, "slot.resources.memory": "4Gi"}
    )
    assert (spec.models[0].quantization, spec.engine.threads, spec.replicas, spec.resources.memory) == ("int8", 2, 3, "4Gi")
    assert spec.version != version().version
    assert replace(spec, replicas=1).version == spec.version
    wrong = {"slot.quantisation": "int8", "slot.context": "many", "slot.engine.threads": -1, "slot.replicas": 0, "other": 1}
    with pytest.raises(InvalidEnvironment) as error:
        with_settings(version(), wrong)
    assert len(error.value.problems) == 5
    assert "slot.quantization" in str(error.value)
    assert flatten({"slot": {"engine": {"threads": 2}}}) == {"slot.engine.threads": 2}


def test_a_spec_survives_its_json() -> None:
    spec = version("int8", "r/i@sha256:" + "0" * 64)
    assert SlotSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


TEXT = """# HELP inferstack_requests_total Requests.
inferstack_requests_total{route="/v1/completions",model="a b",code="200",tier="d"} 90
inferstack_requests_total{route="/v1/chat/completions",model="m",code="503",tier="d"} 4
inferstack_requests_total{route="/v1/completions",model="m",code="429",tier="d"} 50
inferstack_requests_total{route="/v1/models",model="",code="200",tier="d"} 1000
inferstack_finished_total{model="m",reason="error"} 6
inferstack_finished_total{model="m",reason="stop"} 80
inferstack_time_to_first_token_seconds_bucket{model="m",le="0.1"} 10
inferstack_time_to_first_token_seconds_bucket{model="m",le="0.5"} 30
inferstack_time_to_first_token_seconds_bucket{model="m",le="+Inf"} 31
inferstack_inter_token_seconds_bucket{model="m",le="+Inf"} 5
inferstack_generated_tokens_total{model="m"} 700
inferstack_kv_cache_size_bytes{model="m"} 1e6
process_resident_memory_bytes 2.5e+08
process_start_time_seconds 17
"""


def test_the_runtimes_own_metrics_are_read() -> None:
    found = counters(TEXT)
    assert (found.requests, found.errors, found.tokens) == (94, 6, 700)
    assert found.ttft.counts == (10, 20, 1)
    assert (found.resident_bytes, found.bounded_bytes, found.started) == (2.5e8, 1e6, 17)


def test_the_metrics_of_vllm_are_read() -> None:
    text = """http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 40
http_requests_total{handler="/v1/completions",method="POST",status="5xx"} 2
http_requests_total{handler="/health",method="GET",status="2xx"} 900
vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 40
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 42
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 42
vllm:generation_tokens_total{model_name="m"} 10
"""
    found = counters(text)
    assert (found.requests, found.errors, found.ttft.total, found.tokens) == (42, 2, 42, 10)


def test_the_metrics_of_sglang_are_read() -> None:
    text = """sglang:http_responses_total{endpoint="/v1/chat/completions",method="POST",status_code="200"} 38
sglang:http_responses_total{endpoint="/v1/chat/completions",method="POST",status_code="500"} 3
sglang:http_responses_total{endpoint="/v1/chat/completions",method="POST",status_code="400"} 7
sglang:http_responses_total{endpoint="/health",method="GET",status_code="200"} 900
sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 30
sglang:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 38
sglang:inter_token_latency_seconds_bucket{le="+Inf",model_name="m"} 500
sglang:generation_tokens_total{model_name="m"} 538
"""
    found = counters(text)
    assert (found.requests, found.errors, found.ttft.total, found.inter_token.total, found.tokens) == (41, 3, 38, 500, 538)


def test_every_name_that_is_read_is_one_that_the_runtime_exposes() -> None:
    from inferstack.platforms import prometheus_text
    from inferstack_runtime import metrics

    source = Path(prometheus_text.__file__).read_text()
    import re

    for name in set(re.findall(r'"(inferstack_[a-z_]+|process_[a-z_]+)"', source)):
        assert metrics.find(name) is not None, f"the runtime exposes no {name}"


def test_a_file_of_another_environment_is_told_from_ones_own(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "test")
    store.write_journal(running(), "", None)
    assert store.read_journal()[0] is not None
    with pytest.raises(JournalUnreadable, match=r"journal\.json is of environment test, not of copied"):
        FileStore(tmp_path, "copied").read_journal()
