"""The one protocol that promotion knows slots by, and the data that crosses it.

`platforms/local.py` and `platforms/kubernetes.py` implement it. Every mutation is idempotent and refused (LeaseLost) once the lease
that `acquire_lease` gave to this object went to somebody else. Nothing here is ever concluded absent from an error: what cannot be
asked raises Unavailable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from inferstack.environment import SlotName
from inferstack.promotion.journal import Journal
from inferstack.promotion.lease import Lease
from inferstack.promotion.measure import Histogram, Snapshot
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights


class PlatformError(Exception):
    """The platform cannot do what was asked; the message says what, where and what to do next."""


class Unavailable(PlatformError):
    """A call failed in a way that another try may mend (time-out, 5xx, throttling)."""


class Conflict(PlatformError):
    """Compare-and-swap lost: somebody wrote in between; read again and decide anew."""


class SlotFailed(PlatformError):
    """A slot cannot become what was asked, with the reason that the platform gives."""


@dataclass(frozen=True)
class SlotObservation:
    """One slot as it is now."""

    replicas: int = 0
    """Replicas asked for."""
    ready: int = 0
    """Ready endpoints that run the rendered spec."""
    spec: SlotSpec | None = None
    """What is rendered; None when nothing is or when it cannot be told."""
    floor: int | None = None
    """Fewest replicas that the scaler keeps; None where none scales."""
    in_flight: int | None = None
    """Requests running; None when it cannot be asked."""
    failure: str | None = None
    """Why it will not become ready by waiting (image, quota, crash loop with its last log lines)."""
    waiting: str | None = None
    """Why it is not ready yet."""
    restarts: int = 0
    """Process restarts of the rendered spec's replicas."""


@dataclass(frozen=True)
class Observation:
    """Everything that next_step needs, from one consistent look."""

    time: float
    """Epoch seconds."""
    weights: Weights | None
    """Live weights; None when the route is missing or names a backend that is no slot."""
    slots: Mapping[SlotName, SlotObservation]
    named: frozenset[SlotName] = frozenset(SlotName)
    """Slots that the route names as backends."""
    drift: tuple[str, ...] = ()
    """Differences between what was rendered and what is live, one sentence each."""


@dataclass(frozen=True)
class Health:
    """A direct look at every replica of a slot, with one short generation."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Seen:
    """One answer through the real gateway: who gave it; slot None for a failure."""

    slot: SlotName | None
    generation: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Exercise:
    """What a synthetic load on one slot met."""

    sent: int
    failures: int
    first_failure: str = ""
    seconds: float = 0.0
    ttft: Histogram = field(default_factory=Histogram)
    """As the sender saw it, like the next."""
    inter_token: Histogram = field(default_factory=Histogram)
    tokens: int = 0
    """Of all answers; where two slots were sent the same prompts, of those that both answered."""
    waited: float = 0.0
    """Longest that one of them waited for a limit of requests per minute, seconds."""


@dataclass(frozen=True)
class Agreement:
    """Share of positions of fixed texts where two slots name the same most likely next token, 0 to 1, over `positions`."""

    share: float
    positions: int
    long_same: int = 0
    long_positions: int = 0
    """The same in a long text; none where no length of it could be asked for."""
    fault: str = ""
    """What only the new slot does wrong with a text that both were sent."""


@dataclass(frozen=True)
class Price:
    """What one replica of a slot costs, $/h; None where nobody pays (one machine) or the price is not known."""

    hourly_usd: float | None = None
    note: str = ""


class Clock(Protocol):
    """Time, so that tests need none."""

    def now(self) -> float: ...
    def elapsed(self) -> float:
        """Seconds that only ever pass, from any start: durations are measured with it, because clocks are set."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Platform(Protocol):
    """Where slots live."""

    def observe(self) -> Observation: ...
    def render(self, slot: SlotName, spec: SlotSpec) -> None:
        """Make the slot's desired state `spec`, with `spec.replicas`; raises SlotFailed when the platform refuses it for good."""

    def set_weights(self, weights: Weights) -> None:
        """Both backends always named. Raises Conflict when the weights are no longer those of the last `observe`."""

    def scale(self, slot: SlotName, replicas: int) -> None:
        """Exactly `replicas` now, and the scaler keeps no fewer; 0 stops the slot."""

    def set_floor(self, slot: SlotName, floor: int) -> None:
        """The scaler keeps at least `floor`; replicas stay as they are."""

    def verify(self, slot: SlotName) -> Health: ...
    def probe(self, n: int, header: tuple[str, str] | None = None) -> tuple[Seen, ...]:
        """`n` requests through the gateway, with `header` (name, value) where one is given."""
        ...

    def warm(self, slot: SlotName) -> None:
        """Send each replica its first requests; raises SlotFailed when it cannot answer."""

    def exercise(self, slot: SlotName, n: int, *, repeated: bool = False) -> Exercise:
        """`n` synthetic requests directly to the slot, each its own; `repeated`: one prompt and one token, so that no cache fills up."""
        ...

    def compare(self, slot: SlotName, against: SlotName, n: int) -> tuple[Exercise, Exercise]:
        """`n` synthetic requests to each of the two at the same moments, the same prompts, while both have as many requests running."""
        ...

    def agreement(self, slot: SlotName, against: SlotName) -> Agreement | None:
        """None when the two cannot be compared (other models, an engine without log-probabilities)."""
        ...

    def metrics(self, slot: SlotName) -> Snapshot | None:
        """From the replicas' own endpoints; None when any of them does not answer."""
        ...

    def read_journal(self) -> tuple[Journal | None, str]:
        """The journal and its version; (None, "") before the first."""
        ...

    def write_journal(self, journal: Journal, expected_version: str) -> str:
        """The new version; raises Conflict when the stored one is not `expected_version`, LeaseLost when the lease is gone."""
        ...

    def acquire_lease(self, holder: str) -> Lease:
        """Raises LeaseHeld."""
        ...

    def renew_lease(self) -> Lease: ...
    def release_lease(self) -> None: ...
    def read_lease(self) -> Lease | None: ...
