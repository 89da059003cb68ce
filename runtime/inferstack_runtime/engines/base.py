"""The one protocol that every engine serves, and the data that crosses it.

Token ids go in and come out. Tokenizing, chat templates and stop strings live on the API side; scheduling, the KV cache and
sampling live behind the protocol. `submit` and `abort` may be called from any thread; `step` by the engine thread only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `seed` makes an answer repeatable whatever the batch around it."""

    temperature: float = 1.0
    top_k: int = 0
    """0: no bound."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    """Number of alternatives to report per token; 0: only the chosen token's; None: none."""
    prompt_logprobs: bool = False
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()


class TokenMask(Protocol):
    """Constrains the next token (a grammar)."""

    def fill(self, out: "memoryview") -> None:
        """Write the allowed-token bit mask, int32 words, bit i of word i // 32; called before each sample."""

    def accept(self, token: int) -> None:
        """Advance by the sampled token."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate. `n` completions are `n` requests with the same prompt (the prefix is shared)."""

    request_id: str
    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = ""
    """Salts prefix reuse: no cached prefix crosses tenants."""
    priority: int = 0
    """Lower is served earlier; first come, first served within one priority."""
    mask: TokenMask | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities (natural) of one position: the token's own and the `top` alternatives, highest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step produced for one request."""

    request_id: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
    """Sent once, with the first token; the first prompt position has none."""
    finish_reason: FinishReason | None = None
    error: str | None = None
    cached_prompt_tokens: int = 0
    queue_seconds: float | None = None
    """Sent once, with the first token: time from `submit` to the first step that worked on the request."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for metrics; counts, bytes and seconds since the engine was made unless said otherwise."""

    running: int = 0
    waiting: int = 0
    kv_bytes_used: int = 0
    kv_bytes_total: int = 0
    weight_bytes: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_compute_seconds: float = 0.0
    step_host_seconds: float = 0.0
    last_batch_size: int = 0
    guessed_tokens: int = 0
    """Tokens that steps computed on the guess that they come next."""
    accepted_guesses: int = 0
    kv_dtype: str = ""
    """How keys and values are kept."""


class QueueFull(Exception):
    """The bounded queue has no room; the API answers 429 with Retry-After."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"queue full, retry in {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


class ModelLoadError(Exception):
    """A model cannot be loaded; the message names the file or field and what was expected."""


class Engine(Protocol):
    """A loaded model that generates."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; raises QueueFull, or ValueError for a prompt that can never fit."""

    def abort(self, request_id: str) -> None:
        """End a request within one step; unknown ids are ignored."""

    def step(self, timeout: float | None = None) -> list[StepOutput]:
        """Run one step and return its outputs; waits up to `timeout` seconds for work when there is none. Never raises for one request."""
        ...

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Free everything; a running `step` returns first."""


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` that the API side uses, loaded from the model file."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...
    def decode_stream(self) -> Any:
        """An object with `step(id) -> str | None` that never splits a UTF-8 character."""

    def token_to_id(self, token: str) -> int | None: ...
    def id_to_bytes(self, token_id: int) -> bytes: ...
    @property
    def vocabulary_size(self) -> int: ...
    @property
    def longest(self) -> int:
        """Most characters of a text that one token can stand for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model computes. `fallback`: on the CPU although a GPU was asked for or would have been taken; `reason` says why."""

    device: Literal["cpu", "cuda"] = "cpu"
    fallback: bool = False
    reason: str = "engine.device is cpu"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to serve."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    digest: str
    """`sha256:` of the weights file as shipped."""
    quantization: str
    context: int
    chat_template: str | None
    special_tokens: Mapping[str, str]
    """`bos_token`, `eos_token`, … as the template names them."""
    eos_token_ids: frozenset[int]
    architecture: str
    weight_bytes: int
    placement: Placement = Placement()
