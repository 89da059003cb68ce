"""The check after a deploy: real streamed answers through the real gateway, counted and timed.

report = await check("https://llm.example", key, requests=20)
judge(report, error_ratio=0.01, ttft_p95_seconds=5)          # raises Refused
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from inferstack.delivery.gates import Refused


@dataclass(frozen=True, slots=True)
class Health:
    """What the requests met: `failures` by reason, seconds to the first token of each complete answer, answers by slot."""

    requests: int
    failures: dict[str, int]
    ttft_seconds: tuple[float, ...]
    slots: dict[str, int]

    @property
    def ttft_p95_seconds(self) -> float | None:
        """95th percentile by nearest rank; None without an answer."""
        ordered = sorted(self.ttft_seconds)
        return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else None


async def check(
    url: str, key: str, *, requests: int = 20, concurrency: int = 4, timeout_seconds: float = 60, max_tokens: int = 16
) -> Health:
    """Send `requests` streamed chats to the first model of `url` and report; a stream without its end counts as failed."""
    failures: Counter[str] = Counter()
    slots: Counter[str] = Counter()
    times: list[float] = []
    turn = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=timeout_seconds) as client:
        model = await _first_model(client)
        if model is None:
            return Health(requests, {"no model listed": requests}, (), {})

        async def one(number: int) -> None:
            async with turn:
                try:
                    seconds, slot = await _chat(client, model, number, max_tokens)
                except (httpx.HTTPError, ValueError) as error:
                    failures[str(error) or type(error).__name__] += 1
                else:
                    times.append(seconds)
                    slots[slot] += 1

        await asyncio.gather(*(one(number) for number in range(requests)))
    return Health(requests, dict(failures), tuple(times), dict(slots))


def judge(health: Health, *, error_ratio: float, ttft_p95_seconds: float) -> None:
    """Refuse what fails or lags more than it may."""
    failed = sum(health.failures.values())
    if failed > error_ratio * health.requests:
        reason = max(health.failures, key=lambda text: health.failures[text])
        raise Refused(f"after the deploy {failed} of {health.requests} requests failed (allowed: {error_ratio:.1%}), most often: {reason}.")
    p95 = health.ttft_p95_seconds
    if p95 is None or p95 > ttft_p95_seconds:
        found = "no answer at all" if p95 is None else f"{p95:.2f} s"
        raise Refused(f"after the deploy the first token takes {found} (95th percentile; allowed: {ttft_p95_seconds:g} s).")


def describe(health: Health) -> str:
    """One line for people and step summaries."""
    p95 = "none" if health.ttft_p95_seconds is None else f"{health.ttft_p95_seconds:.2f} s"
    slots = ", ".join(f"{count} by {slot}" for slot, count in sorted(health.slots.items())) or "none"
    return f"{len(health.ttft_seconds)} of {health.requests} answered ({slots}); first token, 95th percentile: {p95}"


async def _first_model(client: httpx.AsyncClient) -> str | None:
    try:
        answer = await client.get("/v1/models")
        answer.raise_for_status()
        return str(answer.json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        return None


async def _chat(client: httpx.AsyncClient, model: str, number: int, max_tokens: int) -> tuple[float, str]:
    question = {"role": "user", "content": f"Count up from {number}."}  # differs each time: a cached answer would prove nothing
    body = {"model": model, "messages": [question], "max_tokens": max_tokens, "stream": True}
    begun, first = time.perf_counter(), None
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                if first is None:
                    raise ValueError("stream without a token")
                return first - begun, answer.headers.get("x-inferstack-slot", "unnamed slot")
            if first is None and line.startswith("data: ") and _has_token(line.removeprefix("data: ")):
                first = time.perf_counter()
    raise ValueError("stream cut off")


def _has_token(data: str) -> bool:
    event = json.loads(data)
    choices: Sequence[dict[str, dict[str, str]]] = event.get("choices") or [] if isinstance(event, dict) else []
    return any((choice.get("delta") or {}).get("content") for choice in choices)
