"""Reads what a replica's own /metrics says into the counters that gates need. Pure.

Three servers are known: this kit's runtime, vLLM (its OpenAI front counts `http_requests_total` by status class) and SGLang (its front
counts `sglang:http_responses_total`). A family that is not there leaves its figures at nothing, and a check that needs them is
inconclusive.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from inferstack.promotion.measure import Counters, Histogram

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_PROBES = frozenset(
    ("/livez", "/readyz", "/health", "/health_generate", "/metrics", "/v1/models", "/chat/performance", "/ping", "/version")
)
"""Routes that no user's request takes."""


@dataclass(frozen=True)
class Family:
    """Names of one server's series."""

    requests: str
    status: str
    route: str
    ttft: str
    gap: str
    tokens: str
    failed_sequences: str = ""


FAMILIES = (
    Family(
        requests="inferstack_requests_total",
        status="code",
        route="route",
        ttft="inferstack_time_to_first_token_seconds",
        gap="inferstack_inter_token_seconds",
        tokens="inferstack_generated_tokens_total",
        failed_sequences="inferstack_finished_total",
    ),
    Family(
        requests="http_requests_total",
        status="status",
        route="handler",
        ttft="vllm:time_to_first_token_seconds",
        gap="vllm:inter_token_latency_seconds",
        tokens="vllm:generation_tokens_total",
    ),
    Family(
        requests="http_requests_total",
        status="status",
        route="handler",
        ttft="vllm:time_to_first_token_seconds",
        gap="vllm:time_per_output_token_seconds",
        tokens="vllm:generation_tokens_total",
    ),
    Family(
        requests="sglang:http_responses_total",
        status="status_code",
        route="endpoint",
        ttft="sglang:time_to_first_token_seconds",
        gap="sglang:inter_token_latency_seconds",
        tokens="sglang:generation_tokens_total",
    ),
)


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Every sample of the text exposition format: name, labels, value. Lines that are none are passed over."""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.match(line.strip())
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield match[1], dict(_LABEL.findall(match[2] or "")), value


def counters(text: str) -> Counters:
    """The cumulative figures of one replica. Refused requests (4xx) are nobody's fault here and count neither way."""
    found = list(samples(text))
    names = {name for name, _, _ in found}
    family = next((family for family in FAMILIES if f"{family.gap}_bucket" in names), FAMILIES[0])
    served = failed = broken = 0.0
    values: dict[str, float] = defaultdict(float)
    for name, labels, value in found:
        if name == family.requests and labels.get(family.route) not in _PROBES:
            status = labels.get(family.status, "")
            served += value if status.startswith(("2", "5")) else 0
            failed += value if status.startswith("5") else 0
        elif family.failed_sequences and name == family.failed_sequences and labels.get("reason") == "error":
            broken += value
        values[name] += value
    return Counters(
        requests=served,
        errors=max(failed, broken),
        tokens=values[family.tokens],
        ttft=_histogram(found, family.ttft),
        inter_token=_histogram(found, family.gap),
        resident_bytes=values["process_resident_memory_bytes"],
        bounded_bytes=values["inferstack_kv_cache_size_bytes"],
        cache_hits=values["inferstack_cache_verified_hits_total"],
        cache_false_hits=values["inferstack_cache_false_hits_total"],
        started=values["process_start_time_seconds"],
    )


def _histogram(found: list[tuple[str, dict[str, str], float]], name: str) -> Histogram:
    """All series of a histogram added up, its cumulative buckets taken apart."""
    cumulative: dict[float, float] = defaultdict(float)
    for sample, labels, value in found:
        if sample == f"{name}_bucket" and "le" in labels:
            cumulative[float(labels["le"])] += value
    if not cumulative:
        return Histogram()
    bounds = sorted(cumulative)
    if not math.isinf(bounds[-1]):
        bounds.append(math.inf)
        cumulative[math.inf] = cumulative[bounds[-2]]
    counts, below = [], 0.0
    for bound in bounds:
        counts.append(max(0.0, cumulative[bound] - below))
        below = cumulative[bound]
    return Histogram(tuple(bounds), tuple(counts))
