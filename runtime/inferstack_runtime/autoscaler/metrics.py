"""What the autoscaler process exposes. A target is a key of its configuration, so that there are as many series as targets."""

from inferstack_runtime.metrics import Metric

REPLICAS = Metric("inferstack_autoscaler_replicas", "gauge", "1", "Replicas that a target had at the last look.", ("target",))
WANTED = Metric("inferstack_autoscaler_wanted_replicas", "gauge", "1", "Replicas that the last decision asked for.", ("target",))
LOOKS = Metric(
    "inferstack_autoscaler_looks_total",
    "counter",
    "1",
    "Looks at a target, by result (scaled, held, missing, stopped, failed).",
    ("target", "result"),
)
CATALOGUE = (REPLICAS, WANTED, LOOKS)
"""Every metric that a running autoscaler exposes, beside those of its process."""
