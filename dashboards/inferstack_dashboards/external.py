"""Metrics of others that boards and alerts read: GPUs, the cluster, promotions, Prometheus itself.

Sources: NVIDIA dcgm-exporter etc/default-counters.csv; kube-state-metrics docs/metrics; cAdvisor docs/storage/prometheus.md.
"""

from inferstack_runtime.metrics import Metric

GPU_UTILIZATION = Metric("DCGM_FI_DEV_GPU_UTIL", "gauge", "percent", "Share of time in which a kernel ran, 0 to 100.", ("gpu",))
GPU_TEMPERATURE = Metric("DCGM_FI_DEV_GPU_TEMP", "gauge", "celsius", "Temperature of the GPU.", ("gpu",))
GPU_POWER = Metric("DCGM_FI_DEV_POWER_USAGE", "gauge", "watts", "Power draw.", ("gpu",))
GPU_MEMORY_USED = Metric("DCGM_FI_DEV_FB_USED", "gauge", "mebibytes", "Frame buffer in use.", ("gpu",))
GPU_MEMORY_FREE = Metric("DCGM_FI_DEV_FB_FREE", "gauge", "mebibytes", "Frame buffer free.", ("gpu",))
GPU_XID = Metric("DCGM_FI_DEV_XID_ERRORS", "gauge", "1", "Code of the last XID error, 0: none.", ("gpu",))
# nanoseconds by the exporter since 4.7.1; older lists said microseconds of the same figures (NVIDIA/dcgm-exporter pull request 589)
GPU_THROTTLED = Metric("DCGM_FI_DEV_THERMAL_VIOLATION", "counter", "nanoseconds", "Time throttled for heat.", ("gpu",))

REPLICAS_WANTED = Metric(
    "kube_horizontalpodautoscaler_status_desired_replicas", "gauge", "1", "Replicas the scaler wants.", ("horizontalpodautoscaler",)
)
REPLICAS_MOST = Metric(
    "kube_horizontalpodautoscaler_spec_max_replicas", "gauge", "1", "Most replicas the scaler may ask for.", ("horizontalpodautoscaler",)
)
CONTAINER_MEMORY = Metric(
    "container_memory_working_set_bytes", "gauge", "bytes", "Memory of a container that cannot be reclaimed.", ("pod",)
)
CONTAINER_MEMORY_LIMIT = Metric("container_spec_memory_limit_bytes", "gauge", "bytes", "Memory limit of a container.", ("pod",))

UP = Metric("up", "gauge", "1", "1 where the last scrape succeeded.", ("job", "instance"))
ALERT_STATE = Metric("ALERTS", "gauge", "1", "Alerts pending and firing.", ("alertname", "alertstate", "severity"))
SCRAPE_SECONDS = Metric("scrape_duration_seconds", "gauge", "seconds", "Time that a scrape took.", ("job", "instance"))

REPLICA_PRICE = Metric(
    "inferstack:replica_hourly_usd", "gauge", "usd", "Price of one replica's share of its node per hour; a rule of the environment."
)
FIXED_PRICE = Metric(
    "inferstack:fixed_hourly_usd", "gauge", "usd", "Price per hour of what runs whatever the load; a rule of the environment."
)
BUDGET = Metric("inferstack:budget_hourly_usd", "gauge", "usd", "Ceiling per hour; a rule of the environment, absent without a budget.")

SLOT_WEIGHT = Metric(
    "inferstack_slot_weight_ratio", "gauge", "1", "Share of the traffic that the route gives to the slot, 0 to 1.", ("environment", "slot")
)
PROMOTION_PHASE = Metric(
    "inferstack_promotion_phase",
    "gauge",
    "1",
    "1 for the phase that the promotion is in; idle when there is none.",
    ("environment", "phase"),
)
PROMOTION_STARTED = Metric(
    "inferstack_promotion_started_timestamp_seconds",
    "gauge",
    "seconds",
    "Start of the operation under way.",
    ("environment", "kind", "slot"),
)
PROMOTION_TOOK = Metric(
    "inferstack_promotion_duration_seconds",
    "gauge",
    "seconds",
    "Duration of the last operation of this kind and outcome.",
    ("environment", "kind", "outcome"),
)
ROLLBACK_UNTIL = Metric(
    "inferstack_rollback_window_end_timestamp_seconds",
    "gauge",
    "seconds",
    "Until when the previous slot stays warm for a rollback.",
    ("environment", "slot"),
)

EXTERNAL: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every metric of others that may stand in a query."""
