"""Recording rules: the names that other systems use, each with its right meaning, and the sums that alerts need. Pure.

Histograms and counters are passed on series by series, never summed: a sum of counters falls when a replica goes, and a rate of it would
lie. Names with `ratio` or without a unit are 0 to 1, `…_percent` 0 to 100, `…_mb` mebibytes. Windows are two minutes: four scrapes of 30 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from inferstack_dashboards import external as e
from inferstack_dashboards.engines import SERVERS, Same, Server
from inferstack_dashboards.query import OF_USERS
from inferstack_runtime import metrics as m
from inferstack_runtime.metrics import Metric

WINDOW = "2m"
SLO_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Windows of the burn-rate alerts: Google, The Site Reliability Workbook, chapter 5, table 5-8, for a budget of 30 days."""
FIRST_TOKEN_SECONDS = 5.0
"""Bound of the first-token objective; an edge of the histogram's buckets, so that no value is interpolated."""
_SLOT = "environment, slot"
_MODEL = "environment, slot, model"


@dataclass(frozen=True)
class Record:
    """One recording rule: `name` becomes the series of `expr`."""

    name: str
    expr: str


@dataclass(frozen=True)
class Group:
    """Rules evaluated one after the other."""

    name: str
    records: tuple[Record, ...]


def failed_ratio(window: str) -> str:
    """Name of the recorded share of 5xx answers in a window."""
    return f"inferstack:failed:ratio_rate{window}"


def slow_ratio(window: str) -> str:
    """Name of the recorded share of requests whose first token came later than FIRST_TOKEN_SECONDS, in a window."""
    return f"inferstack:slow_first_token:ratio_rate{window}"


def request_rate(window: str) -> str:
    """Name of the recorded requests per second in a window."""
    return f"inferstack:requests:rate{window}"


def groups() -> tuple[Group, ...]:
    """Every recording rule."""
    return (
        Group("inferstack-engines", tuple(_engine_names())),
        Group("inferstack-names", tuple(_names())),
        Group("inferstack-gpu-names", tuple(_gpu_names())),
        Group("inferstack-vllm-names", tuple(_vllm_names())),
        Group("inferstack-gen-ai-names", tuple(_gen_ai_names())),
        Group("inferstack-cost", tuple(_cost())),
        Group("inferstack-objectives", tuple(_objectives())),
    )


def _rate(metric: Metric, by: str, suffix: str = "", window: str = WINDOW, where: str = "") -> str:
    name = f"{metric.name}_{suffix}" if suffix else metric.name
    matchers = ",".join(filter(None, (where, OF_USERS if metric is m.REQUESTS else "")))
    return f"sum by ({by}) (rate({name}{'{' + matchers + '}' if matchers else ''}[{window}]))"


def _engine_names() -> Iterator[Record]:
    """What the servers of other engines expose, under this kit's names. Their label `server` tells such series apart: it keeps aliases,
    which lead the other way, from being counted again."""
    metrics = list(dict.fromkeys(same.metric for server in SERVERS for same in server.series))
    for metric in metrics:
        for sample in metric.samples:
            known = [(server, same) for server in SERVERS if (same := server.find(metric.name))]
            yield Record(sample, " or ".join(_as_ours(server, same, sample.removeprefix(metric.name)) for server, same in known))
    others = 'server!=""'
    busy = f"sum by (environment, slot, instance, server) ({m.RUNNING.name}{{{others}}})"
    waiting = f"sum by (environment, slot, instance, server) ({m.WAITING.name}{{{others}}})"
    yield Record(m.IN_FLIGHT.name, f"{busy} + {waiting}")
    seen = f"group by (environment, slot, instance, server) ({m.RUNNING.name}{{{others}}})"
    scraped = f'label_replace({e.UP.name}{{job="inferstack",slot!="",environment!=""}} == 1, "server", "unknown", "", "")'
    ours = f'unless on (environment, slot, instance) {m.READY.name}{{server=""}}'
    both = f"({seen} or on (environment, slot, instance) group by (environment, slot, instance, server) ({scraped}))"
    yield Record(m.READY.name, f"{both} {ours}")
    yield Record(m.IDENTITY.name, f"group by (environment, slot, instance, model, server) ({m.RUNNING.name}{{{others}}})")


def _as_ours(server: Server, same: Same, suffix: str) -> str:
    """A server's series with this kit's labels."""
    expr = " or ".join(f'{name}{suffix}{{server="",slot!=""}}' for name in same.names)
    renamed = {**({server.model: "model"} if server.model else {}), **same.labels}
    for theirs, ours in renamed.items():
        expr = f'label_replace({expr}, "{ours}", "$1", "{theirs}", "(.*)")'
    return f'label_replace({expr}, "server", "{server.kind}", "", "")'


def _names() -> Iterator[Record]:
    loaded = f"count by ({_SLOT}) (count by ({_MODEL}) ({m.WEIGHT_BYTES.name} > 0))"
    yield Record("llm_active_models", f"{loaded} or max by ({_SLOT}) ({m.MODELS_LOADED.name}) * 0")
    yield Record("llm_requests_per_second", _rate(m.REQUESTS, _MODEL))
    yield Record("throughput_rps", _rate(m.REQUESTS, _SLOT))
    yield Record("zig_ai_inference_requests_total", f"{m.REQUESTS.name}{{{OF_USERS}}}")
    for name in ("llm_response_time_histogram", "llm_inference_latency_seconds", "zig_ai_inference_duration_seconds"):
        yield from _passed_on(m.REQUEST_SECONDS, name)
    yield Record("inference_latency", f"{_rate(m.REQUEST_SECONDS, _MODEL, 'sum')} / ({_rate(m.REQUEST_SECONDS, _MODEL, 'count')} > 0)")
    yield Record("llm_throughput_tokens_per_second", _rate(m.GENERATED_TOKENS, _MODEL))
    yield Record("llm_batch_size", f"{_rate(m.BATCH_SIZE, _MODEL, 'sum')} / ({_rate(m.BATCH_SIZE, _MODEL, 'count')} > 0)")
    yield Record("llm_active_requests", f"sum by ({_SLOT}) ({m.IN_FLIGHT.name})")
    hits = _rate(m.CACHE_LOOKUPS, _SLOT, where='result=~"hit|coalesced"')
    asked = _rate(m.CACHE_LOOKUPS, _SLOT, where='tier="exact_process"')
    yield Record("llm_cache_hit_rate", f"({hits} or {asked} * 0) / ({asked} > 0)")
    yield Record("cache_hit_rate", "llm_cache_hit_rate")
    yield Record("cpu_utilization", f'rate({m.PROCESS_CPU.name}{{slot!=""}}[{WINDOW}])')
    yield Record("memory_usage", f'{m.PROCESS_MEMORY.name}{{slot!=""}}')
    yield Record("memory_usage_mb", f'{m.PROCESS_MEMORY.name}{{slot!=""}} / 1048576')
    yield Record("model_size_mb", f"{m.WEIGHT_BYTES.name} / 1048576")
    yield Record("model_load_time", f"{m.MODEL_LOAD_SECONDS.name}_sum / ({m.MODEL_LOAD_SECONDS.name}_count > 0)")


def _gpu_names() -> Iterator[Record]:
    used, free = e.GPU_MEMORY_USED.name, e.GPU_MEMORY_FREE.name
    yield Record("gpu_utilization_percent", e.GPU_UTILIZATION.name)
    yield Record("gpu_utilization", f"{e.GPU_UTILIZATION.name} / 100")
    yield Record("gpu_memory_usage_percent", f"100 * {used} / ({used} + {free})")
    yield Record("gpu_memory_usage", f"{used} / ({used} + {free})")
    yield Record("llm_gpu_memory_usage_bytes", f"{used} * 1048576")


def _vllm_names() -> Iterator[Record]:
    """Series under the names of vLLM's own exporter, with its label `model_name`: its boards and scalers work unchanged. Only of this kit's
    own processes: vLLM's have those names already."""
    for metric, alias in _aliases("vllm:"):
        if alias == "vllm:request_success_total":
            ended = f'label_replace({m.FINISHED.name}{{server="",reason=~"stop|length"}}, "finished_reason", "$1", "reason", "(.*)")'
            yield Record(alias, _ours(_model_as("model_name", ended)))
        else:
            for name in metric.samples:
                yield Record(alias + name.removeprefix(metric.name), _ours(_model_as("model_name", f'{name}{{server=""}}')))
    yield Record("vllm:prefix_cache_queries_total", _ours(_model_as("model_name", f'{m.PROMPT_TOKENS.name}{{server=""}}')))


def _gen_ai_names() -> Iterator[Record]:
    """OpenTelemetry's names of a generative server, as Prometheus writes them (dots become underscores, the unit is added).

    OpenTelemetry semantic conventions for generative AI, metrics, status Development. Its time per output token is a request's mean;
    here every gap between two tokens counts once.
    """
    for metric, alias in _aliases("gen_ai_"):
        yield from _passed_on(metric, alias, "gen_ai_request_model")


def _aliases(prefix: str) -> Iterator[tuple[Metric, str]]:
    return ((metric, alias) for metric in m.CATALOGUE for alias in metric.aliases if alias.startswith(prefix))


def _ours(expr: str) -> str:
    return f'label_replace({expr}, "server", "inferstack", "", "")'


def _model_as(label: str, expr: str) -> str:
    return f'label_replace({expr}, "{label}", "$1", "model", "(.*)")'


def _passed_on(metric: Metric, alias: str, label: str = "") -> Iterator[Record]:
    """The metric's series under another name; with `label`, the model under that label too."""
    for name in metric.samples:
        yield Record(alias + name.removeprefix(metric.name), _model_as(label, name) if label else name)


def _cost() -> Iterator[Record]:
    """Dollars per hour. The prices themselves are rules of the environment (`prices`), because they come from its machines and region."""
    running = f"count by ({_SLOT}) ({m.READY.name})"
    replicas = f"{running} * on () group_left () {e.REPLICA_PRICE.name}"
    fixed = f"group by (environment) ({m.READY.name}) * on () group_left () {e.FIXED_PRICE.name}"
    yield Record("llm_cost_hourly", f'{replicas} or label_replace({fixed}, "slot", "shared", "", "")')


def _objectives() -> Iterator[Record]:
    seconds = f"{FIRST_TOKEN_SECONDS}"
    for window in SLO_WINDOWS:
        asked = _rate(m.REQUESTS, "environment", window=window)
        failed = _rate(m.REQUESTS, "environment", window=window, where='code=~"5.."')
        yield Record(request_rate(window), asked)
        yield Record(failed_ratio(window), f"({failed} or {asked} * 0) / ({asked} > 0)")
        begun = _rate(m.TIME_TO_FIRST_TOKEN, "environment", "count", window)
        quick = _rate(m.TIME_TO_FIRST_TOKEN, "environment", "bucket", window, f'le="{seconds}"')
        yield Record(slow_ratio(window), f"1 - {quick} / ({begun} > 0)")


def prices(replica_usd: float | None, fixed_usd: float | None, budget_usd: float | None) -> Group:
    """The environment's prices as constant series; what is unknown has no series, so that nothing counts it as 0."""
    known = ((e.REPLICA_PRICE, replica_usd), (e.FIXED_PRICE, fixed_usd), (e.BUDGET, budget_usd))
    return Group("inferstack-prices", tuple(Record(metric.name, f"vector({value!r})") for metric, value in known if value is not None))
