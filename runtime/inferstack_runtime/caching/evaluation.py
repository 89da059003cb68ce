"""How often the semantic tier hits, and how often wrongly, per threshold, on a committed set of questions.

Each line of the set is a question, other wordings that ask the same (`same`), and near misses that do not (`other`). A hit on `same` is
right, one on `other` is false. The figures hold for this set only: the hit rate of traffic is a property of the traffic.

The guards were made with `evaluation.jsonl` in view. `heldout.jsonl` was written after them and no rule was changed for it: its figures are
what to expect of questions that nobody thought of. Whoever changes a guard because of it moves its lines to the other set and writes
new ones.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferstack_runtime.caching.false_hits import wilson
from inferstack_runtime.caching.guards import refusal, traits

if TYPE_CHECKING:
    from inferstack_runtime.caching.embedding import Embedder

THRESHOLDS = (0.99, 0.97, 0.95, 0.93, 0.90, 0.85, 0.80, 0.75)


@dataclass(frozen=True, slots=True)
class Pair:
    """A known question and one that is asked: their cosine, whether the answers are the same, and what the guards say."""

    known: str
    asked: str
    same: bool
    similarity: float
    refused: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """Counts at one threshold. `false_ratio` is the share of hits that are false, the bounds its 95 % interval."""

    threshold: float
    guarded: bool
    right: int
    false: int
    same: int
    other: int

    @property
    def hit_rate(self) -> float:
        return self.right / self.same if self.same else 0.0

    @property
    def false_ratio(self) -> float:
        return self.false / (self.right + self.false) if self.right + self.false else 0.0

    def to_json(self) -> dict[str, Any]:
        low, high = wilson(self.false, self.right + self.false)
        return {
            "threshold": self.threshold,
            "guards": self.guarded,
            "hits_on_same": self.right,
            "same": self.same,
            "hit_rate": round(self.hit_rate, 4),
            "hits_on_other": self.false,
            "other": self.other,
            "hits": self.right + self.false,
            "false_hit_rate": round(self.false_ratio, 4),
            "false_hit_interval": [round(low, 4), round(high, 4)],
        }


def read_set(path: Path | None = None, *, held_out: bool = False) -> list[dict[str, Any]]:
    """The questions of a file, of the committed set, or of the held-out one. Raises ValueError for a line of another form."""
    committed = files(__package__) / ("heldout.jsonl" if held_out else "evaluation.jsonl")
    text = path.read_text() if path is not None else committed.read_text()
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry["question"], str) or not all(isinstance(t, str) for t in [*entry["same"], *entry["other"]]):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"line {number}: expected an object with `question`, `same` and `other`") from None
        entries.append(entry)
    return entries


def pairs(entries: Sequence[dict[str, Any]], embedder: "Embedder") -> list[Pair]:
    """Every question of the set with each of its wordings."""
    texts = list(dict.fromkeys(text for entry in entries for text in (entry["question"], *entry["same"], *entry["other"])))
    vectors = dict(zip(texts, embedder.embed(texts), strict=True))
    return [
        Pair(
            entry["question"],
            asked,
            same,
            float(vectors[entry["question"]] @ vectors[asked]),
            refusal(traits(asked), traits(entry["question"])),
        )
        for entry in entries
        for same, asked_list in ((True, entry["same"]), (False, entry["other"]))
        for asked in asked_list
    ]


def rates(found: Sequence[Pair], thresholds: Sequence[float] = THRESHOLDS) -> list[Rate]:
    """Hits at each threshold, without and with the guards."""
    same = sum(pair.same for pair in found)
    return [
        Rate(
            threshold,
            guarded,
            sum(pair.same for pair in found if _hits(pair, threshold, guarded)),
            sum(not pair.same for pair in found if _hits(pair, threshold, guarded)),
            same,
            len(found) - same,
        )
        for guarded in (False, True)
        for threshold in thresholds
    ]


def _hits(pair: Pair, threshold: float, guarded: bool) -> bool:
    return pair.similarity >= threshold and not (guarded and pair.refused is not None)


def table(found: Sequence[Rate]) -> str:
    """The rates as text."""
    lines = ["threshold  guards  hit rate        false hits      false hits of all hits (95 %)"]
    for rate in found:
        low, high = wilson(rate.false, rate.right + rate.false)
        lines.append(
            f"{rate.threshold:9.2f}  {'on' if rate.guarded else 'off':6}  {rate.hit_rate:6.1%} ({rate.right}/{rate.same})"
            f"  {rate.false:3}/{rate.other}         {rate.false_ratio:6.1%} of {rate.right + rate.false} ({low:.1%} to {high:.1%})"
        )
    return "\n".join(lines)


def plot(found: Sequence[Rate]) -> str:
    """Hit rate and false-hit rate over the threshold, as an SVG picture."""
    left, top, width, height = 60, 30, 520, 280
    low, high = min(rate.threshold for rate in found), max(rate.threshold for rate in found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 190}" height="{top + height + 50}"',
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - share)
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/><text x="{left - 40}" y="{y + 4:.1f}">{share:.0%}</text>')
    for threshold in sorted({rate.threshold for rate in found}):
        x = left + width * (threshold - low) / (high - low)
        parts.append(f'<text x="{x - 12:.1f}" y="{top + height + 18}">{threshold:.2f}</text>')
    series = (
        ("hit rate, guards off", "#7aa6d8", False, "hit_rate"),
        ("hit rate, guards on", "#1f5fa8", True, "hit_rate"),
        ("false-hit rate, guards off", "#e6a06a", False, "false_ratio"),
        ("false-hit rate, guards on", "#c0392b", True, "false_ratio"),
    )
    for position, (name, color, guarded, figure) in enumerate(series):
        points = sorted((rate.threshold, float(getattr(rate, figure))) for rate in found if rate.guarded == guarded)
        path = " ".join(f"{left + width * (x - low) / (high - low):.1f},{top + height * (1 - y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{left + width + 10}" y="{top + 20 * position + 10}" fill="{color}">{name}</text>')
    parts.append(f'<text x="{left + width / 2 - 60}" y="{top + height + 40}">cosine threshold</text></svg>')
    return "\n".join(parts)
