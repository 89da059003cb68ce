"""The live slot as it was just before the switch: what the new slot is compared with once it has all the traffic. Pure."""

from typing import Any

from pydantic import TypeAdapter

from inferstack.promotion.measure import WindowStats

_STATS = TypeAdapter(WindowStats)


def to_baseline(stats: WindowStats) -> dict[str, Any]:
    """The live slot's window, for the journal. Infinite bounds become null."""
    data: dict[str, Any] = _STATS.dump_python(stats)
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
