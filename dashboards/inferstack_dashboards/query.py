"""PromQL of the boards, made from catalogue entries, so that a query can only name a metric that is declared.

    rate(REQUESTS, "slot")     # sum by (slot) (rate(inferstack_requests_total{environment=~"$environment",...}[$__rate_interval]))

Every query of the runtime's metrics carries the board's variables for the labels that the metric has; of requests, users' alone count.
"""

from inferstack_dashboards.engines import PROBES
from inferstack_runtime.metrics import REQUESTS, Metric

INTERVAL = "$__rate_interval"
_COMMON = ("environment", "slot")
OF_USERS = f'route!~"{"|".join(PROBES)}|/console.*"'
"""Requests of users, not of those who look whether the process lives."""
OF_A_SLOT = 'slot!=""'
"""Every process exposes `process_…`, the autoscaler too; All of the variable `slot` would match those without a slot."""
FAILED = 'code=~"5.."'
"""Answers that count as failures: 4xx are the client's."""


def name_of(metric: Metric, suffix: str = "") -> str:
    """The series of a metric, with `bucket`, `sum` or `count` that of a histogram. Raises ValueError where it has no such series."""
    name = f"{metric.name}_{suffix}" if suffix else metric.name
    if name not in metric.samples:
        raise ValueError(f"{metric.name} is a {metric.kind}: it has {', '.join(metric.samples)}, not {name}")
    return name


def selector(metric: Metric, suffix: str = "", where: str = "") -> str:
    """A series with the board's variables and `where` as matchers."""
    matchers = [f'{label}=~"${label}"' for label in _COMMON]
    if "model" in metric.labels:
        matchers.append('model=~"$model"')
    if metric.name.startswith("process_"):
        matchers.append(OF_A_SLOT)
    if metric is REQUESTS:
        matchers += ['tier=~"$tier"', OF_USERS]
    if where:
        matchers.append(where)
    return f"{name_of(metric, suffix)}{{{','.join(matchers)}}}"


def external(metric: Metric, where: str = "") -> str:
    """A series that somebody else exports, with the board's variables for those of its labels that it has."""
    matchers = [f'{label}=~"${label}"' for label in _COMMON if label in metric.labels] + ([where] if where else [])
    return f"{name_of(metric)}{{{','.join(matchers)}}}" if matchers else name_of(metric)


def rate(metric: Metric, *by: str, suffix: str = "", where: str = "") -> str:
    """Per second, summed by labels."""
    if metric.kind == "gauge":
        raise ValueError(f"{metric.name} is a gauge: a rate of it has no meaning")
    return f"sum{_by(by)} (rate({selector(metric, suffix, where)}[{INTERVAL}]))"


def total(metric: Metric, *by: str, where: str = "", fold: str = "sum") -> str:
    """A gauge folded by labels."""
    if metric.kind != "gauge":
        raise ValueError(f"{metric.name} is a {metric.kind}: take its rate")
    return f"{fold}{_by(by)} ({selector(metric, where=where)})"


def quantile(q: float, metric: Metric, *by: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({q:g}, {rate(metric, 'le', *by, suffix='bucket')})"


def mean(metric: Metric, *by: str) -> str:
    """The mean of a histogram's observations."""
    return ratio(rate(metric, *by, suffix="sum"), rate(metric, *by, suffix="count"))


def ratio(part: str, whole: str) -> str:
    """A share; no value where the whole is 0."""
    return f"{part} / ({whole} > 0)"


def share(part: str, whole: str) -> str:
    """A part of a whole with the same labels: 0 where the part has no series yet."""
    return ratio(f"({part} or {whole} * 0)", whole)


def share_of_all(parts: str, whole: str) -> str:
    """Each of several labelled parts, of one whole without labels."""
    return f"{parts} / on () group_left () ({whole} > 0)"


def or_zero(expr: str) -> str:
    """A sum that is 0, not absent, before its first event."""
    return f"{expr} or vector(0)"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
