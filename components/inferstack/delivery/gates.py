"""Gates of the pipeline: each looks at one fact and lets pass, or stops with one clear sentence. Pure.

A gate returns nothing and raises `Refused`; what it reads was read by the caller (`python -m inferstack.delivery`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from inferstack.delivery.plans import BadInput, figure, findings, section
from inferstack.delivery.scans import read_scan, stops
from inferstack.environment import Waiver

_BY_DIGEST = re.compile(r"(?P<repository>[a-z0-9][a-z0-9._:/-]*)@sha256:(?P<hex>[0-9a-f]{64})")


class Refused(Exception):
    """A gate stops; the message is one sentence that says what, where and what to do."""


def by_digest(reference: str) -> str:
    """The digest `sha256:…` of an image reference. Refuses a tag, a short digest and the placeholder of zeros."""
    match = _BY_DIGEST.fullmatch(reference)
    if match is None:
        raise Refused(
            f"image {reference!r} is not named by its digest: give REPOSITORY@sha256:DIGEST as the build printed it; a tag can move."
        )
    if set(match["hex"]) == {"0"}:
        raise Refused(f"image {match['repository']} has the placeholder digest of zeros: give the digest that the build printed.")
    return f"sha256:{match['hex']}"


def signed(reference: str, verification: Any, status: int, complaint: str = "") -> None:
    """Refuse an image that `cosign verify --output json` did not confirm for exactly this digest.

    `verification` is its parsed output (a list, or None when there was none), `status` its exit status, `complaint` its last line.
    """
    digest = by_digest(reference)
    if status != 0 or not verification:
        why = f" (cosign: {complaint})" if complaint else ""
        raise Refused(
            f"image {reference} has no signature of this repository's release workflow{why}: deploy only what the main workflow built."
        )
    if not isinstance(verification, list):
        raise BadInput("signature: expected the JSON list of `cosign verify --output json`")
    confirmed = {_signed_digest(row) for row in verification}
    if confirmed != {digest}:
        raise Refused(f"the signature found for {reference} is of {', '.join(sorted(confirmed))}: sign and deploy the same digest.")


def plan_clean(plan: Mapping[str, Any]) -> None:
    """Refuse a plan with findings of severity error."""
    if "findings" not in plan:
        raise BadInput("the file holds no plan: expected the output of `inferstack plan ENV --json`")
    errors = [row for row in findings(plan) if row.get("severity") not in ("warning", "info")]
    if errors:
        first = errors[0]
        count = "1 finding" if len(errors) == 1 else f"{len(errors)} findings"
        raise Refused(
            f"the plan of {plan.get('environment')} has {count} of severity error, first {first.get('rule')} at {first.get('path')}: "
            f"{first.get('message')}"
        )


def within_cost(plan: Mapping[str, Any], hourly: float) -> None:
    """Refuse a plan whose hour, both slots counted, costs more than `hourly` US dollars, and one whose price is not known."""
    if not math.isfinite(hourly):
        raise BadInput(f"a ceiling of {hourly} US dollars is none")
    cost = section(plan, "cost")
    known = [price for key in ("hourly_usd", "during_promotion_hourly_usd") if (price := figure(cost, key)) is not None]
    if len(known) < 2:
        raise Refused(
            f"the plan of {plan.get('environment')} has no price per hour, so the ceiling of {hourly:.2f} US dollars cannot be kept."
        )
    if max(known) > hourly:
        raise Refused(
            f"the plan of {plan.get('environment')} costs up to {max(known):.2f} US dollars per hour, above the ceiling of {hourly:.2f}."
        )


def waivers_valid(environment: str, waivers: Sequence[Waiver], today: date) -> None:
    """Refuse an environment with a waiver past its last day."""
    expired = [waiver for waiver in waivers if date.fromisoformat(waiver.expires) < today]
    if expired:
        first = expired[0]
        raise Refused(
            f"the waiver of {first.rule} in environment {environment} expired on {first.expires}: "
            f"mend what it accepted, or renew it with its owner ({first.owner})."
        )


def scan_clean(name: str, report: Mapping[str, Any], waivers: Sequence[Waiver] = (), today: date = date.max) -> None:
    """Refuse a scan with a hit that `stops`, unless a waiver still valid on `today` names its identifier."""
    accepted = {waiver.rule for waiver in waivers if date.fromisoformat(waiver.expires) >= today}
    hits = [hit for hit in read_scan(report) if stops(hit) and hit.identifier not in accepted]
    if hits:
        first = hits[0]
        fix = f", mended by {first.fixed}" if first.fixed else ""
        raise Refused(
            f"the scan of {name} has {len(hits)} hit(s) that stop, first {first.identifier} ({first.severity}) in {first.where}{fix}."
        )


def _signed_digest(row: Any) -> str:
    try:
        return str(row["critical"]["image"]["docker-manifest-digest"])
    except (KeyError, TypeError):
        raise BadInput("signature: an entry lacks `critical.image.docker-manifest-digest`") from None
