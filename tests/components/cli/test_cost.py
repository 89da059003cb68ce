"""`inferstack cost` and `inferstack scaling`: figures from prices and measurements, unknown where nothing is known."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from inferstack.cli import run
from inferstack.cli._recommend import USED
from inferstack.cli.cost import QUERIES, cost_report
from inferstack.delivery.comment import _policies
from inferstack.environment import parse_environment
from inferstack.planning import cost, plan_findings
from inferstack.planning.prices import machine_price
from inferstack.planning.savings import replica_hourly_usd, savings

ROOT = Path(__file__).parents[3]
GKE: dict[str, Any] = {
    "platform": "gke",
    "region": "us-central1",
    "models": [{"name": "llama-3.1-8b-instruct", "source": "hf://meta-llama/Llama-3.1-8B-Instruct", "quantization": "bf16"}],
    "engine": {"kind": "vllm", "image": "ghcr.io/x/y@sha256:" + "0" * 64, "kv_cache": "4Gi"},
    "gpu": {"accelerator": "nvidia-a100-80gb", "max_nodes": 6},
    "slots": {"replicas": {"min": 2, "max": 3}, "idle_replicas": 1},
    "cloud": {"project": "p"},
}


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """A Prometheus that answers with (labels, value) by query."""
    known: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlparse(self.path).query)["query"][0]
            result = [{"metric": labels, "value": [0, str(value)]} for labels, value in known.get(query, [])]
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", known
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_replica_costs_its_share_of_its_node() -> None:
    environment = parse_environment(GKE)
    price = machine_price("gke", "a2-ultragpu-1g", "us-central1", "on_demand", 1)
    assert price is not None
    assert replica_hourly_usd(environment) == pytest.approx(price.hourly_usd, rel=1e-6)
    assert replica_hourly_usd(parse_environment({**GKE, "platform": "kubernetes", "gateway": {"class_name": "x"}})) is None


def test_slots_and_models_share_what_is_planned_until_it_is_measured() -> None:
    report = cost_report("e", parse_environment(GKE), None)
    replica = report["replica_hourly_usd"]
    assert report["slots"]["blue"] == {"replicas": 2, "hourly_usd": pytest.approx(2 * replica)}
    assert report["slots"]["green"] == {"replicas": 1, "hourly_usd": pytest.approx(replica)}
    assert report["models"][0]["hourly_usd"] == pytest.approx(3 * replica)
    assert report["models"][0]["usd_per_million_tokens"] is None
    assert report["measured"] is None
    assert report["opencost"][0]["metric"] == "node_total_hourly_cost"


def test_measured_tokens_give_dollars_per_million_and_what_the_cache_saves(answers: tuple[str, dict[str, Any]]) -> None:
    address, known = answers
    known[QUERIES["replicas"]] = [({"slot": "blue"}, 4)]
    known[QUERIES["tokens_per_second"]] = [({"model": "llama-3.1-8b-instruct"}, 1000.0)]
    known[QUERIES["cached_share"]] = [({}, 0.2)]
    report = cost_report("e", parse_environment(GKE), address)
    measured, replica = report["measured"], report["replica_hourly_usd"]
    assert report["slots"] == {"blue": {"replicas": 4, "hourly_usd": pytest.approx(4 * replica)}}
    assert report["models"][0]["shared_by"] == "tokens"
    assert report["models"][0]["usd_per_million_tokens"] == pytest.approx(4 * replica / 3.6, rel=1e-5)
    hourly = measured["usd_per_million_tokens"] * 3.6
    assert hourly > 4 * replica  # the control plane and its nodes count too
    assert measured["cache_saves_hourly_usd"] == pytest.approx(hourly * 0.25)
    assert measured["batch_size"] is None


def test_a_prometheus_that_does_not_answer_is_said_not_hidden() -> None:
    report = cost_report("e", parse_environment(GKE), "http://127.0.0.1:1")
    assert report["measured"] is None
    assert "127.0.0.1:1" in report["measured_error"]


def test_every_recommendation_fits_and_saves_what_it_says() -> None:
    environment = parse_environment(GKE)
    found = {saving.kind: saving for saving in savings(environment)}
    assert {"shrink the idle slot", "spot share", "right-size the GPU", "quantize"} <= set(found)
    idle = environment.model_copy(update={"slots": environment.slots.model_copy(update={"idle_replicas": 0})})
    before, after = cost(environment).hourly_usd, cost(idle).hourly_usd
    assert before is not None
    assert after is not None
    assert found["shrink the idle slot"].hourly_usd == pytest.approx(before - after, abs=1e-3)
    size = found["right-size the GPU"]
    changed = parse_environment({**GKE, "gpu": {**GKE["gpu"], **{key.partition(".")[2]: value for key, value in size.settings.items()}}})
    worse = {f.rule for f in plan_findings(changed) if f.severity == "error"} - {f.rule for f in plan_findings(environment)}
    assert not worse
    assert all(saving.hourly_usd > 0 and saving.but for saving in found.values())


def test_the_backtest_gives_the_rows_that_a_pull_request_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("seconds,requests_per_second\n" + "".join(f"{15 * i},{12 if 40 < i < 160 else 2}\n" for i in range(240)))
    assert run(["scaling", "backtest", str(trace), "--capacity", "5", "--replica-usd", "1", "--max", "4", "--json"]) == 0
    rows = _policies(json.loads(capsys.readouterr().out))
    assert set(rows) == {"fixed", "cpu", "thresholds", "hybrid_smart", "queue", "queue_forecast"}
    assert rows["fixed"]["cost_usd"] == pytest.approx(1.0)
    assert rows["queue"]["slo_minutes_missed"] < rows["fixed"]["slo_minutes_missed"]


def test_the_backtest_says_what_it_cannot_know_or_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scaling", "backtest", "generated:day"]) == 2
    assert "--capacity" in capsys.readouterr().err
    assert run(["scaling", "backtest", str(tmp_path / "none.csv"), "--capacity", "5"]) == 2
    assert run(["scaling", "backtest", "generated:week", "--capacity", "5"]) == 2
    assert "expected one of day" in capsys.readouterr().err


def test_tenants_share_the_price_by_the_tokens_that_engines_made_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def served(tenant: str, source: str, generated: int) -> str:
        fields = {"tenant": tenant, "model": "m", "source": source, "prompt_tokens": 10, "generated_tokens": generated}
        return json.dumps({"time": "t", "level": "info", "message": "served", **fields})

    log = tmp_path / "pod.log"
    lines = [served("a", "engine", 300), served("b", "engine", 100), served("b", "exact", 900), 'no JSON "served"', '{"message": "served"}']
    log.write_text("\n".join([*lines, json.dumps({"message": "request", "tenant": "a", "note": "served"})]))
    report = cost_report("e", parse_environment(GKE), None, [log])
    spent = sum(slot["hourly_usd"] for slot in report["slots"].values())
    assert [(row["tenant"], row["share"], row["generated_tokens"], row["cached_tokens"]) for row in report["tenants"]] == [
        ("a", 0.75, 300, 0),
        ("b", 0.25, 100, 900),
    ]
    assert report["tenants"][0]["hourly_usd"] == pytest.approx(spent * 0.75, rel=1e-4)
    assert run(["cost", "kubernetes", "--log", str(log), "--project", str(ROOT)]) == 0
    assert "tenant a: 75% by tokens" in capsys.readouterr().out
    assert run(["cost", "kubernetes", "--log", str(tmp_path / "none"), "--project", str(ROOT)]) == 2


def test_boards_are_listed_and_their_place_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dashboards", "list", "--project", str(ROOT), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["boards"]
    assert len(listed) == 7
    assert all(Path(board["file"]).is_file() for board in listed)
    for name, told in (("local", "inferstack console"), ("prod-gke", "grafana_dashboard=1"), ("kubernetes", "inferstack dashboards list")):
        assert run(["dashboards", "open", name, "--project", str(ROOT)]) == 0
        assert told in capsys.readouterr().out


def test_requests_are_recommended_from_what_the_busiest_replica_used(
    answers: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, known = answers
    queries = {
        key: query.format(environment="kubernetes", models="smollm2\\\\-135m\\\\-instruct", window="7d") for key, query in USED.items()
    }
    for key, value in (("cpu_cores", 0.5), ("memory_bytes", 1.2e9), ("seconds", 86400)):
        known[queries[key]] = [({}, value)]
    command = ["scaling", "recommend", "kubernetes", "--prometheus", address, "--project", str(ROOT)]
    assert run([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["recommendations"]
    assert row["queries"] == queries
    assert (row["cpu"], row["used"]["seconds"]) == ("600m", 86400)
    assert run(command) == 0
    assert "inferstack promote kubernetes --set slot.resources.cpu=600m" in capsys.readouterr().out
    known[queries["seconds"]] = [({}, 600)]
    assert run(command) == 2
    assert "only 10 minutes were seen" in capsys.readouterr().err
    known.clear()
    assert run(command) == 2
    assert "knows nothing of the replicas of kubernetes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["kubernetes"], 2, "no Prometheus to ask"),
        (["kubernetes", "--prometheus", "http://127.0.0.1:9"], 5, "127.0.0.1:9"),
        (["kubernetes", "--prometheus", "http://127.0.0.1:9", "--window", "a week"], 2, "no length of time"),
        (["prod-aks"], 2, "engine.kind vllm"),
    ],
)
def test_what_cannot_be_recommended_is_told_with_the_next_step(
    more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["scaling", "recommend", *more, "--project", str(ROOT)]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parts
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_prometheus_answers_what_is_asked_of_it(tmp_path: Path) -> None:
    """Two replicas of the model asked for, and a busier one of another model, over three hours."""
    series = []
    for instance, model, cores, memory in (("a", "small-1", 0.5, 1000), ("b", "small-1", 0.25, 3000), ("c", "other", 4, 9000)):
        labels = f'{{environment="e",instance="{instance}"}}'
        series += [
            {"series": f"process_cpu_seconds_total{labels}", "values": f"0+{cores * 60:g}x180"},
            {"series": f"process_resident_memory_bytes{labels}", "values": f"{memory}x180"},
            {"series": f'inferstack_identity_info{{environment="e",instance="{instance}",model="{model}"}}', "values": "1x180"},
        ]
    expected = {"cpu_cores": 0.5, "memory_bytes": 3000, "seconds": 300 * 37}
    asked = {key: query.format(environment="e", models=r"small\\-1", window="3h") for key, query in USED.items()}
    cases = [{"expr": query, "eval_time": "3h", "exp_samples": [{"labels": "{}", "value": expected[key]}]} for key, query in asked.items()]
    file = tmp_path / "test.yaml"
    file.write_text(
        json.dumps({"evaluation_interval": "1m", "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": cases}]})
    )
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
