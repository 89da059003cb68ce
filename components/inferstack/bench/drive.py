"""Shapes of load: a closed loop of clients, Poisson arrivals, and a ramp up to a number of clients that hold."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence

from inferstack.bench.client import Sample, Target, ask


async def closed_loop(target: Target, prompts: Sequence[str], clients: int, max_tokens: int) -> list[Sample]:
    """Every prompt once; each client sends its next when its last has ended."""
    rest = iter(prompts)

    async def client() -> list[Sample]:
        return [await ask(target, prompt, max_tokens) for prompt in rest]

    return list(itertools.chain(*await asyncio.gather(*(client() for _ in range(clients)))))


async def poisson(target: Target, prompts: Sequence[str], rate: float, max_tokens: int, seed: int) -> list[Sample]:
    """Every prompt once, at random times with a mean of `rate` requests per second, whatever the server manages."""
    choose = random.Random(seed)  # noqa: S311 - repeatable load, not a secret
    async with asyncio.TaskGroup() as group:
        tasks = []
        for prompt in prompts:
            tasks.append(group.create_task(ask(target, prompt, max_tokens)))
            await asyncio.sleep(choose.expovariate(rate))
    return [task.result() for task in tasks]


async def ramp(
    target: Target, prompts: Sequence[str], clients: int, max_tokens: int, *, ramp_seconds: float, hold_seconds: float
) -> list[Sample]:
    """Closed loops that start spread over `ramp_seconds` and then run on together for `hold_seconds`; prompts come round again."""
    end = time.monotonic() + ramp_seconds + hold_seconds
    source = itertools.cycle(prompts)

    async def client(number: int) -> list[Sample]:
        await asyncio.sleep(ramp_seconds * number / max(1, clients))
        samples = []
        while time.monotonic() < end:
            samples.append(await ask(target, next(source), max_tokens))
        return samples

    return list(itertools.chain(*await asyncio.gather(*(client(number) for number in range(clients)))))
