"""The autoscaler process: registrations by request, real metrics pages, and a Kubernetes scale subresource that remembers."""

import http.server
import json
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import child_process, write_keys
from conftest import process as running_process

from inferstack_runtime.access.authenticate import Authenticator
from inferstack_runtime.access.keys import KeyFile
from inferstack_runtime.autoscaler.config import AutoscalerConfig, ReplicaConfig, load_autoscaler_config
from inferstack_runtime.autoscaler.metrics import CATALOGUE
from inferstack_runtime.autoscaler.observe import Look, read_metrics, sample_of
from inferstack_runtime.autoscaler.process import Autoscaler, ScalingApp
from inferstack_runtime.autoscaler.registry import Registration
from inferstack_runtime.config import InvalidConfig

ADMIN = {"authorization": "Bearer root"}
RESULTS = ("missing", "scaled", "held", "stopped", "failed")
MAP = "/api/v1/namespaces/ns/configmaps/inferstack-blue-scaling"
PAGE = """# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {cpu}
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1073741824
# TYPE inferstack_waiting_sequences gauge
inferstack_waiting_sequences{{model="m"}} {waiting}
# TYPE inferstack_kv_cache_used_ratio gauge
inferstack_kv_cache_used_ratio{{model="m"}} 0.25
# TYPE inferstack_requests_total counter
inferstack_requests_total{{route="/v1/completions",model="m",code="200",tier="default"}} {good}
inferstack_requests_total{{route="/v1/completions",model="m",code="503",tier="default"}} {bad}
inferstack_requests_total{{route="/livez",model="",code="200",tier=""}} 9999
"""


class Cluster:
    """Serves a metrics page, and a Deployment's scale that counts its writes."""

    def __init__(self):
        self.replicas, self.writes, self.page, self.refuse, self.tokens = 2, [], PAGE, False, set()
        self.version, self.map = 7, {"scaling_policy": "queue", "min_instances": "2", "max_instances": "4"}
        self.before_write = lambda: None
        self.values = {"cpu": 1.0, "waiting": 0, "good": 10, "bad": 0}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                if self.path == "/metrics":
                    self._send(outer.page.format(**outer.values).encode())
                elif self.path == MAP:
                    self._send(json.dumps({"data": outer.map}).encode())
                else:
                    self._scale()

            def do_PATCH(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == MAP:
                    outer.map |= body["data"]
                    self._send(b"{}")
                    return
                outer.before_write()
                if body.get("metadata", {}).get("resourceVersion", str(outer.version)) != str(outer.version):
                    self._send(b'{"message": "the object has been modified"}', 409)
                    return
                if not outer.refuse:
                    outer.version += 1
                    outer.replicas = body["spec"]["replicas"]
                    outer.writes.append(outer.replicas)
                self._scale()

            def _scale(self):
                assert self.path == "/apis/apps/v1/namespaces/ns/deployments/inferstack-blue/scale"
                outer.tokens.add(self.headers["authorization"])
                if outer.refuse:
                    self._send(b'{"message": "no"}', 403)
                else:
                    found = {"metadata": {"resourceVersion": str(outer.version)}, "spec": {"replicas": outer.replicas}}
                    self._send(json.dumps(found).encode())

            def _send(self, data, status=200):
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def cluster():
    found = Cluster()
    yield found
    found.server.shutdown()
    found.server.server_close()


class Counted:
    """Replicas of a slot that are set without a cluster."""

    dry_run = registers = False

    def __init__(self, replicas):
        self.replicas = replicas

    async def read(self):
        return self.replicas

    async def write(self, replicas):
        self.replicas = replicas


async def test_slots_share_one_budget_and_neither_loses_what_it_has(tmp_path, cluster):
    """8 replicas are paid for. A promotion that brings green its replicas stops blue's growth; it does not shrink the slot that serves."""
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["inference", "admin"]})
    target = {"metrics": [f"{cluster.url}/metrics"], "replica": {"hourly_usd": 1.25}}
    raw = {"targets": {"blue": target, "green": target}, "keys_file": str(keys), "budget_hourly_usd": 10}
    autoscaler = Autoscaler(AutoscalerConfig.model_validate(raw))
    blue, green = autoscaler._scales["blue"], autoscaler._scales["green"] = Counted(3), Counted(2)
    for key in ("blue", "green"):
        autoscaler.slots[key] = autoscaler._scaled(Registration(key, "queue", 1, 20))
    await autoscaler.look()
    cluster.values |= {"waiting": 400, "cpu": 1.5}
    await autoscaler.look()
    assert (blue.replicas, green.replicas) == (6, 2), "blue grew by what green left of the budget"
    assert autoscaler.metrics.value("inferstack_autoscaler_most_replicas", target="blue") == 6
    green.replicas = 6
    cluster.values |= {"cpu": 2.0}
    await autoscaler.look()
    await autoscaler.look()
    assert (blue.replicas, green.replicas) == (6, 6), "nobody's replicas are taken, nobody gets more"
    green.replicas = 0
    cluster.values |= {"cpu": 3.0}
    await autoscaler.look()
    await autoscaler.look()
    assert blue.replicas == 8


@pytest.fixture
def config(tmp_path, cluster):
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["admin"]}, alice={})
    (tmp_path / "token").write_text("secret-token\n")
    scale = {
        "kind": "kubernetes",
        "namespace": "ns",
        "deployment": "inferstack-blue",
        "api": cluster.url,
        "token_file": f"{tmp_path}/token",
    }
    targets = {
        "small": {"metrics": [f"{cluster.url}/metrics"], "scale": scale, "replica": {"cpu_cores": 2, "hourly_usd": 2.0}},
        "dry": {"metrics": [f"{cluster.url}/metrics"]},
    }
    raw = {"targets": targets, "keys_file": str(keys), "budget_hourly_usd": 12, "state_file": f"{tmp_path}/state.json"}
    return AutoscalerConfig.model_validate(raw)


@contextmanager
def asked(config):
    autoscaler = Autoscaler(config)
    app = ScalingApp(autoscaler, Authenticator(KeyFile(Path(config.keys_file), config.tiers), config.tiers))
    autoscaler.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://autoscaler", headers=ADMIN)
    yield autoscaler


async def register(autoscaler, **body):
    return await autoscaler.client.post("/api/v1/scaling/register", json={"model_key": "small", **body})


async def test_a_registration_holds_its_policy_and_bounds_and_is_idempotent(config):
    with asked(config) as autoscaler:
        body = {"scaling_policy": "hybrid_smart", "min_instances": 1, "max_instances": 10}
        first = (await register(autoscaler, **body)).json()
        assert first == (await register(autoscaler, **body)).json()
        assert {key: first[key] for key in body} == body
        assert (first["replica_cap"], first["dry_run"]) == (6, False)
        status = (await autoscaler.client.get("/api/v1/scaling/status")).json()
        assert [one["model_key"] for one in status["registrations"]] == ["small"]
    with asked(config) as again:
        assert again.slots["small"].registration == autoscaler.slots["small"].registration


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model_key": "nothing"}, 404, "model_key"),
        ({"scaling_policy": "guess"}, 400, "scaling_policy"),
        ({"min_instances": 4, "max_instances": 3}, 400, "min_instances"),
        ({"min_instances": -1}, 400, "min_instances"),
        ({"min_instances": "1"}, 400, "min_instances"),
        ({"instances": 3}, 400, "instances"),
    ],
)
async def test_wrong_registrations_are_refused_with_the_field(config, body, status, param):
    with asked(config) as autoscaler:
        answer = await register(autoscaler, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
        assert autoscaler.slots == {}


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("nobody", 401), ("alice", 403)])
async def test_only_admins_scale(config, key, status):
    with asked(config) as autoscaler:
        headers = {"authorization": f"Bearer {key}"} if key else {"authorization": ""}
        for path in ("register", "manual"):
            assert (await autoscaler.client.post(f"/api/v1/scaling/{path}", json={}, headers=headers)).status_code == status


async def test_a_manual_number_is_set_within_the_bounds_and_the_budget(config, cluster):
    with asked(config) as autoscaler:
        manual = {"model_key": "small", "scaling_type": "horizontal", "target_instances": 5}
        assert (await autoscaler.client.post("/api/v1/scaling/manual", json=manual)).status_code == 404
        await register(autoscaler, min_instances=1, max_instances=10)
        answer = await autoscaler.client.post("/api/v1/scaling/manual", json=manual)
        assert answer.json() == {**manual, "previous_instances": 2, "dry_run": False}
        assert cluster.writes == [5]
        assert cluster.tokens == {"Bearer secret-token"}
        for wrong in ({"target_instances": 7}, {"target_instances": 0}, {"scaling_type": "vertical"}):
            assert (await autoscaler.client.post("/api/v1/scaling/manual", json=manual | wrong)).status_code == 400
        cluster.refuse = True
        assert (await autoscaler.client.post("/api/v1/scaling/manual", json=manual)).status_code == 502
        assert cluster.writes == [5]


async def test_waiting_requests_bring_replicas_and_a_dead_metrics_page_brings_none(config, cluster):
    with asked(config) as autoscaler:
        await register(autoscaler, scaling_policy="queue", min_instances=1, max_instances=10)
        await autoscaler.look()
        assert cluster.writes == []  # nothing is known after one look
        cluster.values.update(cpu=1.5, waiting=16)
        await autoscaler.look()
        assert cluster.writes == [4]  # 16 waiting, 4 for each
        cluster.page = "nothing that a runtime would say"
        await autoscaler.look()
        assert autoscaler.slots["small"].last.reasoning.startswith("metrics are missing")
        assert cluster.writes == [4]


async def test_bounds_hold_whatever_the_policy_says(config, cluster):
    with asked(config) as autoscaler:
        cluster.replicas = 9
        await register(autoscaler, min_instances=1, max_instances=10)
        await autoscaler.look()
        assert cluster.writes == [6]  # what the budget pays for, though nothing is known yet


async def test_a_dry_run_says_what_it_would_do_and_changes_nothing(config, cluster, caplog):
    caplog.set_level("INFO")
    with asked(config) as autoscaler:
        await register(autoscaler, model_key="dry", min_instances=3)
        await autoscaler.look()
        assert cluster.writes == []
        (line,) = [record.fields for record in caplog.records if record.message == "scaled"]
        assert (line["dry_run"], line["from"], line["target_replicas"]) == (True, 1, 3)


@pytest.fixture
def shared(config):
    """As in a cluster: the registration is a ConfigMap that promotions write too."""
    small = config.targets["small"]
    scale = small.scale.model_copy(update={"registration": "inferstack-blue-scaling"})
    return config.model_copy(update={"targets": {"small": small.model_copy(update={"scale": scale})}, "state_file": None})


async def test_a_registration_in_a_config_map_is_there_without_a_request_and_outlives_the_process(shared, cluster):
    with asked(shared) as autoscaler:
        await autoscaler.look()
        assert autoscaler.slots["small"].registration.min_instances == 2
        body = {"scaling_policy": "hybrid_smart", "min_instances": 1, "max_instances": 3}
        assert (await register(autoscaler, **body)).status_code == 200
        assert cluster.map == {key: str(value) for key, value in body.items()}
    with asked(shared) as again:
        await again.look()
        assert again.slots["small"].registration == autoscaler.slots["small"].registration
        assert again.slots["small"].policy.name == "hybrid_smart"


async def test_it_is_ready_once_it_has_looked(shared):
    with asked(shared) as autoscaler:
        assert (await autoscaler.client.get("/livez")).status_code == 200
        assert (await autoscaler.client.get("/readyz")).status_code == 503
        await autoscaler.look()
        assert (await autoscaler.client.get("/readyz")).status_code == 200


async def test_its_metrics_say_what_it_saw_wanted_and_could_not_do(shared, cluster):
    with asked(shared) as autoscaler:
        await autoscaler.look()
        cluster.map["min_instances"] = "4"
        await autoscaler.look()
        cluster.replicas = 0
        await autoscaler.look()
        cluster.refuse = True
        await autoscaler.look()
        page = (await autoscaler.client.get("/metrics", headers={"authorization": ""})).text
    counts = {result: autoscaler.metrics.value("inferstack_autoscaler_looks_total", target="small", result=result) for result in RESULTS}
    assert counts == {"missing": 1, "scaled": 1, "held": 0, "stopped": 1, "failed": 1}
    assert 'inferstack_autoscaler_wanted_replicas{target="small"} 0.0' in page
    for metric in CATALOGUE:
        assert f"# TYPE {metric.name} {metric.kind}" in page
        assert metric.help.endswith(".")


async def test_a_floor_that_a_promotion_raises_holds_at_the_next_look(shared, cluster):
    with asked(shared) as autoscaler:
        await autoscaler.look()
        cluster.map["min_instances"] = "4"
        await autoscaler.look()
        assert cluster.writes == [4]


async def test_a_slot_that_a_promotion_stopped_stays_stopped(shared, cluster):
    with asked(shared) as autoscaler:
        cluster.replicas = 0
        for _ in range(3):
            await autoscaler.look()
        assert cluster.writes == []
        assert autoscaler.slots["small"].last.reasoning.startswith("stopped")
        answer = await autoscaler.client.post("/api/v1/scaling/manual", json={"model_key": "small", "target_instances": 2})
        assert answer.status_code == 200
        assert cluster.writes == [2]


async def test_a_number_that_somebody_else_set_meanwhile_is_not_overwritten(shared, cluster, caplog):
    with asked(shared) as autoscaler:
        await autoscaler.look()
        cluster.map["min_instances"] = "3"

        def promotion() -> None:
            cluster.before_write, cluster.replicas, cluster.version = (lambda: None), 4, cluster.version + 1

        cluster.before_write = promotion
        await autoscaler.look()
        assert cluster.writes == []
        assert cluster.replicas == 4
        assert "409" in next(record.fields["error"] for record in caplog.records if record.message == "cannot scale")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"min_instances": "two"}, "min_instances is 'two'"),
        ({"min_instances": "5"}, "above max_instances"),
        ({"scaling_policy": "guess"}, "expected one of"),
        ({"max_instances": ""}, "max_instances is ''"),
    ],
)
async def test_a_wrong_config_map_is_named_and_the_last_good_one_stays(shared, cluster, caplog, entries, said):
    with asked(shared) as autoscaler:
        await autoscaler.look()
        good, cluster.map = autoscaler.slots["small"], cluster.map | entries
        await autoscaler.look()
        assert autoscaler.slots["small"] is good
        assert said in next(record.fields["error"] for record in caplog.records if record.message == "cannot scale")


def test_a_sample_is_the_mean_over_the_replicas_that_were_seen_twice():
    before = {"a": Look(0, 10, 0, 0, 0, 100, 0), "b": Look(0, 50, 0, 0, 0, 0, 0), "restarted": Look(0, 99, 0, 0, 0, 500, 0)}
    now = {
        "a": Look(10, 20, 2**30, 3, 0.5, 190, 10),
        "b": Look(10, 60, 2**30, 1, 0.1, 10, 0),
        "restarted": Look(10, 1, 0, 50, 1, 1, 1),
        "new": Look(10, 1, 0, 70, 1, 0, 0),
    }
    sample = sample_of(before, now, 4, ReplicaConfig(cpu_cores=2, memory_bytes=2**31), 10)
    assert (sample.cpu, sample.memory, sample.waiting, sample.replicas) == (0.5, 0.5, 4, 4)
    assert sample.kv_ratio == pytest.approx(0.3)
    assert sample.error_ratio == pytest.approx(0.1)
    assert sample_of({}, now, 4, ReplicaConfig(), 10).missing


def test_errors_are_those_of_the_model_routes():
    look = read_metrics(PAGE.format(cpu=3, waiting=2, good=6, bad=4), 1.0)
    assert (look.cpu_seconds, look.waiting, look.answers, look.failures) == (3, 2, 10, 4)


def test_a_wrong_file_names_what_is_wrong(tmp_path):
    file = tmp_path / "autoscaler.json"
    file.write_text(json.dumps({"targets": {"m": {"metrics": ["ftp://x"]}}, "keys_file": "k", "colour": 1}))
    with pytest.raises(InvalidConfig, match=r"targets\.m\.metrics\.0.*colour: no such key"):
        load_autoscaler_config(file)


@pytest.mark.parts
def test_a_real_process_watches_a_real_runtime_and_ends_on_sigterm(tmp_path):
    (tmp_path / "runtime").mkdir()
    keys = write_keys(tmp_path / "keys.json", root={"scopes": ["admin"]})
    with running_process(tmp_path / "runtime") as runtime:
        runtime.event("ready")
        config = {"targets": {"fake": {"metrics": [runtime.metrics_url]}}, "keys_file": str(keys), "interval_seconds": 0.1}
        program = [sys.executable, "-c", "from inferstack_runtime.cli import main; main()", "autoscale"]
        file = tmp_path / "autoscaler.json"
        file.write_text(json.dumps(config))
        with child_process([*program, "--config", str(file)]) as autoscaler:
            url = f"http://127.0.0.1:{autoscaler.event('listening')['port']}/api/v1/scaling"
            body = {"model_key": "fake", "scaling_policy": "hybrid_smart", "min_instances": 1, "max_instances": 10}
            assert httpx.post(f"{url}/register", json=body, headers=ADMIN).status_code == 200
            until = time.monotonic() + 15
            while True:
                (seen,) = httpx.get(f"{url}/status", headers=ADMIN).json()["registrations"]
                if seen["sample"] and not seen["sample"]["missing"]:
                    break
                assert time.monotonic() < until, seen
                time.sleep(0.1)
            assert seen["sample"]["replicas"] == 1
            assert seen["decision"]["action"] == "hold"
            autoscaler.process.send_signal(signal.SIGTERM)
            assert autoscaler.wait() == 0
