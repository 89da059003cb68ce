"""From the replicas' own metrics to one sample of a slot."""

import asyncio
import socket
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.autoscaler.config import ReplicaConfig
from inferstack_runtime.autoscaler.signals import Sample

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """What one replica said at one time (seconds): totals since its start, and what holds now."""

    time: float
    cpu_seconds: float
    memory_bytes: float
    waiting: float
    kv_ratio: float
    answers: float
    failures: float


def read_metrics(text: str, now: float) -> Look:
    """A replica's metrics page; raises ValueError for a page that is not one."""
    values = {"cpu": 0.0, "memory": 0.0, "waiting": 0.0, "kv": 0.0, "answers": 0.0, "failures": 0.0}
    known = False
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "process_cpu_seconds_total":
                values["cpu"], known = sample.value, True
            elif sample.name == "process_resident_memory_bytes":
                values["memory"] = sample.value
            elif sample.name == catalogue.WAITING.name:
                values["waiting"] += sample.value
            elif sample.name == catalogue.KV_RATIO.name:
                values["kv"] = max(values["kv"], sample.value)
            elif sample.name == catalogue.REQUESTS.name and sample.labels.get("model"):
                values["answers"] += sample.value
                values["failures"] += sample.value if sample.labels.get("code", "").startswith("5") else 0.0
    if not known:
        raise ValueError("no process_cpu_seconds_total: not a metrics page of the runtime")
    return Look(now, values["cpu"], values["memory"], values["waiting"], values["kv"], values["answers"], values["failures"])


def sample_of(before: Mapping[str, Look], looks: Mapping[str, Look], replicas: int, replica: ReplicaConfig, now: float) -> Sample:
    """The slot's sample from two looks at its replicas, by address. Missing where no replica was seen twice."""
    pairs = [(before[address], look) for address, look in looks.items() if address in before and look.time > before[address].time]
    pairs = [(first, second) for first, second in pairs if second.cpu_seconds >= first.cpu_seconds]  # not restarted in between
    if not pairs:
        return Sample(now, replicas, missing=True)
    count = len(pairs)
    answers = sum(max(0.0, second.answers - first.answers) for first, second in pairs)
    failures = sum(max(0.0, second.failures - first.failures) for first, second in pairs)
    used = sum((second.cpu_seconds - first.cpu_seconds) / (second.time - first.time) for first, second in pairs)
    return Sample(
        time=now,
        replicas=replicas,
        cpu=min(1.0, used / count / replica.cpu_cores),
        memory=min(1.0, sum(second.memory_bytes for _, second in pairs) / count / replica.memory_bytes),
        waiting=sum(second.waiting for _, second in pairs),
        kv_ratio=sum(second.kv_ratio for _, second in pairs) / count,
        error_ratio=failures / answers if answers else 0.0,
    )


async def look_at(addresses: Iterable[str], now: float) -> dict[str, Look]:
    """Look at every replica; those that do not answer are left out."""
    wanted = await asyncio.to_thread(_resolved, list(addresses))
    found = await asyncio.gather(*(asyncio.to_thread(_fetch, address, now) for address in wanted))
    return {address: look for address, look in zip(wanted, found, strict=True) if look is not None}


def _resolved(addresses: list[str]) -> list[str]:
    """Every address behind every name."""
    found: dict[str, None] = {}
    for address in addresses:
        parts = urlsplit(address)
        try:
            rows = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        except OSError:
            continue
        for row in rows:
            host, port = row[4][:2]
            if isinstance(host, str) and isinstance(port, int):
                found[parts._replace(netloc=f"[{host}]:{port}" if row[0] == socket.AF_INET6 else f"{host}:{port}").geturl()] = None
    return list(found)


def _fetch(address: str, now: float) -> Look | None:
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:  # noqa: S310 - http(s) by the configuration
            return read_metrics(answer.read().decode(), now)
    except (OSError, ValueError):
        return None
