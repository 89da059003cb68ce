"""Alerts on how fast the error budgets of 30 days are used up, each over a long and a short window. Pure."""

from inferstack_dashboards.alert import LEAST_RATE, Alert
from inferstack_dashboards.recording import failed_ratio, request_rate, slow_ratio

_AVAILABILITY = 0.001
"""Share of requests that may fail in 30 days (objective 99.9 %)."""
_QUICK = 0.01
"""Share of requests whose first token may come late in 30 days (objective 99 %)."""


def _burn(ratio: str, long: str, short: str) -> str:
    return f"({ratio.format(long)} > {{t}} and {ratio.format(short)} > {{t}}) and on (environment) {request_rate(long)} > {LEAST_RATE}"


_FAILED, _SLOW = failed_ratio("{}"), slow_ratio("{}")
_BURNS = (
    ("Fast", "1h", "5m", 14.4, "page"),
    ("", "6h", "30m", 6.0, "page"),
    ("Slow", "1d", "2h", 3.0, "ticket"),
    ("Slowest", "3d", "6h", 1.0, "ticket"),
)
"""Burn rates and windows: Google, The Site Reliability Workbook, chapter 5, table 5-8."""


def burn_rate_alerts() -> tuple[Alert, ...]:
    """Of failed requests four windows, of late first tokens the two that page."""
    found: list[Alert] = []
    for speed, long, short, factor, severity in _BURNS:
        found.append(
            Alert(
                f"ErrorBudgetBurn{speed}",
                _burn(_FAILED, long, short),
                factor * _AVAILABILITY,
                "share of requests",
                "2m",
                severity,  # type: ignore[arg-type]
                "{{ $labels.environment }} uses up its error budget",
                f"{{{{ $value | humanizePercentage }}}} of requests failed in {long}; the objective is 99.9 %.",
            )
        )
    for speed, long, short, factor, severity in _BURNS[:2]:
        found.append(
            Alert(
                f"FirstTokenBudgetBurn{speed}",
                _burn(_SLOW, long, short),
                factor * _QUICK,
                "share of requests",
                "2m",
                severity,  # type: ignore[arg-type]
                "First tokens come late in {{ $labels.environment }}",
                f"{{{{ $value | humanizePercentage }}}} of requests waited more than 5 s for their first token in {long} (objective 99 %).",
            )
        )
    return tuple(found)
