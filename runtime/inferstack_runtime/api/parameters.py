"""The generation parameters that completions and chat share, and what they mean to the engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferstack_runtime.api.fields import Field, bad
from inferstack_runtime.engines.base import LoadedModel, Sampling
from inferstack_runtime.errors import invalid

MAX_CHOICES = 16
_MOST_COMPOSED = 4
"""Characters that a tokenizer's normalization (NFC) makes one of, at most."""
_MAX_STOPS = 16
_MAX_STOP_LENGTH = 256


def _stop(value: Any, name: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise bad(name, "a non-empty string or an array of them", value)
    if len(texts) > _MAX_STOPS or any(len(text) > _MAX_STOP_LENGTH for text in texts):
        raise invalid(f"`{name}` takes at most {_MAX_STOPS} strings of at most {_MAX_STOP_LENGTH} characters.", name)
    return tuple(texts)


def _logit_bias(value: Any, name: str) -> dict[int, float]:
    bias: dict[int, float] = {}
    for token, amount in value.items():
        if not token.isascii() or not token.isdigit() or len(token) > 9:
            raise bad(name, "an object from token ids to numbers from -100 to 100", token)
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not -100 <= amount <= 100:
            raise bad(name, "an object from token ids to numbers from -100 to 100", amount)
        bias[int(token)] = float(amount)
    if len(bias) > 1024:
        raise invalid(f"`{name}` takes at most 1024 tokens.", name)
    return bias


def _stream_options(value: Any, name: str) -> dict[str, Any]:
    for key, setting in value.items():
        if key not in ("include_usage", "include_obfuscation"):
            raise invalid(f"Unknown field `{name}.{key[:60]}`.", f"{name}.{key[:60]}", "unknown_parameter")
        if not isinstance(setting, bool):
            raise bad(f"{name}.{key}", "a boolean", setting)
    return dict(value)


def _token_ids(value: Any, name: str) -> frozenset[int]:
    if len(value) > 256 or not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in value):
        raise bad(name, "an array of at most 256 token ids", value)
    return frozenset(value)


_STOP_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_LENGTH},
        {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_LENGTH}, "maxItems": _MAX_STOPS},
    ]
}

MODEL = Field("model", "string", "Name of a model of `/v1/models`.", required=True)
SHARED: tuple[Field, ...] = (
    Field("temperature", "number", "0 takes the likeliest token; higher is more random.", 1.0, minimum=0, maximum=2),
    Field("top_p", "number", "Share of probability that is sampled from.", 1.0, minimum=0, maximum=1),
    Field("n", "integer", "Answers to generate.", 1, minimum=1, maximum=MAX_CHOICES),
    Field("stream", "boolean", "Send the answer as server-sent events while it is generated.", False),
    Field(
        "stream_options",
        "object",
        "`include_usage`: a last event with the token counts.",
        check=_stream_options,
        schema={
            "type": "object",
            "properties": {"include_usage": {"type": "boolean"}, "include_obfuscation": {"type": "boolean"}},
            "additionalProperties": False,
        },
    ),
    Field("stop", "any", "Strings at which the answer ends; they are not part of it.", (), check=_stop, schema=_STOP_SCHEMA),
    Field("seed", "integer", "Makes a sampled answer repeatable.", minimum=-(2**63), maximum=2**63 - 1),
    Field("presence_penalty", "number", "Makes tokens that already occurred less likely.", 0.0, minimum=-2, maximum=2),
    Field("frequency_penalty", "number", "Makes tokens less likely each time they occur.", 0.0, minimum=-2, maximum=2),
    Field(
        "logit_bias",
        "object",
        "Number added to the logit of each token id, -100 to 100.",
        check=_logit_bias,
        schema={
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": 1024,
        },
    ),
    Field("top_k", "integer", "Number of likeliest tokens sampled from; 0: no bound.", 0, minimum=0, maximum=2**31 - 1),
    Field("min_p", "number", "Least probability relative to the likeliest token's.", 0.0, minimum=0, maximum=1),
    Field("repetition_penalty", "number", "Divides the logits of tokens that occurred; 1: off.", 1.0, minimum=0.01, maximum=10),
    Field("ignore_eos", "boolean", "Go on until `max_tokens` whatever the model says.", False),
    Field(
        "stop_token_ids",
        "array",
        "Token ids at which the answer ends.",
        frozenset(),
        check=_token_ids,
        schema={"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "maxItems": 256},
    ),
    Field("priority", "integer", "Lower is served earlier.", 0, minimum=0, maximum=100),
)

HARMLESS = frozenset(
    {
        "user",
        "metadata",
        "service_tier",
        "store",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
    }
)


@dataclass(frozen=True, slots=True)
class Generate:
    """One request to a model in the engine's terms. `max_tokens` is already within the context."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    n: int = 1
    stop: tuple[str, ...] = ()
    tenant: str = ""
    priority: int = 0
    grammar: str | None = None
    """Grammar of the answer in llguidance's form, or None."""
    question: str | None = None
    """The last user message, where the semantic cache may answer it; not part of the exact key, which has the prompt."""
    before: bytes = b""
    """Everything before that message, for the same purpose."""
    written: str | None = None
    """What checks of the input see: what came from outside of the application; None: the whole prompt."""

    @property
    def repeatable(self) -> bool:
        """Whether the same request again has the same answer: greedy, or with a seed."""
        return self.sampling.temperature == 0 or self.sampling.seed is not None


def sampling_of(values: Mapping[str, Any], logprobs: int | None, prompt_logprobs: bool = False) -> Sampling:
    """The engine's sampling parameters of validated request values."""
    return Sampling(
        temperature=float(values["temperature"]),
        top_k=values["top_k"],
        top_p=float(values["top_p"]),
        min_p=float(values["min_p"]),
        presence_penalty=float(values["presence_penalty"]),
        frequency_penalty=float(values["frequency_penalty"]),
        repetition_penalty=float(values["repetition_penalty"]),
        logit_bias=values["logit_bias"] or {},
        seed=values["seed"],
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        ignore_eos=values["ignore_eos"],
        stop_token_ids=values["stop_token_ids"],
    )


def check_tokens(generate: Generate, vocabulary: int) -> None:
    """Refuse token ids that the model does not have; raises ApiError 400."""
    for name, ids in (("logit_bias", generate.sampling.logit_bias), ("stop_token_ids", generate.sampling.stop_token_ids)):
        if any(token >= vocabulary for token in ids):
            raise invalid(f"`{name}` holds a token id outside the model's vocabulary of {vocabulary}.", name)


def tokens_of(model: LoadedModel, text: str, field: str, special: bool = True) -> tuple[int, ...]:
    """Token ids of a text; raises ApiError 400, before it is divided, for one that is too long for the context however that is done."""
    if len(text) > model.context * _MOST_COMPOSED:
        room(len(text) // (model.tokenizer.longest * _MOST_COMPOSED), None, model.context, field)
    return tuple(model.tokenizer.encode(text, special))


def room(prompt: int, wanted: int | None, context: int, field: str) -> int:
    """Tokens that may be generated: what was asked, within what the context leaves; raises ApiError 400 when nothing is left.

    `field`: the one that holds the prompt.
    """
    left = context - prompt
    if left < 1:
        raise invalid(
            f"The prompt has {prompt} tokens; the model's context is {context}, the answer needs at least one of them.",
            field,
            "context_length_exceeded",
        )
    return left if wanted is None else min(wanted, left)
