"""What a promotion tells whoever watches it: a live view, plain lines, JSON for pipelines. Data only."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inferstack.promotion.journal import Phase
from inferstack.promotion.weights import Weights


@dataclass(frozen=True)
class Event:
    """`kind`: step, wait, rates, verdict, retry (docs/guide/promotion.md). `data` holds JSON values only."""

    kind: str
    text: str
    time: float = 0.0
    phase: Phase | None = None
    weights: Weights | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        weights = None if self.weights is None else {"blue": self.weights.blue, "green": self.weights.green}
        return {"event": self.kind, "time": self.time, "phase": self.phase, "weights": weights, "text": self.text, **self.data}


Emit = Callable[[Event], None]
