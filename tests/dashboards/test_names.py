"""Renaming or removing a metric fails here, with the boards, alerts, rules and scalers that used it.

Reads the committed output only, so that it still says who is concerned when the generator itself no longer works.
"""

import subprocess
import sys

import pytest

from inferstack.environment import EngineKind
from inferstack.serving.manifests.engines import profile
from inferstack_dashboards.engines import SERVERS
from inferstack_dashboards.external import EXTERNAL
from inferstack_runtime.autoscaler.metrics import CATALOGUE as AUTOSCALER
from inferstack_runtime.metrics import CATALOGUE, find
from tests.dashboards.promql import OUTPUT, board_queries, rules, series


def users() -> dict[str, list[str]]:
    """Who reads each series: {series: [where]}."""
    queries = board_queries()
    queries |= {f"alert {rule['alert']}": rule["expr"] for rule in rules("alerts")}
    queries |= {f"recording rule {rule['record']}": rule["expr"] for rule in rules("recording")}
    found: dict[str, list[str]] = {}
    for where, expr in queries.items():
        for name in series(expr):
            found.setdefault(name, []).append(where)
    for name in scaler_names("native"):
        found.setdefault(name, []).append("scalers of the native engine")
    return found


def scaler_names(kind: EngineKind) -> list[str]:
    names = profile(kind).metrics
    return [name for name in (names.waiting, names.running, names.kv_ratio) if name]


def unknown(found: dict[str, list[str]], declared: set[str]) -> dict[str, list[str]]:
    """Series that nobody declares, with who reads them."""
    return {name: where for name, where in sorted(found.items()) if name not in declared}


def declared() -> set[str]:
    own = {name for metric in (*CATALOGUE, *AUTOSCALER, *EXTERNAL) for name in metric.samples}
    theirs = {
        sample.replace(same.metric.name, name)
        for known in SERVERS
        for same in known.series
        for name in same.names
        for sample in same.metric.samples
    }
    # What is recorded for other engines under this kit's own names declares none of them.
    recorded = {rule["record"] for rule in rules("recording") if not rule["record"].startswith("inferstack_")}
    return own | theirs | recorded


def test_every_series_that_is_read_is_declared() -> None:
    missing = unknown(users(), declared())
    assert not missing, "\n".join(f"{name} is no metric, but is read by {', '.join(where)}" for name, where in missing.items())


@pytest.mark.parametrize("name", ["inferstack_waiting_sequences", "inferstack_requests_total"])
def test_a_metric_that_goes_is_reported_with_those_who_used_it(name: str) -> None:
    assert find(name)
    missing = unknown(users(), declared() - {name})
    assert set(missing) == {name}
    kinds = {where.partition(" ")[0] for where in missing[name]}
    assert {"board", "alert", "recording"} <= kinds
    if name == "inferstack_waiting_sequences":
        assert "scalers of the native engine" in missing[name]


def test_every_alias_of_the_catalogue_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules("recording")}
    for metric in CATALOGUE:
        for alias in metric.aliases:
            parts = {f"{alias}_{suffix}" for suffix in ("bucket", "sum", "count")}
            assert alias in recorded or parts <= recorded, f"{alias}, alias of {metric.name}, has no recording rule"


SOURCES = [
    "llm_active_models",
    "llm_requests_per_second",
    "llm_response_time_histogram_bucket",
    "gpu_utilization_percent",
    "gpu_memory_usage_percent",
    "llm_cache_hit_rate",
    "llm_cost_hourly",
    "llm_inference_latency_seconds_bucket",
    "llm_throughput_tokens_per_second",
    "llm_batch_size",
    "llm_gpu_memory_usage_bytes",
    "llm_active_requests",
    "inference_latency",
    "throughput_rps",
    "gpu_utilization",
    "gpu_memory_usage",
    "cpu_utilization",
    "memory_usage",
    "zig_ai_inference_requests_total",
    "zig_ai_inference_duration_seconds_bucket",
]


@pytest.mark.parametrize("name", SOURCES)
def test_every_name_of_the_sources_is_recorded_once(name: str) -> None:
    assert [rule["record"] for rule in rules("recording")].count(name) == 1


def test_no_label_of_the_catalogue_names_a_person_or_request() -> None:
    labels = {label for metric in CATALOGUE for label in metric.labels}
    assert not labels & {"tenant", "key", "key_id", "user", "prompt", "request_id", "session"}


def test_what_is_committed_is_what_the_generator_writes() -> None:
    done = subprocess.run([sys.executable, "-m", "inferstack_dashboards", "--check", str(OUTPUT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_boards_read_of_promotions_is_what_promotions_export() -> None:
    from inferstack.promotion.exposition import exposition
    from inferstack.promotion.weights import Weights
    from inferstack_dashboards import external

    page = exposition("prod", None, Weights(blue=100, green=0))
    assert f'{external.SLOT_WEIGHT.name}{{environment="prod",slot="blue"}} 1' in page
    source = (OUTPUT.parent / "components/inferstack/promotion/exposition.py").read_text(encoding="utf-8")
    for metric in (
        external.SLOT_WEIGHT,
        external.PROMOTION_PHASE,
        external.PROMOTION_STARTED,
        external.PROMOTION_TOOK,
        external.ROLLBACK_UNTIL,
    ):
        assert f'"{metric.name}": "{metric.help}"' in source
