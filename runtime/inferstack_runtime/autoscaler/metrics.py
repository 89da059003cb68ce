"""What the autoscaler process exposes. A target is a key of its configuration, so that there are as many series as targets."""

from inferstack_runtime.metrics import Metric

REPLICAS = Metric("inferstack_autoscaler_replicas", "gauge", "1", "Replicas that a target had at the last look.", ("target",))
WANTED = Metric("inferstack_autoscaler_wanted_replicas", "gauge", "1", "Replicas that the last decision asked for.", ("target",))
MOST = Metric(
    "inferstack_autoscaler_most_replicas",
    "gauge",
    "1",
    "Most replicas that a target may have: the registered bound, or fewer where the budget pays for fewer.",
    ("target",),
)
LOOKS = Metric(
    "inferstack_autoscaler_looks_total",
    "counter",
    "1",
    "Looks at a target, by result (scaled, held, missing, stopped, failed).",
    ("target", "result"),
)
CATALOGUE = (REPLICAS, WANTED, MOST, LOOKS)
"""Every metric that a running autoscaler exposes, beside those of its process."""
