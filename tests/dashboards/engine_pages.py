"""Metrics pages as other engines' servers and NVIDIA's exporter write them, with counters that have grown for some seconds.

Names, labels and bucket bounds: vLLM docs/usage/metrics.md and its V1 loggers; SGLang docs/references/production_metrics.md and its
collector; llama.cpp tools/server/README.md; dcgm-exporter README.md and etc/default-counters.csv.
"""

from collections.abc import Sequence

MODEL = "org/Model-8B"
_TTFT = ("0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0")
_GAPS = ("0.01", "0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.75", "1.0", "2.5")
_SECONDS = ("0.3", "0.5", "0.8", "1.0", "1.5", "2.0", "2.5", "5.0", "10.0", "15.0", "20.0", "30.0", "40.0", "50.0", "60.0")
_TOKENS = ("1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "100.0", "200.0", "500.0", "1000.0", "2000.0", "5000.0")


def _head(name: str, kind: str) -> str:
    return f"# HELP {name} As the server describes it.\n# TYPE {name} {kind}"


def _one(name: str, kind: str, labels: str, value: float) -> str:
    family = name.removesuffix("_total") if kind == "counter" else name
    return f"{_head(family, kind)}\n{name}{{{labels}}} {value}" if labels else f"{_head(family, kind)}\n{name} {value}"


def _histogram(name: str, labels: str, bounds: Sequence[str], within: str, count: float, mean: float) -> str:
    """Every observation is `within` and above the bound before it."""
    at = bounds.index(within)
    rows = [f'{name}_bucket{{{labels},le="{bound}"}} {count if index >= at else 0.0}' for index, bound in enumerate((*bounds, "+Inf"))]
    return "\n".join([_head(name, "histogram"), *rows, f"{name}_count{{{labels}}} {count}", f"{name}_sum{{{labels}}} {count * mean}"])


def vllm(seconds: float) -> str:
    own = f'engine="0",model_name="{MODEL}"'
    return "\n".join(
        [
            _one("vllm:num_requests_running", "gauge", own, 3.0),
            _one("vllm:num_requests_waiting", "gauge", own, 5.0),
            _one("vllm:kv_cache_usage_perc", "gauge", own, 0.625),
            _one("vllm:prompt_tokens_total", "counter", own, 400 * seconds),
            _one("vllm:generation_tokens_total", "counter", own, 120 * seconds),
            _one("vllm:prefix_cache_queries_total", "counter", own, 400 * seconds),
            _one("vllm:prefix_cache_hits_total", "counter", own, 100 * seconds),
            _one("vllm:num_preemptions_total", "counter", own, 0.0),
            _one("vllm:request_success_total", "counter", f'{own},finished_reason="stop"', 2 * seconds),
            _histogram("vllm:time_to_first_token_seconds", own, _TTFT, "0.1", 2 * seconds, 0.09),
            _histogram("vllm:inter_token_latency_seconds", own, _GAPS, "0.025", 120 * seconds, 0.02),
            _histogram("vllm:e2e_request_latency_seconds", own, _SECONDS, "1.5", 2 * seconds, 1.2),
            _histogram("vllm:request_queue_time_seconds", own, _SECONDS, "0.3", 2 * seconds, 0.1),
            _histogram("vllm:request_prompt_tokens", own, _TOKENS, "200.0", 2 * seconds, 200),
            _histogram("vllm:request_generation_tokens", own, _TOKENS, "100.0", 2 * seconds, 60),
            _one("http_requests_total", "counter", 'handler="/v1/chat/completions",method="POST",status="2xx"', 1.5 * seconds),
            _one("http_requests_total", "counter", 'handler="/v1/chat/completions",method="POST",status="5xx"', 0.5 * seconds),
            _one("http_requests_total", "counter", 'handler="/health",method="GET",status="2xx"', 7 * seconds),
            _one("process_cpu_seconds_total", "counter", "", 0.5 * seconds),
            _one("process_resident_memory_bytes", "gauge", "", 2.0**30),
            _one("process_start_time_seconds", "gauge", "", 1.7e9),
            "",
        ]
    )


def sglang(seconds: float) -> str:
    own = f'engine_type="unified",model_name="{MODEL}",pp_rank="0",tp_rank="0"'
    return "\n".join(
        [
            _one("sglang:num_running_reqs", "gauge", own, 7.0),
            _one("sglang:num_queue_reqs", "gauge", own, 2.0),
            _one("sglang:token_usage", "gauge", own, 0.28),
            _one("sglang:cache_hit_rate", "gauge", own, 0.01),
            _one("sglang:prompt_tokens_total", "counter", own, 300 * seconds),
            _one("sglang:generation_tokens_total", "counter", own, 90 * seconds),
            _one("sglang:cached_tokens_total", "counter", f'{own},cache_source="device"', 30 * seconds),
            _histogram("sglang:time_to_first_token_seconds", own, _TTFT, "0.25", 3 * seconds, 0.2),
            _histogram("sglang:inter_token_latency_seconds", own, _GAPS, "0.05", 90 * seconds, 0.03),
            _histogram("sglang:e2e_request_latency_seconds", own, _SECONDS, "2.0", 3 * seconds, 1.8),
            _histogram("sglang:queue_time_seconds", own, _SECONDS, "0.3", 3 * seconds, 0.1),
            _one("sglang:http_responses_total", "counter", 'endpoint="/v1/chat/completions",method="POST",status_code="200"', 3 * seconds),
            _one("sglang:http_responses_total", "counter", 'endpoint="/health",method="GET",status_code="503"', 4 * seconds),
            "",
        ]
    )


def llamacpp(seconds: float) -> str:
    return "\n".join(
        [
            _one("llamacpp:prompt_tokens_total", "counter", "", 200 * seconds),
            _one("llamacpp:prompt_seconds_total", "counter", "", 0.2 * seconds),
            _one("llamacpp:tokens_predicted_total", "counter", "", 40 * seconds),
            _one("llamacpp:tokens_predicted_seconds_total", "counter", "", 0.5 * seconds),
            _one("llamacpp:n_decode_total", "counter", "", 20 * seconds),
            _one("llamacpp:n_busy_slots_per_decode", "counter", "", 2.0),
            _one("llamacpp:prompt_tokens_seconds", "gauge", "", 800.0),
            _one("llamacpp:predicted_tokens_seconds", "gauge", "", 60.0),
            _one("llamacpp:requests_processing", "gauge", "", 4.0),
            _one("llamacpp:requests_deferred", "gauge", "", 6.0),
            "",
        ]
    )


def dcgm(seconds: float) -> str:
    """dcgm-exporter in a cluster: a GPU of a pod, an idle one, and a slice of a divided one (MIG), whose use is not measured."""
    node = 'modelName="NVIDIA A100-SXM4-80GB",Hostname="node-a",DCGM_FI_DRIVER_VERSION="550.127.08"'
    pod = f'gpu="0",UUID="GPU-0a",pci_bus_id="00000000:00:04.0",device="nvidia0",{node},container="runtime",namespace="inferstack",pod="p"'
    idle = f'gpu="1",UUID="GPU-1b",pci_bus_id="00000000:00:05.0",device="nvidia1",{node}'
    part = f'gpu="2",UUID="GPU-2c",pci_bus_id="00000000:00:06.0",device="nvidia2",{node},GPU_I_PROFILE="2g.20gb",GPU_I_ID="3"'
    figures = {
        ("DCGM_FI_DEV_GPU_UTIL", "gauge"): {pod: 80, idle: 0},
        ("DCGM_FI_DEV_GPU_TEMP", "gauge"): {pod: 61, idle: 33, part: 58},
        ("DCGM_FI_DEV_POWER_USAGE", "gauge"): {pod: 310.25, idle: 62.5, part: 250.0},
        ("DCGM_FI_DEV_FB_USED", "gauge"): {pod: 60_000, idle: 0, part: 5_000},
        ("DCGM_FI_DEV_FB_FREE", "gauge"): {pod: 20_000, idle: 80_000, part: 15_000},
        ("DCGM_FI_DEV_XID_ERRORS", "gauge"): {pod: 0, idle: 0, part: 79},
        ("DCGM_FI_DEV_THERMAL_VIOLATION", "counter"): {pod: int(5e7 * seconds), idle: 0, part: 0},
    }
    rows = []
    for (name, kind), values in figures.items():
        rows += [_head(name, kind), *(f"{name}{{{labels}}} {value}" for labels, value in values.items())]
    return "\n".join([*rows, ""])


PAGES = {"vllm": vllm, "sglang": sglang, "llamacpp": llamacpp}
