"""Accepted violations: rule, path, reason, owner, last day."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from inferstack_policies.model import Violation


@dataclass(frozen=True, slots=True)
class Waiver:
    """One accepted violation; `path` is `Kind/name`, `Kind/*` or `*`, `expires` the last day, YYYY-MM-DD."""

    rule: str
    reason: str
    owner: str
    expires: str
    path: str = "*"


@dataclass(frozen=True, slots=True)
class Waived:
    """What waivers left: violations that stand, those that are accepted and by which waiver, and waivers that have expired."""

    standing: tuple[Violation, ...]
    accepted: tuple[tuple[Violation, Waiver], ...]
    expired: tuple[Waiver, ...]


def waive(violations: Sequence[Violation], waivers: Sequence[Waiver], today: date) -> Waived:
    """Take out what is accepted as of `today`; an expired waiver accepts nothing."""
    expired = tuple(w for w in waivers if date.fromisoformat(w.expires) < today)
    valid = [w for w in waivers if w not in expired]
    standing, accepted = [], []
    for violation in violations:
        match = next((w for w in valid if covers(w, violation)), None)
        if match is None:
            standing.append(violation)
        else:
            accepted.append((violation, match))
    return Waived(tuple(standing), tuple(accepted), expired)


def covers(waiver: Waiver, violation: Violation) -> bool:
    """Does the waiver name this rule and this resource?"""
    if waiver.rule != violation.rule:
        return False
    resource = violation.path.partition(":")[0]
    kind, _, _name = resource.partition("/")
    return waiver.path in ("*", resource, f"{kind}/*", violation.path)
