import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from conftest import running, write_keys


async def test_a_batch_of_prompts_keeps_order_and_reports_failures_by_item(runtime):
    answer = (await runtime.post("/v1/batch", {"prompts": ["one", "", "two"], "max_tokens": 5})).json()
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]
    assert answer["results"][1]["error"]["type"] == "invalid_request_error"
    assert answer["results"][1]["text"] is None
    alone = (await runtime.post("/v1/inference", {"prompt": "two", "max_tokens": 5})).json()
    assert answer["results"][2]["text"] == alone["text"]
    assert (answer["succeeded"], answer["failed"]) == (2, 1)


async def test_one_inference(runtime):
    answer = (await runtime.post("/v1/inference", {"prompt": "x", "max_tokens": 4, "temperature": 0.5})).json()
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["model"] == "fake"
    assert (await runtime.post("/v1/inference", {"prompt": "x", "temperature": 9})).status_code == 400
    assert (await runtime.post("/v1/inference", {"prompt": "x", "max_new_tokens": 9})).json()["error"]["param"] == "max_new_tokens"


async def test_the_chat_stream_is_data_lines_of_json(runtime):
    answer = await runtime.post("/chat/stream", {"query": "hi"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    events = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert all(block.startswith("data: ") for block in blocks)
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]
    assert "".join(event["content"] for event in events)
    assert events[-1]["finish_reason"] == "stop"


async def test_performance_has_the_five_figures(runtime):
    for _ in range(2):
        await runtime.post("/v1/inference", {"prompt": "x"})
    figures = (await runtime.client.get("/chat/performance")).json()
    assert set(figures) == {"avg_response_time", "memory_usage_mb", "cache_hit_rate", "model_loaded", "gpu_available"}
    assert figures["avg_response_time"] > 0
    assert figures["memory_usage_mb"] > 10
    assert figures["cache_hit_rate"] == 0.5
    assert figures["model_loaded"] is True


class Alertmanager(BaseHTTPRequestHandler):
    silences: list[dict] = []  # noqa: RUF012

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        labels = {"alertname": "GpuHot", "severity": "page", "gpu": "0"}
        self._send(
            [{"fingerprint": "f1", "labels": labels, "status": {"state": "active", "silencedBy": []}, "startsAt": "2026-11-21T10:00:00Z"}]
        )

    def do_POST(self):
        self.silences.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._send({"silenceID": "s1"})

    def _send(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def alertmanager():
    server = HTTPServer(("127.0.0.1", 0), Alertmanager)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Alertmanager.silences.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_alerts_are_listed_and_acknowledged_by_a_silence(tmp_path, alertmanager):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]}, alice={})
    async with running(access={"keys_file": str(keys)}, alertmanager_url=alertmanager) as run:
        assert (await run.client.get("/api/v1/monitoring/alerts", headers={"authorization": "Bearer alice"})).status_code == 403
        run.client.headers["authorization"] = "Bearer root"
        (alert,) = (await run.client.get("/api/v1/monitoring/alerts")).json()["alerts"]
        assert (alert["alert_id"], alert["name"], alert["acknowledged"]) == ("f1", "GpuHot", False)
        done = await run.client.put("/api/v1/monitoring/alerts/f1/acknowledge", json={"author": "me", "expires_in_minutes": 30})
        assert done.json()["silence_id"] == "s1"
        (silence,) = Alertmanager.silences
        assert silence["createdBy"] == "me"
        assert {matcher["name"]: matcher["value"] for matcher in silence["matchers"]} == {
            "alertname": "GpuHot",
            "severity": "page",
            "gpu": "0",
        }
        assert (await run.client.put("/api/v1/monitoring/alerts/other/acknowledge", json={})).status_code == 404
        metrics = (await run.client.get("/api/v1/monitoring/metrics")).json()["metrics"]
        assert "inferstack_requests_total" in {metric["name"] for metric in metrics}


async def test_an_alertmanager_that_is_away_is_a_502_and_none_a_404(tmp_path):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    for url, status in (("http://127.0.0.1:9", 502), (None, 404)):
        async with running(access={"keys_file": str(keys)}, alertmanager_url=url) as run:
            answer = await run.client.get("/api/v1/monitoring/alerts", headers={"authorization": "Bearer root"})
            assert answer.status_code == status
