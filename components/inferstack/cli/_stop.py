"""Signals that ask a command to stop, heeded even where Python loses the exception that their handler raises.

An exception out of a callback that the interpreter itself calls (of a weak reference, as every import makes them) is printed and
forgotten, and the command would go on to its end. So a request is also remembered, and asked for wherever time is looked at.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

_asked: list[int] = []


class Clock(Protocol):
    def now(self) -> float: ...
    def elapsed(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class HeedingClock:
    """A clock that raises KeyboardInterrupt once the process was asked to stop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        heed()
        return self._clock.now()

    def elapsed(self) -> float:
        heed()
        return self._clock.elapsed()

    def sleep(self, seconds: float) -> None:
        heed()
        self._clock.sleep(seconds)


def heed() -> None:
    """Raises KeyboardInterrupt if the process was asked to stop."""
    if _asked:
        raise KeyboardInterrupt


def install(*numbers: signal.Signals) -> dict[signal.Signals, object]:
    """Have the signals remembered and raised; those that the process ignores (SIGHUP under `nohup`) stay ignored. The former handlers."""
    return {number: signal.signal(number, _ask) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}


@contextmanager
def stoppable(*numbers: signal.Signals) -> Iterator[None]:
    """`install` for what is done inside; what was asked before counts too."""
    before = install(*numbers)
    try:
        heed()
        yield
        heed()
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _ask(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise KeyboardInterrupt
