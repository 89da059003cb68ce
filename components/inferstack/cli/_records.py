"""What promotions leave behind, for --json and as a table: where an environment stands, ended operations, both versions check by check."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from inferstack.platforms.holder import is_gone
from inferstack.promotion.journal import Entry, Journal, Verdict
from inferstack.promotion.lease import Lease

_FIGURES = (
    ("requests", "requests", "{:.0f}"),
    ("req/s", "rate", "{:.1f}"),
    ("errors", "errors", "{:.0f}"),
    ("TTFT p50", "ttft_p50", "{:.3f} s"),
    ("TTFT p95", "ttft_p95", "{:.3f} s"),
    ("between tokens p50", "inter_token_p50", "{:.4f} s"),
    ("between tokens p95", "inter_token_p95", "{:.4f} s"),
    ("tokens/s", "tokens_per_second", "{:.0f}"),
    ("$/M tokens", "usd_per_million_tokens", "{:.2f}"),
)


def unfinished_json(journal: Journal | None, lease: Lease | None, now: float) -> dict[str, Any] | None:
    """The operation under way and who works on it; `promoter` None: nobody does any more."""
    if journal is None or journal.operation is None:
        return None
    operation = journal.operation
    works = lease is not None and not lease.expired(now) and not is_gone(lease.holder)
    return {
        "kind": operation.kind,
        "target": str(operation.target),
        "summary": operation.spec.summary,
        "by": operation.by,
        "started": operation.started,
        "reason": operation.reason if operation.decided else None,
        "promoter": lease.holder if works and lease is not None else None,
    }


def unfinished_text(name: str, operation: dict[str, Any]) -> str:
    """The same in one sentence, with what to do where nobody works on it."""
    since = datetime.fromtimestamp(operation["started"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = f"{operation['kind']} of {operation['summary']} to {operation['target']}, by {operation['by']} since {since}"
    back = f", turned back: {operation['reason']}" if operation["reason"] else ""
    if operation["promoter"]:
        return f"{what}{back}; {operation['promoter']} works on it"
    return f"{what}{back}; nobody works on it: `inferstack recover {name}` finishes it, `inferstack abort {name}` turns it back"


def comparison_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """One object a check: stage, share of the traffic in percent, result, and the figures of the new and of the live version."""
    return [
        {
            "stage": verdict.stage,
            "percent": verdict.percent,
            "result": verdict.result,
            "reasons": list(verdict.reasons),
            "agreement": verdict.figures.get("agreement"),
            **{
                side: {name.partition(".")[2]: value for name, value in verdict.figures.items() if name.startswith(f"{side}.")} or None
                for side in ("new", "live")
            },
        }
        for verdict in verdicts
    ]


def comparison_table(verdicts: Sequence[Verdict]) -> Table | None:
    """None when nothing was measured. Columns that no check has a figure for are left out."""
    shown = [
        row
        for row in _FIGURES
        if any(verdict.figures.get(f"{side}.{row[1]}") is not None for verdict in verdicts for side in ("new", "live"))
    ]
    if not shown:
        return None
    table = Table("check", "version", *(title for title, _, _ in shown), "result", box=None)
    for verdict in verdicts:
        for side in ("new", "live"):
            if verdict.figures.get(f"{side}.requests") is None:
                continue
            values = [verdict.figures.get(f"{side}.{key}") for _, key, _ in shown]
            cells = ["" if value is None else form.format(value) for value, (_, _, form) in zip(values, shown, strict=True)]
            table.add_row(_name(verdict) if side == "new" else "", side, *cells, verdict.result if side == "new" else "")
    return table


def _name(verdict: Verdict) -> str:
    share = {None: "", 0: " of the header's requests"}.get(verdict.percent, f" at {verdict.percent} %")
    return f"{verdict.stage}{share}"


def entry_json(entry: Entry) -> dict[str, Any]:
    """One ended operation, for --json."""
    return {
        "id": entry.id,
        "kind": entry.kind,
        "by": entry.by,
        "slot": entry.slot,
        "generation": entry.generation,
        "summary": entry.summary,
        "started": entry.started,
        "seconds": entry.ended - entry.started,
        "outcome": entry.outcome,
        "reason": entry.reason,
        "comparison": comparison_json(entry.verdicts),
    }


def state_json(name: str, journal: Journal) -> dict[str, Any]:
    """Where the environment stands, in status' words."""
    return {
        "environment": name,
        "active_slot": journal.active,
        "previous_slot": journal.previous,
        "phase": journal.phase,
        "generation": journal.generation,
        "weights": {"blue": journal.weights.blue, "green": journal.weights.green},
        "cohort": None if journal.weights.cohort is None else str(journal.weights.cohort),
    }
