"""What a Prometheus has for the query of a panel: lines over a span of time."""

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inferstack_dashboards.query import INTERVAL

_VARIABLE = re.compile(r"\$(?:slot|model|tier)\b")


@dataclass(frozen=True)
class Line:
    """One series: its labels, the moments (seconds since 1970) and the values there; NaN is left out."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    def named(self, legend: str) -> str:
        """The name that a legend with `{{label}}` parts gives the line; without a legend its labels."""
        if not legend:
            return ", ".join(value for name, value in sorted(self.labels.items()) if name != "__name__")
        return re.sub(r"\{\{(\w+)\}\}", lambda found: self.labels.get(found[1], ""), legend).strip()


Ask = Callable[[str], list[Line]]
"""The lines of a query as it stands in a board."""


def resolved(expr: str, interval: str, environment: str = ".*") -> str:
    """A board's query as Prometheus gets it: rates over `interval`, one environment or all, every other variable set to All."""
    return _VARIABLE.sub(".*", expr.replace(INTERVAL, interval).replace("$environment", environment))


def prometheus(address: str, start: float, end: float, step: float, interval: str, environment: str = ".*") -> Ask:
    """Ask the Prometheus at `address` for the span from `start` to `end`, one value every `step` seconds. Raises OSError, ValueError."""

    def ask(expr: str) -> list[Line]:
        form = {"query": resolved(expr, interval, environment), "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        with urllib.request.urlopen(  # noqa: S310 - the address is the caller's
            f"{address}/api/v1/query_range", urllib.parse.urlencode(form).encode(), timeout=30
        ) as answer:
            found = json.load(answer)["data"]["result"]
        return [line for row in found if (line := _line(row["metric"], row["values"])).times]

    return ask


def _line(labels: Mapping[str, str], pairs: list[tuple[float, str]]) -> Line:
    points = [(float(moment), float(value)) for moment, value in pairs if not math.isnan(float(value))]
    return Line(labels, tuple(moment for moment, _ in points), tuple(value for _, value in points))
