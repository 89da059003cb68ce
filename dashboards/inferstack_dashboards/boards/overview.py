"""LLM System Overview: is it up, is it fast, is it right, and what is full."""

from inferstack_dashboards.external import ALERT_STATE, UP
from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import FAILED, external, mean, or_zero, quantile, rate, share, total
from inferstack_runtime import metrics as m

_ERRORS = share(rate(m.REQUESTS, where=FAILED), rate(m.REQUESTS))
_HITS = rate(m.CACHE_LOOKUPS, where='result=~"hit|coalesced"')
_CACHE_HITS = share(_HITS, rate(m.CACHE_LOOKUPS, where='tier="exact_process"'))
_FIRING = external(ALERT_STATE, 'alertstate="firing",severity=~"page|ticket"')

OVERVIEW = Board(
    "inferstack-overview",
    "LLM System Overview",
    "Health of an environment at a glance: readiness, load, latency, errors, what is full.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Ready replicas",
                    "Replicas whose /readyz answers 200.",
                    "short",
                    (Query(total(m.READY)),),
                    "stat",
                    width=4,
                    runbooks=("SlotWithoutEndpoints",),
                ),
                Panel(
                    "Active models",
                    "Models that are loaded, over all replicas of one slot.",
                    "short",
                    (Query(total(m.MODELS_LOADED, fold="max")),),
                    "stat",
                    width=4,
                ),
                Panel("Requests", "Requests answered per second.", "reqps", (Query(rate(m.REQUESTS)),), "stat", width=4),
                Panel(
                    "Errors",
                    "Share of answers with a 5xx status.",
                    "percentunit",
                    (Query(_ERRORS),),
                    "stat",
                    width=4,
                    steps=((0.01, "orange"), (0.1, "red")),
                    runbooks=("ErrorsHigh", "ErrorBudgetBurn"),
                ),
                Panel(
                    "First token, p95",
                    "95th percentile of the time to the first token.",
                    "s",
                    (Query(quantile(0.95, m.TIME_TO_FIRST_TOKEN)),),
                    "stat",
                    width=4,
                ),
                Panel(
                    "Firing alerts",
                    "Alerts that page or open a ticket.",
                    "short",
                    (Query(or_zero(f"count({_FIRING})")),),
                    "stat",
                    width=4,
                    steps=((1, "red"),),
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Requests by slot",
                    "Requests answered per second; during a promotion both slots show.",
                    "reqps",
                    (Query(rate(m.REQUESTS, "slot"), "{{slot}}"),),
                    stacked=True,
                ),
                Panel(
                    "Answers by status",
                    "Requests answered per second by status code.",
                    "reqps",
                    (Query(rate(m.REQUESTS, "code"), "{{code}}"),),
                    runbooks=("ErrorsHigh",),
                ),
                Panel(
                    "Tokens",
                    "Tokens per second that the engine generated, and prompt tokens it accepted.",
                    "short",
                    (Query(rate(m.GENERATED_TOKENS), "generated"), Query(rate(m.PROMPT_TOKENS), "prompt")),
                ),
            ),
        ),
        Row(
            "Latency",
            (
                Panel(
                    "Request duration",
                    "Requests per bucket of their whole duration.",
                    "s",
                    (Query(rate(m.REQUEST_SECONDS, "le", suffix="bucket"), "{{le}}"),),
                    "heatmap",
                    width=12,
                    runbooks=("ResponseSlow",),
                ),
                Panel(
                    "Time to first token",
                    "Percentiles of the time from arrival to the first generated token.",
                    "s",
                    tuple(Query(quantile(q, m.TIME_TO_FIRST_TOKEN), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
                    width=12,
                    runbooks=("FirstTokenBudgetBurn",),
                ),
            ),
        ),
        Row(
            "What is full",
            (
                Panel(
                    "KV cache in use",
                    "Share of the KV cache that running sequences hold, mean of the replicas of a slot.",
                    "percentunit",
                    (Query(total(m.KV_RATIO, "slot", "model", fold="avg"), "{{slot}} {{model}}"),),
                    steps=((0.9, "red"),),
                    most=1,
                    runbooks=("KvCacheSaturated",),
                ),
                Panel(
                    "Sequences",
                    "Sequences that run and that wait in the engines.",
                    "short",
                    (Query(total(m.RUNNING), "running"), Query(total(m.WAITING), "waiting")),
                    runbooks=("QueueLong", "QueueStalled"),
                ),
                Panel(
                    "Batch size", "Mean number of sequences in an engine step.", "short", (Query(mean(m.BATCH_SIZE, "slot"), "{{slot}}"),)
                ),
                Panel(
                    "Answers from the cache",
                    "Share of requests that looked into the response cache and were answered from it.",
                    "percentunit",
                    (Query(_CACHE_HITS, "hit rate"),),
                    most=1,
                ),
                Panel(
                    "Memory",
                    "Resident memory of the processes.",
                    "bytes",
                    (Query(total(m.PROCESS_MEMORY, "slot"), "{{slot}}"),),
                    runbooks=("MemoryRunningOut",),
                ),
                Panel(
                    "Scrape targets",
                    "1 where Prometheus could read the target.",
                    "short",
                    (Query(external(UP), "{{job}} {{slot}} {{instance}}"),),
                    most=1,
                    runbooks=("TargetDown", "MetricsMissing"),
                ),
            ),
        ),
    ),
)
