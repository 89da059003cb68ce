"""Side by side: every server gets the same prompts and output lengths, one after another, round by round, while the others are stopped."""

import asyncio
import contextlib
import resource
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inferstack.bench.client import Sample, Target
from inferstack.bench.drive import closed_loop
from inferstack.bench.machine import cores
from inferstack.bench.servers import DidNotStart, Ended, Recipe, Server, paused, running
from inferstack.bench.summary import Summary, summarize
from inferstack.bench.workload import Workload, prompts


@dataclass(frozen=True)
class Row:
    """One measurement of one server."""

    server: str
    version: str
    round: int
    clients: int
    summary: Summary
    ready_seconds: float

    def as_dict(self) -> dict[str, Any]:
        head = {"server": self.server, "version": self.version, "round": self.round, "clients": self.clients}
        return head | self.summary.as_dict() | {"ready_seconds": self.ready_seconds}


@dataclass
class CpuTime:
    """CPU seconds of this process between two readings."""

    seconds: float = 0.0


@contextlib.contextmanager
def own_cpu_time() -> Iterator[CpuTime]:
    """Measures what this process itself takes, so that the client's share can be reported."""
    before, taken = resource.getrusage(resource.RUSAGE_SELF), CpuTime()
    yield taken
    after = resource.getrusage(resource.RUSAGE_SELF)
    taken.seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(target: Target, texts: Sequence[str], clients: int, output: int, rss_bytes: Callable[[], int] | None = None) -> Summary:
    """One closed loop, summarized."""
    with own_cpu_time() as cpu:
        samples: list[Sample] = asyncio.run(closed_loop(target, texts, clients, output))
    rss = None if rss_bytes is None else rss_bytes()
    return summarize(samples, client_cpu_seconds=cpu.seconds, cores=cores(), server_rss_bytes=rss)


def compare(
    recipes: Sequence[Recipe],
    workload: Workload,
    levels: Sequence[int],
    rounds: int,
    *,
    requests_per_client: int = 2,
    seed: int = 1,
    watch: Callable[[Row], None] = lambda row: None,
    absent: Callable[[str, str], None] = lambda name, why: None,
) -> list[Row]:
    """Start all servers, then per round and level measure each in turn (A, B, …, A, B, …).

    Who does not start is handed to `absent`, and so is who ends on the way: what was measured of it before stays.
    """
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        for recipe in recipes:
            try:
                server = stack.enter_context(running(recipe))
                first = measure(server.target, prompts(workload, 1, seed), 1, 4)  # a process' first request pays for what is lazy
                server.check(first)
            except (DidNotStart, Ended) as problem:
                absent(recipe.name, str(problem))
                continue
            servers.append(server)
            server.pause()
        for server in servers:
            server.resume()
        for number in range(rounds):
            for level in levels:
                texts = prompts(workload, level * requests_per_client, seed + 1000 * number + level)
                for server in list(servers):
                    with paused(servers, server):
                        summary = measure(server.target, texts, level, workload.output, server.rss_bytes)
                    try:
                        server.check(summary)
                    except Ended as problem:
                        absent(server.recipe.name, str(problem))
                        servers.remove(server)
                        continue
                    row = Row(server.recipe.name, server.recipe.version, number, level, summary, server.ready_seconds)
                    rows.append(row)
                    watch(row)
    return rows


def medians(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per server and level: median and range of tok/s over the rounds, medians of the percentiles, and failures."""
    table = []
    for name, level in dict.fromkeys((row.server, row.clients) for row in rows):
        own = [row.summary for row in rows if (row.server, row.clients) == (name, level)]
        speeds = [summary.output_tokens_per_second for summary in own]
        table.append(
            {
                "server": name,
                "clients": level,
                "rounds": len(own),
                "tokens_per_second": statistics.median(speeds),
                "tokens_per_second_range": [min(speeds), max(speeds)],
                "ttft_p50": statistics.median(summary.ttft.get("p50", float("nan")) for summary in own),
                "inter_token_p50": statistics.median(summary.inter_token.get("p50", float("nan")) for summary in own),
                "failed": sum(summary.failed for summary in own),
                "client_cpu_share": statistics.median(summary.client_cpu_share for summary in own),
                "server_rss_bytes": max(summary.server_rss_bytes or 0 for summary in own),
            }
        )
    return table
