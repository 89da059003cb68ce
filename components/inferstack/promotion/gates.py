"""What a new version must keep to be promoted: pure decisions on measured windows.

Each gate is judged alone, because a mean over gates hides the one that fails. Like is compared with like: the two slots' times by requests
that went to both at the same moments while both had as much to do (rounds), and by their live traffic only where the new slot carried
no more of it. What was not measured never passes.
"""

import functools
import math
from dataclasses import dataclass, field, replace

from inferstack.environment import Gates
from inferstack.promotion.chance import Looks, at_least, paired, paired_so_far, unpaired
from inferstack.promotion.journal import Verdict
from inferstack.promotion.measure import Histogram, WindowStats
from inferstack.promotion.platform import Agreement, Exercise

TRIES = 4
"""Tries of a check whose data are missing, RETRY_SECONDS apart, before it is inconclusive (Argo Rollouts' consecutiveErrorLimit)."""
RETRY_SECONDS = 10.0
PARTS, MOST_PARTS, PART_SECONDS = 6, 12, 2.5
"""Parts of a window whose p95s are compared: as many as last that long, within these bounds. Requests that follow each other share a queue
and are no independent samples; the figures of consecutive parts of a window nearly are (the method of batch means: Law, Simulation
Modeling and Analysis, chapter 9)."""
LEAST_PARTS = 4
"""Fewer than these on a side cannot be told from chance at all: complete separation of 3 and 3 has p = 0.05."""
SCREENING = Looks(rounds=10, early=7, level=0.1)
CONFIRMING = Looks(rounds=30, early=10, level=0.006)
"""The comparison in rounds of requests to both slots at once: a first one that misses little, and for a version that it suspects a second
one that hardly errs. Chance alone passes both less often (6 in 10,000) than two tests at CHANCE, and a slower version is missed less
often, because the rounds are spent where there is a doubt. `min_requests` may ask for more of them."""
ROUND_REQUESTS = 4
"""Synthetic requests to each slot at the same moments."""
LEAST_ROUNDS = 6
"""Fewer cannot be told from chance at all: 5 of 5 have p = 0.03."""
EARLY_PARTS, EARLY_CHANCE = 5, 0.004
"""A look inside a window of live traffic, and the highest p of the exact rank test at which it ends there: only complete separation is as
rare (5 and 5: 0.00397)."""
CHANCE = 0.021
"""Highest p at the window's end. Both looks together suspect at most 0.025 by chance, and two windows must agree: 6 in 10,000."""
MORE_TRAFFIC = 1.25
"""Requests per second and replica, as a multiple of the other's, from which a slot may be slower for its traffic alone."""
FAULT_CHANCE = 0.01
"""Highest binomial p at which errors above the gate decide at once; above it, up to SUSPICIOUS, a second window decides."""
FAILING = 0.3
"""Share of failures from which a slot is asked no further; up to it what fails is weighed against the live slot's failures first."""
SUSPICIOUS = 0.2


Rounds = tuple[tuple[Exercise, Exercise], ...]
"""What the senders of one round's requests to the new slot and to the live slot met."""


@dataclass(frozen=True)
class Evidence:
    """What a check has in hand; None: could not be measured."""

    new: WindowStats | None
    live: WindowStats | None = None
    rounds: Rounds = ()
    """Requests that went to the new and the live slot at the same moments, round by round."""
    agreement: Agreement | None = None
    comparable: bool = True
    """The two slots serve the same models, so that their answers can be compared."""
    restarts: int = 0
    """Restarts of the new slot since it was ready."""
    hourly_usd: float | None = None
    """Price of one replica."""
    unmarked: str = ""
    """Why nothing can be said of the requests that the step is about: none came."""
    sent: bool = False
    """The agreement was asked for at this stage."""
    accuracy: float | None = None
    """Top-1 agreement with the unquantized model, measured beforehand."""
    reference: bool = False
    """The live slot serves the unquantized model, so that the agreement with it is the accuracy."""
    confirmed: bool = True
    """A former window of this stage was slower than the live slot's too; a first one is measured again before it decides."""


FIGURES = ("ttft", "inter_token")
"""What is timed, by the names that WindowStats and Exercise have for it."""
ASKED = {"ttft": ("p95",), "inter_token": ("p95", "mean")}
"""What is compared of each round, by the names that Histogram has for it. Where the machine holds up some of the tokens for longer than
a step takes, the p95 is the machine's and hides a version of twice the steps; their mean is the version's still."""


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
    if evidence.unmarked:
        found.missing.append(evidence.unmarked)
    elif new is None:
        found.missing.append("no metrics from the new slot")
    else:
        if new.requests < gates.min_requests:
            found.missing.append(f"{new.requests:.0f} requests in the window, at least {gates.min_requests} are needed")
        _errors(new, live, gates, found)
        if new.requests >= gates.min_requests:
            for name, figure, bound in (
                ("time to first token", "ttft", gates.ttft_p95_seconds),
                ("time between tokens", "inter_token", gates.inter_token_p95_seconds),
            ):
                _bounded(name, figure, bound, evidence, gates, found)
                _compared(name, figure, evidence, gates, found)
            _memory(new, gates, found)
            _price(new, evidence.hourly_usd, gates, found)
            _cache(new, gates, found)
    _lengths(evidence, gates, found)
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


def carries_more(new: WindowStats, live: WindowStats) -> bool:
    """Whether a replica of the new slot had more traffic than one of the live slot, so that their times say nothing about the version."""
    return new.rate * max(1, live.replicas) > MORE_TRAFFIC * live.rate * max(1, new.replicas)


def _p95(stats: WindowStats | None, figure: str, least: float) -> float | None:
    times: Histogram | None = getattr(stats, figure) if stats is not None else None
    return times.quantile(0.95) if times is not None and times.total >= least else None


def _bounded(name: str, figure: str, bound: float, evidence: Evidence, gates: Gates, found: _Findings) -> None:
    """Above the absolute bound, and above what the live slot has at the same time."""
    value = _p95(evidence.new, figure, 1)
    before = _p95(evidence.live, figure, gates.min_requests)
    if value is None:
        found.missing.append(f"{name} p95 was not measured")
    elif value > bound and (before is None or value > before):
        found.failed.append(f"{name} p95 {value:.3f} s, at most {bound:g} s")


def _compared(name: str, figure: str, evidence: Evidence, gates: Gates, found: _Findings) -> None:
    """Above the live slot's by more than the factor and by more than chance: in rounds, and in the windows of their own traffic."""
    most, new, live = gates.slower_than_live, evidence.new, evidence.live
    if evidence.rounds:
        if not any(_by_round(evidence.rounds, figure, "p95")):
            found.missing.append(f"{name} p95 of the two slots could not be compared: no round was answered by both")
        for kind in ASKED[figure]:
            value, before = _over_all(evidence.rounds, figure, kind)
            if value is None or before is None or value <= most * before:
                continue
            text = f"{name} {kind} {value:.3f} s, the live slot {before:.3f} s at the same moments (at most {most:g} times)"
            mine, theirs = _by_round(evidence.rounds, figure, kind)
            looks = planned(gates, confirming=evidence.confirmed)
            slower = _slower(mine, theirs, gates, looks)
            if slower is None and len(mine) < LEAST_ROUNDS:
                found.missing.append(f"{text}, in too few rounds to tell it from chance")
            elif slower or (slower is None and paired(mine, [most * each for each in theirs]) <= looks.level):
                found.suspected.append(text)
    if (above := _above(new, live, figure, gates)) is not None:
        value, before, p = above
        text = f"{name} p95 {value:.3f} s, the live slot {before:.3f} s (at most {most:g} times)"
        if p is None:
            found.missing.extend([] if evidence.rounds else [f"{text}, in too few parts of the window to tell it from chance"])
        elif p <= CHANCE:
            found.suspected.append(text)


def _above(new: WindowStats | None, live: WindowStats | None, figure: str, gates: Gates) -> tuple[float, float, float | None] | None:
    """Both p95s over windows of live traffic when the new slot's is above the factor, and p of their parts (None for too few parts)."""
    value, before = _p95(new, figure, 1), _p95(live, figure, gates.min_requests)
    if value is None or before is None or value <= gates.slower_than_live * before:
        return None
    mine, theirs = (getattr(side, f"{figure}_parts") for side in (new, live))
    if min(len(mine), len(theirs)) < LEAST_PARTS:
        return value, before, None
    return value, before, unpaired(mine, [gates.slower_than_live * each for each in theirs])


def parts_of(seconds: float) -> int:
    """Parts of a window of that length."""
    return max(PARTS, min(MOST_PARTS, int(seconds / PART_SECONDS)))


def slower_already(new: WindowStats, live: WindowStats, gates: Gates) -> bool:
    """Whether the beginning of a window, in EARLY_PARTS parts, is enough to suspect it."""
    found = (_above(new, live, figure, gates) for figure in FIGURES)
    return any(above is not None and above[2] is not None and above[2] <= EARLY_CHANCE for above in found)


def planned(gates: Gates, *, confirming: bool) -> Looks:
    """The comparison in rounds, the first or the one that confirms it: when it ends, and how often it may err."""
    looks = CONFIRMING if confirming else SCREENING
    return replace(looks, rounds=max(looks.rounds, math.ceil(gates.min_requests / ROUND_REQUESTS)))


def _slower(mine: tuple[float, ...], theirs: tuple[float, ...], gates: Gates, looks: Looks) -> bool | None:
    """Whether the rounds so far show a slot to be slower; None while more of them could."""
    return paired_so_far(mine, [gates.slower_than_live * each for each in theirs], looks)


def is_settled(rounds: Rounds, gates: Gates, looks: Looks) -> bool:
    """Whether further rounds could change nothing: one figure is slower already, or none can be found slower any more."""
    found = []
    for figure, kind in ((figure, kind) for figure, kinds in ASKED.items() for kind in kinds):
        slower = _slower(*_by_round(rounds, figure, kind), gates, looks)
        value, before = _over_all(rounds, figure, kind) if slower else (None, None)
        if value is not None and before is not None and value > gates.slower_than_live * before:
            return True
        found.append(slower)
    return all(slower is False for slower in found)


def is_failing(failures: float, requests: float) -> bool:
    """Whether so many fail that nothing more can be learned by asking: beyond chance more than FAILING."""
    return at_least(failures, requests, FAILING) <= FAULT_CHANCE


def _over_all(rounds: Rounds, figure: str, kind: str) -> tuple[float | None, float | None]:
    """Over all rounds of the new and of the live slot."""
    mine, theirs = (functools.reduce(Histogram.plus, (getattr(one, figure) for one in side)) for side in zip(*rounds, strict=True))
    return getattr(mine, kind), getattr(theirs, kind)


def _by_round(rounds: Rounds, figure: str, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each round in which both were seen, of the new and of the live slot."""
    pairs = ((getattr(getattr(new, figure), kind), getattr(getattr(live, figure), kind)) for new, live in rounds)
    both = [(new, live) for new, live in pairs if new is not None and live is not None]
    return tuple(new for new, _ in both), tuple(live for _, live in both)


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
        return
    said = evidence.agreement
    if said.fault:
        found.failed.append(said.fault)
    for share, positions, where in (
        (said.share, said.positions, "next tokens"),
        (said.long_same / max(1, said.long_positions), said.long_positions, "next tokens of a long text"),
    ):
        if positions and share < gates.answers:
            found.failed.append(f"the slots agree on {share:.1%} of {positions} {where}, at least {gates.answers:.0%} is needed")


def _lengths(evidence: Evidence, gates: Gates, found: _Findings) -> None:
    """Answers that end early, or say nothing, where the live slot's to the same prompts go on."""
    new, live = (sum(pair[side].tokens for pair in evidence.rounds) for side in (0, 1))
    if evidence.comparable and live >= gates.min_requests and new < gates.answers * live:
        found.failed.append(
            f"its answers have {new} tokens, the live slot's to the same prompts {live}: at least {gates.answers:.0%} is needed"
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
