"""Guards of the semantic tier: what must be equal in two questions before one may be answered with the other's answer.

Sentence vectors hardly see numbers, negation, names and code; these rules do. They only ever refuse.
"""

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*%?")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|'([^']{2,})'(?!\w)|`([^`]+)`")
_CODE = re.compile(
    r"```.*?```|`[^`]+`|\b\w+(?:\.\w+)+\(?|\b\w+_\w+\b|\b[a-z]+[A-Z]\w*|\w+\(\)|[=<>!+*/-]+=+|(?<!\S)=(?!\S)|->|--\w+|[{}\[\];\\$@#]",
    re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_WORDS = json.loads((files(__package__) / "guards.json").read_text())
_NEGATIONS, _NUMBER_WORDS, _DATES, _DENIED, _OPENERS = (
    frozenset(_WORDS[name]) for name in ("negations", "numbers", "dates", "denied", "sentence_openers")
)
_DIRECTIONS, _ASKS = frozenset(_WORDS["directions"]), frozenset(_WORDS["asks"])
_ONE_WAY, _MEASURES = frozenset(_WORDS["one_way"]), frozenset(_WORDS["measures"])
_FILLERS = frozenset(_WORDS["fillers"])
_SAME: dict[str, str] = {word: group[0] for group in _WORDS["same"] for word in group}
_TENSES: dict[str, str] = {word: tense for tense, group in _WORDS["tenses"].items() for word in group}
_ENDINGS = ("ings", "ing", "ied", "ies", "ed", "es", "s")
_OPPOSITES = tuple(tuple(pair) for pair in _WORDS["opposites"])


@dataclass(frozen=True, slots=True)
class Traits:
    """What a question must share with another one."""

    numbers: tuple[str, ...]
    """In their order: 15 % of 240 is not 240 % of 15."""
    quoted: frozenset[str]
    code: frozenset[str]
    negations: int
    entities: frozenset[str]
    sides: frozenset[str]
    asks: frozenset[str]
    content: frozenset[str]
    """The words that carry what is asked, without endings."""
    one_way: frozenset[str]
    """Words such as `from`: they say which way."""
    measure: str | None
    """The word after `how`, where it asks for an amount; empty for another `how`, None without one."""
    sequence: tuple[str, ...]
    """The words of `content` as they follow each other: who does what to whom."""
    frame: tuple[str, ...]
    """The sentence with a blank for each of those words."""
    tenses: frozenset[str]
    """Past, present and future, as auxiliary verbs say them."""
    order: tuple[str, ...]
    """The words in their order, where a word such as `than` or `from` makes it matter; else empty."""
    length: int
    denied: bool


def traits(text: str) -> Traits:
    """The traits of a question."""
    words = _WORD.findall(text)
    lower = [word.lower().replace("’", "'") for word in words]
    negations = sum(word in _NEGATIONS or word.endswith("n't") for word in lower)
    numbers = [number.rstrip(".,:/-") for number in _NUMBER.findall(text)]
    numbers += [word for word in lower if word in _NUMBER_WORDS or word in _DATES]
    after_how = next((later for word, later in pairwise(lower) if word == "how"), None)
    quoted = {next(group for group in groups if group).strip().lower() for groups in _QUOTED.findall(text)}
    sequence = tuple(_stem(word) for word in lower if word not in _FILLERS)
    sides = {side for pair in _OPPOSITES for side in pair if side in lower}
    return Traits(
        tuple(numbers),
        frozenset(quoted),
        frozenset(_CODE.findall(text)),
        negations,
        _entities(text),
        frozenset(sides),
        frozenset(word for word in lower if word in _ASKS),
        frozenset(sequence),
        frozenset(word for word in lower if word in _ONE_WAY),
        after_how if after_how is None or after_how in _MEASURES else "",
        sequence,
        tuple(word if word in _FILLERS else "" for word in lower),
        frozenset(_TENSES[word] for word in lower if word in _TENSES),
        tuple(lower) if any(word in _DIRECTIONS for word in lower) else (),
        len(text.split()),
        any(word in _DENIED for word in lower),
    )


def _stem(word: str) -> str:
    """A word without its ending, and one name for words that mean the same in any question. What stands before a word stays: unsafe."""
    word = word.removesuffix("'s")
    if word not in _SAME:
        for ending in _ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                word = word.removesuffix(ending)
                break
        if len(word) > 3 and (word[-1] == "e" or word[-1] == word[-2]):
            word = word[:-1]  # close, closing; stop, stopped
        if len(word) > 3 and word[-1] == "y":
            word = word[:-1]  # carry, carried
    return _SAME.get(word, word)


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


def _exchanged(asked: Traits, known: Traits) -> bool:
    """Whether only words have changed places in one and the same sentence: who sues a tenant is not sued by one."""
    return asked.frame == known.frame and asked.sequence != known.sequence and sorted(asked.sequence) == sorted(known.sequence)


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
    if _exchanged(asked, known):
        return "the other way round"
    if not asked.tenses & known.tenses and ((asked.tenses and known.tenses) or "future" in asked.tenses | known.tenses):
        return "another time"
    ratio = asked.length / max(known.length, 1)
    if not 0.6 <= ratio <= 1.6:
        return "other length"
    if asked.one_way != known.one_way:
        return "another way"
    if asked.measure != known.measure and None not in (asked.measure, known.measure):
        return "asks for something else"
    if asked.content - known.content and known.content - asked.content:
        return "a word replaced"
    return None
