"""GPU Utilization: what the GPUs do, from NVIDIA's exporter, beside what the engines ask of them."""

from inferstack_dashboards import external as e
from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import external, mean, rate, ratio, total
from inferstack_runtime import metrics as m

_GPU = "gpu {{gpu}} {{Hostname}}"
_MEMORY = f"({external(e.GPU_MEMORY_USED)} + {external(e.GPU_MEMORY_FREE)})"

GPU = Board(
    "inferstack-gpu",
    "GPU Utilization",
    "Duty, memory, heat and faults of the GPUs, and the work that the engines put on them.",
    (
        Row(
            "GPUs",
            (
                Panel(
                    "Duty",
                    "Share of time in which any kernel ran. It is no measure of efficiency: read it beside batch size and tokens.",
                    "percent",
                    (Query(external(e.GPU_UTILIZATION), _GPU),),
                    needs="dcgm",
                    most=100,
                ),
                Panel(
                    "Memory",
                    "Share of GPU memory in use. Engines take their KV cache at start, so that it is high by intent and not alerted on.",
                    "percentunit",
                    (Query(f"{external(e.GPU_MEMORY_USED)} / {_MEMORY}", _GPU),),
                    needs="dcgm",
                    most=1,
                ),
                Panel(
                    "Temperature",
                    "Temperature of each GPU.",
                    "celsius",
                    (Query(external(e.GPU_TEMPERATURE), _GPU),),
                    needs="dcgm",
                    steps=((85, "red"),),
                    runbooks=("GpuTemperatureHigh", "GpuThrottled"),
                ),
                Panel("Power", "Power draw of each GPU.", "watt", (Query(external(e.GPU_POWER), _GPU),), needs="dcgm"),
                Panel(
                    "Time throttled",
                    "Share of time in which a GPU ran slower because of heat; a counter that the exporter's default list leaves out.",
                    "percentunit",
                    (Query(f"rate({external(e.GPU_THROTTLED)}[$__rate_interval]) / 1e9", _GPU),),
                    needs="dcgm",
                    runbooks=("GpuThrottled",),
                ),
                Panel(
                    "XID",
                    "Code of the last XID error; 0: none.",
                    "short",
                    (Query(external(e.GPU_XID), _GPU),),
                    needs="dcgm",
                    steps=((1, "red"),),
                    runbooks=("GpuXidError",),
                ),
            ),
        ),
        Row(
            "Work",
            (
                Panel(
                    "KV cache in use",
                    "Share of the KV cache that running sequences hold.",
                    "percentunit",
                    (Query(total(m.KV_RATIO, "slot", "model", fold="avg"), "{{slot}} {{model}}"),),
                    most=1,
                    runbooks=("KvCacheSaturated",),
                ),
                Panel(
                    "Batch size",
                    "Mean number of sequences in an engine step: how much of each read of the weights is shared.",
                    "short",
                    (Query(mean(m.BATCH_SIZE, "slot"), "{{slot}}"),),
                ),
                Panel(
                    "Time in the model",
                    "Seconds of arithmetic per second and replica: 1 means that the engine is never idle.",
                    "percentunit",
                    (Query(ratio(rate(m.STEP_COMPUTE_SECONDS, "slot"), total(m.READY, "slot")), "{{slot}}"),),
                    most=1,
                ),
            ),
        ),
    ),
)
