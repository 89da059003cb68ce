"""What is wrong with an environment: the path, the value, what was expected, and the nearest valid name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()
"""Stands for the value of a key that is not there."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an environment file."""

    path: str
    value: Any
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        shown = "" if self.value is MISSING else f" is {_short(self.value)}"
        hint = f"; did you mean `{self.nearest}`?" if self.nearest else ""
        return f"{self.path}{shown}: expected {self.expected}{hint}"

    @property
    def fix(self) -> str:
        """What to do about it, as a sentence."""
        if self.nearest:
            return f"use `{self.nearest}`."
        first, _, rest = self.expected.partition(": ")
        if first in ("no such key", "no secret in this file"):
            return f"remove it: {rest}." if first == "no such key" else f"{rest}."
        if self.expected.startswith("nothing"):
            return f"leave it out{self.expected.removeprefix('nothing')}."
        return f"give {self.expected}."

    def to_json(self) -> dict[str, Any]:
        value = None if self.value is MISSING else self.value
        return {"path": self.path, "value": value, "expected": self.expected, "nearest": self.nearest}


class InvalidEnvironment(ValueError):
    """An environment cannot be used; ``problems`` holds everything that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {problem}" for problem in self.problems))


def _short(value: Any) -> str:
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
