"""What a new version must keep to be promoted: pure decisions on measured windows.

Each gate is judged alone, because a mean over gates hides the one that fails. The new slot is compared with the live one in the same
window where both carry traffic; once all traffic has moved, with the live slot's window just before. What was not measured never passes.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from inferstack.environment import Gates
from inferstack.promotion.journal import Verdict
from inferstack.promotion.measure import Histogram, WindowStats, at_least, chance
from inferstack.promotion.platform import Agreement

TRIES = 4
"""Tries of a check whose data are missing, RETRY_SECONDS apart, before it is inconclusive (Argo Rollouts' consecutiveErrorLimit)."""
RETRY_SECONDS = 10.0
PARTS = 6
"""Parts of a window whose p95s are compared. Requests that follow each other share a queue and are no independent samples; the figures of
consecutive parts of a window nearly are (the method of batch means: Law, Simulation Modeling and Analysis, chapter 9)."""
LEAST_PARTS = 4
"""Fewer than these on a side cannot be told from chance at all: complete separation of 3 and 3 has p = 0.05."""
CHANCE = 0.025
"""Highest p of the exact rank test at which "slower" is suspected. It must show in two windows: 6 in 10,000 by chance alone."""
FAULT_CHANCE = 0.01
"""Highest binomial p at which errors above the gate decide at once; above it, up to SUSPICIOUS, a second window decides."""
SUSPICIOUS = 0.2


@dataclass(frozen=True)
class Evidence:
    """What a check has in hand; None: could not be measured."""

    new: WindowStats | None
    live: WindowStats | None = None
    agreement: Agreement | None = None
    comparable: bool = True
    """The two slots serve the same models, so that their answers can be compared."""
    restarts: int = 0
    """Restarts of the new slot since it was ready."""
    hourly_usd: float | None = None
    """Price of one replica."""
    sent: bool = False
    """The agreement was asked for at this stage."""
    accuracy: float | None = None
    """Top-1 agreement with the unquantized model, measured beforehand."""
    reference: bool = False
    """The live slot serves the unquantized model, so that the agreement with it is the accuracy."""
    confirmed: bool = True
    """A former window of this stage was slower than the live slot's too; a first one is measured again before it decides."""


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
    """The inverse of to_baseline."""
    if data is None:
        return None
    histograms = {
        name: Histogram(tuple(float("inf") if bound is None else bound for bound in data[name]["bounds"]), tuple(data[name]["counts"]))
        for name in ("ttft", "inter_token")
    }
    parts = {name: tuple(data.get(name, ())) for name in ("ttft_parts", "inter_token_parts")}
    return WindowStats(**{**data, **histograms, **parts})


@dataclass
class _Findings:
    failed: list[str] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)
    """What noise of one window can look like: slower than the live slot, an error more than the gate allows."""
    missing: list[str] = field(default_factory=list)


def decide(stage: str, evidence: Evidence, gates: Gates, now: float) -> Verdict:
    """Pass, fail or inconclusive, with every reason."""
    new, live = evidence.new, evidence.live
    found = _Findings()
    if evidence.restarts > 0 or (new is not None and new.restarts > 0):
        count = max(evidence.restarts, new.restarts if new else 0)
        found.failed.append(f"{count} process of the new slot ended and was restarted" if count == 1 else f"{count} processes restarted")
    if new is None:
        found.missing.append("no metrics from the new slot")
    else:
        if new.requests < gates.min_requests:
            found.missing.append(f"{new.requests:.0f} requests in the window, at least {gates.min_requests} are needed")
        _errors(new, live, gates, found)
        if new.requests >= gates.min_requests:
            _latency("time to first token p95", _ttft(new), _ttft(live), gates.ttft_p95_seconds, gates, found)
            _latency("time between tokens p95", _inter_token(new), _inter_token(live), gates.inter_token_p95_seconds, gates, found)
            _memory(new, gates, found)
            _price(new, evidence.hourly_usd, gates, found)
            _cache(new, gates, found)
    _answers(evidence, gates, found)
    if found.suspected:
        (found.failed if evidence.confirmed else found.missing).extend(found.suspected)
    result = "fail" if found.failed else "inconclusive" if found.missing else "pass"
    measured = figures(new, live, evidence.agreement, evidence.hourly_usd)
    return Verdict(stage, result, tuple(found.failed + found.missing), now, measured, suspected=bool(found.suspected))  # type: ignore[arg-type]


def failed_early(stats: WindowStats | None, gates: Gates) -> bool:
    """Whether the window is lost already: the rest of it, answered without a fault, could not bring the errors back under the gate."""
    if stats is None or stats.errors == 0:
        return False
    expected = max(stats.requests, stats.rate * gates.window_seconds, gates.min_requests)
    return stats.restarts > 0 or (stats.errors > max(1.0, gates.error_ratio * expected) and stats.requests >= min(5, gates.min_requests))


def _errors(new: WindowStats, live: WindowStats | None, gates: Gates, found: _Findings) -> None:
    """More failures than the gate allows, and than the live slot has: beyond chance at once, else when a second window says so too."""
    if new.requests == 0 or new.error_ratio <= gates.error_ratio:
        return
    allowed = gates.error_ratio
    if live is not None and live.requests >= gates.min_requests:
        allowed = max(allowed, live.error_ratio)
    p = at_least(new.errors, new.requests, allowed)
    text = f"{new.errors:.0f} of {new.requests:.0f} requests failed ({new.error_ratio:.1%}, at most {allowed:.1%})"
    if p <= FAULT_CHANCE:
        found.failed.append(text)
    elif p <= SUSPICIOUS:
        found.suspected.append(text)


@dataclass(frozen=True)
class _Times:
    """One figure's observations in a window."""

    all: Histogram
    parts: tuple[float, ...]


def _ttft(stats: WindowStats | None) -> _Times | None:
    return None if stats is None else _Times(stats.ttft, stats.ttft_parts)


def _inter_token(stats: WindowStats | None) -> _Times | None:
    return None if stats is None else _Times(stats.inter_token, stats.inter_token_parts)


def _latency(name: str, new: _Times | None, live: _Times | None, bound: float, gates: Gates, found: _Findings) -> None:
    """Above the absolute bound, or above the live slot's by more than the factor and by more than chance."""
    value = new.all.quantile(0.95) if new is not None else None
    if new is None or value is None:
        found.missing.append(f"{name} was not measured")
        return
    before = live.all.quantile(0.95) if live is not None and live.all.total >= gates.min_requests else None
    if value > bound and (before is None or value > before):
        found.failed.append(f"{name} {value:.3f} s, at most {bound:g} s")
    elif live is not None and before is not None and value > gates.slower_than_live * before:
        text = f"{name} {value:.3f} s, the live slot {before:.3f} s (at most {gates.slower_than_live:g} times)"
        if min(len(new.parts), len(live.parts)) < LEAST_PARTS:
            found.missing.append(f"{text}, in too few parts of the window to tell it from chance")
        elif chance(new.parts, [gates.slower_than_live * part for part in live.parts]) <= CHANCE:
            found.suspected.append(text)


def _memory(new: WindowStats, gates: Gates, found: _Findings) -> None:
    if new.resident_growth is not None and new.resident_growth > gates.memory_growth:
        found.failed.append(
            f"resident memory grew by {new.resident_growth:.1%} in {new.requests:.0f} requests (at most {gates.memory_growth:.1%})"
        )


def _price(new: WindowStats, hourly_usd: float | None, gates: Gates, found: _Findings) -> None:
    if gates.usd_per_million_tokens is None:
        return
    usd = usd_per_million_tokens(new, hourly_usd)
    if usd is None:
        found.missing.append("the price of a replica is not known, but gates.usd_per_million_tokens is set")
    elif usd > gates.usd_per_million_tokens:
        found.failed.append(f"{usd:.2f} $ per million tokens, at most {gates.usd_per_million_tokens:.2f} $")


def usd_per_million_tokens(stats: WindowStats, hourly_usd: float | None) -> float | None:
    """Cost of the window's replicas over the tokens they made; None without a price or tokens."""
    if hourly_usd is None or not stats.tokens or not stats.seconds:
        return None
    return hourly_usd * stats.replicas * stats.seconds / 3600 / stats.tokens * 1e6


def _cache(new: WindowStats, gates: Gates, found: _Findings) -> None:
    if new.cache_hits > 0 and new.cache_false_hits / new.cache_hits > gates.cache_false_hit_ratio:
        found.failed.append(
            f"{new.cache_false_hits:.0f} of {new.cache_hits:.0f} checked semantic cache hits were false "
            f"(at most {gates.cache_false_hit_ratio:.1%})"
        )


def _answers(evidence: Evidence, gates: Gates, found: _Findings) -> None:
    """Against the unquantized model where a gate for that is set, and against the live slot wherever both serve the same models."""
    if not evidence.sent:
        return
    share = evidence.agreement.share if evidence.agreement is not None else None
    if gates.accuracy is not None:
        measured = evidence.accuracy if evidence.accuracy is not None else share if evidence.reference else None
        if measured is None:
            found.missing.append("the agreement with the unquantized model was not measured, but gates.accuracy is set")
        elif measured < gates.accuracy:
            found.failed.append(f"{measured:.1%} agreement with the unquantized model, at least {gates.accuracy:.0%} is needed")
    if evidence.agreement is None:
        if evidence.comparable:
            found.missing.append("the answers of the two slots could not be compared")
    elif evidence.agreement.share < gates.answers:
        found.failed.append(
            f"the slots agree on {evidence.agreement.share:.1%} of {evidence.agreement.positions} next tokens, "
            f"at least {gates.answers:.0%} is needed"
        )


def figures(
    new: WindowStats | None, live: WindowStats | None, agreement: Agreement | None = None, hourly_usd: float | None = None
) -> dict[str, float | None]:
    """The measured numbers of a verdict, for reports: rates per second, times in seconds, prices in USD."""
    data: dict[str, float | None] = {}
    for name, stats in (("new", new), ("live", live)):
        if stats is not None:
            data |= {
                f"{name}.requests": stats.requests,
                f"{name}.errors": stats.errors,
                f"{name}.rate": stats.rate,
                f"{name}.tokens_per_second": stats.tokens / stats.seconds if stats.tokens and stats.seconds else None,
                f"{name}.ttft_p50": stats.ttft.quantile(0.5),
                f"{name}.ttft_p95": stats.ttft.quantile(0.95),
                f"{name}.inter_token_p50": stats.inter_token.quantile(0.5),
                f"{name}.inter_token_p95": stats.inter_token.quantile(0.95),
                f"{name}.resident_growth": stats.resident_growth,
                f"{name}.usd_per_million_tokens": usd_per_million_tokens(stats, hourly_usd),
            }
    if agreement is not None:
        data["agreement"] = agreement.share
    return data
