"""What a long command tells while it works: events, each phase with its seconds. How they look is the command's business."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """One thing that happened in `phase`; `seconds` count from the start of the phase."""

    phase: str
    status: Literal["started", "done", "skipped", "failed"]
    seconds: float = 0.0
    detail: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"event": "phase", **asdict(self), "seconds": round(self.seconds, 3)}


Report = Callable[[Event], None]


class Phase:
    """A running phase; set `detail` to what came of it, call `skip` when there was nothing to do."""

    def __init__(self) -> None:
        self.detail: str | None = None
        self.skipped = False

    def skip(self, why: str) -> None:
        self.skipped, self.detail = True, why


@contextmanager
def phase(name: str, report: Report) -> Iterator[Phase]:
    """Report the start and the end of one phase; an error passes through after it has been reported."""
    started = time.monotonic()
    report(Event(name, "started"))
    current = Phase()
    try:
        yield current
    except BaseException:
        report(Event(name, "failed", time.monotonic() - started))
        raise
    report(Event(name, "skipped" if current.skipped else "done", time.monotonic() - started, current.detail))
