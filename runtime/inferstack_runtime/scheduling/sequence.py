"""One sequence on its way through the engine."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from inferstack_runtime.engines.base import GenerationRequest, TokenLogprobs
from inferstack_runtime.scheduling.lookup import Lookup


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` are the prompt and what was generated; `computed` positions of them are in the KV cache."""

    request: GenerationRequest
    arrival: int
    """Number of the request in order of submission."""
    tokens: list[int]
    seed: int
    submitted: float
    """When it came, by `time.perf_counter`."""
    queued: float | None = None
    """Seconds from then to the first step that worked on it."""
    slot: int = -1
    """Row of the block tables; -1 while it waits."""
    stay: int = 0
    """How often it was given a slot: more than once after preemption."""
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    published: int = 0
    """Blocks that were made findable."""
    parent: bytes = b""
    """Key of the last such block."""
    cached_prompt_tokens: int = 0
    reported_prompt: bool = False
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    lookup: Lookup = field(default_factory=Lookup)

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt)

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def pending(self) -> int:
        """Tokens whose position is not computed yet; 1 while decoding."""
        return len(self.tokens) - self.computed


@dataclass(frozen=True, slots=True)
class Share:
    """What one step computes of one sequence: positions [computed, computed + rows), and after them those of guessed tokens."""

    sequence: Sequence
    rows: int
    guess: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Rows with the guessed ones."""
        return self.rows + len(self.guess)

    @property
    def completes(self) -> bool:
        """The step reaches the sequence's last token, so the next one can be sampled."""
        return self.rows == self.sequence.pending


def rows_of(shares: Items[Share]) -> int:
    return sum(share.rows for share in shares)
