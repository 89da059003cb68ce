"""The live slot as it was just before the switch: what the new slot is compared with once it has all the traffic. Pure."""

import statistics
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from inferstack.promotion.gates import FIGURES, Rounds, by_rounds
from inferstack.promotion.measure import Histogram, WindowStats

_STATS = TypeAdapter(WindowStats)


def to_baseline(stats: WindowStats, before: Rounds = (), after: Rounds = ()) -> dict[str, Any]:
    """The live slot's window, for the journal, with what it did in the rounds before and after it. Infinite bounds become null."""
    data: dict[str, Any] = _STATS.dump_python(stats)
    typical = {name: [found for rounds in (before, after) if (found := _typical(rounds, name)) is not None] for name in FIGURES}
    data["rounds"] = {name: min(found) for name, found in typical.items() if found}
    for name in ("ttft", "inter_token"):
        data[name] = {
            "bounds": [None if bound == float("inf") else bound for bound in data[name]["bounds"]],
            "counts": list(data[name]["counts"]),
        }
    return data


def from_baseline(data: dict[str, Any] | None) -> WindowStats | None:
    """The inverse of to_baseline; a damaged one is None, like one that was never measured."""
    try:
        document = dict(data or {})
        for name in ("ttft", "inter_token"):
            bounds = [float("inf") if bound is None else bound for bound in document[name]["bounds"]]
            document[name] = {"bounds": bounds, "counts": list(document[name]["counts"])}
        found = _STATS.validate_python(document)
    except (KeyError, TypeError, ValueError):
        return None
    return found if all(len(times.bounds) == len(times.counts) for times in (found.ttft, found.inter_token)) else None


def as_of_now(live: WindowStats, baseline: dict[str, Any] | None, rounds: Rounds) -> WindowStats:
    """The baseline as it would be measured now: as much slower as the live slot itself has become in rounds since, never faster.

    What changed for both slots (other work on the machine, more of it to do) is not the new version's. Of the rounds before and after the
    live slot's window the faster ones say how fast the machine was then: it may have become slower right after it.
    """
    for name in FIGURES:
        then, now = ((baseline or {}).get("rounds") or {}).get(name), _typical(rounds, name)
        if isinstance(then, float) and then > 0 and now is not None and now > then:
            times, parts, slower = getattr(live, name), getattr(live, f"{name}_parts"), now / then
            scaled = Histogram(tuple(bound * slower for bound in times.bounds), times.counts)
            changes: dict[str, Any] = {name: scaled, f"{name}_parts": tuple(part * slower for part in parts)}
            live = replace(live, **changes)
    return live


def _typical(rounds: Rounds, figure: str) -> float | None:
    """Median over the rounds of the live slot's p95; None where it answered none."""
    found = by_rounds(rounds, figure)[3] if rounds else ()
    return statistics.median(found) if found else None
