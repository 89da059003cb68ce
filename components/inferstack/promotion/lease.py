"""Who may change an environment: one holder at a time, told apart by a fencing generation that only ever rises. Pure.

The store (a Kubernetes Lease, a file) compares and swaps what `acquire` and `renew` return; a holder that was paused longer than its
lease finds a higher generation there and stops before it touches anything.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

SECONDS = 30.0
"""Life of a lease that is not renewed. A promotion renews at a third of it."""
Time = Annotated[float, Field(ge=0, lt=253_402_300_800)]
"""Epoch seconds, up to the last year that a date has."""


@dataclass(frozen=True)
class Lease:
    """One grant."""

    holder: str
    generation: int
    acquired: Time
    renewed: Time
    seconds: float = SECONDS

    def expired(self, now: float) -> bool:
        return self.holder == "" or now >= self.renewed + self.seconds


class LeaseHeld(Exception):
    """Somebody else promotes; nothing was touched."""

    def __init__(self, lease: Lease, now: float) -> None:
        self.lease = lease
        since = datetime.fromtimestamp(lease.acquired, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        left = max(0.0, lease.renewed + lease.seconds - now)
        super().__init__(
            f"the lease is held by {lease.holder} since {since} ({now - lease.acquired:.0f} s); unless renewed it ends in {left:.0f} s"
        )


class LeaseLost(Exception):
    """The lease went to somebody else while this process promoted; it stops, the other goes on from the journal."""

    def __init__(self, held: Lease, current: Lease | None) -> None:
        self.current = current
        by = f"{current.holder} (generation {current.generation})" if current else "nobody"
        super().__init__(
            f"{held.holder} lost the lease (generation {held.generation}); it belongs to {by}. Nothing more was changed from here."
        )


def acquire(current: Lease | None, holder: str, now: float, *, holder_gone: bool = False, seconds: float = SECONDS) -> Lease:
    """The grant for `holder`, with the next generation. Raises LeaseHeld while another's has not ended.

    `holder_gone`: the current holder is known to have died (its process on this machine no longer exists).
    """
    if current is not None and current.holder and current.holder != holder and not holder_gone and not current.expired(now):
        raise LeaseHeld(current, now)
    return Lease(holder, (current.generation if current else 0) + 1, now, now, seconds)


def renew(current: Lease | None, held: Lease, now: float) -> Lease:
    """`held`, alive until `now` + seconds. Raises LeaseLost when it is no longer ours. Time going backwards shortens nothing."""
    check(current, held)
    return replace(held, renewed=max(now, held.renewed) if now > held.renewed - held.seconds else now)


def check(current: Lease | None, held: Lease) -> None:
    """Raises LeaseLost unless `current` is `held`."""
    if current is None or (current.holder, current.generation) != (held.holder, held.generation):
        raise LeaseLost(held, current)


def release(current: Lease | None, held: Lease) -> Lease | None:
    """The freed lease, generation kept so that it goes on rising; unchanged when it is no longer ours."""
    if current is None or (current.holder, current.generation) != (held.holder, held.generation):
        return current
    return replace(held, holder="")
