"""Series of other engines' servers, by the metric of this kit that means the same. Boards, alerts, scalers and promotion's gates read it.

Sources: vLLM docs/usage/metrics.md, and prometheus-fastapi-instrumentator for its HTTP counter; SGLang
docs/references/production_metrics.md and its collector (`http_responses_total`, `cached_tokens_total`, `queue_time_seconds`); llama.cpp
tools/server/README.md. A metric that a server does not have is left out, and what reads it has no value there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from inferstack_runtime import metrics as m
from inferstack_runtime.metrics import Metric

PROBES = (
    "/livez",
    "/readyz",
    "/health",
    "/health_generate",
    "/ping",
    "/version",
    "/metrics",
    "/get_model_info",
    "/v1/models",
    "/chat/performance",
    "/openapi.json",
    "/docs",
)
"""Routes, of any server, that kubelets, gateways and people ask who look after it: no user's request. A process that loads says 503 there
and fails nobody; one that idles answers them several times a second."""


@dataclass(frozen=True)
class Same:
    """One metric in a server's words. `names`: the first that is there counts (servers rename); `labels`: theirs to ours."""

    metric: Metric
    names: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """What one kind of server exposes. `model`: its label with the model's name, empty where it has none."""

    kind: str
    model: str
    series: tuple[Same, ...]

    def find(self, name: str) -> Same | None:
        """This kit's metric of that name in this server's words; None where it has no such."""
        return next((same for same in self.series if same.metric.name == name), None)


SERVERS: tuple[Server, ...] = (
    Server(
        "vllm",
        "model_name",
        (
            Same(m.WAITING, ("vllm:num_requests_waiting",)),
            Same(m.RUNNING, ("vllm:num_requests_running",)),
            Same(m.KV_RATIO, ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
            Same(m.REQUESTS, ("http_requests_total",), {"handler": "route", "status": "code"}),
            Same(m.REQUEST_SECONDS, ("vllm:e2e_request_latency_seconds",)),
            Same(m.TIME_TO_FIRST_TOKEN, ("vllm:time_to_first_token_seconds",)),
            Same(m.INTER_TOKEN, ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")),
            Same(m.QUEUE_SECONDS, ("vllm:request_queue_time_seconds",)),
            Same(m.PROMPT_TOKENS, ("vllm:prompt_tokens_total",)),
            Same(m.GENERATED_TOKENS, ("vllm:generation_tokens_total",)),
            Same(m.PROMPT_LENGTH, ("vllm:request_prompt_tokens",)),
            Same(m.ANSWER_LENGTH, ("vllm:request_generation_tokens",)),
            Same(m.PREFIX_HIT_TOKENS, ("vllm:prefix_cache_hits_total",)),
            Same(m.PREEMPTIONS, ("vllm:num_preemptions_total",)),
            Same(m.FINISHED, ("vllm:request_success_total",), {"finished_reason": "reason"}),
        ),
    ),
    Server(
        "sglang",
        "model_name",
        (
            Same(m.WAITING, ("sglang:num_queue_reqs",)),
            Same(m.RUNNING, ("sglang:num_running_reqs",)),
            Same(m.KV_RATIO, ("sglang:token_usage",)),
            Same(m.REQUESTS, ("sglang:http_responses_total",), {"endpoint": "route", "status_code": "code"}),
            Same(m.REQUEST_SECONDS, ("sglang:e2e_request_latency_seconds",)),
            Same(m.TIME_TO_FIRST_TOKEN, ("sglang:time_to_first_token_seconds",)),
            Same(m.INTER_TOKEN, ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds")),
            Same(m.QUEUE_SECONDS, ("sglang:queue_time_seconds",)),
            Same(m.PROMPT_TOKENS, ("sglang:prompt_tokens_total",)),
            Same(m.GENERATED_TOKENS, ("sglang:generation_tokens_total",)),
            Same(m.PREFIX_HIT_TOKENS, ("sglang:cached_tokens_total",)),
        ),
    ),
    Server(
        "llamacpp",
        "",
        (
            Same(m.WAITING, ("llamacpp:requests_deferred",)),
            Same(m.RUNNING, ("llamacpp:requests_processing",)),
            Same(m.PROMPT_TOKENS, ("llamacpp:prompt_tokens_total",)),
            Same(m.GENERATED_TOKENS, ("llamacpp:tokens_predicted_total",)),
            Same(m.STEPS, ("llamacpp:n_decode_total",)),
        ),
    ),
)


@dataclass(frozen=True)
class Gauges:
    """Names of the gauges that scaling reads; None where an engine has no such."""

    waiting: str | None
    running: str | None
    kv_ratio: str | None


def gauges(kind: str) -> Gauges:
    """The gauges of an engine kind: this kit's own for `native` and `transformers`, none for a kind that is not known here."""
    metrics = (m.WAITING, m.RUNNING, m.KV_RATIO)
    if kind in ("native", "transformers"):
        return Gauges(*(metric.name for metric in metrics))
    known = next((server for server in SERVERS if server.kind == kind), Server(kind, "", ()))
    found = (known.find(metric.name) for metric in metrics)
    return Gauges(*(same.names[0] if same else None for same in found))
