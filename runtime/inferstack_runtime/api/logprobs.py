"""Log-probabilities in the two shapes that OpenAI clients read."""

from collections.abc import Sequence
from typing import Any

from inferstack_runtime.engines.base import Tokenizer, TokenLogprobs

_LOWEST = -9999.0
"""JSON has no infinity; a token with probability 0 is reported so, as other servers do."""


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """`choices[].logprobs` of chat completions."""
    return {
        "content": [
            {**_chat_token(tokenizer, entry.token, entry.logprob), "top_logprobs": [_chat_token(tokenizer, *top) for top in entry.top]}
            for entry in entries
        ],
        "refusal": None,
    }


def completion_logprobs(
    tokenizer: Tokenizer, entries: Sequence[TokenLogprobs | None], offsets: Sequence[int], tokens: Sequence[int] | None = None
) -> dict[str, Any]:
    """`choices[].logprobs` of completions. An entry may be None for the first prompt position; `tokens` then says which token it is."""
    names = [
        token_text(tokenizer, entry.token if entry is not None else (tokens or ())[position]) for position, entry in enumerate(entries)
    ]
    return {
        "tokens": names,
        "token_logprobs": [None if entry is None else max(entry.logprob, _LOWEST) for entry in entries],
        "top_logprobs": [
            None
            if entry is None
            else {
                token_text(tokenizer, token): max(value, _LOWEST) for token, value in reversed((*entry.top, (entry.token, entry.logprob)))
            }
            for entry in entries
        ],
        "text_offset": list(offsets),
    }


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The token's text; bytes that are no whole character are shown as `bytes:\\\\xNN`."""
    raw = tokenizer.id_to_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    raw = tokenizer.id_to_bytes(token)
    return {"token": token_text(tokenizer, token), "logprob": max(logprob, _LOWEST), "bytes": list(raw)}
