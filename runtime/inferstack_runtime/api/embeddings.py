"""`POST /v1/embeddings`: vectors of texts, in OpenAI's shape (E2)."""

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from inferstack_runtime.api.fields import Field, Fields, bad
from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.errors import ApiError, invalid, not_found
from inferstack_runtime.threads import LONG_TEXT, in_turn

if TYPE_CHECKING:
    from inferstack_runtime.caching.embedding import Embedder

DIMENSIONS = 384
"""Length of a vector of the embedding models that are served."""
MAX_TEXTS = 256
_TOKEN = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def _input(value: Any, name: str) -> list[str | list[int]]:
    expected = f"a string, token ids, or an array of at most {MAX_TEXTS} of either"
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise bad(name, expected, value)
    if all(_is_token(token) for token in value):
        return [value]
    if len(value) > MAX_TEXTS or not all(
        (isinstance(text, str) and text) or (isinstance(text, list) and text and all(_is_token(token) for token in text)) for text in value
    ):
        raise bad(name, expected, value)
    return list(value)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


FIELDS = Fields(
    (
        Field("model", "string", "Name of the embedding model.", required=True),
        Field(
            "input",
            "any",
            "Text or token ids, or an array of either.",
            required=True,
            check=_input,
            schema={
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_TEXTS},
                    {"type": "array", "items": _TOKEN, "minItems": 1},
                    {"type": "array", "items": {"type": "array", "items": _TOKEN, "minItems": 1}, "minItems": 1, "maxItems": MAX_TEXTS},
                ]
            },
        ),
        Field("encoding_format", "string", "Numbers, or base64 of little-endian float32.", "float", choices=("float", "base64")),
        Field("dimensions", "integer", f"Must be {DIMENSIONS} where it is given.", minimum=1, maximum=65536),
    ),
    frozenset({"user"}),
)


async def create(service: Service, request: Request) -> Response:
    """Embed one or several texts."""
    values = FIELDS.read(await service.json(request))
    embedder = await service.embedder()
    if embedder is None:
        raise not_found("No embedding model is configured (`embeddings`).", "model", "model_not_found")
    if values["model"] != embedder.name:
        raise not_found(
            f"The embedding model {values['model'][:200]!r} does not exist; there is {embedder.name!r}.", "model", "model_not_found"
        )
    if values["dimensions"] not in (None, DIMENSIONS):
        raise invalid(f"`dimensions` must be {DIMENSIONS}: the model's vectors cannot be shortened.", "dimensions")
    request.labels["model"] = embedder.name
    long = sum(map(len, values["input"])) > LONG_TEXT
    tokens = await in_turn(long, lambda: [_tokens(embedder, text) for text in values["input"]])
    count = sum(len(ids) for ids in tokens)
    admission = await service.limiter.admit(request.caller, count)
    request.headers_out += service.limiter.headers(admission)
    try:
        vectors = await asyncio.to_thread(embedder.embed_tokens, tokens)
    except Exception:
        service.limiter.refund(admission)
        raise
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist() if values["encoding_format"] == "float" else _base64(vector)}
        for index, vector in enumerate(vectors)
    ]
    return json_response({"object": "list", "data": data, "model": embedder.name, "usage": {"prompt_tokens": count, "total_tokens": count}})


def _tokens(embedder: "Embedder", text: str | list[int]) -> list[int]:
    ids = embedder.tokenize(text) if isinstance(text, str) else text
    if len(ids) > embedder.longest:
        raise invalid(f"A text has {len(ids)} tokens; the model reads at most {embedder.longest}.", "input", "context_length_exceeded")
    if any(token >= embedder.vocabulary_size for token in ids):
        raise ApiError(
            400, f"`input` holds a token id outside the vocabulary of {embedder.vocabulary_size}.", param="input", reason="invalid"
        )
    return ids


def _base64(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
