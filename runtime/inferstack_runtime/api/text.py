"""From token ids to text: incremental decoding, stop strings, and where each token's text begins.

    assembler = TextAssembler(tokenizer, stop=("\\n\\n",))
    piece = assembler.push(tokens, logprobs)         # text that is safe to send now
    assembler.stopped                                  # a stop string was met; nothing after it is ever sent
    rest = assembler.finish()

Text that could still turn out to be the beginning of a stop string is held back.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from inferstack_runtime.engines.base import Tokenizer, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that may be sent, with the log-probabilities of the tokens it came from and the offset of each in the answer's text."""

    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    offsets: tuple[int, ...] = ()


class TextAssembler:
    """Turns one sequence's tokens into text. Offsets count characters from the beginning of the generated text."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decode_stream()
        self._stop = tuple(stop)
        self._longest = max((len(text) for text in self._stop), default=0)
        self._held = ""
        self._sent = 0
        self._undecoded: list[int] = []
        self._waiting: deque[tuple[int, TokenLogprobs]] = deque()
        self.stopped: str | None = None
        self.tokens = 0

    def push(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> Piece:
        """Add generated tokens; returns what may be sent. Does nothing once a stop string was met."""
        for position, token in enumerate(tokens):
            if self.stopped is not None:
                break
            self.tokens += 1
            if logprobs:
                self._waiting.append((self._sent + len(self._held), logprobs[position]))
            text = self._decoder.step(token)
            if text is None:
                self._undecoded.append(token)
                continue
            self._undecoded.clear()
            self._hold(text)
        return self._release(self._safe_length())

    def finish(self) -> Piece:
        """The text still held back, with a replacement character for bytes that never became one."""
        if self.stopped is None and self._undecoded:
            text = self._tokenizer.decode(self._undecoded, True)
            self._undecoded.clear()
            self._hold(text)
        piece = self._release(len(self._held))
        if self.stopped is None and self._waiting:  # tokens without text, such as the end of the sequence
            piece = Piece(
                piece.text,
                piece.logprobs + tuple(entry for _, entry in self._waiting),
                piece.offsets + tuple(offset for offset, _ in self._waiting),
            )
            self._waiting.clear()
        return piece

    def _hold(self, text: str) -> None:
        start = max(0, len(self._held) - self._longest + 1)
        self._held += text
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop, start)) >= 0]
        if found:
            at, self.stopped = min(found)
            self._held = self._held[:at]

    def _safe_length(self) -> int:
        if self.stopped is not None or not self._stop:
            return len(self._held)
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return len(self._held) - size
        return len(self._held)

    def _release(self, length: int) -> Piece:
        text, self._held = self._held[:length], self._held[length:]
        self._sent += len(text)
        entries: list[TokenLogprobs] = []
        offsets: list[int] = []
        while self._waiting and self._waiting[0][0] < self._sent:
            offset, entry = self._waiting.popleft()
            entries.append(entry)
            offsets.append(offset)
        return Piece(text, tuple(entries), tuple(offsets))
