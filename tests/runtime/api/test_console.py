"""The console's side of the server: its files, who may see what, and one look at both slots."""

import json

import pytest
from conftest import running, write_keys

from inferstack_runtime.api.console.overview import overview, read_counters, read_promotion, read_weights
from inferstack_runtime.config import ConsoleConfig

SLOTS = {name: {"url": "http://127.0.0.1:1", "metrics_url": "http://127.0.0.1:1/metrics"} for name in ("blue", "green")}
CONSOLE = {"slots": SLOTS}


def route_file(blue, green):
    clusters = [{"name": "inferstack-blue", "weight": blue}, {"name": "inferstack-green", "weight": green}]
    return {"resources": [{"virtual_hosts": [{"routes": [{"route": {"weighted_clusters": {"clusters": clusters}}}]}]}]}


@pytest.mark.parametrize("path", ["/console", "/console/console.css", "/console/console.js", "/console/charts.js", "/console/samples.js"])
async def test_the_page_is_plain_files_that_load_nothing_from_elsewhere(path):
    async with running(console=CONSOLE) as run:
        answer = await run.client.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")


async def test_without_configuration_there_is_no_console():
    async with running() as run:
        for path in ("/console", "/console/console.js"):
            answer = await run.client.get(path)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "console_not_configured"


async def test_no_other_file_is_served():
    async with running(console=CONSOLE) as run:
        for path in ("/console/overview.py", "/console/__init__.py", "/console/..%2foverview.py"):
            assert (await run.client.get(path)).status_code == 404


async def test_the_state_needs_the_admin_scope(tmp_path):
    keys = write_keys(tmp_path / "keys.json", user={}, boss={"scopes": ["inference", "admin"]})
    async with running(console=CONSOLE, access={"keys_file": str(keys)}) as run:

        async def status(key):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return (await run.client.get("/console/api/state", headers=headers)).status_code

        assert [await status(key) for key in (None, "user", "boss")] == [401, 403, 200]


async def test_a_slot_that_does_not_answer_is_shown_so():
    state = await overview(ConsoleConfig.model_validate(CONSOLE))
    assert state["weights"] is None
    assert state["promotion"] is None
    assert {slot["reachable"] for slot in state["slots"].values()} == {False}
    assert all("no answer" in slot["reason"] for slot in state["slots"].values())


def test_the_weights_are_those_of_the_route_file():
    assert read_weights(route_file(30, 70), ["blue", "green"]) == {"blue": 30, "green": 70}
    for damaged in (None, {}, {"resources": []}, route_file("x", 1)):
        assert read_weights(damaged, ["blue", "green"]) is None


def test_the_counters_of_a_slot_are_summed_over_models():
    text = """# TYPE inferstack_requests_total counter
inferstack_requests_total{route="/v1/chat/completions",model="a",code="200",tier="default"} 3
inferstack_requests_total{route="/v1/chat/completions",model="b",code="500",tier="default"} 2
inferstack_requests_total{route="/v1/chat/completions",model="",code="429",tier="default"} 4
inferstack_requests_total{route="/readyz",model="",code="200",tier=""} 900
# TYPE inferstack_generated_tokens_total counter
inferstack_generated_tokens_total{model="a"} 10
inferstack_generated_tokens_total{model="b"} 5
# TYPE inferstack_served_tokens_total counter
inferstack_served_tokens_total{model="a",source="engine"} 10
inferstack_served_tokens_total{model="a",source="exact"} 7
# TYPE inferstack_cache_lookups_total counter
inferstack_cache_lookups_total{tier="exact_process",result="hit"} 2
inferstack_cache_lookups_total{tier="exact_process",result="miss"} 6
inferstack_cache_lookups_total{tier="exact_process",result="bypass"} 9
# TYPE inferstack_time_to_first_token_seconds histogram
inferstack_time_to_first_token_seconds_bucket{model="a",le="0.1"} 1
inferstack_time_to_first_token_seconds_bucket{model="a",le="+Inf"} 2
inferstack_time_to_first_token_seconds_bucket{model="b",le="0.1"} 3
inferstack_time_to_first_token_seconds_bucket{model="b",le="+Inf"} 3
inferstack_time_to_first_token_seconds_sum{model="a"} 1
inferstack_time_to_first_token_seconds_count{model="a"} 2
"""
    counters = read_counters(text)
    assert (counters["requests"], counters["errors"], counters["limited"]) == (5, 2, 4)
    assert (counters["generated_tokens"], counters["cached_tokens"]) == (15, 7)
    assert (counters["cache_hits"], counters["cache_misses"]) == (2, 6)
    assert counters["ttft"] == [(0.1, 4), (None, 5)]
    assert counters["resident_bytes"] is None


async def test_every_counter_of_the_page_is_one_that_the_process_exposes():
    async with running() as run:
        await run.post("/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4})
        run.service.refresh_metrics()
        counters = read_counters(run.service.metrics.render().decode())
    assert counters["requests"] == 1
    assert counters["generated_tokens"] > 0
    assert counters["ttft"][-1][1] == 1


def test_of_the_journal_the_page_gets_the_operation_and_the_last_entries():
    operation = {"id": "x", "kind": "promote", "phase": "shift", "target": "green", "spec": {"secret": 1}, "started": 1.0, "verdicts": []}
    journal = {"active": "blue", "previous": None, "generation": 2, "kept_until": None, "operation": operation, "history": list(range(50))}
    shown = read_promotion({"version": "7", "journal": journal})
    assert shown["operation"]["phase"] == "shift"
    assert "spec" not in shown["operation"]
    assert shown["history"] == list(range(30, 50))
    assert read_promotion({**journal, "journal": None}) is None
    assert read_promotion(None) is None


async def test_files_of_the_environment_are_read_anew_each_time(tmp_path):
    routes = tmp_path / "routes.json"
    config = ConsoleConfig.model_validate({**CONSOLE, "routes_file": str(routes), "journal_file": str(tmp_path / "none.json")})
    for blue in (100, 40):
        routes.write_text(json.dumps(route_file(blue, 100 - blue)))
        assert (await overview(config))["weights"] == {"blue": blue, "green": 100 - blue}
