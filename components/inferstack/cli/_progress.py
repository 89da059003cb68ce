"""How a running promotion is shown: a live view on a terminal, plain lines without one, one JSON object per line for pipelines."""

import json
import sys
import time
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inferstack.cli._records import entry_json, state_json
from inferstack.cli.output import console, unheard
from inferstack.promotion.commands import Ended
from inferstack.promotion.events import Event
from inferstack.promotion.journal import Phase
from inferstack.promotion.weights import Weights

FORWARD = (Phase.PREFLIGHT, Phase.RENDER, Phase.READY, Phase.WARM, Phase.PRECHECK, Phase.SHIFT, Phase.SETTLE, Phase.POSTCHECK, Phase.DRAIN)
_LINES = 8


class Progress:
    """Takes events and shows them. Call it with an event; `finish` once."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._json = as_json
        self._quiet = quiet
        self._out = console()
        self._started = time.monotonic()
        self._lines: list[str] = []
        self._rates: dict[str, Any] = {}
        self._left: float | None = None
        self._live: Live | None = None
        self.phase: Phase | None = None
        self.weights: Weights | None = None
        if not as_json and not quiet and self._out.is_terminal:
            self._live = Live(console=self._out, refresh_per_second=4, transient=True, get_renderable=self._view)

    def __enter__(self) -> "Progress":
        if self._live:
            with unheard():
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with unheard():
                self._live.stop()
            self._live = None

    def now(self) -> float:
        return time.time()

    def __call__(self, event: Event) -> None:
        self.phase = event.phase or self.phase
        self.weights = event.weights or self.weights
        if event.kind == "rates":
            self._rates, self._left = event.data.get("slots", {}), event.data.get("seconds_left")
        if not self._quiet:
            with unheard():  # a promotion is not given up because nobody reads on
                self._tell(event)

    def _tell(self, event: Event) -> None:
        if self._json:
            sys.stdout.write(json.dumps(event.to_json() | {"time": event.time or time.time()}) + "\n")
            return
        if event.kind == "rates" and self._live is not None:
            return
        weights = f"  [{self.weights}]" if self.weights else ""
        rates = f" {_rates_text(event.data.get('slots', {}))}" if event.kind == "rates" else ""
        line = f"{time.monotonic() - self._started:7.1f} s  {event.phase or self.phase or '':<13} {event.text}{rates}{weights}"
        self._lines = [*self._lines[-_LINES:], line]
        target = self._live.console if self._live else self._out
        target.print(line, markup=False, soft_wrap=True)

    def finish(self, name: str, ended: Ended) -> None:
        """The last event: where the environment stands."""
        if not self._json:
            return
        entry = entry_json(ended.entry) if ended.entry else None
        last = {"event": "done", "time": time.time(), "outcome": ended.outcome, "operation": entry, "text": ended.rest.reason}
        with unheard():
            sys.stdout.write(json.dumps(last | state_json(name, ended.journal)) + "\n")

    def _view(self) -> Group:
        """Phases, weights and both slots' rates side by side."""
        phases = Text()
        for phase in FORWARD:
            style = "bold reverse" if phase is self.phase else "dim"
            phases.append(f" {phase} ", style)
        if self.phase is not None and self.phase not in FORWARD:
            phases.append(f" {self.phase} ", "bold reverse red" if "re" in self.phase else "bold reverse")
        table = Table("slot", "weight", "req/s", "errors", "TTFT p95", "between tokens p95", box=None)
        for slot in ("blue", "green"):
            rate = self._rates.get(slot, {})
            weight = getattr(self.weights, slot) if self.weights else None
            table.add_row(
                slot,
                "" if weight is None else f"{weight} %",
                _figure(rate.get("requests_per_second"), "{:.1f}"),
                _figure(rate.get("errors"), "{:.0f}"),
                _figure(rate.get("ttft_p95_seconds"), "{:.3f} s"),
                _figure(rate.get("inter_token_p95_seconds"), "{:.3f} s"),
            )
        left = Text(
            f"{time.monotonic() - self._started:.0f} s" + (f", {self._left:.0f} s left in this window" if self._left else ""), "dim"
        )
        return Group(phases, table, left)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _rates_text(slots: dict[str, Any]) -> str:
    return "; ".join(
        f"{slot} {rate['requests_per_second']:.1f} req/s, {rate['errors']:.0f} errors, "
        f"TTFT p95 {_figure(rate['ttft_p95_seconds'], '{:.3f} s') or '-'}"
        for slot, rate in slots.items()
    )
