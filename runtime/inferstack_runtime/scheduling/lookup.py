"""Prompt lookup: guesses what comes next from what followed the same three tokens before (Saxena 2023, prompt lookup decoding).

A step that computes the guessed tokens along reads the weights once for all of them. Each row samples as it would have alone, so a guess
is taken exactly when it is what would have been drawn, and the answer is the same with and without.
"""

from collections.abc import Sequence

_CONTEXT = 3
MAX_GUESS = 7
"""Tokens that one step tries at most: with the certain one a tile of eight rows."""


class Lookup:
    """What followed each three tokens of one growing sequence, last seen first; and how far guesses have held lately."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = _CONTEXT
        self._width = 2
        self._misses = self._rest = 0

    def guess(self, tokens: Sequence[int], most: int) -> tuple[int, ...]:
        """Up to `most` tokens that may come after `tokens`, which only ever grow between calls."""
        for end in range(self._known, len(tokens)):
            self._after[tuple(tokens[end - _CONTEXT : end])] = end
        self._known = max(self._known, len(tokens))
        at = self._after.get(tuple(tokens[-_CONTEXT:]))
        if at is not None and self._rest:
            self._rest -= 1
            return ()
        return () if at is None else tuple(tokens[at : at + min(most, self._width)])

    def learn(self, guessed: int, right: int) -> None:
        """Guess further after a guess that held, less far after one that did not; after misses in a row leave some chances out."""
        self._misses = 0 if right else min(self._misses + 1, 4)
        self._rest = (1 << self._misses) - 1 if self._misses else 0
        self._width = min(2 * self._width, MAX_GUESS) if right == guessed else max(1, right, self._width // 2)
