"""Measures what the gates judge: windows of the slots' own metrics, synthetic load, compared answers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from inferstack.environment import SlotName
from inferstack.promotion import gates
from inferstack.promotion.baseline import from_baseline, to_baseline
from inferstack.promotion.events import Emit, Event
from inferstack.promotion.gates import Evidence, Rounds
from inferstack.promotion.journal import Journal, Operation, Verdict
from inferstack.promotion.measure import Snapshot, WindowStats, leak, over
from inferstack.promotion.platform import Agreement, Clock, Exercise, Observation, Platform
from inferstack.promotion.shares import shares, splits
from inferstack.promotion.steps import Check, Result

LOOK_SECONDS = 2.0
"""Longest time between two looks inside a window."""
LEAK_PORTIONS = 4
"""Equal portions of the requests over which memory is watched."""
LEAK_REQUESTS = 10
"""Those requests, as a multiple of `min_requests`, where the slot answers them within one window; at least LEAST_LEAK_REQUESTS."""
LEAST_LEAK_REQUESTS = 2

Call = Callable[[Callable[[], Any]], Any]
Look = tuple[float, Snapshot | None]
"""When (elapsed seconds), and a slot's cumulative figures then."""


class Checks:
    """One executor's measurements. `call` calls the platform with retries, `sleep` keeps the lease alive."""

    def __init__(self, platform: Platform, call: Call, sleep: Callable[[float], None], clock: Clock, emit: Emit) -> None:
        self._platform = platform
        self._call = call
        self._sleep = sleep
        self._now = clock.now
        self._elapsed = clock.elapsed
        self._emit = emit
        self._told_limited = False

    def check(self, step: Check, journal: Journal, operation: Operation) -> Result:
        """The verdict of the stage; without one when the slots changed under the measurement and the plan must look anew."""
        return self._before(step, journal, operation) if step.stage == "pre-check" else self._after(step, journal, operation)

    def _before(self, step: Check, journal: Journal, op: Operation) -> Result:
        """Synthetic load on the new slot alone, a window of the live slot alone, then rounds in which both are asked."""
        wanted = op.policy.gates.min_requests
        new_looks = [self._look(step.slot)]
        grown, mine = self._leak(step.slot, op)  # before the rounds: what leaked in those would be taken for its size
        baseline: WindowStats | None = None
        rounds: Rounds = ()
        lost = gates.is_failing(mine.failures, mine.sent)  # then nothing more is asked of it: it may answer nothing
        if not lost:
            if step.live is not None:
                baseline = self._alone(step.live, op)
            rounds, loaded = self._load(step.slot, step.live, op)
            mine = replace(loaded, failures=mine.failures + loaded.failures, first_failure=mine.first_failure or loaded.first_failure)
        new_looks.append(self._look(step.slot))
        stats = over(new_looks, 1)
        if stats is not None:
            stats = replace(stats.with_failures(mine.failures), resident_growth=grown, ttft=mine.ttft, inter_token=mine.inter_token)
        comparable = step.live is not None and not lost and _same_models(journal, op, step.live)
        agreement = self._agreement(step.slot, step.live) if comparable and step.live else None
        evidence = Evidence(
            new=stats,
            live=_told(rounds),
            rounds=() if op.policy.allow_unhealthy_live and not _answered(rounds) else rounds,
            agreement=agreement,
            comparable=comparable,
            hourly_usd=op.policy.hourly_usd,
            sent=step.live is not None,
            accuracy=1.0 if op.spec.unquantized else op.policy.accuracy,
            reference=comparable and step.live is not None and journal.specs[step.live].unquantized,
            confirmed=_suspected_before(op),
        )
        verdict = self._judge(step, evidence, op)
        if verdict.result != "pass" and mine.first_failure:
            verdict = replace(verdict, reasons=(*verdict.reasons, f"first failure: {mine.first_failure}"))
        keep = baseline is not None and baseline.requests >= wanted and len(baseline.ttft_parts) >= gates.LEAST_PARTS
        return Result(verdict=verdict, baseline=to_baseline(baseline) if keep and baseline is not None else None)

    def _alone(self, live: SlotName, op: Operation) -> WindowStats | None:
        """The live slot over as long a window as the one after the switch, while nothing is asked of the other slot: as it will be then."""
        self._say(f"{live} alone for {op.policy.gates.window_seconds:.0f} s, to compare with after the switch", op)
        looks = [self._look(live)]
        parts = gates.parts_of(op.policy.gates.window_seconds)
        for _ in range(parts):
            self._sleep(op.policy.gates.window_seconds / parts)
            looks.append(self._look(live))
        return over(looks, parts)

    def _load(self, new: SlotName, live: SlotName | None, op: Operation) -> tuple[Rounds, Exercise]:
        """At least `min_requests` synthetic requests to the new slot: the rounds in which the live slot got the same, and what the new
        slot's met.

        The first round only warms the new slot up for as many requests at a time; of it failures count and times do not.
        """
        n = op.policy.gates.min_requests
        if live is None:
            return (), _together([self._exercise(new, size) for size in _portions(n, gates.PARTS)])
        looks = gates.planned(op.policy.gates, confirming=_suspected_before(op))
        self._say(
            f"{new} and {live} at the same moments: up to {looks.rounds + 1} rounds of {gates.ROUND_REQUESTS} synthetic requests to each",
            op,
        )
        first, rounds = self._round(new, live)[0], list[tuple[Exercise, Exercise]]()
        while len(rounds) < looks.rounds:
            rounds.append(self._round(new, live))
            mine = _together([one for one, _ in rounds])
            sent, failures = mine.sent + first.sent, mine.failures + first.failures
            if gates.is_failing(failures, sent) or (mine.sent >= n and gates.is_settled(tuple(rounds), op.policy.gates, looks)):
                break
        return tuple(rounds), replace(mine, sent=sent, failures=failures, first_failure=first.first_failure or mine.first_failure)

    def _after(self, step: Check, journal: Journal, op: Operation) -> Result:
        """Both slots' own metrics over a window of live traffic, and rounds where those do not tell alone.

        What is suspected once all traffic has moved is looked at again in a split: both slots at the same moments, and only a part of the
        requests meets the new one meanwhile.
        """
        if splits(op) and not op.attempts and self._watch(replace(step, seconds=_carried_over(op)), op, look_inside=False) is None:
            return Result()
        watched = self._watch(step, op)
        if watched is None:
            return Result()
        seen, first, new, live = watched
        other = step.slot.other if seen.slots[step.slot.other].ready else None
        rounds: Rounds = ()
        unmarked = _unmarked(step, op) if new is not None and new.requests == 0 else ""
        beside, alone = live if splits(op) else None, other is None
        if new is not None and not unmarked and not gates.failed_early(new, op.policy.gates) and not _tells(new, live, op, alone=alone):
            rounds, mine = self._load(step.slot, other, op)
            live = _comparable(new, live) if live is not None else _told(rounds)
            new = _filled(new, over((first, self._look(step.slot)), 1), mine)
        comparable = _same_models(journal, op, step.slot.other)
        evidence = Evidence(
            new, live, rounds, comparable=comparable, hourly_usd=op.policy.hourly_usd, unmarked=unmarked, confirmed=_suspected_before(op)
        )
        verdict = self._judge(step, evidence, op)
        split = verdict.suspected and verdict.result == "inconclusive" and step.live is None and not alone and not op.split
        if split:
            self._say(f"{step.slot} and {step.slot.other} share the traffic for one window, to compare them at the same moments", op)
        return Result(verdict=verdict, baseline=to_baseline(beside) if beside is not None else None, split=split)

    def _watch(
        self, step: Check, op: Operation, *, look_inside: bool = True
    ) -> tuple[Observation, Look, WindowStats | None, WindowStats | None] | None:
        """The last observation, the first look at the new slot, and what it and the live slot (or the baseline) did over the step's time;
        ended early when more of it would change nothing. None when the slots changed meanwhile."""
        began, parts = self._elapsed(), gates.parts_of(step.seconds)

        def windows(parts: int) -> tuple[WindowStats | None, WindowStats | None]:
            return over(new_looks, parts), from_baseline(op.baseline) if step.live is None else over(live_looks, parts)

        new_looks, live_looks = [self._look(step.slot)], [self._look(step.live)]
        while True:
            left = step.seconds - (self._elapsed() - began)
            self._sleep(max(0.0, min(left, LOOK_SECONDS, step.seconds / parts)))
            seen = self._call(self._platform.observe)
            if _changed(seen, op):
                return None
            new_looks.append(self._look(step.slot))
            live_looks.append(self._look(step.live))
            so_far, left = over(new_looks, 1), step.seconds - (self._elapsed() - began)
            self._rates(step, so_far, over(live_looks, 1), seen, max(0.0, left))
            if gates.failed_early(so_far, op.policy.gates) or (left <= 0 and len(new_looks) > parts):
                return seen, new_looks[0], *windows(parts)
            if look_inside and step.seconds - left >= step.seconds * gates.EARLY_PARTS / parts:
                look_inside = False
                if _slower_already(*(early := windows(gates.EARLY_PARTS)), op):
                    return seen, new_looks[0], *early

    def _judge(self, step: Check, evidence: Evidence, op: Operation) -> Verdict:
        verdict = gates.decide(step.stage, evidence, op.policy.gates, self._now())
        text = f"{step.stage}: {verdict.result}" + (f" ({'; '.join(verdict.reasons)})" if verdict.reasons else "")
        self._emit(
            Event("verdict", text, self._now(), op.phase, data={"stage": step.stage, "result": verdict.result, "figures": verdict.figures})
        )
        return verdict

    def _say(self, text: str, op: Operation) -> None:
        self._emit(Event("step", text, self._now(), op.phase))

    def _look(self, slot: SlotName | None) -> Look:
        snapshot: Snapshot | None = None if slot is None else self._call(lambda: self._platform.metrics(slot))
        return self._elapsed(), snapshot

    def _exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        exercise: Exercise = self._call(lambda: self._platform.exercise(slot, n, repeated=repeated))
        self._say_limited(exercise)
        return exercise

    def _round(self, new: SlotName, live: SlotName) -> tuple[Exercise, Exercise]:
        both: tuple[Exercise, Exercise] = self._call(lambda: self._platform.compare(new, live, gates.ROUND_REQUESTS))
        self._say_limited(*both)
        return both

    def _say_limited(self, *sent: Exercise) -> None:
        """Once: promotion's own requests are held up by the limits of their key."""
        waited = max(exercise.waited for exercise in sent)
        if waited and not self._told_limited:
            self._told_limited = True
            text = (
                f"promotion's own requests are limited (HTTP 429, one waited {waited:.0f} s), and its key's other users with them: "
                "a key whose tier allows more requests per minute makes this faster"
            )
            self._emit(Event("retry", text, self._now()))

    def _leak(self, slot: SlotName, op: Operation) -> tuple[float | None, Exercise]:
        """What memory does over requests that fill no cache, and what those met. The first of them only end a start's own growth."""
        wanted, window = op.policy.gates.min_requests, op.policy.gates.window_seconds
        met = [self._exercise(slot, min(wanted, gates.ROUND_REQUESTS), repeated=True)]
        in_window = int(window * met[0].sent / met[0].seconds) if met[0].seconds else 0
        n = max(LEAST_LEAK_REQUESTS * wanted, min(LEAK_REQUESTS * wanted, in_window))
        self._say(f"memory of {slot} over {n} requests", op)
        looks = [self._look(slot)[1]]
        for size in _portions(n, LEAK_PORTIONS):
            if gates.is_failing(sum(one.failures for one in met), sum(one.sent for one in met)):
                return None, _together(met)
            met.append(self._exercise(slot, size, repeated=True))
            looks.append(self._look(slot)[1])
        good = [look for look in looks if look is not None]
        return leak(good) if len(good) == len(looks) else None, _together(met)

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
    """The window before this one, of the same check or of the one that asked for the split, was worse too."""
    return (op.attempts > 0 or splits(op)) and bool(op.verdicts) and op.verdicts[-1].suspected


def _carried_over(op: Operation) -> float:
    """Seconds until hardly any request from before the split runs: twice what one took, at most a window. Till then the new slot has more
    to do than the other."""
    found = {
        name: op.verdicts[-1].figures.get(f"new.{name}") or 0.0 for name in ("ttft_p50", "inter_token_p50", "tokens_per_second", "rate")
    }
    tokens = found["tokens_per_second"] / found["rate"] if found["rate"] else 0.0
    return min(op.policy.gates.window_seconds, 2 * (found["ttft_p50"] + tokens * found["inter_token_p50"]))


def _unmarked(step: Check, op: Operation) -> str:
    """What to say where only requests with a header go to the new slot and none came; synthetic ones would say nothing of them."""
    if op.policy.header is None or shares(op)[op.step] > 0:
        return ""
    return (
        f"no request with the header {': '.join(op.policy.header)} came in {step.seconds:.0f} s: send some through the gateway meanwhile, "
        "give them longer by promotion.step_seconds, or promote without the header"
    )


def _tells(new: WindowStats, live: WindowStats | None, op: Operation, *, alone: bool) -> bool:
    """Whether live traffic alone says how the new slot is: enough of it, and what it is compared with had as much to do."""
    if new.requests < op.policy.gates.min_requests:
        return False
    if live is None:
        return alone
    parts = (side for stats in (new, live) for side in (stats.ttft_parts, stats.inter_token_parts))
    return not gates.carries_more(new, live) and min(len(side) for side in parts) >= gates.LEAST_PARTS


def _slower_already(new: WindowStats | None, live: WindowStats | None, op: Operation) -> bool:
    return new is not None and live is not None and _tells(new, live, op, alone=False) and gates.slower_already(new, live, op.policy.gates)


def _filled(window: WindowStats, whole: WindowStats | None, sent: Exercise) -> WindowStats | None:
    """The new slot's window and the synthetic load after it (`whole`): their times are those of live traffic where that gives enough."""
    if whole is None:
        return None
    enough = min(len(window.ttft_parts), len(window.inter_token_parts)) >= gates.LEAST_PARTS
    times = window if enough else WindowStats(ttft=sent.ttft, inter_token=sent.inter_token)
    own = {name: getattr(times, name) for name in ("ttft", "inter_token", "ttft_parts", "inter_token_parts")}
    return replace(whole.with_failures(sent.failures), **own)


def _comparable(new: WindowStats, live: WindowStats) -> WindowStats:
    """The live slot's window, without what its times are compared by where it had less traffic than the new one's."""
    return replace(live, ttft_parts=(), inter_token_parts=()) if gates.carries_more(new, live) else live


def _told(rounds: Rounds) -> WindowStats | None:
    """What the live slot did in the rounds; None without any."""
    whole = _together([live for _, live in rounds])
    return WindowStats(whole.sent, whole.failures, 0, whole.ttft, whole.inter_token, seconds=whole.seconds) if rounds else None


def _answered(rounds: Rounds) -> bool:
    return any(live.ttft.total for _, live in rounds)


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
            tokens=whole.tokens + part.tokens,
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
