"""An answer on its way, as those see it who read it: its deltas, counts and times."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from inferstack_runtime.engines.base import FinishReason, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one choice. `finish_reason` is set on its last delta."""

    index: int
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    offsets: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of an answer."""

    prompt: int = 0
    generated: int = 0
    cached: int = 0

    def to_json(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(frozen=True, slots=True)
class Timing:
    """When things happened, on the clock of `time.perf_counter`; None until they do."""

    started: float
    queue_seconds: float | None = None
    first_token: float | None = None
    finished: float | None = None


@dataclass(slots=True)
class Answer:
    """A complete answer as caches keep it: the deltas in order and the counts."""

    deltas: list[Delta]
    usage: Usage
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    digest: str = ""
    verified: bool = field(default=False)


class Run(Protocol):
    """An answer on its way: a flight, or the replay of a cached one."""

    id: str
    ready: bool
    """All of it is there already; never so for one that is being generated."""

    @property
    def usage(self) -> Usage: ...
    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...]: ...
    def follow(self, heartbeat: float) -> AsyncGenerator[list[Delta], None]: ...
    def abandon(self) -> None:
        """Give up unless somebody follows; does nothing to a complete answer."""
