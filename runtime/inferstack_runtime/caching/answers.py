"""Answers as bytes: for the shared server, compressed where that pays."""

import zlib
from typing import Any

import orjson

from inferstack_runtime.api.run import Answer, Delta, Usage
from inferstack_runtime.engines.base import TokenLogprobs

_COMPRESS_FROM = 1024
_PLAIN, _DEFLATED = b"p", b"z"
_PIECE = 24
_LONGEST = 64 * 1024 * 1024


def condense(deltas: list[Delta]) -> list[Delta]:
    """The same text in fewer deltas, each of at least 24 characters where it can be; a replay streams these."""
    pieces: list[Delta] = []
    for delta in deltas:
        last = pieces[-1] if pieces else None
        if last is not None and last.index == delta.index and last.finish_reason is None and len(last.text) < _PIECE:
            pieces[-1] = Delta(
                last.index, last.text + delta.text, last.logprobs + delta.logprobs, last.offsets + delta.offsets, delta.finish_reason
            )
        else:
            pieces.append(delta)
    return pieces


def pack(answer: Answer) -> bytes:
    """An answer as bytes."""
    value = {
        "d": [
            [delta.index, delta.text, delta.finish_reason, _pack_logprobs(delta.logprobs), list(delta.offsets)] for delta in answer.deltas
        ],
        "u": [answer.usage.prompt, answer.usage.generated, answer.usage.cached],
        "p": _pack_logprobs(answer.prompt_logprobs),
        "m": answer.digest,
    }
    raw = orjson.dumps(value)
    return _DEFLATED + zlib.compress(raw, 1) if len(raw) >= _COMPRESS_FROM else _PLAIN + raw


def unpack(data: bytes) -> Answer | None:
    """The answer that `pack` wrote, or None for anything else."""
    try:
        if data[:1] == _DEFLATED:
            inflate = zlib.decompressobj()
            raw = inflate.decompress(data[1:], _LONGEST)
            if inflate.unconsumed_tail:
                return None
        else:
            raw = data[1:]
        value = orjson.loads(raw)
        deltas = [
            Delta(index, text, _unpack_logprobs(entries), tuple(offsets), finish) for index, text, finish, entries, offsets in value["d"]
        ]
        prompt = tuple(None if entry is None else _unpack_entry(entry) for entry in value["p"])
        return Answer(deltas, Usage(*value["u"]), prompt, value["m"])
    except (ValueError, TypeError, KeyError, IndexError, zlib.error):
        return None


def size(answer: Answer) -> int:
    """Approximate bytes of an answer in memory."""
    entries = sum(len(delta.logprobs) for delta in answer.deltas) + len(answer.prompt_logprobs)
    return 256 + sum(160 + 4 * len(delta.text) for delta in answer.deltas) + 240 * entries


def _pack_logprobs(entries: tuple[TokenLogprobs | None, ...]) -> list[Any]:
    return [None if entry is None else [entry.token, entry.logprob, [list(top) for top in entry.top]] for entry in entries]


def _unpack_logprobs(entries: list[Any]) -> tuple[TokenLogprobs, ...]:
    return tuple(_unpack_entry(entry) for entry in entries)


def _unpack_entry(entry: Any) -> TokenLogprobs:
    token, logprob, top = entry
    return TokenLogprobs(token, logprob, tuple((int(other), float(value)) for other, value in top))
