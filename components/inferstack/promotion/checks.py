"""Measures what the gates judge: windows of the slots' own metrics, synthetic load, compared answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from inferstack.environment import SlotName
from inferstack.promotion import gates
from inferstack.promotion.events import Emit, Event
from inferstack.promotion.gates import Evidence
from inferstack.promotion.journal import Journal, Operation, Verdict
from inferstack.promotion.measure import Snapshot, WindowStats, leak, window
from inferstack.promotion.platform import Agreement, Exercise, Observation, Platform
from inferstack.promotion.steps import Check, Result

ROUNDS = 4
"""The synthetic load of a pre-check alternates between the slots this often, so that both meet the same minutes."""
LOOK_SECONDS = 2.0
"""Between two looks inside a window."""

Call = Callable[[Callable[[], Any]], Any]


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
        began, new0, live0 = self._now(), self._snapshot(step.slot), self._snapshot(step.live)
        first = self._exercise(step.slot, wanted)
        live1 = self._snapshot(step.live)
        baseline = _window(live0, live1, self._now() - began)
        new, old = [first], []
        each = max(1, -(-wanted // ROUNDS))
        if step.live is not None:
            new = []
            for _ in range(ROUNDS):
                old.append(self._exercise(step.live, each))
                new.append(self._exercise(step.slot, each))
        mine, theirs = _together(new), _together(old)
        grown = self._leak(step.slot, 2 * wanted)
        stats = _window(new0, self._snapshot(step.slot), self._now() - began)
        if stats is not None:
            stats = replace(
                stats.with_failures(first.failures + (mine.failures if step.live else 0)), ttft=mine.ttft, inter_token=mine.inter_token
            )
            stats = replace(stats, resident_growth=grown)
        live = None
        if step.live is not None:
            live = WindowStats(theirs.sent, theirs.failures, ttft=theirs.ttft, inter_token=theirs.inter_token, seconds=theirs.seconds)
        comparable = step.live is not None and _same_models(journal, op, step.live)
        agreement = self._agreement(step.slot, step.live) if comparable and step.live else None
        evidence = Evidence(
            new=stats,
            live=live,
            agreement=agreement,
            comparable=comparable,
            hourly_usd=op.policy.hourly_usd,
            sent=step.live is not None,
            confirmed=op.attempts > 0,
        )
        verdict = self._judge(step, evidence, op)
        first_failure = first.first_failure or mine.first_failure
        if verdict.result != "pass" and first_failure:
            verdict = replace(verdict, reasons=(*verdict.reasons, f"first failure: {first_failure}"))
        keep = baseline is not None and baseline.requests >= wanted
        return Result(verdict=verdict, baseline=gates.to_baseline(baseline) if keep and baseline is not None else None)

    def _after(self, step: Check, journal: Journal, op: Operation) -> Result:
        """Both slots' own metrics over a window of live traffic; ended early when it is lost already."""
        began, new0, live0 = self._now(), self._snapshot(step.slot), self._snapshot(step.live)
        while (left := step.seconds - (self._now() - began)) > 0:
            self._sleep(min(left, LOOK_SECONDS, step.seconds / 5))
            seen = self._call(self._platform.observe)
            if _changed(seen, op):
                return Result()
            passed = self._now() - began
            now_new = _window(new0, self._snapshot(step.slot), passed)
            now_live = _window(live0, self._snapshot(step.live), passed)
            self._rates(step, now_new, now_live, seen, max(0.0, step.seconds - passed))
            if gates.failed_early(now_new, op.policy.gates):
                break
        missing = op.policy.gates.min_requests
        new = _window(new0, self._snapshot(step.slot), self._now() - began)
        failures = 0
        if new is not None and new.requests < missing and not gates.failed_early(new, op.policy.gates):
            added = self._exercise(step.slot, int(missing - new.requests))
            failures = added.failures
            if step.live is not None:
                self._exercise(step.live, added.sent)
            new = _window(new0, self._snapshot(step.slot), self._now() - began)
        if new is not None:
            new = new.with_failures(new.errors + failures) if failures > new.errors else new
        live = _window(live0, self._snapshot(step.live), self._now() - began) if step.live else gates.from_baseline(op.baseline)
        evidence = Evidence(new=new, live=live, hourly_usd=op.policy.hourly_usd, confirmed=op.attempts > 0)
        return Result(verdict=self._judge(step, evidence, op))

    def _judge(self, step: Check, evidence: Evidence, op: Operation) -> Verdict:
        verdict = gates.decide(step.stage, evidence, op.policy.gates, self._now())
        text = f"{step.stage}: {verdict.result}" + (f" ({'; '.join(verdict.reasons)})" if verdict.reasons else "")
        self._emit(
            Event("verdict", text, self._now(), op.phase, data={"stage": step.stage, "result": verdict.result, "figures": verdict.figures})
        )
        return verdict

    def _snapshot(self, slot: SlotName | None) -> Snapshot | None:
        if slot is None:
            return None
        snapshot: Snapshot | None = self._call(lambda: self._platform.metrics(slot))
        return snapshot

    def _exercise(self, slot: SlotName, n: int) -> Exercise:
        exercise: Exercise = self._call(lambda: self._platform.exercise(slot, n))
        return exercise

    def _leak(self, slot: SlotName, n: int) -> float | None:
        """What memory does over requests that fill no cache."""
        before = self._snapshot(slot)
        self._call(lambda: self._platform.exercise(slot, n, repeated=True))
        after = self._snapshot(slot)
        return None if before is None or after is None else leak(before, after)

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


def _window(before: Snapshot | None, after: Snapshot | None, seconds: float) -> WindowStats | None:
    return None if before is None or after is None or not after else window(before, after, seconds)


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
    return target.ready == 0 or restarted or seen.weights is None or seen.weights.of(op.target) == 0
