"""Compares what two slots answer: the next tokens that they name in fixed texts, short ones and a long one, and whether they give a text
back as it was sent.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inferstack.platforms.slot_client import TEXTS, SlotClient
from inferstack.promotion.platform import Agreement

LETTERS = "Zürich, São Paulo, Kraków and Αθήνα are cities; 東京 and 서울 are too. 1 €, 2 €, 3 €, 4 €."
"""Letters outside ASCII: a slot that reads or writes them in another encoding gives them back as others."""
LONG_CHARACTERS = (4000, 2000, 1000)
"""Lengths of the long text, from the one that is wanted to those for models of a short context."""


@dataclass
class _Counts:
    """Positions where both name a token, and where they name the same."""

    positions: int = 0
    same: int = 0

    def add(self, left: Sequence[str], right: Sequence[str]) -> None:
        pairs = [(a, b) for a, b in zip(left, right, strict=True) if a or b]
        self.same += sum(a == b for a, b in pairs)
        self.positions += len(pairs)


def agree(mine: Sequence[SlotClient], theirs: Sequence[SlotClient]) -> Agreement | None:
    """How far the slot `mine` agrees with `theirs`; None when they cannot be compared. The first replica of each model speaks for all."""
    one, other = _by_model(mine), _by_model(theirs)
    if set(one) != set(other):
        return None
    short, long, faults = _Counts(), _Counts(), list[str]()
    for model, text in itertools.product(one, (*TEXTS, LETTERS)):
        left, right = one[model].top_tokens(model, text), other[model].top_tokens(model, text)
        if left.top is None or right.top is None or len(left.top) != len(right.top):
            return None
        short.add(left.top, right.top)
        if right.text == text != left.text:
            faults.append(f"{model} gives back {_shown(left.text, text)} where it was sent {_shown(text, left.text)}")
    for model in one:
        faults += _long(one[model], other[model], model, long)
    return (
        Agreement(short.same / short.positions, short.positions, long.same, long.positions, "; ".join(faults)) if short.positions else None
    )


def _long(mine: SlotClient, theirs: SlotClient, model: str, counts: _Counts) -> list[str]:
    """Count the longest of the long texts that the other slot answers; what is wrong with this one's answer to it."""
    for length in LONG_CHARACTERS:
        text = long_text(length)
        right = theirs.top_tokens(model, text)
        if right.top is None:
            continue
        left = mine.top_tokens(model, text)
        if left.top is None or len(left.top) != len(right.top):
            return [
                f"{model} does not answer a prompt of {length} characters as the live slot does: {left.error or 'another number of tokens'}"
            ]
        counts.add(left.top, right.top)
        break
    return []


def long_text(characters: int) -> str:
    """The short texts over and over, numbered, up to that length."""
    whole = itertools.accumulate(f"{index + 1}. {text}\n" for index, text in enumerate(itertools.islice(itertools.cycle(TEXTS), 1000)))
    return next(text for text in whole if len(text) >= characters)[:characters].rstrip()


def _by_model(clients: Sequence[SlotClient]) -> Mapping[str, SlotClient]:
    return {model: client for client in reversed(clients) for model in client.models}


def _shown(text: str, other: str) -> str:
    """The part from where it differs on."""
    at = next((index for index, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return repr(text[max(0, at - 8) : at + 12])
