"""Auto-scaling: the signals, the decision, and what came of it."""

from inferstack_dashboards import external as e
from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import INTERVAL, external, quantile, rate, ratio, selector, total
from inferstack_runtime import metrics as m
from inferstack_runtime.autoscaler import metrics as a
from inferstack_runtime.metrics import Metric


def _of(metric: Metric) -> str:
    """A series of the autoscaler; its environment is a label of its scraping."""
    return f'{metric.name}{{environment=~"$environment"}}'


SCALING = Board(
    "inferstack-scaling",
    "Auto-scaling",
    "Signals that scalers read, replicas they ask for, and how long the start of a replica takes.",
    (
        Row(
            "Signals",
            (
                Panel(
                    "Waiting per replica",
                    "Sequences waiting per ready replica; the queue policy aims at its target.",
                    "short",
                    (Query(ratio(total(m.WAITING, "slot"), total(m.READY, "slot")), "{{slot}}"),),
                    runbooks=("QueueLong",),
                ),
                Panel(
                    "KV cache in use",
                    "Mean share of the KV cache in use.",
                    "percentunit",
                    (Query(total(m.KV_RATIO, "slot", fold="avg"), "{{slot}}"),),
                    most=1,
                    runbooks=("KvCacheSaturated",),
                ),
                Panel(
                    "CPU per replica",
                    "Cores in use per replica.",
                    "short",
                    (
                        Query(
                            f"avg by (slot) (rate({selector(m.PROCESS_CPU)}[{INTERVAL}]))",
                            "{{slot}}",
                        ),
                    ),
                ),
                Panel(
                    "Queue time, p95",
                    "95th percentile of the wait before the engine first runs a request.",
                    "s",
                    (Query(quantile(0.95, m.QUEUE_SECONDS, "slot"), "{{slot}}"),),
                    runbooks=("QueueLong",),
                ),
                Panel(
                    "Rejected",
                    "Requests per second refused because the queue was full or a limit was reached.",
                    "reqps",
                    (Query(rate(m.REJECTED, "reason"), "{{reason}}"),),
                    runbooks=("QueueLong",),
                ),
                Panel(
                    "Requests per replica",
                    "Requests answered per second and ready replica.",
                    "reqps",
                    (Query(ratio(rate(m.REQUESTS, "slot"), total(m.READY, "slot")), "{{slot}}"),),
                ),
            ),
        ),
        Row(
            "This kit's autoscaler",
            (
                Panel(
                    "Has, wants, and most",
                    "Replicas that a target had at the last look, that the decision asked for, and that bounds and budget allow.",
                    "short",
                    (
                        Query(_of(a.REPLICAS), "has {{target}}"),
                        Query(_of(a.WANTED), "wants {{target}}"),
                        Query(_of(a.MOST), "most {{target}}"),
                    ),
                    needs="autoscaler",
                    width=12,
                    runbooks=("ReplicasAtMost",),
                ),
                Panel(
                    "Looks",
                    "Looks at a target per second, by what came of them: failed and missing ones scale nothing.",
                    "ops",
                    (Query(f"sum by (target, result) (rate({_of(a.LOOKS)}[{INTERVAL}]))", "{{target}} {{result}}"),),
                    needs="autoscaler",
                    width=12,
                    stacked=True,
                    runbooks=("AutoscalerBlind",),
                ),
            ),
        ),
        Row(
            "Replicas",
            (
                Panel(
                    "Ready",
                    "Ready replicas, one slot upon the other.",
                    "short",
                    (Query(total(m.READY, "slot"), "{{slot}}"),),
                    stacked=True,
                    runbooks=("SlotWithoutEndpoints",),
                ),
                Panel(
                    "Wanted and most",
                    "Replicas that the scaler asks for, and the most it may ask for.",
                    "short",
                    (
                        Query(external(e.REPLICAS_WANTED), "wanted {{horizontalpodautoscaler}}"),
                        Query(external(e.REPLICAS_MOST), "most {{horizontalpodautoscaler}}"),
                    ),
                    needs="kubernetes",
                    runbooks=("ReplicasAtMost",),
                ),
                Panel(
                    "Age of the youngest replica",
                    "Seconds since the youngest process of a slot started: drops mark starts.",
                    "s",
                    (Query(f"time() - {total(m.PROCESS_START, 'slot', fold='max')}", "{{slot}}"),),
                    runbooks=("RuntimeRestarting",),
                ),
            ),
        ),
    ),
)
