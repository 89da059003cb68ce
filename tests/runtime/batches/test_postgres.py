"""Batches in a real PostgreSQL: shared by replicas, and through every way that one of the two can go away."""

import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import process, running
from postgres import Postgres

from inferstack_runtime.batches.database import DatabaseDown, DatabaseFull
from inferstack_runtime.batches.opening import open_database
from inferstack_runtime.batches.postgres import PostgresDatabase
from inferstack_runtime.batches.store import BatchStore

pytestmark = pytest.mark.parts
ENDPOINT = "/v1/completions"
TIERS = {"default": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}}


@pytest.fixture
def postgres():
    server = Postgres().start()
    yield server
    server.stop()


def lines(count, **body):
    entries = (
        {"custom_id": f"c{n}", "method": "POST", "url": ENDPOINT, "body": {"model": "fake", "prompt": f"p{n}", **body}}
        for n in range(count)
    )
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


@contextmanager
def replica(folder, server, *arguments):
    folder.mkdir(exist_ok=True)
    options = ("--step-seconds", "0.01", "--lease-seconds", "3", *arguments)
    with process(folder, *options, batches={"url": server.url, "concurrency": 4}, access={"tiers": TIERS}) as run:
        run.event("ready")
        yield run


def begin(run, data):
    with httpx.Client(base_url=run.url, timeout=30) as client:
        file = client.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        return client.post("/v1/batches", json=body).raise_for_status().json()["id"]


def look(run, batch_id):
    return httpx.get(f"{run.url}/v1/batches/{batch_id}", timeout=60).raise_for_status().json()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return value


def results(run, batch_id):
    batch = until(lambda: (now := look(run, batch_id))["status"] == "completed" and now)
    text = httpx.get(f"{run.url}/v1/files/{batch['output_file_id']}/content").text
    return batch, [json.loads(line) for line in text.splitlines()]


def written(*runs):
    """Results that these processes say they wrote."""
    total = 0
    for run in runs:
        for line in httpx.get(run.metrics_url).text.splitlines():
            if line.startswith('inferstack_batch_items_total{result="ok"}'):
                total += float(line.split()[-1])
    return total


def test_a_replica_killed_in_the_middle_loses_no_item_and_none_is_done_twice(tmp_path, postgres):
    with replica(tmp_path / "a", postgres) as first, replica(tmp_path / "b", postgres) as second:
        batch_id = begin(first, lines(80, max_tokens=20))
        until(lambda: len(postgres.ask("SELECT DISTINCT owner FROM items WHERE status = 'running'")) == 2)  # both work on it
        first.process.send_signal(signal.SIGKILL)
        batch, done = results(second, batch_id)
    assert batch["request_counts"] == {"total": 80, "completed": 80, "failed": 0}
    assert [entry["custom_id"] for entry in done] == [f"c{n}" for n in range(80)]


def test_a_process_started_again_goes_on_with_what_was_accepted(tmp_path, postgres):
    with replica(tmp_path / "a", postgres) as first:
        batch_id = begin(first, lines(30, max_tokens=20))
        until(lambda: look(first, batch_id)["request_counts"]["completed"] >= 5)
        first.process.send_signal(signal.SIGKILL)
    kept = dict(postgres.ask("SELECT custom_id, result FROM items WHERE status = 'done'"))
    with replica(tmp_path / "b", postgres) as second:
        _, done = results(second, batch_id)
    assert [entry["custom_id"] for entry in done] == [f"c{n}" for n in range(30)]
    for entry in done:  # what was finished before the kill is the same answer, not another one
        if entry["custom_id"] in kept:
            assert entry["response"]["body"] == json.loads(kept[entry["custom_id"]])


def test_a_server_that_is_killed_and_starts_again_costs_no_item(tmp_path, postgres):
    with replica(tmp_path / "a", postgres) as first, replica(tmp_path / "b", postgres) as second:
        batch_id = begin(first, lines(120, max_tokens=20))
        for share in (15, 50):
            until(lambda share=share: look(second, batch_id)["request_counts"]["completed"] >= share)
            postgres.kill()
            answer = httpx.get(f"{first.url}/v1/batches/{batch_id}")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "storage_unavailable"
            assert httpx.post(f"{first.url}/v1/completions", json={"model": "fake", "prompt": "x", "max_tokens": 2}).status_code == 200
            postgres.start()
        batch, done = results(first, batch_id)
        assert batch["request_counts"] == {"total": 120, "completed": 120, "failed": 0}
        assert [entry["custom_id"] for entry in done] == [f"c{n}" for n in range(120)]
        assert written(first, second) == 120, "each result was written by one of the two, once"


def test_a_replica_that_starts_before_its_database_waits_for_it(tmp_path):
    server = Postgres()
    try:
        with replica(tmp_path / "a", server) as run:
            assert httpx.get(f"{run.url}/v1/batches").status_code == 503
            server.start()
            until(lambda: httpx.get(f"{run.url}/v1/batches").status_code == 200)
            _, done = results(run, begin(run, lines(3, max_tokens=2)))
            assert len(done) == 3
    finally:
        server.stop()


def test_a_server_that_falls_silent_holds_nobody_for_ever(postgres):
    database = PostgresDatabase(postgres.url, longest_seconds=0.5)
    store = BatchStore(database)
    store.add_batch("t", "default", ENDPOINT, "f", "24h", 1000, {}, [("a", "{}")])
    postgres.pause()
    begun = time.monotonic()
    with pytest.raises(DatabaseDown):
        store.claim(1)
    assert time.monotonic() - begun < 5
    postgres.resume()
    assert [item.custom_id for item in store.claim(1)] == ["a"]
    store.close()


def test_a_server_that_became_a_read_only_standby_is_down_until_it_writes_again(postgres):
    store = BatchStore(open_database(postgres.url))
    batch = store.add_batch("t", "default", ENDPOINT, "f", "24h", 1000, {}, [("a", "{}")])
    postgres.ask("ALTER ROLE inferstack SET default_transaction_read_only = on")
    postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
    with pytest.raises(DatabaseDown):
        store.claim(1)
    with pytest.raises(DatabaseDown, match="read-only"):
        store.claim(1)
    assert store.batch("t", batch.id).total == 1, "what is there can be read"
    postgres.ask("BEGIN READ WRITE; ALTER ROLE inferstack RESET default_transaction_read_only; COMMIT")
    with pytest.raises(DatabaseDown, match="read-only"):
        store.claim(1)  # the connection of before; its failure makes the next one fresh
    assert len(store.claim(1)) == 1
    store.close()


def test_replicas_whose_clocks_differ_agree_when_a_lease_ends(postgres):
    one = BatchStore(open_database(postgres.url), "one")
    fast = lambda: time.time() + 3600  # noqa: E731
    two = BatchStore(PostgresDatabase(postgres.url, clock=fast), "two", fast)
    batch = one.add_batch("t", "default", ENDPOINT, "f", "24h", 1800, {}, [("a", "{}"), ("b", "{}")])
    (mine,) = one.claim(1)
    assert [item.custom_id for item in two.claim(5)] == ["b"], "the lease of the first has not ended"
    assert two.settle() == [], "nor has the window of the batch"
    assert one.finish(mine, 200, "{}")
    assert one.batch("t", batch.id).completed == 1
    one.close()
    two.close()


def test_a_full_disk_refuses_new_work_and_loses_none():
    disk = Path(tempfile.mkdtemp(prefix="inferstack-disk-"))  # not pytest's: the server's own user must reach it
    disk.chmod(0o755)
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=777", "tmpfs", str(disk)], check=False).returncode:
        disk.rmdir()
        pytest.skip("a small disk needs the right to mount one")
    place = disk / "space"
    server = None
    try:
        place.mkdir()
        os.chown(place, 65534, 65534)
        server = Postgres().start()
        server.ask(f"CREATE TABLESPACE small LOCATION '{place}'")
        server.ask("ALTER ROLE inferstack SET default_tablespace = small")
        store = BatchStore(open_database(server.url))
        kept = store.add_batch("t", "default", ENDPOINT, "f", "24h", 1000, {}, [("a", "{}")])
        with pytest.raises(DatabaseFull):
            store.add_file("t", "big", "batch", (os.urandom(2**20) for _ in range(40)))
        assert store.files("t") == [], "nothing of it was kept"
        subprocess.run(["mount", "-o", "remount,size=80m", str(disk)], check=True)
        (item,) = store.claim(1)
        assert store.finish(item, 200, "{}")
        assert store.settle() == [kept.id]
        store.close()
    finally:
        if server is not None:
            server.stop()
        subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


async def test_names_that_postgresql_cannot_hold_are_refused_or_not_found(postgres):
    async with running(batches={"url": postgres.url}) as run:
        for path in ("/v1/files/a%00b", "/v1/files/a%00b/content", "/v1/batches/a%00b"):
            assert (await run.client.get(path)).status_code == 404
        assert (await run.client.delete("/v1/files/%00")).status_code == 404
        assert (await run.client.post("/v1/batches/%00/cancel")).status_code == 404
        body = {"input_file_id": "\0", "endpoint": ENDPOINT, "completion_window": "24h"}
        assert (await run.client.post("/v1/batches", json=body)).status_code == 404
        data = json.dumps({"custom_id": "a\0", "method": "POST", "url": ENDPOINT, "body": {"prompt": "\0 is \\u0000"}}).encode()
        file = (await run.client.post("/v1/files", files={"file": ("na\0me", data)}, data={"purpose": "batch"})).json()
        refused = await run.client.post("/v1/batches", json={**body, "input_file_id": file["id"]})
        assert refused.status_code == 400
        assert "NUL" in refused.json()["error"]["message"]
