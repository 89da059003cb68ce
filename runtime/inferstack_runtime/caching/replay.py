"""A cached answer served as if it were generated: the same deltas, whole or as a stream."""

import asyncio
import random
from collections.abc import AsyncGenerator

from inferstack_runtime.api.run import Answer, Delta, Usage
from inferstack_runtime.engines.base import TokenLogprobs

_AT_ONCE = 32


class Replay:
    """A run that needs no engine."""

    ready = True

    def __init__(self, answer: Answer) -> None:
        self.id = f"{random.getrandbits(128):032x}"
        self._answer = answer

    @property
    def usage(self) -> Usage:
        return self._answer.usage

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        return self._answer.prompt_logprobs

    async def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]:
        """Every delta, many at once; other requests get their turn in between."""
        deltas = self._answer.deltas
        for begin in range(0, len(deltas), _AT_ONCE):
            if begin:
                await asyncio.sleep(0)
            yield deltas[begin : begin + _AT_ONCE]

    def abandon(self) -> None:
        """Nothing to give up."""
