"""Does what the plan says: look, decide, do one step, write the journal, go round. All I/O is the platform's.

    executor = Executor(platform, clock, emit)
    with executor.leased(holder):
        journal = executor.start(lambda journal, now: start_promotion(journal, spec, policy, by, id, now))
        journal = executor.run()                  # until nothing is left to do

It may be killed anywhere: `run` on the same journal goes on. An Unavailable platform is tried again, with jitter and an end; an
unsettled conflict is read anew; a lost lease stops it at once.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from inferstack.environment import SlotName
from inferstack.promotion.checks import Checks
from inferstack.promotion.events import Emit, Event
from inferstack.promotion.journal import BEFORE_COMMIT, Journal, Phase
from inferstack.promotion.lease import Lease
from inferstack.promotion.plan import next_step
from inferstack.promotion.platform import Clock, Conflict, Observation, Platform, PlatformError, SlotFailed, Unavailable
from inferstack.promotion.shares import shares
from inferstack.promotion.steps import (
    DONE,
    POLL_SECONDS,
    SETTLE_POLL_SECONDS,
    Check,
    Note,
    Render,
    Rest,
    Result,
    Scale,
    SetFloor,
    Settle,
    SetWeights,
    Step,
    Wait,
    Warm,
    describe,
)
from inferstack.promotion.transition import advance, take_up

TRIES = 8
"""Of a call that is unavailable, over about half a minute."""
VERIFY_TRIES = 3
FRESH_SECONDS = 1.0
"""Age up to which a look stands for now when only the journal was written since."""
CLOCK_SECONDS = 2.0
"""By so much the clock may go apart from time that only passes between two looks; beyond it was set, or the machine slept."""
REPEATS = 60
"""Of one and the same change that does not show, a second apart, before somebody has to look."""

_Value = TypeVar("_Value")


class Executor:
    """One process's work on one environment. `emit` is told what happens."""

    def __init__(self, platform: Platform, clock: Clock, emit: Emit) -> None:
        self._platform = platform
        self._clock = clock
        self._emit = emit
        self._lease: Lease | None = None
        self._journal: Journal | None = None
        self._version = ""
        self._said: tuple[object, ...] = ()
        self._look: Observation | None = None
        """The last one, while nothing was done and no time passed since."""
        self._ahead: float | None = None
        """The clock's time less that which only passes, at the last look."""
        self._checks = Checks(platform, self.call, self.sleep, clock, emit)

    @property
    def journal(self) -> Journal | None:
        """As last read or written."""
        return self._journal

    @contextlib.contextmanager
    def leased(self, holder: str) -> Iterator[Lease]:
        """Hold the lease; freed at the end, also after an exception. Raises LeaseHeld."""
        self._lease = self.call(lambda: self._platform.acquire_lease(holder))
        try:
            yield self._lease
        finally:
            self._lease = None
            with contextlib.suppress(PlatformError):
                self._platform.release_lease()

    def read(self) -> Journal | None:
        self._journal, self._version = self.call(self._platform.read_journal)
        return self._journal

    def start(self, change: Callable[[Journal | None, Observation], Journal]) -> Journal:
        """Write the journal that `change` makes of the stored one; it is asked again after a conflict."""
        while True:
            journal = self.read()
            observation = self.observe()
            after = change(journal, observation)
            if after == journal or self._write(after):
                assert self._journal is not None
                self._look = observation
                return self._journal

    def observe(self) -> Observation:
        return self.call(self._platform.observe)

    def _take_look(self) -> Observation | None:
        """The last look, if nothing happened since."""
        look, self._look = self._look, None
        return look if look is not None and 0 <= self._clock.now() - look.time < FRESH_SECONDS else None

    def run(self) -> tuple[Journal, Rest]:
        """Until the plan rests; the journal then, and why it rests."""
        troubles = repeats = 0
        last: tuple[object, ...] = ()
        while True:
            journal = self._journal or self.read()
            if journal is None:
                raise PlatformError("there is no promotion journal: nothing was ever promoted here")
            observation = self._take_look() or self.observe()
            if self._clock_was_set():
                self._write(take_up(journal, self._clock.now()))
                continue
            step = next_step(journal, observation)
            self._announce(journal, observation, step)
            if isinstance(step, Rest):
                return journal, step
            repeats = repeats + 1 if (journal.phase, step) == last and isinstance(step, Render | Scale | SetFloor | SetWeights) else 0
            last = (journal.phase, step)
            if repeats == REPEATS:
                raise PlatformError(f"{describe(step)}: asked {REPEATS} times, and the platform still shows otherwise")
            if repeats:
                self.sleep(POLL_SECONDS)
            try:
                result = self._perform(step, journal)
            except (Conflict, Unavailable) as error:  # never repeated blindly: look again, then decide anew
                troubles += 1
                if troubles == TRIES:
                    raise
                self._emit(Event("retry", f"{error}; looking again", self._clock.now(), journal.phase))
                self._back_off(troubles)
                self.read()
                continue
            troubles = 0
            after = advance(journal, step, result, self._clock.now())
            if after != journal and self._write(after) and isinstance(step, Note) and step.phase is Phase.SHIFT:
                self._look = observation  # on the way to the weights nothing was done: they are set by compare-and-swap on this very look

    def call(self, function: Callable[[], _Value]) -> _Value:
        """Call the platform; a call that is unavailable is tried again, then raises Unavailable."""
        for attempt in range(TRIES):
            self._keep_lease()
            try:
                return function()
            except Unavailable as error:
                if attempt == TRIES - 1:
                    raise
                self._emit(Event("retry", f"{error}; trying again", self._clock.now()))
                self._back_off(attempt)
        raise AssertionError

    def _back_off(self, attempt: int) -> None:
        self._clock.sleep(min(8.0, 0.2 * 2**attempt) * (0.5 + random.random()))  # noqa: S311 - jitter

    def sleep(self, seconds: float) -> None:
        """Sleep, keeping the lease alive."""
        until = self._clock.elapsed() + seconds
        while (left := until - self._clock.elapsed()) > 0:
            self._clock.sleep(min(left, 5.0))
            self._keep_lease()

    def _keep_lease(self) -> None:
        if (
            self._lease is not None and not 0 <= self._clock.now() - self._lease.renewed < self._lease.seconds / 3
        ):  # or the clock was set back
            with contextlib.suppress(Unavailable):
                self._lease = self._platform.renew_lease()

    def _announce(self, journal: Journal, observation: Observation, step: Step) -> None:
        """Tell what changed; the same wait twice in a row is told once."""
        operation = journal.operation
        text = describe(step)
        said = (journal.phase, text, operation.step if operation else 0)
        if said != self._said and text:
            self._said = said
            kind = "wait" if isinstance(step, Wait) else "step"
            data = {"target": str(operation.target), "percent": shares(operation)[operation.step]} if operation else {}
            self._emit(Event(kind, text, observation.time, journal.phase, observation.weights, data))

    def _clock_was_set(self) -> bool:
        """Since the last look, by hand or by a machine that slept: no phase had that time, so none may run out of it."""
        before, self._ahead = self._ahead, self._clock.now() - self._clock.elapsed()
        return before is not None and abs(self._ahead - before) > CLOCK_SECONDS

    def _write(self, journal: Journal) -> bool:
        try:
            self._version = self.call(lambda: self._platform.write_journal(journal, self._version))
        except Conflict:
            # A write that was answered with an error may have been made all the same: then the stored journal is ours already.
            self.read()
            return self._journal == journal
        self._journal = journal
        return True

    def _perform(self, step: Step, journal: Journal) -> Result:
        platform = self._platform
        self._keep_lease()
        try:
            match step:
                case Render():
                    platform.render(step.slot, step.spec)
                case Scale():
                    platform.scale(step.slot, step.replicas)
                case SetFloor():
                    platform.set_floor(step.slot, step.floor)
                case Warm():
                    platform.warm(step.slot)
                case SetWeights():
                    return self._set_weights(step)
                case Settle():
                    return self._settle(step)
                case Check():
                    assert journal.operation is not None
                    return self._checks.check(step, journal, journal.operation)
                case Wait():
                    self.sleep(step.seconds)
                case _:
                    pass
        except SlotFailed as error:
            if journal.phase not in BEFORE_COMMIT:
                raise
            return Result(False, str(error))
        return DONE

    def _verify(self, slot: SlotName) -> Result:
        reason = ""
        for attempt in range(VERIFY_TRIES):
            health = self.call(lambda: self._platform.verify(slot))
            if health.ok:
                return DONE
            reason = f"{slot} does not verify: {health.reason}"
            if attempt < VERIFY_TRIES - 1:
                self.sleep(SETTLE_POLL_SECONDS)
        return Result(False, reason)

    def _set_weights(self, step: SetWeights) -> Result:
        verified = self._verify(step.verify)
        if not verified.ok:
            return verified
        self._platform.set_weights(step.weights)
        return DONE

    def _settle(self, step: Settle) -> Result:
        seen = self.call(lambda: self._platform.probe(step.count, step.header))

        def ours(index: int) -> bool:
            answer = seen[index]
            return answer.slot is step.slot and (step.generation is None or answer.generation == step.generation)

        hits = [ours(index) for index in range(len(seen))]
        if len(seen) >= step.count and (all(hits) if step.percent == 100 or step.header else any(hits)):
            return DONE
        self.sleep(SETTLE_POLL_SECONDS)
        return Result(False, f"{sum(hits)} of {len(seen)} answers came from {step.slot}")
