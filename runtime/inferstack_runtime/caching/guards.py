"""Guards of the semantic tier: what must be equal in two questions before one may be answered with the other's answer.

Sentence vectors hardly see numbers, negation, names and code; these rules do. They only ever refuse.
"""

import json
import re
from dataclasses import dataclass
from importlib.resources import files

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*%?")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|'([^']{2,})'(?!\w)|`([^`]+)`")
_CODE = re.compile(
    r"```.*?```|`[^`]+`|\b\w+(?:\.\w+)+\(?|\b\w+_\w+\b|\b[a-z]+[A-Z]\w*|\w+\(\)|[=<>!+*/-]=|->|--\w+|[{}\[\];\\$@#]", re.DOTALL
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_WORDS = json.loads((files(__package__) / "guards.json").read_text())
_NEGATIONS, _NUMBER_WORDS, _DATES, _DENIED, _OPENERS = (
    frozenset(_WORDS[name]) for name in ("negations", "numbers", "dates", "denied", "sentence_openers")
)
_DIRECTIONS, _ASKS = frozenset(_WORDS["directions"]), frozenset(_WORDS["asks"])
_OPPOSITES = tuple(tuple(pair) for pair in _WORDS["opposites"])


@dataclass(frozen=True, slots=True)
class Traits:
    """What a question must share with another one."""

    numbers: frozenset[str]
    quoted: frozenset[str]
    code: frozenset[str]
    negations: int
    entities: frozenset[str]
    sides: frozenset[str]
    asks: frozenset[str]
    order: tuple[str, ...]
    """The words in their order, where a word such as `than` or `from` makes it matter; else empty."""
    length: int
    denied: bool


def traits(text: str) -> Traits:
    """The traits of a question."""
    words = _WORD.findall(text)
    lower = [word.lower().replace("’", "'") for word in words]
    negations = sum(word in _NEGATIONS or word.endswith("n't") for word in lower)
    numbers = {number.rstrip(".,:/-") for number in _NUMBER.findall(text)} | {
        word for word in lower if word in _NUMBER_WORDS or word in _DATES
    }
    quoted = {next(group for group in groups if group).strip().lower() for groups in _QUOTED.findall(text)}
    sides = {side for pair in _OPPOSITES for side in pair if side in lower}
    return Traits(
        frozenset(numbers),
        frozenset(quoted),
        frozenset(_CODE.findall(text)),
        negations,
        _entities(text),
        frozenset(sides),
        frozenset(word for word in lower if word in _ASKS),
        tuple(lower) if any(word in _DIRECTIONS for word in lower) else (),
        len(text.split()),
        any(word in _DENIED for word in lower),
    )


def _entities(text: str) -> frozenset[str]:
    """Capitalized words that do not merely begin a sentence, and all-capital ones."""
    found = set()
    begins = True
    for piece in re.findall(r"[^\W\d_][\w'’-]*|[.!?:]", text):
        if piece in ".!?:":
            begins = True
            continue
        word = piece.removesuffix("'s").removesuffix("’s")
        if (word[0].isupper() and word.lower() not in _OPENERS and (not begins or word.isupper())) or (word.isupper() and len(word) > 1):
            found.add(word.lower())
        begins = False
    return frozenset(found)


def refusal(asked: Traits, known: Traits) -> str | None:
    """Why the answer to `known` must not answer `asked`, or None."""
    if asked.denied or known.denied:
        return "depends on time or person"
    for name in ("numbers", "quoted", "code", "entities"):
        if getattr(asked, name) != getattr(known, name):
            return f"other {name}"
    if asked.negations != known.negations:
        return "other negations"
    for pair in _OPPOSITES:
        here, there = [side for side in pair if side in asked.sides], [side for side in pair if side in known.sides]
        if here != there and here and there:
            return "opposite words"
    if asked.asks and known.asks and asked.asks != known.asks:
        return "asks something else"
    shared = set(asked.order) & set(known.order) - _DIRECTIONS - _OPENERS
    if [word for word in asked.order if word in shared] != [word for word in known.order if word in shared]:
        return "the other way round"
    ratio = asked.length / max(known.length, 1)
    if not 0.6 <= ratio <= 1.6:
        return "other length"
    return None
