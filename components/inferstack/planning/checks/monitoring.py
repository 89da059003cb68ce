"""Do the settings of alerts name what exists."""

from collections.abc import Iterator
from difflib import get_close_matches

from inferstack.environment import Environment, Platform
from inferstack.planning.findings import Finding
from inferstack_dashboards import ALERTS

_WITH_THRESHOLD = [alert.name for alert in ALERTS if alert.threshold is not None]
_SEVERITIES: list[str] = sorted({alert.severity for alert in ALERTS} - {"none"})


def thresholds(e: Environment) -> Iterator[Finding]:
    """A threshold of an alert that does not exist changes nothing, and nobody would notice."""
    yield from _unknown(
        "alert-unknown", "monitoring.thresholds", "no alert with a threshold", list(e.monitoring.thresholds), _WITH_THRESHOLD
    )
    for name, threshold in e.monitoring.thresholds.items():
        if threshold < 0:
            message = f"{name} would fire always: no figure is below {threshold:g}."
            yield Finding("alert-always", "error", f"monitoring.thresholds.{name}", message, "give a threshold of 0 or more.")
        elif name in _WITH_THRESHOLD:
            yield from _unheard(e, f"monitoring.thresholds.{name}")


def receivers(e: Environment) -> Iterator[Finding]:
    """Alerts are sent by severity: a receiver of another one is never called."""
    yield from _unknown("receiver-unknown", "monitoring.receivers", "no severity of an alert", list(e.monitoring.receivers), _SEVERITIES)
    for severity in e.monitoring.receivers:
        if severity in _SEVERITIES:
            yield from _unheard(e, f"monitoring.receivers.{severity}")


def _unheard(e: Environment, path: str) -> Iterator[Finding]:
    """Alerts that nobody evaluates reach nobody; the local environment has its own monitoring."""
    if e.monitoring.backend == "none" and e.platform is not Platform.LOCAL:
        message = "it has no effect: monitoring.backend is none, and nothing alerts."
        yield Finding("setting-without-effect", "warning", path, message, "set monitoring.backend, or leave it out.")


def _unknown(rule: str, path: str, message: str, names: list[str], known: list[str]) -> Iterator[Finding]:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            fix = f"use `{close[0]}`." if close else f"use one of {', '.join(known)}."
            yield Finding(rule, "error", f"{path}.{name}", f"{name} is {message}.", fix)


CHECKS = (thresholds, receivers)
