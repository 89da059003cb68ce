"""Tokenizers from GGUF metadata, through the `tokenizers` library: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").

The words that a tokenizer splits text into before merging are named, not stored, in the file (`tokenizer.ggml.pre`); the patterns below
are those of the models' own tokenizer.json files.
"""

import errno
import json
import mmap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream
from tokenizers.models import BPE

from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.engines.shape import UnsupportedArchitecture

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_PATTERNS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_PLAIN = ("gpt-2", "gpt2", "default", "smollm")
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Tokenizers that take a word that is a token as it is, and whose texts begin with a token of their own unless the file says otherwise."""

_ALONE = 4096
"""Characters from which a text is encoded as a batch of one: other threads of Python run meanwhile."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Values of `tokenizer.ggml.token_type`."""

_END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>", "</s>")


def _byte_alphabet() -> dict[str, int]:
    """The printable characters that byte-level BPE writes bytes as (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_alphabet()


class ModelTokenizer:
    """The tokenizer of one model; see `base.Tokenizer`."""

    def __init__(self, backend: Backend, *, start: Sequence[int] = (), end: Sequence[int] = (), byte_level: bool = True) -> None:
        """`start` and `end` are added around a text, beside what the backend's own post-processor adds."""
        self._backend, self._start, self._end, self._byte_level = backend, list(start), list(end), byte_level
        self._special = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
        self._added = set(backend.get_added_tokens_decoder())

    @property
    def vocabulary_size(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def backend(self) -> Backend:
        """The `tokenizers` object, for grammars that need the vocabulary."""
        return self._backend

    @cached_property
    def longest(self) -> int:
        """Characters of the longest token."""
        return max(map(len, self._backend.get_vocab(with_added_tokens=True)))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        if len(text) < _ALONE:
            found = self._backend.encode(text, add_special_tokens=add_special_tokens)
        else:
            (found,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids = list(found.ids)
        return [*self._start, *ids, *self._end] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def decode_stream(self) -> "TokenStream":
        return TokenStream(self._backend)

    def token_to_id(self, token: str) -> int | None:
        number = self._backend.token_to_id(token)
        return None if number is None else int(number)

    def id_to_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; empty for an id outside the vocabulary."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added:
            return str(token).encode()
        if self._byte_level:
            return bytes(_BYTES[char] for char in token) if all(char in _BYTES for char in token) else str(token).encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return str(token).replace("▁", " ").encode()


class TokenStream:
    """Text of tokens as they come; a piece is held back until its UTF-8 characters are complete."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._stream = backend, DecodeStream(skip_special_tokens=True)

    def step(self, token_id: int) -> str | None:
        piece = self._stream.step(self._backend, token_id)
        return None if piece is None else str(piece)


def from_gguf(metadata: Mapping[str, Any], path: Path) -> ModelTokenizer:
    """The tokenizer that a GGUF file describes; raises `ModelLoadError` with the field that is missing or not known."""
    tokens: list[str] = _list(metadata, "tokenizer.ggml.tokens", str, path)
    types: list[int] = [NORMAL] * len(tokens)
    if metadata.get("tokenizer.ggml.token_type"):
        types = _list(metadata, "tokenizer.ggml.token_type", int, path)
    if len(types) != len(tokens):
        raise ModelLoadError(f"{path}: tokenizer.ggml.token_type: has {len(types)} entries, expected {len(tokens)}")
    kind = metadata.get("tokenizer.ggml.model")
    _check_room(1200 * len(tokens))
    marks = [(token, mark) for token, mark in zip(tokens, types, strict=True) if mark in (CONTROL, USER_DEFINED)]
    try:
        if kind == "gpt2":
            backend = _byte_level(metadata, tokens, path)
        elif kind == "llama":
            backend = _sentencepiece(metadata, tokens, types, path)
        else:
            raise ModelLoadError(f"{path}: tokenizer.ggml.model: is {kind!r}, expected 'gpt2' or 'llama'")
        backend.add_tokens([AddedToken(token, special=mark == CONTROL, normalized=False) for token, mark in marks])
    except ModelLoadError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ModelLoadError(f"{path}: tokenizer.ggml.tokens and merges: not a tokenizer ({error})") from None
    if backend.get_vocab_size(with_added_tokens=True) != len(tokens):
        raise ModelLoadError(f"{path}: tokenizer.ggml.tokens: holds a token twice")
    start, end = [], []
    first, last = (_token_number(metadata, name, len(tokens), path) for name in ("bos", "eos"))
    begins = kind == "llama" or metadata.get("tokenizer.ggml.pre") in _WHOLE_WORDS
    if _flag(metadata, "tokenizer.ggml.add_bos_token", begins, path) and first is not None:
        start = [first]
    if _flag(metadata, "tokenizer.ggml.add_eos_token", False, path) and last is not None:
        end = [last]
    return ModelTokenizer(backend, start=start, end=end, byte_level=kind == "gpt2")


def _check_room(size: int) -> None:
    """Raise `OSError` where about `size` bytes, twice what a tokenizer takes, are not to be had: the library would end the process."""
    mmap.mmap(-1, (32 << 20) + size).close()


def from_file(path: Path) -> ModelTokenizer:
    """The tokenizer of a `tokenizer.json`; raises `ModelLoadError`."""
    try:
        _check_room(24 * path.stat().st_size)
        backend = Backend.from_file(str(path))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        raise ModelLoadError(f"{path}: {error.strerror}") from None
    except Exception as error:  # the library raises bare Exception
        raise ModelLoadError(f"{path}: not a tokenizer ({error})") from None
    return from_backend(backend)


def from_backend(backend: Backend) -> ModelTokenizer:
    """A `tokenizers` object as it is."""
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return ModelTokenizer(backend, byte_level=decoder.get("type") == "ByteLevel")


def special_tokens(metadata: Mapping[str, Any], path: Path) -> dict[str, str]:
    """`bos_token`, `eos_token`, … by the names that chat templates use."""
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {name: _token_number(metadata, key, len(tokens), path) for key, name in names.items()}
    return {name: tokens[number] for name, number in found.items() if number is not None}


def end_tokens(metadata: Mapping[str, Any], path: Path) -> frozenset[int]:
    """Tokens that end an answer: those the file names, and control tokens that mean nothing else."""
    tokens, types = metadata.get("tokenizer.ggml.tokens", []), metadata.get("tokenizer.ggml.token_type") or []
    ends = {_token_number(metadata, name, len(tokens), path) for name in ("eos", "eot", "eom")}
    ends |= {number for number, (token, mark) in enumerate(zip(tokens, types, strict=False)) if mark == CONTROL and token in _END_NAMES}
    return frozenset(number for number in ends if number is not None)


def _token_number(metadata: Mapping[str, Any], name: str, count: int, path: Path) -> int | None:
    """`tokenizer.ggml.NAME_token_id`; None where there is none. Files write -1 (of 32 bits) for a padding that they do not have."""
    key = f"tokenizer.ggml.{name}_token_id"
    number = metadata.get(key)
    if number is None or (name in ("padding", "unknown") and number in (-1, 0xFFFFFFFF)):
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
        raise ModelLoadError(f"{path}: {key}: is {number!r}, expected the number of one of {count} tokens")
    return number


def _flag(metadata: Mapping[str, Any], key: str, default: bool, path: Path) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise ModelLoadError(f"{path}: {key}: is {value!r}, expected true or false")
    return value


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], path: Path) -> Backend:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    merges = _merges(metadata, path)
    backend = Backend(BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=pre in _WHOLE_WORDS))
    backend.decoder = decoders.ByteLevel()
    if not isinstance(pre, str):
        raise ModelLoadError(f"{path}: tokenizer.ggml.pre: is {pre!r}, expected a name")
    if pre in _PATTERNS:
        split = pre_tokenizers.Split(Regex(_PATTERNS[pre]), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        if _PATTERNS[pre] == _QWEN2:
            backend.normalizer = normalizers.NFC()
    elif pre in _PLAIN:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
    else:
        raise UnsupportedArchitecture(f"{path}: tokenizer.ggml.pre: is {pre!r}, the native engine has {', '.join([*_PLAIN, *_PATTERNS])}")
    return backend


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int], path: Path) -> Backend:
    """BPE whose merges follow from the pieces' scores: of all splits of a piece into two known ones, the whole's score ranks them."""
    scores: list[float] = _list(metadata, "tokenizer.ggml.scores", (int, float), path)
    if len(scores) != len(tokens):
        raise ModelLoadError(f"{path}: tokenizer.ggml.scores: has {len(scores)} entries, expected {len(tokens)}")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    ranked = []
    for i, token in enumerate(tokens):
        if types[i] != NORMAL:
            continue
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        ranked += [(-scores[i], vocabulary[left], vocabulary[right], left, right) for left, right in known]
    merges = [(left, right) for *_, left, right in sorted(ranked)]
    unknown = next((token for token, mark in zip(tokens, types, strict=True) if mark == UNKNOWN), None)
    backend = Backend(BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = [normalizers.Prepend("▁")] if _flag(metadata, "tokenizer.ggml.add_space_prefix", True, path) else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


def _merges(metadata: Mapping[str, Any], path: Path) -> list[tuple[str, str]]:
    merges = []
    for line in _list(metadata, "tokenizer.ggml.merges", str, path):
        left, _, right = line.partition(" ")
        if not left or not right:
            raise ModelLoadError(f"{path}: tokenizer.ggml.merges: {line!r} is not two tokens")
        merges.append((left, right))
    return merges


def _list(metadata: Mapping[str, Any], key: str, kind: type | tuple[type, ...], path: Path) -> list[Any]:
    value = metadata.get(key)
    if not isinstance(value, list) or not value:
        raise ModelLoadError(f"{path}: {key}: missing; the file carries no usable tokenizer")
    wrong = next((item for item in value if not isinstance(item, kind)), None)
    if wrong is not None:
        raise ModelLoadError(f"{path}: {key}: holds {wrong!r}, which is none of what belongs there")
    return value
