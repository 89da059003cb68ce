"""Reads what a replica's own /metrics says into the counters that gates need. Pure.

Known are this kit's runtime and those servers of other engines that measure the time between tokens. What is not there leaves its
figures at nothing, and a check that needs them is inconclusive.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from inferstack.promotion.measure import Counters, Histogram
from inferstack_dashboards.engines import PROBES, SERVERS, Server

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Family:
    """Names of one server's series."""

    requests: str
    status: str
    route: str
    ttft: str
    gap: str
    tokens: str
    failed_sequences: str = ""


_OURS = Family(
    requests="inferstack_requests_total",
    status="code",
    route="route",
    ttft="inferstack_time_to_first_token_seconds",
    gap="inferstack_inter_token_seconds",
    tokens="inferstack_generated_tokens_total",
    failed_sequences="inferstack_finished_total",
)


def _families(server: Server) -> Iterator[Family]:
    """A server's names, once for each name that its time between tokens has had; none of a server without such times."""
    requests, ttft, gap, tokens = (server.find(name) for name in (_OURS.requests, _OURS.ttft, _OURS.gap, _OURS.tokens))
    if requests and ttft and gap and tokens:
        theirs = {ours: label for label, ours in requests.labels.items()}
        for name in gap.names:
            yield Family(requests.names[0], theirs["code"], theirs["route"], ttft.names[0], name, tokens.names[0])


FAMILIES = (_OURS, *(family for server in SERVERS for family in _families(server)))


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Every sample of the text exposition format: name, labels, value. Lines that are none are passed over."""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.match(line.strip())
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield match[1], dict(_LABEL.findall(match[2] or "")), value


def counters(text: str) -> Counters:
    """The cumulative figures of one replica. Refused requests (4xx) are nobody's fault here and count neither way."""
    found = list(samples(text))
    names = {name for name, _, _ in found}
    family = next((family for family in FAMILIES if f"{family.gap}_bucket" in names), FAMILIES[0])
    served = failed = broken = 0.0
    values: dict[str, float] = defaultdict(float)
    for name, labels, value in found:
        if name == family.requests and labels.get(family.route) not in PROBES:
            status = labels.get(family.status, "")
            served += value if status.startswith(("2", "5")) else 0
            failed += value if status.startswith("5") else 0
        elif family.failed_sequences and name == family.failed_sequences and labels.get("reason") == "error":
            broken += value
        values[name] += value
    return Counters(
        requests=served,
        errors=max(failed, broken),
        tokens=values[family.tokens],
        ttft=_histogram(found, family.ttft),
        inter_token=_histogram(found, family.gap),
        resident_bytes=values["process_resident_memory_bytes"],
        bounded_bytes=values["inferstack_kv_cache_size_bytes"],
        cache_hits=values["inferstack_cache_verified_hits_total"],
        cache_false_hits=values["inferstack_cache_false_hits_total"],
        started=values["process_start_time_seconds"],
    )


def _histogram(found: list[tuple[str, dict[str, str], float]], name: str) -> Histogram:
    """All series of a histogram added up, its cumulative buckets taken apart."""
    cumulative: dict[float, float] = defaultdict(float)
    for sample, labels, value in found:
        if sample == f"{name}_bucket" and "le" in labels:
            cumulative[float(labels["le"])] += value
    if not cumulative:
        return Histogram()
    bounds = sorted(cumulative)
    if not math.isinf(bounds[-1]):
        bounds.append(math.inf)
        cumulative[math.inf] = cumulative[bounds[-2]]
    counts, below = [], 0.0
    for bound in bounds:
        counts.append(max(0.0, cumulative[bound] - below))
        below = cumulative[bound]
    return Histogram(tuple(bounds), tuple(counts))
