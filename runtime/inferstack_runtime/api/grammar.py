"""Constrained answers: a JSON schema or a grammar becomes a mask over the model's tokens (llguidance).

text = schema_grammar(schema)                    # raises ApiError 400 for a schema that cannot be compiled
masks = masks_of(text, loaded_model, 1)          # one TokenMask per sequence
"""

import ctypes
import json
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from inferstack_runtime.engines.base import LoadedModel, Tokenizer
from inferstack_runtime.errors import invalid

_tokenizers: "WeakKeyDictionary[Tokenizer, Any]" = WeakKeyDictionary()
_lock = threading.Lock()


def schema_grammar(schema: Mapping[str, Any], param: str) -> str:
    """The grammar of every JSON text that a schema allows; raises ApiError 400 that names `param` and llguidance's reason."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), {"whitespace_flexible": False})
    problem = LLMatcher.validate_grammar(grammar)
    if problem:
        raise invalid(f"`{param}` cannot be used as a grammar: {_reason(problem)}", param, "invalid_schema")
    return str(grammar)


def lark_grammar(text: str, param: str) -> str:
    """A grammar in llguidance's Lark form; raises ApiError 400."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_lark(text)
    problem = LLMatcher.validate_grammar(grammar)
    if problem:
        raise invalid(f"`{param}` cannot be used as a grammar: {_reason(problem)}", param, "invalid_schema")
    return str(grammar)


def _reason(error: str) -> str:
    """llguidance's words for people, without the state of its parser that may stand behind them."""
    return error.partition("<state>")[0].strip()[:500]


class GrammarMask:
    """A TokenMask over llguidance's matcher. Used by the engine thread only."""

    def __init__(self, tokenizer: Any, grammar: str) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(tokenizer, grammar)
        error = self._matcher.get_error()
        if error:
            raise invalid(f"The grammar cannot be used with this model: {_reason(error)}", "response_format", "invalid_schema")

    def fill(self, out: memoryview) -> None:
        """Write the bit mask of the tokens allowed next (int32 words); when the grammar is at its end, only the end of the sequence."""
        view = out.cast("B") if out.format != "B" else out
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        self._matcher.unsafe_compute_mask_ptr(address, view.nbytes)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    @property
    def failure(self) -> str | None:
        """Why the grammar could not be followed to its end, for instance a recursion that has none; once the sequence has ended."""
        return _reason(self._matcher.get_error()) if self._matcher.is_error() else None


def masks_of(grammar: str, model: LoadedModel, count: int) -> list[GrammarMask]:
    """Fresh masks, one per sequence. Slow the first time for a model or a large grammar: call it in a thread."""
    tokenizer = _tokenizer_of(model)
    return [GrammarMask(tokenizer, grammar) for _ in range(count)]


def _tokenizer_of(model: LoadedModel) -> Any:
    """llguidance's view of a tokenizer, made once per model: the bytes of each token and the end of the sequence."""
    from llguidance import LLTokenizer, TokenizerWrapper

    with _lock:
        known = _tokenizers.get(model.tokenizer)
        if known is None:
            known = _tokenizers[model.tokenizer] = LLTokenizer(TokenizerWrapper(_Vocabulary(model)), eos_token=sorted(model.eos_token_ids))
        return known


class _Vocabulary:
    """What llguidance reads of a tokenizer."""

    def __init__(self, model: LoadedModel) -> None:
        tokenizer = model.tokenizer
        self._encode = tokenizer.encode
        self.eos_token_id = min(model.eos_token_ids)
        self.bos_token_id = None
        special = {token for text in model.special_tokens.values() if (token := tokenizer.token_to_id(text)) is not None}
        special |= model.eos_token_ids
        self.special_token_ids = sorted(special)
        self.tokens = [tokenizer.id_to_bytes(token) for token in range(tokenizer.vocabulary_size)]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, False)
