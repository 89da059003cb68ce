"""Measures what the gates judge: windows of the slots' own metrics, synthetic load, compared answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from inferstack.environment import SlotName
from inferstack.promotion import gates
from inferstack.promotion.events import Emit, Event
from inferstack.promotion.gates import Evidence
from inferstack.promotion.journal import Journal, Operation, Verdict
from inferstack.promotion.measure import Snapshot, WindowStats, leak, over, p95s
from inferstack.promotion.platform import Agreement, Exercise, Observation, Platform
from inferstack.promotion.steps import Check, Result

LOOK_SECONDS = 2.0
"""Longest time between two looks inside a window."""
LEAK_PORTIONS = 4
"""A start's own growth is over after the first of these portions of requests."""

Call = Callable[[Callable[[], Any]], Any]
Look = tuple[float, Snapshot | None]
"""When, and a slot's cumulative figures then."""


class Checks:
    """One executor's measurements. `call` calls the platform with retries, `sleep` keeps the lease alive."""

    def __init__(self, platform: Platform, call: Call, sleep: Callable[[float], None], now: Callable[[], float], emit: Emit) -> None:
        self._platform = platform
        self._call = call
        self._sleep = sleep
        self._now = now
        self._emit = emit

    def check(self, step: Check, journal: Journal, operation: Operation) -> Result:
        """The verdict of the stage; without one when the slots changed under the measurement and the plan must look anew."""
        return self._before(step, journal, operation) if step.stage == "pre-check" else self._after(step, journal, operation)

    def _before(self, step: Check, journal: Journal, op: Operation) -> Result:
        """Synthetic load on the new slot alone (the live slot's window meanwhile is the baseline), then on both in turns."""
        wanted = op.policy.gates.min_requests
        new_looks, live_looks = [self._look(step.slot)], [self._look(step.live)]
        first = self._baseline_window(step, op, live_looks)
        baseline = over(live_looks, gates.PARTS)
        new, old = self._alternate(step.slot, step.live, wanted) if step.live is not None else ([first], [])
        mine, theirs = _together(new), _together(old)
        grown = self._leak(step.slot, 2 * wanted)
        new_looks.append(self._look(step.slot))
        stats = over(new_looks, 1)
        if stats is not None:
            stats = replace(
                stats.with_failures(first.failures + (mine.failures if step.live else 0)), resident_growth=grown, **_seen_by_sender(new)
            )
        live = None
        if step.live is not None:
            live = WindowStats(theirs.sent, theirs.failures, seconds=theirs.seconds, **_seen_by_sender(old))
        comparable = step.live is not None and _same_models(journal, op, step.live)
        agreement = self._agreement(step.slot, step.live) if comparable and step.live else None
        evidence = Evidence(
            new=stats,
            live=live,
            agreement=agreement,
            comparable=comparable,
            hourly_usd=op.policy.hourly_usd,
            sent=step.live is not None,
            accuracy=1.0 if op.spec.unquantized else op.policy.accuracy,
            reference=comparable and step.live is not None and journal.specs[step.live].unquantized,
            confirmed=_suspected_before(op),
        )
        verdict = self._judge(step, evidence, op)
        first_failure = first.first_failure or mine.first_failure
        if verdict.result != "pass" and first_failure:
            verdict = replace(verdict, reasons=(*verdict.reasons, f"first failure: {first_failure}"))
        keep = baseline is not None and baseline.requests >= wanted and len(baseline.ttft_parts) >= gates.LEAST_PARTS
        return Result(verdict=verdict, baseline=gates.to_baseline(baseline) if keep and baseline is not None else None)

    def _baseline_window(self, step: Check, op: Operation, live_looks: list[Look]) -> Exercise:
        """As long as the window after the switch, so that both can be compared; the synthetic load is spread over its parts."""
        wanted, part_seconds = op.policy.gates.min_requests, op.policy.gates.window_seconds / gates.PARTS
        sent = []
        for size in _portions(wanted, gates.PARTS):
            until = self._now() + part_seconds
            sent.append(self._exercise(step.slot, size))
            if step.live is not None:
                self._sleep(max(0.0, until - self._now()))
            live_looks.append(self._look(step.live))
        return _together(sent)

    def _after(self, step: Check, journal: Journal, op: Operation) -> Result:
        """Both slots' own metrics over a window of live traffic; ended early when it is lost already."""
        began, lost = self._now(), False
        new_looks, live_looks = [self._look(step.slot)], [self._look(step.live)]
        while not lost and ((left := step.seconds - (self._now() - began)) > 0 or len(new_looks) <= gates.PARTS):
            self._sleep(max(0.0, min(left, LOOK_SECONDS, step.seconds / gates.PARTS)))
            seen = self._call(self._platform.observe)
            if _changed(seen, op):
                return Result()
            new_looks.append(self._look(step.slot))
            live_looks.append(self._look(step.live))
            so_far = over(new_looks, 1)
            self._rates(step, so_far, over(live_looks, 1), seen, max(0.0, step.seconds - (self._now() - began)))
            lost = gates.failed_early(so_far, op.policy.gates)
        new = over(new_looks, gates.PARTS)
        live = over(live_looks, gates.PARTS) if step.live else gates.from_baseline(op.baseline)
        thin = new is not None and min(len(side.ttft_parts) for side in (new, live) if side is not None) < gates.LEAST_PARTS
        if new is not None and not lost and (new.requests < op.policy.gates.min_requests or thin):
            mine, theirs = self._alternate(step.slot, step.live, op.policy.gates.min_requests)
            new_looks.append(self._look(step.slot))
            filled = over(new_looks, 1)
            if filled is not None:
                times = _seen_by_sender(mine) if thin else _times(new)
                new = replace(filled.with_failures(sum(part.failures for part in mine)), **times)
            if thin:  # too few live requests to compare times: the same synthetic ones on both slots do, and nothing where one is alone
                live = replace(live, **_seen_by_sender(theirs)) if step.live is not None and live is not None else None
        evidence = Evidence(new=new, live=live, hourly_usd=op.policy.hourly_usd, confirmed=_suspected_before(op))
        return Result(verdict=self._judge(step, evidence, op))

    def _alternate(self, new: SlotName, live: SlotName | None, n: int) -> tuple[list[Exercise], list[Exercise]]:
        """`n` synthetic requests to each slot in turns, so that both meet the same minutes; the exercises of `new` and of `live`."""
        mine, theirs = [], []
        for size in _portions(n, gates.PARTS):
            if live is not None:
                theirs.append(self._exercise(live, size))
            mine.append(self._exercise(new, size))
        return mine, theirs

    def _judge(self, step: Check, evidence: Evidence, op: Operation) -> Verdict:
        verdict = gates.decide(step.stage, evidence, op.policy.gates, self._now())
        text = f"{step.stage}: {verdict.result}" + (f" ({'; '.join(verdict.reasons)})" if verdict.reasons else "")
        self._emit(
            Event("verdict", text, self._now(), op.phase, data={"stage": step.stage, "result": verdict.result, "figures": verdict.figures})
        )
        return verdict

    def _look(self, slot: SlotName | None) -> Look:
        snapshot: Snapshot | None = None if slot is None else self._call(lambda: self._platform.metrics(slot))
        return self._now(), snapshot

    def _exercise(self, slot: SlotName, n: int) -> Exercise:
        exercise: Exercise = self._call(lambda: self._platform.exercise(slot, n))
        return exercise

    def _leak(self, slot: SlotName, n: int) -> float | None:
        """What memory does over requests that fill no cache."""
        looks = [self._look(slot)[1]]
        for size in _portions(n, LEAK_PORTIONS):
            self._call(lambda size=size: self._platform.exercise(slot, size, repeated=True))  # type: ignore[misc]
            looks.append(self._look(slot)[1])
        good = [look for look in looks if look is not None]
        return leak(good) if len(good) == len(looks) else None

    def _agreement(self, slot: SlotName, against: SlotName) -> Agreement | None:
        agreement: Agreement | None = self._call(lambda: self._platform.agreement(slot, against))
        return agreement

    def _rates(self, step: Check, new: WindowStats | None, live: WindowStats | None, seen: Observation, left: float) -> None:
        data: dict[str, Any] = {"seconds_left": round(left, 1), "slots": {}}
        for slot, stats in ((step.slot, new), (step.slot.other, live)):
            if stats is not None:
                data["slots"][str(slot)] = {
                    "requests_per_second": round(stats.rate, 2),
                    "requests": stats.requests,
                    "errors": stats.errors,
                    "ttft_p95_seconds": stats.ttft.quantile(0.95),
                    "inter_token_p95_seconds": stats.inter_token.quantile(0.95),
                }
        self._emit(Event("rates", f"{step.stage}, {left:.0f} s left", self._now(), weights=seen.weights, data=data))


def _portions(n: int, parts: int) -> list[int]:
    """`n` in `parts` portions of at least one each."""
    return [max(1, (index + 1) * n // parts - index * n // parts) for index in range(parts)]


def _suspected_before(op: Operation) -> bool:
    """The window before this one, of the same check, was worse too."""
    return op.attempts > 0 and bool(op.verdicts) and op.verdicts[-1].suspected


def _times(stats: WindowStats) -> dict[str, Any]:
    """The times of a window, as WindowStats holds them."""
    return {name: getattr(stats, name) for name in ("ttft", "inter_token", "ttft_parts", "inter_token_parts")}


def _seen_by_sender(parts: list[Exercise]) -> dict[str, Any]:
    """The times that the senders of the synthetic load saw, round by round, as WindowStats holds them."""
    whole = _together(parts)
    return {
        "ttft": whole.ttft,
        "inter_token": whole.inter_token,
        "ttft_parts": p95s(part.ttft for part in parts),
        "inter_token_parts": p95s(part.inter_token for part in parts),
    }


def _together(parts: list[Exercise]) -> Exercise:
    whole = Exercise(0, 0)
    for part in parts:
        whole = Exercise(
            sent=whole.sent + part.sent,
            failures=whole.failures + part.failures,
            first_failure=whole.first_failure or part.first_failure,
            seconds=whole.seconds + part.seconds,
            ttft=whole.ttft.plus(part.ttft),
            inter_token=whole.inter_token.plus(part.inter_token),
        )
    return whole


def _same_models(journal: Journal, op: Operation, live: SlotName) -> bool:
    """Same weights by name and source, so that answers can be compared token by token; the format may differ."""
    old = journal.specs.get(live)
    return old is not None and [(m.name, m.source) for m in old.models] == [(m.name, m.source) for m in op.spec.models]


def _changed(seen: Observation, op: Operation) -> bool:
    target = seen.slots[op.target]
    restarted = op.restarts is not None and target.restarts > op.restarts
    return target.ready == 0 or restarted or seen.weights is None or not seen.weights.reach(op.target)
