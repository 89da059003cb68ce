"""Slots of other engines on the boards and in the alerts: pages as their servers write them, read by a real Prometheus."""

import http.server
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from inferstack.platforms.prometheus_text import counters
from inferstack.serving.manifests.engines import profile
from inferstack_dashboards import ALERTS, BOARDS
from inferstack_dashboards.boards import GPU
from inferstack_dashboards.engines import SERVERS
from inferstack_dashboards.samples import Ask, prometheus
from inferstack_runtime import metrics as m
from tests.dashboards.engine_pages import MODEL, PAGES, dcgm
from tests.dashboards.live.stand import scraping
from tests.dashboards.promql import series

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)")
KINDS = [server.kind for server in SERVERS]
RECORDED_FOR_ALL = {m.READY.name, m.IN_FLIGHT.name, m.IDENTITY.name}


def test_every_server_of_the_table_has_a_page() -> None:
    assert set(PAGES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_every_series_that_the_table_names(kind: str) -> None:
    page = PAGES[kind](10)
    known = next(server for server in SERVERS if server.kind == kind)
    for same in known.series:
        for sample in same.metric.samples:
            assert f"\n{same.names[0]}{sample.removeprefix(same.metric.name)}" in page


@pytest.mark.parametrize(("kind", "gauges"), [
    ("vllm", ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")),
    ("sglang", ("sglang:num_queue_reqs", "sglang:num_running_reqs", "sglang:token_usage")),
    ("llamacpp", ("llamacpp:requests_deferred", "llamacpp:requests_processing", None)),
    ("native", ("inferstack_waiting_sequences", "inferstack_running_sequences", "inferstack_kv_cache_used_ratio")),
    ("openai", (None, None, None)),
])  # fmt: skip
def test_scalers_read_the_same_names(kind: str, gauges: tuple[str | None, ...]) -> None:
    names = profile(kind).metrics  # type: ignore[arg-type]
    assert (names.waiting, names.running, names.kv_ratio) == gauges


def test_gates_read_the_same_pages() -> None:
    found = counters(PAGES["vllm"](100))
    assert (found.requests, found.errors, found.tokens) == (200, 50, 12_000)
    assert found.ttft.quantile(0.95) == pytest.approx(0.1, abs=0.02)
    found = counters(PAGES["sglang"](100))
    assert (found.requests, found.errors, found.tokens) == (300, 0, 9_000)
    assert found.inter_token.quantile(0.5) == pytest.approx(0.04, abs=0.02)


@contextmanager
def served(page: Callable[[float], str]) -> Iterator[str]:
    """A server that writes this page; its host and port."""
    begun = time.monotonic()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page(100 + time.monotonic() - begun).encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def asks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ask]]:
    """What the Prometheus says of each kind's environment, after a dozen scrapes."""
    with ExitStack() as running:
        slots = [
            {"targets": [running.enter_context(served(PAGES[kind]))], "labels": {"environment": kind, "slot": "blue"}} for kind in KINDS
        ]
        gpus = [{"targets": [running.enter_context(served(dcgm))]}]
        jobs = [{"job_name": "inferstack", "static_configs": slots}, {"job_name": "dcgm", "static_configs": gpus}]
        address = running.enter_context(scraping(tmp_path_factory.mktemp("prometheus"), jobs, 1))
        time.sleep(15)
        end = time.time()
        yield {kind: prometheus(address, end - 3, end, 1, "8s", kind) for kind in KINDS}


@pytest.mark.parts
@needs_prometheus
@pytest.mark.parametrize("kind", KINDS)
def test_every_panel_shows_what_the_server_measures(asks: dict[str, Ask], kind: str) -> None:
    known = next(server for server in SERVERS if server.kind == kind)
    has = {sample for same in known.series for sample in same.metric.samples} | RECORDED_FOR_ALL
    panels = [
        (panel.title, query.expr) for board in BOARDS for panel in board.panels for query in panel.queries if series(query.expr) <= has
    ]
    assert len(panels) > (10 if kind == "llamacpp" else 25)
    empty = [f"{title}: {expr}" for title, expr in panels if not asks[kind](expr)]
    assert not empty, "\n".join(empty)


@pytest.mark.parts
@needs_prometheus
def test_the_figures_are_those_of_the_page(asks: dict[str, Ask]) -> None:
    def value(kind: str, expr: str) -> float:
        lines = asks[kind](expr)
        assert len(lines) == 1, (expr, lines)
        return lines[0].values[-1]

    mine = 'environment=~"$environment"'
    assert value("vllm", f'sum(inferstack_waiting_sequences{{{mine},model="{MODEL}"}})') == 5
    assert value("vllm", f"sum(inferstack_in_flight_requests{{{mine}}})") == 8
    assert value("vllm", f"sum(inferstack_ready{{{mine}}})") == 1
    assert value("vllm", f"sum(rate(inferstack_generated_tokens_total{{{mine}}}[8s]))") == pytest.approx(120, rel=0.2)
    assert value("vllm", f"inferstack_kv_cache_used_ratio{{{mine}}}") == 0.625
    assert value("vllm", f"sum by (environment) (vllm:num_requests_waiting{{{mine}}})") == 5, "not counted again under its own name"
    assert value("vllm", f'sum(rate(inferstack_requests_total{{{mine},code=~"5.."}}[8s]))') == pytest.approx(0.5, rel=0.2)
    assert value("vllm", f"inferstack:failed:ratio_rate5m{{{mine}}}") == pytest.approx(0.25, rel=0.2), "without the probes"
    assert value("sglang", f"inferstack:failed:ratio_rate5m{{{mine}}}") == 0, "/health with 503 fails no user"
    assert (
        value("sglang", f"histogram_quantile(0.5, sum by (le) (rate(inferstack_time_to_first_token_seconds_bucket{{{mine}}}[8s])))") < 0.25
    )
    assert value("llamacpp", f"sum(inferstack_waiting_sequences{{{mine}}})") == 6
    assert value("llamacpp", f"sum(rate(llm_throughput_tokens_per_second{{{mine}}}[8s])) * 0 + sum(inferstack_ready{{{mine}}})") == 1
    for kind in KINDS:
        assert value(kind, f"sum(llm_cost_hourly{{{mine},slot='blue'}})") > 0


@pytest.mark.parts
@needs_prometheus
def test_alerts_see_these_slots_too_and_none_that_says_that_nothing_is_measured(asks: dict[str, Ask]) -> None:
    met = {alert.name for alert in ALERTS for line in asks["vllm"](alert.query()) if line.labels.get("environment", "vllm") == "vllm"}
    assert "MetricsMissing" not in met
    assert "ErrorsHigh" in met
    assert (
        not met - {"ErrorsHigh", "Watchdog", "BudgetExceeded", "GpuXidError"} - {name for name in met if name.startswith("ErrorBudgetBurn")}
    )


@pytest.mark.parts
@needs_prometheus
def test_the_board_of_gpus_shows_what_the_exporter_says(asks: dict[str, Ask]) -> None:
    shown = {
        panel.title: {line.named(query.legend): round(line.values[-1], 2) for line in asks["vllm"](query.expr)}
        for panel in GPU.panels
        if panel.needs == "dcgm"
        for query in panel.queries
    }
    first, second, third = (f"gpu {number} node-a" for number in range(3))
    assert shown["Duty"] == {first: 80, second: 0}
    assert shown["Memory"] == {first: 0.75, second: 0, third: 0.25}
    assert shown["Temperature"] == {first: 61, second: 33, third: 58}
    assert shown["Power"] == {first: 310.25, second: 62.5, third: 250}
    assert shown["Time throttled"] == {first: pytest.approx(0.05, abs=0.01), second: 0, third: 0}
    assert shown["XID"] == {first: 0, second: 0, third: 79}
    alerts = {alert.name: {line.labels["gpu"] for line in asks["vllm"](alert.query())} for alert in ALERTS if alert.name.startswith("Gpu")}
    assert alerts["GpuXidError"] == {"2"}
    assert alerts["GpuTemperatureHigh"] == set()
    assert asks["vllm"]("gpu_memory_usage_percent{gpu='0'}")[0].values[-1] == 75
