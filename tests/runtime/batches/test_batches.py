import asyncio
import json
from functools import partial

import pytest
from conftest import running, write_keys
from fake_engine import FakeEngine

from inferstack_runtime.access.keys import Caller
from inferstack_runtime.api import batches, items
from inferstack_runtime.api.items import answer_item
from inferstack_runtime.batches.database import DatabaseDown
from inferstack_runtime.batches.opening import open_database
from inferstack_runtime.batches.sqlite import SqliteDatabase
from inferstack_runtime.batches.store import BatchStore

ENDPOINT = "/v1/completions"


def lines(count, **body):
    return b"".join(
        json.dumps({"custom_id": f"c{n}", "method": "POST", "url": ENDPOINT, "body": {"model": "fake", "prompt": f"p{n}", **body}}).encode()
        + b"\n"
        for n in range(count)
    )


@pytest.fixture
async def batching(tmp_path):
    file = write_keys(tmp_path / "keys.json", alice={}, bob={})
    tiers = {"default": {"requests_per_minute": 10000, "tokens_per_minute": 10**7}}
    async with running(batches={"url": f"sqlite:///{tmp_path}/b.sqlite"}, access={"keys_file": str(file), "tiers": tiers}) as run:
        run.client.headers["authorization"] = "Bearer alice"
        worker = asyncio.create_task(run.service.batches.work(partial(answer_item, run.service)))
        yield run
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def upload(run, data, purpose="batch"):
    return await run.client.post("/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": purpose})


async def start(run, data):
    file_id = (await upload(run, data)).json()["id"]
    return await run.client.post("/v1/batches", json={"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"})


async def ended(run, batch_id, seconds=20):
    async with asyncio.timeout(seconds):
        while True:
            batch = (await run.client.get(f"/v1/batches/{batch_id}")).json()
            if batch["status"] not in ("in_progress", "cancelling"):
                return batch
            await asyncio.sleep(0.02)


async def test_a_batch_answers_every_line_once_and_in_order(batching):
    made = await start(batching, lines(20, max_tokens=3, temperature=0))
    assert made.status_code == 200
    batch = await ended(batching, made.json()["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    output = (await batching.client.get(f"/v1/files/{batch['output_file_id']}/content")).text.splitlines()
    results = [json.loads(line) for line in output]
    assert [result["custom_id"] for result in results] == [f"c{n}" for n in range(20)]
    assert all(result["response"]["status_code"] == 200 for result in results)
    assert results[0]["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert batch["error_file_id"] is None


async def test_a_line_that_fails_fails_alone(batching):
    good, bad = lines(1), json.dumps({"custom_id": "bad", "method": "POST", "url": ENDPOINT, "body": {"model": "fake"}}).encode()
    batch = await ended(batching, (await start(batching, good + bad)).json()["id"])
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    error = json.loads((await batching.client.get(f"/v1/files/{batch['error_file_id']}/content")).text)
    assert error["custom_id"] == "bad"
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["param"] == "prompt"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no requests"),
        (b"{", "Line 1"),
        (lines(1) + lines(1), "stands twice"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}', "url"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"stream": true}}', "stream"),
        (b"[" * 100_000, "Line 1"),
        (b'{"custom_id": "\\ud800"}', "Line 1"),
    ],
)
async def test_a_file_that_is_wrong_is_refused_whole(batching, data, what):
    answer = await start(batching, data)
    assert answer.status_code == 400
    assert what in answer.json()["error"]["message"]
    assert (await batching.client.get("/v1/batches")).json()["data"] == []


async def test_no_tenant_sees_files_or_batches_of_another(batching):
    batch = (await start(batching, lines(1))).json()
    bob = {"authorization": "Bearer bob"}
    for path in (f"/v1/files/{batch['input_file_id']}", f"/v1/files/{batch['input_file_id']}/content", f"/v1/batches/{batch['id']}"):
        assert (await batching.client.get(path, headers=bob)).status_code == 404
    assert (await batching.client.delete(f"/v1/files/{batch['input_file_id']}", headers=bob)).status_code == 404
    assert (await batching.client.post(f"/v1/batches/{batch['id']}/cancel", headers=bob)).status_code == 404
    assert (await batching.client.get("/v1/files", headers=bob)).json()["data"] == []
    assert (await batching.client.get("/v1/batches", headers=bob)).json()["data"] == []


async def test_a_cancelled_batch_keeps_what_was_done(batching):
    batching.engine.step_seconds = 0.02
    batch = (await start(batching, lines(60, max_tokens=10, temperature=0))).json()
    while (await batching.client.get(f"/v1/batches/{batch['id']}")).json()["request_counts"]["completed"] < 3:
        await asyncio.sleep(0.02)
    assert (await batching.client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 200
    done = await ended(batching, batch["id"])
    assert done["status"] == "cancelled"
    counts = done["request_counts"]
    assert counts["completed"] >= 3
    assert counts["completed"] + counts["failed"] == 60
    assert (await batching.client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 409


async def test_pages_and_deletion(batching):
    ids = [(await upload(batching, lines(1))).json()["id"] for _ in range(5)]
    first = (await batching.client.get("/v1/files", params={"limit": 3})).json()
    assert len(first["data"]) == 3
    assert first["has_more"]
    second = (await batching.client.get("/v1/files", params={"limit": 3, "after": first["last_id"]})).json()
    assert {entry["id"] for entry in first["data"] + second["data"]} == set(ids)
    assert (await batching.client.delete(f"/v1/files/{ids[0]}")).json()["deleted"] is True
    assert (await batching.client.get(f"/v1/files/{ids[0]}")).status_code == 404
    assert (await batching.client.get("/v1/files", params={"limit": "0"})).status_code == 400


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"garbage", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n--b--\r\n", 400),
    ],
)
async def test_a_form_that_is_wrong_is_refused(batching, kind, data, status):
    answer = await batching.client.post("/v1/files", content=data, headers={"content-type": kind})
    assert answer.status_code == status


async def test_a_restart_goes_on_where_the_process_was_killed(tmp_path):
    """Items that were done stay done, those that were running run again, none is lost or written twice."""
    url = f"sqlite:///{tmp_path}/b.sqlite"
    store = BatchStore(open_database(url))
    store.add_batch("t", "default", ENDPOINT, "file-x", "24h", 100, {}, [(f"c{n}", "{}") for n in range(4)])
    first, second = store.claim(2)
    assert store.finish(first, 200, '{"a": 1}')
    store.close()  # killed: `second` was running
    again = BatchStore(open_database(url))
    assert again.recover() == 1
    claimed = again.claim(10)
    assert [item.custom_id for item in claimed] == ["c1", "c2", "c3"]
    assert not store_finish_of_the_dead(store, second)
    assert all(again.finish(item, 200, "{}") for item in claimed)
    assert not again.finish(claimed[0], 200, '{"twice": true}')
    (batch_id,) = again.settle()
    batch = again.batch("t", batch_id)
    assert batch.completed == 4
    output = b"".join(again.read(batch.output_file_id)).splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["c0", "c1", "c2", "c3"]
    again.close()


def store_finish_of_the_dead(store, item):
    try:
        return store.finish(item, 200, "{}")
    except Exception:
        return False


def test_two_processes_never_hold_one_item(tmp_path):
    now = [1000.0]
    database = SqliteDatabase(tmp_path / "b.sqlite")
    one, two = (BatchStore(database, owner, lambda: now[0]) for owner in ("one", "two"))
    one.add_batch("t", "default", ENDPOINT, "f", "24h", 1000, {}, [("a", "{}"), ("b", "{}")])
    (mine,) = one.claim(1)
    (other,) = two.claim(5)
    assert {mine.custom_id, other.custom_id} == {"a", "b"}
    now[0] += 61
    (taken,) = [item for item in two.claim(5) if item.custom_id == "a"]
    assert not one.finish(mine, 200, "{}"), "the lease is over"
    assert two.finish(taken, 200, "{}")
    database.close()


def test_a_batch_ends_when_its_window_does(tmp_path):
    now = [1000.0]
    database = SqliteDatabase(tmp_path / "b.sqlite")
    store = BatchStore(database, "one", lambda: now[0])
    batch = store.add_batch("t", "default", ENDPOINT, "f", "24h", 100, {}, [("a", "{}"), ("b", "{}")])
    (item,) = store.claim(1)
    store.finish(item, 200, "{}")
    now[0] += 101
    assert store.settle() == [batch.id]
    done = store.batch("t", batch.id)
    assert (done.status, done.completed, done.failed) == ("expired", 1, 1)
    assert b"batch_expired" in b"".join(store.read(done.error_file_id))
    database.close()


def test_one_sqlite_file_has_one_owner(tmp_path):
    first = open_database(f"sqlite:///{tmp_path}/b.sqlite")
    with pytest.raises(DatabaseDown, match="another process"):
        open_database(f"sqlite:///{tmp_path}/b.sqlite")
    first.close()


async def test_a_full_disk_refuses_new_work_and_loses_none(batching):
    made = (await start(batching, lines(5, max_tokens=2))).json()
    await ended(batching, made["id"])
    store = await batching.service.batches.store()
    connection = store._database._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    answer = await upload(batching, lines(5000))
    assert answer.status_code == 507
    assert "No space" in answer.json()["error"]["message"]
    assert (await batching.client.get(f"/v1/batches/{made['id']}")).json()["request_counts"]["completed"] == 5
    connection.execute("PRAGMA max_page_count = 1000000")
    assert (await upload(batching, lines(5000))).status_code == 200


@pytest.mark.slow
async def test_a_full_queue_only_delays(tmp_path):
    engine = FakeEngine(max_queue=0, max_sequences=1, step_seconds=0.001)
    async with running(engine, batches={"url": f"sqlite:///{tmp_path}/b.sqlite"}) as run:
        run.service.config.access.tiers["default"].__dict__["requests_per_minute"] = 1000
        worker = asyncio.create_task(run.service.batches.work(partial(answer_item, run.service)))
        batch = await ended(run, (await start(run, lines(12, max_tokens=3))).json()["id"], 40)
        assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_a_batch_whose_tenant_has_reached_its_limit_rests_until_it_may_go_on(tmp_path):
    """It does not ask again and again: that would keep database, limits and event loop busy for as long as the limit holds."""
    file = write_keys(tmp_path / "keys.json", alice={"tier": "small"}, bob={})
    tiers = {
        "small": {"requests_per_minute": 4, "tokens_per_minute": 10**6},
        "default": {"requests_per_minute": 1000, "tokens_per_minute": 10**6},
    }
    async with running(batches={"url": f"sqlite:///{tmp_path}/b.sqlite"}, access={"keys_file": str(file), "tiers": tiers}) as run:
        asked = []

        async def counted(item):
            asked.append(item.tenant)
            return await answer_item(run.service, item)

        worker = asyncio.create_task(run.service.batches.work(counted))
        run.client.headers["authorization"] = "Bearer alice"
        limited = (await start(run, lines(200, max_tokens=1))).json()
        async with asyncio.timeout(10):
            while asked.count("alice") < 5:
                await asyncio.sleep(0.02)
        run.client.headers["authorization"] = "Bearer bob"
        assert (await ended(run, (await start(run, lines(20, max_tokens=1))).json()["id"]))["request_counts"]["completed"] == 20
        await asyncio.sleep(1.5)
        assert asked.count("alice") <= 4 + 8, "at most those that had begun together"
        run.client.headers["authorization"] = "Bearer alice"
        counts = (await run.client.get(f"/v1/batches/{limited['id']}")).json()["request_counts"]
        assert counts == {"total": 200, "completed": 4, "failed": 0}, "none is lost or failed"
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_an_item_whose_answer_breaks_is_a_failed_item(batching, monkeypatch):
    async def breaks(service, request):
        raise RuntimeError("broken")

    monkeypatch.setitem(items._HANDLERS, ENDPOINT, breaks)
    batch = await ended(batching, (await start(batching, lines(1))).json()["id"])
    assert batch["request_counts"]["failed"] == 1
    error = json.loads((await batching.client.get(f"/v1/files/{batch['error_file_id']}/content")).text)
    assert error["response"]["status_code"] == 500
    assert error["response"]["body"]["error"]["type"] == "server_error"


async def test_a_large_file_is_sent_in_parts(batching):
    data = bytes(range(256)) * 10_000
    file = (await upload(batching, data)).json()
    answer = await batching.client.get(f"/v1/files/{file['id']}/content")
    assert answer.content == data
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(data))
    found = await batches.content(batching.service, FileRequest(file["id"]))
    assert max([len(part) async for part in found.events]) < len(data) / 2
    empty = (await upload(batching, b"")).json()
    assert (await batching.client.get(f"/v1/files/{empty['id']}/content")).content == b""


class FileRequest:
    """What the handler reads of a request."""

    caller = Caller("alice", "default", frozenset({"inference"}), "k")

    def __init__(self, file_id):
        self.params = {"file_id": file_id}
