"""A cached answer served as if it were generated: the same deltas, whole or as a stream."""

import asyncio
import uuid
from collections.abc import AsyncGenerator

from inferstack_runtime.api.generation import Answer, Delta, Usage
from inferstack_runtime.engines.base import TokenLogprobs


class Replay:
    """A run that needs no engine."""

    def __init__(self, answer: Answer) -> None:
        self.id = uuid.uuid4().hex
        self._answer = answer

    @property
    def usage(self) -> Usage:
        return self._answer.usage

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        return self._answer.prompt_logprobs

    async def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]:
        """Every delta as its own list, so that a stream stays a stream; other requests get their turn in between."""
        for position, delta in enumerate(self._answer.deltas):
            if position:
                await asyncio.sleep(0)
            yield [delta]

    def abandon(self) -> None:
        """Nothing to give up."""
