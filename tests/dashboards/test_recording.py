"""Every name of the sources means what it meant there: recording rules over samples, by promtool."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from inferstack_dashboards import Settings
from inferstack_dashboards.boards import GPU as GPU_BOARD
from inferstack_dashboards.output import recording_groups
from inferstack_dashboards.recording import prices
from tests.dashboards.cases import on
from tests.dashboards.promql import plain

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")

GPU = '{gpu="0",UUID="GPU-1",pci_bus_id="00000000:00:04.0",device="nvidia0",modelName="NVIDIA L4",Hostname="n"}'
"""Labels as dcgm-exporter writes them."""
SAMPLES = {
    # two replicas of blue, 60 requests a minute each, one in sixty fails; 1,200 tokens a minute each
    on("blue", "inferstack_requests_total", instance="a", model="m", route="r", code="200"): "0+59x20",
    on("blue", "inferstack_requests_total", instance="a", model="m", route="r", code="500"): "0+1x20",
    on("blue", "inferstack_requests_total", instance="b", model="m", route="r", code="200"): "0+60x20",
    on("blue", "inferstack_generated_tokens_total", instance="a", model="m"): "0+1200x20",
    on("blue", "inferstack_generated_tokens_total", instance="b", model="m"): "0+1200x20",
    on("blue", "inferstack_request_duration_seconds_sum", instance="a", model="m", route="r"): "0+30x20",
    on("blue", "inferstack_request_duration_seconds_count", instance="a", model="m", route="r"): "0+60x20",
    on("blue", "inferstack_request_duration_seconds_bucket", instance="a", model="m", route="r", le="1.0"): "0+60x20",
    on("blue", "inferstack_batch_size_sum", instance="a", model="m"): "0+480x20",
    on("blue", "inferstack_batch_size_count", instance="a", model="m"): "0+60x20",
    # 100 look-ups: 30 hits in the process, 10 joined a request in flight, 20 of the 60 left hit the shared tier
    on("blue", "inferstack_cache_lookups_total", instance="a", tier="exact_process", result="hit"): "0+30x20",
    on("blue", "inferstack_cache_lookups_total", instance="a", tier="exact_process", result="coalesced"): "0+10x20",
    on("blue", "inferstack_cache_lookups_total", instance="a", tier="exact_process", result="miss"): "0+60x20",
    on("blue", "inferstack_cache_lookups_total", instance="a", tier="exact_shared", result="hit"): "0+20x20",
    on("blue", "inferstack_cache_lookups_total", instance="a", tier="exact_shared", result="miss"): "0+40x20",
    on("blue", "inferstack_in_flight_requests", instance="a"): "3x20",
    on("blue", "inferstack_in_flight_requests", instance="b"): "4x20",
    # both replicas serve m and n; n is not loaded on b
    on("blue", "inferstack_model_weight_bytes", instance="a", model="m"): "104857600x20",
    on("blue", "inferstack_model_weight_bytes", instance="b", model="m"): "104857600x20",
    on("blue", "inferstack_model_weight_bytes", instance="a", model="n"): "104857600x20",
    on("blue", "inferstack_model_weight_bytes", instance="b", model="n"): "0x20",
    on("blue", "inferstack_models_loaded", instance="a"): "2x20",
    on("green", "inferstack_models_loaded", instance="c"): "0x20",
    on("blue", "inferstack_ready", instance="a"): "1x20",
    on("blue", "inferstack_ready", instance="b"): "0x20",
    on("green", "inferstack_ready", instance="c"): "1x20",
    on("blue", "inferstack_kv_cache_used_ratio", instance="a", model="m"): "0.25x20",
    on("blue", "inferstack_finished_total", instance="a", model="m", reason="stop"): "0+2x20",
    on("blue", "inferstack_finished_total", instance="a", model="m", reason="abort"): "0+5x20",
    on("blue", "process_cpu_seconds_total", instance="a"): "0+90x20",
    on("blue", "process_resident_memory_bytes", instance="a"): "2097152x20",
    on("blue", "inferstack_model_load_seconds_sum", instance="a", model="m"): "6x20",
    on("blue", "inferstack_model_load_seconds_count", instance="a", model="m"): "3x20",
    on("blue", "inferstack_time_to_first_token_seconds_bucket", instance="a", model="m", le="5.0"): "0+45x20",
    on("blue", "inferstack_time_to_first_token_seconds_bucket", instance="a", model="m", le="+Inf"): "0+60x20",
    on("blue", "inferstack_time_to_first_token_seconds_count", instance="a", model="m"): "0+60x20",
    f"DCGM_FI_DEV_GPU_UTIL{GPU}": "80x20",
    f"DCGM_FI_DEV_FB_USED{GPU}": "6000x20",
    f"DCGM_FI_DEV_FB_FREE{GPU}": "2000x20",
    f"DCGM_FI_DEV_GPU_TEMP{GPU}": "61x20",
    f"DCGM_FI_DEV_POWER_USAGE{GPU}": "70.5x20",
    f"DCGM_FI_DEV_XID_ERRORS{GPU}": "31x20",
    f"DCGM_FI_DEV_THERMAL_VIOLATION{GPU}": "0+3000000000x20",
}
MEANINGS = {
    'llm_active_models{slot="blue"}': 2,
    'llm_active_models{slot="green"}': 0,
    "sum(llm_requests_per_second)": 2,
    'llm_requests_per_second{model="m"}': 2,
    "throughput_rps": 2,
    "sum(zig_ai_inference_requests_total)": 1200,
    "sum(rate(zig_ai_inference_requests_total[5m]))": 2,
    'llm_response_time_histogram_bucket{le="1.0"}': 600,
    'llm_inference_latency_seconds_bucket{le="1.0"}': 600,
    'zig_ai_inference_duration_seconds_bucket{le="1.0"}': 600,
    "zig_ai_inference_duration_seconds_sum": 300,
    "inference_latency": 0.5,
    "llm_throughput_tokens_per_second": 40,
    "llm_batch_size": 8,
    "llm_active_requests": 7,
    "llm_cache_hit_rate": 0.6,
    "cache_hit_rate": 0.6,
    "gpu_utilization_percent": 80,
    "gpu_utilization": 0.8,
    "gpu_memory_usage_percent": 75,
    "gpu_memory_usage": 0.75,
    "llm_gpu_memory_usage_bytes": 6000 * 2**20,
    "cpu_utilization": 1.5,
    "memory_usage": 2097152,
    "memory_usage_mb": 2,
    'model_size_mb{instance="a",model="m"}': 100,
    "model_load_time": 2,
    'llm_cost_hourly{slot="blue"}': 3,
    'llm_cost_hourly{slot="green"}': 1.5,
    'llm_cost_hourly{slot="shared"}': 0.25,
    "sum(llm_cost_hourly)": 4.75,
    'sum({__name__="vllm:request_success_total"})': 20,
    '{__name__="vllm:request_success_total",finished_reason="stop",model_name="m"}': 20,
    '{__name__="vllm:kv_cache_usage_perc",model_name="m"}': 0.25,
    'sum({__name__="vllm:e2e_request_latency_seconds_bucket",model_name="m",le="1.0"})': 600,
    "inferstack:failed:ratio_rate5m": 1 / 120,
    "inferstack:slow_first_token:ratio_rate5m": 0.25,
}

GPU_PANELS = {"Duty": 80, "Memory": 0.75, "Temperature": 61, "Power": 70.5, "Time throttled": 0.05, "XID": 31}


def promtool(folder: Path, settings: Settings, samples: dict[str, str], looks: dict[str, list[float]]) -> None:
    """After ten minutes of `samples`, one a minute, each query of `looks` gives these values."""
    (folder / "rules.json").write_text(json.dumps({"groups": recording_groups(settings)}))
    tests = [
        {"expr": expr, "eval_time": "10m", "exp_samples": [{"value": round(float(value), 4)} for value in values]}
        for expr, values in looks.items()
    ]
    series = [{"series": name, "values": values} for name, values in samples.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    (folder / "test.json").write_text(json.dumps({"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", "test.json"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def single(expr: str) -> str:
    return f"scalar(round({expr}, 0.0001))"


def test_every_name_has_the_value_that_it_means(tmp_path: Path) -> None:
    promtool(tmp_path, Settings(prices=prices(1.5, 0.25, 10.0)), SAMPLES, {single(expr): [value] for expr, value in MEANINGS.items()})


def test_every_panel_on_gpus_says_what_the_exporter_counts(tmp_path: Path) -> None:
    queries = {panel.title: plain(query.expr) for panel in GPU_BOARD.panels if panel.needs == "dcgm" for query in panel.queries}
    assert queries.keys() == GPU_PANELS.keys()
    promtool(tmp_path, Settings(), SAMPLES, {single(queries[title]): [value] for title, value in GPU_PANELS.items()})


def test_without_a_price_nothing_costs_nothing() -> None:
    assert prices(None, None, None).records == ()
    assert [record.expr for record in prices(0.7, None, None).records] == ["vector(0.7)"]


def test_without_a_request_the_share_of_failures_is_absent_not_zero(tmp_path: Path) -> None:
    samples = {on("blue", "inferstack_requests_total", code="200"): "5x20"}
    promtool(tmp_path, Settings(), samples, {"inferstack:failed:ratio_rate5m": []})
