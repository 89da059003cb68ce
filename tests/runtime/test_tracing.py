import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from conftest import running
from fake_engine import FakeEngine
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inferstack_runtime.config import Identity
from inferstack_runtime.tracing import Tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"
ASK = {"model": "fake", "messages": [{"role": "user", "content": "the secret text"}], "max_tokens": 5}


async def test_a_request_is_one_span_with_its_phases_in_the_callers_trace():
    exporter = InMemorySpanExporter()
    async with running(FakeEngine(step_seconds=0.005)) as run:
        run.service.tracer = Tracer("http://unused", Identity(slot="green", generation=4), exporter)
        answer = await run.post("/v1/chat/completions", ASK, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        assert answer.status_code == 200
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /v1/chat/completions", "queue", "prefill", "decode"}
    root = spans["POST /v1/chat/completions"]
    assert f"{root.context.trace_id:032x}" == TRACE
    assert root.attributes["http.response.status_code"] == 200
    assert root.resource.attributes["inferstack.slot"] == "green"
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(span.parent.span_id == root.context.span_id for span in phases)
    assert [span.start_time for span in phases[1:]] == [span.end_time for span in phases[:2]]
    assert phases[2].end_time - phases[2].start_time > 10_000_000
    assert phases[2].attributes["gen_ai.usage.output_tokens"] == 5
    assert "secret" not in repr([span.attributes for span in spans.values()])


async def test_spans_travel_over_otlp_and_an_endpoint_that_is_away_does_no_harm():
    received = []

    class Collector(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        async with running(otlp_endpoint=f"http://127.0.0.1:{server.server_address[1]}") as run:
            assert (await run.post("/v1/chat/completions", ASK)).status_code == 200
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert received[0][0] == "/v1/traces"
    assert b"prefill" in received[0][1]
    assert b"secret" not in received[0][1]


async def test_traces_are_off_by_default(runtime):
    assert runtime.service.tracer is None
