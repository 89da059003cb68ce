"""The promotion's memory: which slot is live, what each slot was last made of, and how far a running operation came.

It is written by compare-and-swap only (a ConfigMap's resourceVersion, a file with the same semantics), an intent before its deed and a
result after it, so that whoever reads it after a kill knows what may have happened.

    text = dump(journal); journal = load(text, "staging")    # raises JournalUnreadable for a newer schema, and for another environment's
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from inferstack.environment import Gates, SlotName
from inferstack.promotion.lease import Time
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights

SCHEMA = 1
"""Raise it when an older program could misread a journal, and say in MIGRATIONS how to read the former one. New optional fields need
neither."""
HISTORY_LENGTH = 50


class Phase(StrEnum):
    """How far an operation came. The order is that of a promotion without trouble."""

    IDLE = "idle"
    PREFLIGHT = "preflight"
    RENDER = "render"
    READY = "ready"
    WARM = "warm-up"
    PRECHECK = "pre-check"
    SHIFT = "shift"
    SETTLE = "settle"
    POSTCHECK = "post-check"
    COMMIT = "commit"
    DRAIN = "drain"
    RELEASE = "release"
    REVERT = "revert"
    REVERT_SETTLE = "revert-settle"
    REVERT_DRAIN = "revert-drain"
    CLEAN = "clean-up"
    FREEZE = "freeze"
    FROZEN = "frozen"


BEFORE_COMMIT = frozenset(
    (Phase.PREFLIGHT, Phase.RENDER, Phase.READY, Phase.WARM, Phase.PRECHECK, Phase.SHIFT, Phase.SETTLE, Phase.POSTCHECK, Phase.COMMIT)
)
"""Phases from which trouble leads back."""


class Outcome(StrEnum):
    """How an operation ended."""

    COMMITTED = "committed"
    REVERTED = "reverted"
    REFUSED = "refused"
    FROZEN = "frozen"


Kind = Literal["promote", "rollback"]
Strategy = Literal["blue_green", "canary", "rolling"]


@dataclass(frozen=True)
class Policy:
    """Everything that an operation was started with, so that whoever resumes it decides alike. Times in seconds."""

    strategy: Strategy = "blue_green"
    steps: tuple[int, ...] = (100,)
    """Percent of the new slot, rising, ending with 100."""
    step_seconds: float = 0
    ready_seconds: float = 600
    settle_count: int = 20
    settle_seconds: float = 120
    """Until traffic must have moved. Slow cloud load balancers were seen to take 18 s for a route and its endpoints."""
    drain_seconds: float = 60
    rollback_window_seconds: float = 900
    floor: int = 1
    """Fewest replicas of the live slot."""
    most: int = 1
    """Most replicas of a slot."""
    idle_replicas: int = 1
    """Replicas of the idle slot once the rollback window is over."""
    gates: Gates = field(default_factory=Gates)
    allow_drift: bool = False
    allow_unhealthy_live: bool = False
    hourly_usd: float | None = None
    """Price of one replica; None where it is not known."""
    accuracy: float | None = None
    """Measured top-1 agreement of the new version with the unquantized model; None where that was not measured beforehand."""
    header: tuple[str, str] | None = None
    """Name and value: a first step gives the new slot the requests with this header and no others; they stay with it until the end."""

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] <= 0 or self.steps[-1] != 100 or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps {self.steps}: expected rising percents that end with 100")


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    stage: str
    result: Literal["pass", "fail", "inconclusive"]
    reasons: tuple[str, ...] = ()
    time: Time = 0
    figures: dict[str, float | None] = field(default_factory=dict)
    """What was measured, by `slot.figure`."""
    percent: int | None = None
    """The new slot's share of the traffic meanwhile; 0 with a header's requests only, None before any."""
    suspected: bool = False
    """Something was worse that one window's noise could look like; the next window decides."""


@dataclass(frozen=True)
class Operation:
    """A promotion or rollback under way."""

    id: str
    kind: Kind
    by: str
    target: SlotName
    spec: SlotSpec
    policy: Policy
    started: Time
    phase: Phase = Phase.PREFLIGHT
    since: Time = 0
    """Start of the phase; a deadline counts from here."""
    rendered: Time = 0
    """Start of rendering; a slot that loses its readiness again and again is given up at twice the time that it gets."""
    step: int = 0
    needed: int = 1
    """Replicas that carry the live load; the target gets as many before the switch."""
    attempts: int = 0
    """Inconclusive tries of the check of this phase."""
    shifted: bool = False
    """Weights may have been moved."""
    split: bool = False
    """Traffic is shared by both slots once more before the last step: what came after the switch was slower than what was before it."""
    restarts: int | None = None
    """Process restarts of the target when it first became ready."""
    baseline: dict[str, Any] | None = None
    """What the live slot did in the window before the switch (see baseline)."""
    verdicts: tuple[Verdict, ...] = ()
    reason: str = ""
    """Why it is being reverted."""
    decided: Time = 0
    """When reverting was decided."""

    def __post_init__(self) -> None:
        if not 0 <= self.step < self.count:
            raise ValueError(f"step {self.step} of {self.count}, counted from 0")

    @property
    def count(self) -> int:
        """Steps that it has (see shares.shares)."""
        if self.kind == "rollback":
            return 1
        steps = self.needed if self.policy.strategy == "rolling" else len(self.policy.steps) + (self.policy.header is not None)
        return steps + self.split


@dataclass(frozen=True)
class Entry:
    """One ended operation."""

    id: str
    kind: Kind
    by: str
    slot: SlotName
    generation: int
    version: str
    summary: str
    started: Time
    ended: Time
    outcome: Outcome
    reason: str = ""
    verdicts: tuple[Verdict, ...] = ()
    """What its checks measured; of the last operation only."""


@dataclass(frozen=True)
class Journal:
    """The state of one environment's slots."""

    environment: str
    active: SlotName
    weights: Weights
    """Weights last decided; written before they are applied."""
    generation: int = 1
    """Last generation given out."""
    previous: SlotName | None = None
    """Slot that a rollback goes to; None when there is none."""
    specs: dict[SlotName, SlotSpec] = field(default_factory=dict)
    """Last spec known to be whole in each slot."""
    operation: Operation | None = None
    kept_until: Time | None = None
    """End of the rollback window; None when the previous slot was shrunk."""
    idle_replicas: int = 1
    """What it is shrunk to then."""
    history: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        if self.previous is self.active:
            raise ValueError(f"previous {self.previous} is the active slot: expected the other one, or none")
        if min(self.generation, self.idle_replicas) < 0:
            raise ValueError(f"generation {self.generation}, idle_replicas {self.idle_replicas}: expected none below 0")

    @property
    def phase(self) -> Phase:
        """Of the operation under way; idle when there is none."""
        return self.operation.phase if self.operation is not None else Phase.IDLE


class JournalUnreadable(Exception):
    """The stored journal is from a newer version, or damaged; nothing may be changed on its ground."""


ADVICE = "restore it from a backup, or delete it to begin anew from the live weights"
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""How to bring a document of a schema to the next one."""

_ADAPTER = TypeAdapter(Journal)


def to_document(journal: Journal) -> dict[str, Any]:
    return {"schema": SCHEMA, **_ADAPTER.dump_python(journal, mode="json")}


def dump(journal: Journal) -> str:
    return json.dumps(to_document(journal), sort_keys=True)


def load(text: str, environment: str, source: str = "the promotion journal") -> Journal:
    """Read the journal of `environment`, of this or an older schema; raises JournalUnreadable with what to do."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JournalUnreadable(f"{source} is not JSON ({error}); {ADVICE}") from None
    return from_document(document, environment, source)


def from_document(document: Any, environment: str, source: str = "the promotion journal") -> Journal:
    """`load` for a parsed document."""
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise JournalUnreadable(f"{source} names no schema; expected a whole number up to {SCHEMA}; {ADVICE}")
    if schema > SCHEMA:
        raise JournalUnreadable(f"{source} has schema {schema}, this version reads up to {SCHEMA}: use the newer inferstack that wrote it")
    data = {key: value for key, value in document.items() if key != "schema"}
    while schema < SCHEMA:
        if schema not in MIGRATIONS:
            raise JournalUnreadable(f"{source} has schema {schema}, which no released version wrote")
        data, schema = MIGRATIONS[schema](data), schema + 1
    try:
        journal = _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise JournalUnreadable(f"{source}: {first_fault(error)}; {ADVICE}") from None
    if journal.environment != environment:
        raise JournalUnreadable(f"{source} is of environment {journal.environment}, not of {environment}; {ADVICE}")
    return journal


def first_fault(error: ValidationError) -> str:
    """Where the first fault is, what it is, and how many more there are."""
    first, more = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" + (f" (and {more} more)" if more else "")
