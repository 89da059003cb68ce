"""The plug-in protocol of checks.

A check looks at one text and says what it found. It is asked in a thread, so it may compute; what it says of a text is remembered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Side = Literal["input", "output"]
Mode = Literal["block", "observe"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found. `kind` is a fixed word of the check, never a part of the text."""

    kind: str


def windows(text: str, size: int = 200_000, shared: int = 2_000) -> Iterator[str]:
    """A long text in pieces that share their ends, so that what is shorter than `shared` characters stands whole in one of them."""
    for start in range(0, max(len(text) - shared, 1), size - shared):
        yield text[start : start + size]


class Check(Protocol):
    """One check. `name` is a label of metrics."""

    name: str

    def look(self, text: str) -> Sequence[Finding]:
        """What is found in a text; empty: nothing."""
        ...


class CheckUnavailable(Exception):
    """A configured check cannot run here; the message says what to install."""
