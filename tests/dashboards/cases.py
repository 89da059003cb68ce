"""For each alert: samples that make it fire, samples just on the other side of its threshold, and thresholds on which the test must fail.

Values are written as promtool does: `0+6x60` starts at 0 and grows by 6 each minute. A mutant is a threshold that the samples tell
apart from the right one: with one below it the quiet samples fire, with one above it the others do not (for alerts on low values the
other way round).
"""

from dataclasses import dataclass, field

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Samples at one a minute; the alert is looked at after `at` minutes."""

    alert: str
    fires: Series
    quiet: Series
    mutants: tuple[float, ...]
    at: int = 60
    also_quiet: tuple[Series, ...] = field(default=())


def on(slot: str = "blue", name: str = "", **labels: str) -> str:
    """A series of a slot's replica."""
    own = {"environment": "prod", "slot": slot, "instance": f"{slot}-0"} | labels
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in own.items()) + "}"


def requests(failed: float, total: float = 600, minutes: int = 200, slot: str = "blue") -> Series:
    """Requests per minute, and how many of them fail."""
    name = "inferstack_requests_total"
    found = {on(slot, name, code="200"): f"0+{total - failed:g}x{minutes}"}
    return found | ({on(slot, name, code="500"): f"0+{failed:g}x{minutes}"} if failed else {})


def ended(failed: float, total: float = 600, minutes: int = 150) -> Series:
    """Failures that stopped an hour before the look."""
    name = "inferstack_requests_total"
    return {
        on("blue", name, code="200"): f"0+{total:g}x200",
        on("blue", name, code="500"): f"0+{failed:g}x{minutes - 70} {failed * (minutes - 70):g}+0x{130}",
    }


def histogram(name: str, bounds: tuple[str, str], within: float, total: float = 600, minutes: int = 200) -> Series:
    """Observations per minute in two buckets and in all."""
    low, high = bounds
    return {
        on("blue", f"{name}_bucket", le=low): f"0+{within:g}x{minutes}",
        on("blue", f"{name}_bucket", le=high): f"0+{total:g}x{minutes}",
        on("blue", f"{name}_bucket", le="+Inf"): f"0+{total:g}x{minutes}",
        on("blue", f"{name}_count"): f"0+{total:g}x{minutes}",
    }


def constant(series: str, value: float) -> Series:
    return {series: f"{value:g}x200"}


def burn(name: str, threshold: float) -> Case:
    """10,000 requests a minute of which a tenth more, or a tenth fewer, fail than the threshold allows."""
    total = 10_000.0
    return Case(
        name,
        requests(threshold * 1.1 * total, total),
        requests(threshold * 0.9 * total, total),
        (threshold * 0.8, threshold * 1.25),
        190,
        (requests(0.5, 1),),
    )


def late(name: str, threshold: float) -> Case:
    metric, total = "inferstack_time_to_first_token_seconds", 10_000.0
    loads = requests(0, total)
    return Case(
        name,
        loads | histogram(metric, ("5.0", "10.0"), total * (1 - threshold * 1.1), total),
        loads | histogram(metric, ("5.0", "10.0"), total * (1 - threshold * 0.9), total),
        (threshold * 0.8, threshold * 1.25),
        190,
    )


_DURATION = "inferstack_request_duration_seconds"
_QUEUE = "inferstack_queue_seconds"
_READY = on("blue", "inferstack_ready")
_WAITING = on("blue", "inferstack_waiting_sequences", model="m")
_STEPS = on("blue", "inferstack_steps_total", model="m")
_BUDGET = {"inferstack:budget_hourly_usd": "10x3000", "inferstack:replica_hourly_usd": "1x3000"}
_XID = "DCGM_FI_DEV_XID_ERRORS"
_GPU = 'gpu="0",Hostname="node-1"'
_POD = 'namespace="inferstack",pod="p",container="runtime"'


def looks(failed: float, good: float) -> Series:
    """The autoscaler's looks per minute."""
    name = 'inferstack_autoscaler_looks_total{environment="prod",target="blue",result='
    return {f'{name}"failed"}}': f"0+{failed:g}x200", f'{name}"held"}}': f"0+{good:g}x200"}


def ready(slot: str, replicas: int, minutes: int = 3000) -> Series:
    return {on(slot, "inferstack_ready", instance=f"{slot}-{index}"): f"1x{minutes}" for index in range(replicas)}


TWO_SLOTS = requests(0, 60) | requests(0, 5940, slot="green")
ALMOST_ONE = requests(0, 6) | requests(0, 5994, slot="green")
_PROMOTION = 'inferstack_promotion_started_timestamp_seconds{environment="prod",kind="promote",slot="green"}'
_KEYS, _STORE = on("blue", "inferstack_access_keys"), on("blue", "inferstack_shared_store_up")

CASES: tuple[Case, ...] = (
    Case("ErrorsHigh", requests(66), requests(54), (0.08, 0.125), also_quiet=(requests(1, 1),)),
    burn("ErrorBudgetBurnFast", 0.0144),
    burn("ErrorBudgetBurn", 0.006),
    burn("ErrorBudgetBurnSlow", 0.003),
    burn("ErrorBudgetBurnSlowest", 0.001),
    late("FirstTokenBudgetBurnFast", 0.144),
    late("FirstTokenBudgetBurn", 0.06),
    Case(
        "ResponseSlow",
        requests(0) | histogram(_DURATION, ("5.0", "10.0"), 600 * 0.945),
        requests(0) | histogram(_DURATION, ("2.5", "5.0"), 600 * 0.945),
        (2.6, 9.9),
    ),
    Case("QueueLong", constant(_WAITING, 18) | constant(_READY, 1), constant(_WAITING, 15) | constant(_READY, 1), (13, 20)),
    Case("QueueOld", histogram(_QUEUE, ("10.0", "30.0"), 600 * 0.94), histogram(_QUEUE, ("5.0", "10.0"), 600 * 0.5), (6, 29)),
    Case(
        "QueueStalled",
        constant(_WAITING, 1) | constant(_STEPS, 500),
        constant(_WAITING, 0) | constant(_STEPS, 500),
        (-1, 1),
        also_quiet=(constant(_WAITING, 50) | {_STEPS: "0+100x200"},),
    ),
    Case(
        "KvCacheSaturated",
        constant(on("blue", "inferstack_kv_cache_used_ratio", model="m"), 0.95),
        constant(on("blue", "inferstack_kv_cache_used_ratio", model="m"), 0.85),
        (0.8, 0.99),
    ),
    Case(
        "MemoryRunningOut",
        {f"container_memory_working_set_bytes{{{_POD}}}": "700+4x200", f"container_spec_memory_limit_bytes{{{_POD}}}": "1000x200"},
        {f"container_memory_working_set_bytes{{{_POD}}}": "640+4x200", f"container_spec_memory_limit_bytes{{{_POD}}}": "1000x200"},
        (0.8, 0.99),
        at=62,
        also_quiet=(
            {f"container_memory_working_set_bytes{{{_POD}}}": "950x200", f"container_spec_memory_limit_bytes{{{_POD}}}": "1000x200"},
        ),
    ),
    Case(
        "SlotWithoutEndpoints",
        {on("blue", "inferstack_requests_total", code="200"): "0+60x60", _READY: "1x58 0 0 0 0 0"},
        {on("blue", "inferstack_requests_total", code="200"): "0+0x63"},
        (-1, 10),
        at=61,
        also_quiet=(requests(0) | constant(_READY, 1),),
    ),
    Case(
        "PromotionStuck",
        requests(0, 60) | requests(0, 5940, slot="green"),
        requests(0, 6) | requests(0, 5994, slot="green"),
        (0.0005, 0.05),
        at=90,
    ),
    Case(
        "PromotionLong",
        constant(_PROMOTION, 0),
        constant(_PROMOTION, 1200),
        (6000, 9000),
        at=130,
    ),
    Case(
        "PromotionRunning",
        requests(0, 60) | requests(0, 5940, slot="green"),
        requests(0, 6) | requests(0, 5994, slot="green"),
        (0.0005, 0.05),
    ),
    Case(
        "RuntimeRestarting",
        {on("blue", "process_start_time_seconds"): "1x40 2x4 3x4 4x20"},
        {on("blue", "process_start_time_seconds"): "1x40 2x4 3x24"},
        (1, 3),
    ),
    Case("AccessKeysMissing", constant(_KEYS, 0), constant(_KEYS, 1), (-1, 1)),
    Case(
        "SharedStoreDown",
        constant(_STORE, 0),
        constant(_STORE, 1),
        (0, 2),
    ),
    Case(
        "CacheFalseHits",
        constant(on("blue", "inferstack_cache_false_hit_ratio", model="m", bound="low"), 0.011),
        constant(on("blue", "inferstack_cache_false_hit_ratio", model="m", bound="low"), 0.009)
        | constant(on("blue", "inferstack_cache_false_hit_ratio", model="m", bound="estimate"), 0.5),
        (0.008, 0.0125),
    ),
    Case(
        "ReplicasAtMost",
        constant('kube_horizontalpodautoscaler_status_desired_replicas{horizontalpodautoscaler="a"}', 5)
        | constant('kube_horizontalpodautoscaler_spec_max_replicas{horizontalpodautoscaler="a"}', 5),
        constant('kube_horizontalpodautoscaler_status_desired_replicas{horizontalpodautoscaler="a"}', 4)
        | constant('kube_horizontalpodautoscaler_spec_max_replicas{horizontalpodautoscaler="a"}', 5),
        (0.8, 1.25),
    ),
    Case(
        "AutoscalerBlind",
        looks(6, 4),
        looks(4, 6),
        (0.3, 0.7),
        also_quiet=(
            looks(0, 4),
            {'inferstack_autoscaler_looks_total{environment="prod",target="blue",result="stopped"}': "0+4x200"},
            {'inferstack_autoscaler_looks_total{environment="prod",target="blue",result="failed"}': "0+4x10 40+0x190"},
        ),
    ),
    Case("BudgetExceeded", _BUDGET | ready("blue", 11), _BUDGET | ready("blue", 9), (0.8, 1.25), also_quiet=(ready("blue", 50),)),
    Case("BudgetBurn", _BUDGET | ready("blue", 10), _BUDGET | ready("blue", 8), (0.75, 1.1), at=200),
    Case("GpuTemperatureHigh", constant(f"DCGM_FI_DEV_GPU_TEMP{{{_GPU}}}", 86), constant(f"DCGM_FI_DEV_GPU_TEMP{{{_GPU}}}", 84), (80, 90)),
    Case(
        "GpuThrottled",
        {f"DCGM_FI_DEV_THERMAL_VIOLATION{{{_GPU}}}": "0+660000000x200"},
        {f"DCGM_FI_DEV_THERMAL_VIOLATION{{{_GPU}}}": "0+540000000x200"},
        (0.008, 0.0125),
    ),
    Case(
        "GpuXidError",
        {f"{_XID}{{{_GPU}}}": "0x55 79x20"},
        {f"{_XID}{{{_GPU}}}": "79x55 0x20"},
        (-1, 100),
        also_quiet=(
            constant(f"{_XID}{{{_GPU}}}", 79),
            {f"{_XID}{{{_GPU}}}": "0x20 79x80"},
            {f'{_XID}{{{_GPU},pod="a"}}': "79x55 stale", f'{_XID}{{{_GPU},pod="b"}}': "_x56 79x50"},
            {f"{_XID}{{{_GPU}}}": "79x38 _x9 79x50"},
        ),
    ),
    Case("TargetDown", constant('up{job="inferstack",instance="a"}', 0), constant('up{job="inferstack",instance="a"}', 1), (0, 2)),
    Case("MetricsMissing", constant('up{job="other"}', 1), constant(_READY, 0), ()),
    Case("Watchdog", constant("up", 1), {}, ()),
)
