"""One look at all slots of an environment: what they say of themselves, their counters, the weights, the promotion journal.

Counters are passed on as they are: the page keeps a window of them and computes rates, so this side remembers nothing.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.config import ConsoleConfig, ConsoleSlot

SECONDS = 2.0
HISTORY = 20
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


async def overview(config: ConsoleConfig) -> dict[str, Any]:
    """`time` (epoch seconds), `weights` (percent, or null), `slots` by name, `promotion` (or null)."""
    names = list(config.slots)
    looks = await asyncio.gather(*(asyncio.to_thread(_slot, config.slots[name]) for name in names))
    journal = await asyncio.to_thread(_read, config.journal_file)
    routes = await asyncio.to_thread(_read, config.routes_file)
    return {
        "time": time.time(),
        "weights": read_weights(routes, names),
        "slots": dict(zip(names, looks, strict=True)),
        "promotion": read_promotion(journal),
    }


def read_weights(routes: Any, names: Iterable[str]) -> dict[str, int] | None:
    """Weights of an Envoy route file whose clusters are named `…-SLOT`; None when it is not one."""
    try:
        route = routes["resources"][0]["virtual_hosts"][0]["routes"][-1]["route"]
        shares = {cluster["name"].rpartition("-")[2]: int(cluster["weight"]) for cluster in route["weighted_clusters"]["clusters"]}
        return {name: shares[name] for name in names}
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def read_promotion(document: Any) -> dict[str, Any] | None:
    """What the page shows of a promotion journal; None before the first promotion."""
    journal = document.get("journal") if isinstance(document, dict) else None
    if not isinstance(journal, dict):
        return None
    operation = journal.get("operation")
    shown = ("id", "kind", "by", "target", "phase", "since", "started", "reason", "verdicts")
    return {
        "active": journal.get("active"),
        "previous": journal.get("previous"),
        "generation": journal.get("generation"),
        "kept_until": journal.get("kept_until"),
        "operation": {key: operation.get(key) for key in shown} if isinstance(operation, dict) else None,
        "history": list(journal.get("history") or [])[-HISTORY:],
    }


def read_counters(text: str) -> dict[str, Any]:
    """The figures of one slot from its `/metrics` text, summed over models."""
    families = {family.name: family for family in text_string_to_metric_families(text)}

    def total(metric: catalogue.Metric) -> float:
        return float(sum(sample.value for sample in _samples(families, metric) if sample.name == metric.name))

    requests = [sample for sample in _samples(families, catalogue.REQUESTS) if sample.name == catalogue.REQUESTS.name]
    work = [sample for sample in requests if sample.labels["model"]]
    lookups = [sample for sample in _samples(families, catalogue.CACHE_LOOKUPS) if sample.name == catalogue.CACHE_LOOKUPS.name]
    served = [sample for sample in _samples(families, catalogue.SERVED_TOKENS) if sample.name == catalogue.SERVED_TOKENS.name]
    resident = families.get("process_resident_memory_bytes")
    return {
        "requests": sum(sample.value for sample in work),
        "errors": sum(sample.value for sample in work if sample.labels["code"].startswith("5")),
        "limited": sum(sample.value for sample in requests if sample.labels["code"] == "429"),
        "generated_tokens": total(catalogue.GENERATED_TOKENS),
        "prompt_tokens": total(catalogue.PROMPT_TOKENS),
        "prefix_hit_tokens": total(catalogue.PREFIX_HIT_TOKENS),
        "cached_tokens": sum(sample.value for sample in served if sample.labels["source"] != "engine"),
        "cache_hits": sum(sample.value for sample in lookups if sample.labels["result"] in ("hit", "coalesced")),
        "cache_misses": sum(sample.value for sample in lookups if sample.labels["result"] == "miss"),
        "running": total(catalogue.RUNNING),
        "waiting": total(catalogue.WAITING),
        "kv_used_bytes": total(catalogue.KV_USED),
        "kv_size_bytes": total(catalogue.KV_SIZE),
        "weight_bytes": total(catalogue.WEIGHT_BYTES),
        "resident_bytes": sum(sample.value for sample in resident.samples) if resident else None,
        "ttft": _buckets(families, catalogue.TIME_TO_FIRST_TOKEN),
        "inter_token": _buckets(families, catalogue.INTER_TOKEN),
    }


def _samples(families: dict[str, Family], metric: catalogue.Metric) -> list[Any]:
    family = families.get(metric.name.removesuffix("_total")) or families.get(metric.name)
    return list(family.samples) if family else []


def _buckets(families: dict[str, Family], metric: catalogue.Metric) -> list[tuple[float | None, float]]:
    """Cumulative counts by upper bound (null: no bound), summed over models."""
    sums: dict[float, float] = {}
    for sample in _samples(families, metric):
        if sample.name == f"{metric.name}_bucket":
            bound = float(sample.labels["le"])
            sums[bound] = sums.get(bound, 0.0) + sample.value
    return [(None if bound == float("inf") else bound, count) for bound, count in sorted(sums.items())]


def _slot(slot: ConsoleSlot) -> dict[str, Any]:
    try:
        ready = json.loads(_get(f"{slot.url}/readyz"))
        return {"reachable": True, **ready, "metrics": read_counters(_get(slot.metrics_url).decode())}
    except (OSError, ValueError) as error:
        return {"reachable": False, "ready": False, "reason": f"no answer: {error}", "metrics": None}


def _get(url: str) -> bytes:
    try:
        with _DIRECT.open(url, timeout=SECONDS) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:  # /readyz says why it is not ready with its 503
        with error:
            return error.read()


def _read(path: str | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
