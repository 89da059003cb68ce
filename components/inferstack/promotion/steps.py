"""The steps that a plan can ask for, and what came of one. Data only."""

from dataclasses import dataclass, field
from typing import Any, Literal

from inferstack.environment import SlotName
from inferstack.promotion.journal import Outcome, Phase, Verdict
from inferstack.promotion.spec import SlotSpec
from inferstack.promotion.weights import Weights

POLL_SECONDS = 1.0
"""Between two looks while something starts."""
DRAIN_POLL_SECONDS = 0.2
SETTLE_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Render:
    """Make the slot's desired state `spec`."""

    slot: SlotName
    spec: SlotSpec


@dataclass(frozen=True)
class Scale:
    """Exactly `replicas`."""

    slot: SlotName
    replicas: int


@dataclass(frozen=True)
class SetFloor:
    """The scaler keeps at least `floor`; replicas stay as they are."""

    slot: SlotName
    floor: int


@dataclass(frozen=True)
class Warm:
    slot: SlotName


@dataclass(frozen=True)
class SetWeights:
    """Verify the slot directly, then move the weights; nothing moves when it does not verify."""

    weights: Weights
    verify: SlotName


@dataclass(frozen=True)
class Settle:
    """Prove through the real gateway that `slot` of `generation` has its share: `count` in a row of all requests or of those with
    `header`, at least one of `count` below 100 %."""

    slot: SlotName
    generation: int | None
    percent: int
    count: int
    header: tuple[str, str] | None = None


@dataclass(frozen=True)
class Check:
    """Measure a window and judge it. `live` None: the operation's baseline stands for the live slot."""

    stage: Literal["pre-check", "post-check"]
    slot: SlotName
    live: SlotName | None
    seconds: float


@dataclass(frozen=True)
class Wait:
    """Look again in `seconds`."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Note:
    """Only the journal changes: to `phase`, with a reason where one is decided. `same_deadline`: the phase's time goes on counting."""

    phase: Phase
    reason: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    same_deadline: bool = False


@dataclass(frozen=True)
class Finish:
    """The operation ends."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Forget:
    """The rollback window is over and the previous slot is shrunk."""


@dataclass(frozen=True)
class RollBack:
    """The new slot broke after the commit: start a rollback to the previous slot."""

    reason: str


@dataclass(frozen=True)
class Rest:
    """Nothing to do. `until`: something falls due then (epoch seconds). `page`: a person is needed."""

    reason: str = ""
    until: float | None = None
    page: bool = False


Step = Render | Scale | SetFloor | Warm | SetWeights | Settle | Check | Wait | Note | Finish | Forget | RollBack | Rest


@dataclass(frozen=True)
class Result:
    """What came of a step. `reason` when not ok; a check brings its verdict, and one with both slots beside each other the live slot's
    baseline. `split`: live traffic of both slots at the same moments is needed to tell."""

    ok: bool = True
    reason: str = ""
    verdict: Verdict | None = None
    baseline: dict[str, Any] | None = None
    split: bool = False


DONE = Result()


def describe(step: Step) -> str:
    """One line for people; empty for steps that only the journal sees."""
    match step:
        case Render():
            return f"render {step.slot}: {step.spec.summary}, generation {step.spec.generation}"
        case Scale():
            return f"{step.slot} to {step.replicas} replicas"
        case SetFloor():
            return f"{step.slot} keeps at least {step.floor} replicas"
        case Warm():
            return f"warm {step.slot}"
        case SetWeights():
            return f"weights to {step.weights}"
        case Settle():
            part = f"requests with {': '.join(step.header)}" if step.header else f"{step.percent} %"
            return f"wait until the gateway sends {part} to {step.slot}"
        case Check():
            return f"{step.stage} of {step.slot}"
        case Wait() | Rest():
            return step.reason
        case Note():
            return step.reason
        case Finish():
            return f"{step.outcome}" + (f": {step.reason}" if step.reason else "")
        case Forget():
            return "the rollback window is over"
        case RollBack():
            return f"roll back: {step.reason}"
