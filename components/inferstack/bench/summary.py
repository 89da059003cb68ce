"""From samples to figures."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from inferstack.bench.client import Sample

Percentiles = dict[str, float]


@dataclass(frozen=True)
class Summary:
    """Times in seconds. `output_tokens_per_second`: tokens of answers by the time from first request to last answer, prompts included."""

    requests: int
    failed: int
    limited: int
    """Answers with 429."""
    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    prompt_tokens: int
    output_tokens: int
    ttft: Percentiles
    inter_token: Percentiles
    end_to_end: Percentiles
    client_cpu_share: float
    """CPU time of this process by the time that all cores had."""
    server_rss_bytes: int | None
    errors: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def percentiles(values: Sequence[float]) -> Percentiles:
    """p50, p95 and p99 by nearest rank, and the mean; empty where there are no values."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {f"p{rank}": ordered[math.ceil(len(ordered) * rank / 100) - 1] for rank in (50, 95, 99)}
    return ranks | {"mean": statistics.fmean(ordered)}


def summarize(
    samples: Sequence[Sample], *, client_cpu_seconds: float = 0.0, cores: int = 1, server_rss_bytes: int | None = None
) -> Summary:
    """Figures of one load; failed requests count as failed and add nothing else."""
    good = [sample for sample in samples if sample.ok]
    seconds = max(sample.ended for sample in samples) - min(sample.sent for sample in samples) if samples else 0.0
    tokens = sum(sample.tokens for sample in good)
    return Summary(
        requests=len(samples),
        failed=len(samples) - len(good),
        limited=sum(sample.status == 429 for sample in samples),
        seconds=seconds,
        requests_per_second=len(good) / seconds if seconds else 0.0,
        output_tokens_per_second=tokens / seconds if seconds else 0.0,
        prompt_tokens=sum(sample.prompt_tokens or 0 for sample in good),
        output_tokens=tokens,
        ttft=percentiles([sample.ttft for sample in good]),
        inter_token=percentiles([gap for sample in good for gap in sample.gaps]),
        end_to_end=percentiles([sample.ended - sample.sent for sample in good]),
        client_cpu_share=client_cpu_seconds / (seconds * cores) if seconds else 0.0,
        server_rss_bytes=server_rss_bytes,
        errors=tuple(sorted({sample.error for sample in samples if sample.error})[:5]),
    )
