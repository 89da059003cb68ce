"""What a plan has to say: findings, and the waivers that accept them."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

from inferstack.environment import InvalidEnvironment, Waiver

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a plan found: `message` says what is wrong where, `fix` what to change."""

    rule: str
    severity: Severity
    path: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.path}: {self.message} Fix: {self.fix} [{self.rule}]"


def from_invalid(error: InvalidEnvironment) -> list[Finding]:
    """The problems of an environment that cannot be parsed, as findings of the rule `environment`."""
    return [Finding("environment", "error", problem.path, f"{problem}.", problem.fix) for problem in error.problems]


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then by path and rule; duplicates once."""
    return sorted(set(findings), key=lambda f: (SEVERITIES.index(f.severity), f.path, f.rule, f.message))


def waive(findings: Sequence[Finding], waivers: Sequence[Waiver], today: date, rules: Collection[str] = ()) -> list[Finding]:
    """Turn accepted findings into notes; a waiver that has expired, or that names no finding, is a finding itself.

    `rules`: every rule that there is; with them a waiver of another is a mistake, and not only of no use.
    """
    kept: list[Finding] = []
    used: set[int] = set()
    for finding in findings:
        match = next((i for i, w in enumerate(waivers) if _covers(w, finding) and not _expired(w, today)), None)
        if match is None or finding.severity == "info":
            kept.append(finding)
            continue
        used.add(match)
        waiver = waivers[match]
        accepted = f"{finding.message} Accepted by {waiver.owner} until {waiver.expires}: {waiver.reason}"
        kept.append(replace(finding, severity="info", message=accepted))
    for i, waiver in enumerate(waivers):
        path = f"waivers[{i}]"
        if _expired(waiver, today):
            message = f"the waiver of {waiver.rule} for {waiver.path} expired on {waiver.expires} (owner {waiver.owner})."
            kept.append(
                Finding("waiver-expired", "error", path, message, "mend what it accepted and remove it, or renew it with its owner.")
            )
        elif rules and waiver.rule not in rules:
            near = difflib.get_close_matches(waiver.rule, rules, n=1, cutoff=0.5)
            fix = f"use `{near[0]}`." if near else "use the name that stands in brackets behind the finding, or remove it."
            kept.append(Finding("waiver-unknown", "warning", f"{path}.rule", f"`{waiver.rule}` is no rule: nothing is accepted.", fix))
        elif date.fromisoformat(waiver.expires) > today + _LONGEST_WAIVER:
            message = f"the waiver of {waiver.rule} holds until {waiver.expires}: longer than a year nobody looks at it again."
            kept.append(Finding("waiver-too-long", "warning", f"{path}.expires", message, "set a day within a year from now."))
        elif i not in used:
            message = f"no finding of rule {waiver.rule} at {waiver.path} was there to accept."
            kept.append(Finding("waiver-unused", "info", path, message, "mend its rule or path, or remove it."))
    return kept


def _covers(waiver: Waiver, finding: Finding) -> bool:
    """By path and what is below it; findings on resources (`Kind/name: where`) also by `Kind/name` and `Kind/*`."""
    if waiver.rule != finding.rule:
        return False
    resource = finding.path.partition(":")[0]
    exact = waiver.path in ("*", finding.path, resource, f"{resource.partition('/')[0]}/*")
    return exact or finding.path.startswith((f"{waiver.path}.", f"{waiver.path}["))


_LONGEST_WAIVER = timedelta(days=366)


def _expired(waiver: Waiver, today: date) -> bool:
    return date.fromisoformat(waiver.expires) < today
