"""Alerts: what wakes a person (`page`), what can wait for the morning (`ticket`), what only informs (`none`). Pure.

Each has one threshold, which an environment may change by the alert's name, and a runbook of the same name.

There is no alert on the use of GPU memory: engines take 0.85 to 0.95 of it at start, so that it would always fire. What runs out is the
KV cache and, on the host, memory that is still growing: those are watched.
"""

from collections.abc import Mapping
from difflib import get_close_matches

from inferstack_dashboards import external as e
from inferstack_dashboards.alert import LEAST_RATE, Alert
from inferstack_dashboards.burn_rates import burn_rate_alerts
from inferstack_dashboards.query import FAILED, OF_USERS
from inferstack_runtime import metrics as m
from inferstack_runtime.autoscaler import metrics as a

_SLOT = "environment, slot"
_REPLICA = "environment, slot, instance"


class UnknownThreshold(ValueError):
    """A threshold was set for an alert that does not exist or has none."""


_REQUESTS = f"sum by ({_SLOT}) (rate({m.REQUESTS.name}{{{OF_USERS}}}[5m]))"
_FAILURES = f"sum by ({_SLOT}) (rate({m.REQUESTS.name}{{{FAILED},{OF_USERS}}}[5m]))"
_DURATION = f"histogram_quantile(0.95, sum by (le, {_SLOT}) (rate({m.REQUEST_SECONDS.name}_bucket[5m])))"
_WORKING, _LIMIT = e.CONTAINER_MEMORY.name, f'({e.CONTAINER_MEMORY_LIMIT.name}{{container!=""}} > 0)'
_BOTH_SERVE = f"min by (environment) ({_REQUESTS}) / sum by (environment) ({_REQUESTS}) and count by (environment) ({_REQUESTS} > 0) > 1"
_XID = f"max by (Hostname, gpu) ({e.GPU_XID.name})"
"""The exporter keeps a GPU's last code for ever, and its other labels change with the pod on the GPU: only a new value of the GPU counts,
or one that is there when the GPU is first seen."""
_COST = "sum by (environment) (llm_cost_hourly)"

ALERTS: tuple[Alert, ...] = (
    Alert(
        "ErrorsHigh",
        f"{_FAILURES} / ({_REQUESTS} > {LEAST_RATE}) > {{t}}",
        0.1,
        "share of requests",
        "5m",
        "page",
        "Slot {{ $labels.slot }} of {{ $labels.environment }} fails requests",
        "{{ $value | humanizePercentage }} of its answers have a 5xx status.",
    ),
    *burn_rate_alerts(),
    Alert(
        "ResponseSlow",
        f"{_DURATION} > {{t}} and {_REQUESTS} > {LEAST_RATE}",
        5,
        "seconds",
        "10m",
        "page",
        "Slot {{ $labels.slot }} of {{ $labels.environment }} answers slowly",
        "The 95th percentile of the request duration is {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "QueueLong",
        f"sum by ({_SLOT}) ({m.WAITING.name}) / (sum by ({_SLOT}) ({m.READY.name}) > 0) > {{t}}",
        16,
        "waiting sequences per ready replica",
        "5m",
        "ticket",
        "Requests queue up on slot {{ $labels.slot }} of {{ $labels.environment }}",
        "{{ $value | humanize }} sequences wait per ready replica, more than any scaler aims at.",
    ),
    Alert(
        "QueueOld",
        f"histogram_quantile(0.95, sum by (le, {_SLOT}) (rate({m.QUEUE_SECONDS.name}_bucket[5m]))) > {{t}}",
        10,
        "seconds",
        "5m",
        "page",
        "Requests wait long on slot {{ $labels.slot }} of {{ $labels.environment }}",
        "The 95th percentile of the wait before the engine is {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "QueueStalled",
        f"sum by ({_REPLICA}) ({m.WAITING.name}) > {{t}} and sum by ({_REPLICA}) (rate({m.STEPS.name}[2m])) == 0",
        0,
        "waiting sequences",
        "2m",
        "page",
        "The engine of {{ $labels.instance }} stands still",
        "{{ $value | humanize }} sequences wait and no step is made.",
    ),
    Alert(
        "KvCacheSaturated",
        f"avg by (environment, slot, model) ({m.KV_RATIO.name}) > {{t}}",
        0.9,
        "share of the KV cache",
        "10m",
        "ticket",
        "The KV cache of {{ $labels.model }} on slot {{ $labels.slot }} is full",
        "{{ $value | humanizePercentage }} of it is in use; requests wait or are set back.",
    ),
    Alert(
        "MemoryRunningOut",
        f'{_WORKING}{{container!=""}} / {_LIMIT} > {{t}} and predict_linear({_WORKING}{{container!=""}}[30m], 3600) > {_LIMIT}',
        0.9,
        "share of the limit",
        "10m",
        "ticket",
        "{{ $labels.pod }} will run out of memory",
        "It holds {{ $value | humanizePercentage }} of its limit and will reach it within the hour if it grows on.",
    ),
    Alert(
        "SlotWithoutEndpoints",
        f"{_REQUESTS} > {{t}} unless sum by ({_SLOT}) ({m.READY.name}) > 0",
        0,
        "requests per second",
        "1m",
        "page",
        "Slot {{ $labels.slot }} of {{ $labels.environment }} has traffic and no ready replica",
        "It answered {{ $value | humanize }} requests per second in the last five minutes and nothing is ready to answer now.",
    ),
    Alert(
        "PromotionStuck",
        f"({_BOTH_SERVE}) > {{t}}",
        0.005,
        "share of requests of the smaller slot",
        "1h",
        "ticket",
        "Both slots of {{ $labels.environment }} have served for an hour",
        "The smaller one answers {{ $value | humanizePercentage }} of the requests: a promotion was interrupted, or holds.",
    ),
    Alert(
        "PromotionLong",
        f"time() - {e.PROMOTION_STARTED.name} > {{t}}",
        7200,
        "seconds",
        "5m",
        "ticket",
        "A {{ $labels.kind }} of {{ $labels.environment }} does not end",
        "It began {{ $value | humanizeDuration }} ago and neither committed nor reverted.",
    ),
    Alert(
        "RuntimeRestarting",
        f'changes({m.PROCESS_START.name}{{slot!=""}}[30m]) > {{t}}',
        2,
        "restarts in 30 minutes",
        "1m",
        "ticket",
        "{{ $labels.instance }} restarts again and again",
        "It started {{ $value }} times in 30 minutes.",
    ),
    Alert(
        "AccessKeysMissing",
        f"min by ({_SLOT}) ({m.KEYS_LOADED.name}) <= {{t}}",
        0,
        "keys",
        "2m",
        "page",
        "Slot {{ $labels.slot }} of {{ $labels.environment }} knows no API key",
        "Every request is refused with 401.",
    ),
    Alert(
        "SharedStoreDown",
        f"min by ({_SLOT}) ({m.SHARED_UP.name}) < {{t}}",
        1,
        "1 is up",
        "5m",
        "ticket",
        "The shared cache of {{ $labels.environment }} does not answer slot {{ $labels.slot }}",
        "Answers are not shared and rate limits are estimated per replica.",
    ),
    Alert(
        "CacheFalseHits",
        f'max by (environment, slot, model) ({m.CACHE_FALSE_RATIO.name}{{bound="low"}}) > {{t}}',
        0.01,
        "share of checked semantic hits",
        "5m",
        "ticket",
        "The semantic cache of {{ $labels.model }} gives wrong answers",
        "At least {{ $value | humanizePercentage }} of checked hits were false (lower end of the 95 % interval).",
    ),
    Alert(
        "ReplicasAtMost",
        f"({e.REPLICAS_WANTED.name} / ({e.REPLICAS_MOST.name} > 1) or {a.WANTED.name} / ({a.MOST.name} > 1)) >= {{t}}",
        1,
        "share of the bound",
        "30m",
        "ticket",
        "{{ $labels.horizontalpodautoscaler }}{{ $labels.target }} is at its bound",
        "It has asked for as many replicas as it may for half an hour.",
    ),
    Alert(
        "AutoscalerBlind",
        f'sum by (environment, target) (rate({a.LOOKS.name}{{result=~"failed|missing"}}[10m]))'
        f" / (sum by (environment, target) (rate({a.LOOKS.name}[10m])) > 0) > {{t}}",
        0.5,
        "share of looks",
        "10m",
        "ticket",
        "{{ $labels.target }} of {{ $labels.environment }} is not scaled",
        "{{ $value | humanizePercentage }} of the autoscaler's looks at it failed, or found no metrics: its number stays as it is.",
    ),
    Alert(
        "BudgetExceeded",
        f"{_COST} / on () group_left () ({e.BUDGET.name} > 0) > {{t}}",
        1,
        "share of the hourly budget",
        "15m",
        "ticket",
        "{{ $labels.environment }} costs more than its budget",
        "What runs costs {{ $value | humanizePercentage }} of the hourly budget.",
    ),
    Alert(
        "BudgetBurn",
        f"avg_over_time(({_COST})[1d:5m]) / on () group_left () ({e.BUDGET.name} > 0) > {{t}}",
        0.9,
        "share of the budget, mean of a day",
        "1h",
        "ticket",
        "{{ $labels.environment }} is about to use up its budget",
        "The mean of the last day is {{ $value | humanizePercentage }} of the budget.",
    ),
    Alert(
        "GpuTemperatureHigh",
        f"{e.GPU_TEMPERATURE.name} > {{t}}",
        85,
        "°C",
        "5m",
        "page",
        "GPU {{ $labels.gpu }} of {{ $labels.Hostname }} is hot",
        "It has {{ $value }} °C.",
    ),
    Alert(
        "GpuThrottled",
        f"rate({e.GPU_THROTTLED.name}[5m]) / 1e9 > {{t}}",
        0.01,
        "share of time",
        "5m",
        "ticket",
        "GPU {{ $labels.gpu }} of {{ $labels.Hostname }} is throttled by heat",
        "It ran slower for {{ $value | humanizePercentage }} of the time.",
    ),
    Alert(
        "GpuXidError",
        f"{_XID} > {{t}} and (changes(({_XID})[15m:1m]) > 0 or {_XID} unless last_over_time(({_XID})[1h:1m] offset 15m))",
        0,
        "XID code",
        "0s",
        "page",
        "GPU {{ $labels.gpu }} of {{ $labels.Hostname }} reports a fault",
        "XID {{ $value }} came within the last 15 minutes.",
    ),
    Alert(
        "TargetDown",
        f'{e.UP.name}{{job=~"inferstack|autoscaler"}} < {{t}}',
        1,
        "1 is up",
        "5m",
        "ticket",
        "{{ $labels.instance }} cannot be scraped",
        "Prometheus has not read its metrics for five minutes.",
    ),
    Alert(
        "MetricsMissing",
        f"absent({m.READY.name})",
        None,
        "",
        "5m",
        "page",
        "No runtime is measured",
        "No series of any runtime has come for five minutes: nothing runs, or nothing is scraped. Other alerts cannot fire meanwhile.",
    ),
    Alert(
        "PromotionRunning",
        f"({_BOTH_SERVE}) > {{t}}",
        0.005,
        "share of requests of the smaller slot",
        "0s",
        "none",
        "Both slots of {{ $labels.environment }} serve",
        "A promotion moves weights. Tickets on latency are held back meanwhile; pages are not.",
    ),
    Alert(
        "Watchdog",
        "vector(1)",
        None,
        "",
        "0s",
        "none",
        "Alerting works",
        "Always fires. Whoever receives it should raise an alarm when it stops.",
    ),
)


def check_thresholds(thresholds: Mapping[str, float]) -> None:
    """Raise UnknownThreshold where a key names no alert with a threshold."""
    known = [alert.name for alert in ALERTS if alert.threshold is not None]
    for name in thresholds:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise UnknownThreshold(f"monitoring.thresholds.{name}: expected the name of an alert with a threshold{hint}")
