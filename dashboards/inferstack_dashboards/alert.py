"""What an alert is."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["page", "ticket", "none"]
LEAST_RATE = 0.05
"""Requests per second under which shares say nothing: 15 requests in five minutes."""


@dataclass(frozen=True)
class Alert:
    """One alert. `expr` holds `{t}` where the threshold stands; `unit` is that of the threshold.

    `summary` and `description` may hold Prometheus' `{{ $labels.x }}` and `{{ $value }}`.
    """

    name: str
    expr: str
    threshold: float | None
    unit: str
    hold: str
    severity: Severity
    summary: str
    description: str

    def query(self, threshold: float | None = None) -> str:
        """The PromQL with its threshold: the given one, else the default."""
        value = self.threshold if threshold is None else threshold
        return self.expr if value is None else self.expr.replace("{t}", f"{value:.12g}")
