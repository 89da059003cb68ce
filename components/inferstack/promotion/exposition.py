"""What a promotion is doing, in Prometheus' text exposition format. Pure.

Names, all gauges with the label `environment`:

inferstack_slot_weight_ratio{slot}                          share of the traffic, 0 to 1
inferstack_slot_cohort_info{slot,header,value}              1 while requests with this header go to the slot
inferstack_slot_active{slot}                                1 for the slot that is live by the journal, else 0
inferstack_promotion_phase{phase}                           1 for the present phase, 0 for every other
inferstack_promotion_generation                             last generation given out
inferstack_promotion_started_timestamp_seconds{kind,slot}   start of the operation under way
inferstack_promotion_ended_timestamp_seconds{kind,outcome}  end of the last operation that ended so
inferstack_promotion_duration_seconds{kind,outcome}         how long it took
inferstack_rollback_window_end_timestamp_seconds{slot}      until when the previous slot stays warm
"""

from collections.abc import Iterator

from inferstack.environment import SlotName
from inferstack.promotion.journal import Journal, Phase
from inferstack.promotion.weights import Weights

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "inferstack_slot_weight_ratio": "Share of the traffic that the route gives to the slot, 0 to 1.",
    "inferstack_slot_cohort_info": "1 while requests with this header go to the slot.",
    "inferstack_slot_active": "1 for the slot that is live by the promotion journal.",
    "inferstack_promotion_phase": "1 for the phase that the promotion is in; idle when there is none.",
    "inferstack_promotion_generation": "Last generation that a promotion gave out.",
    "inferstack_promotion_started_timestamp_seconds": "Start of the operation under way.",
    "inferstack_promotion_ended_timestamp_seconds": "End of the last operation of this kind and outcome.",
    "inferstack_promotion_duration_seconds": "Duration of the last operation of this kind and outcome.",
    "inferstack_rollback_window_end_timestamp_seconds": "Until when the previous slot stays warm for a rollback.",
}

Sample = tuple[str, dict[str, str], float]


def exposition(environment: str, journal: Journal | None, weights: Weights | None) -> str:
    """The whole page; without a journal or readable weights, what they would say is left out."""
    lines: list[str] = []
    named = ""
    for name, labels, value in _samples(journal, weights):
        if name != named:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            named = name
        text = ",".join(f'{key}="{_escaped(label)}"' for key, label in {"environment": environment, **labels}.items())
        lines.append(f"{name}{{{text}}} {value:.17g}")
    return "\n".join(lines) + "\n"


def _samples(journal: Journal | None, weights: Weights | None) -> Iterator[Sample]:
    if weights is not None:
        for slot in SlotName:
            yield "inferstack_slot_weight_ratio", {"slot": slot}, weights.of(slot) / 100
        if (cohort := weights.cohort) is not None:
            yield "inferstack_slot_cohort_info", {"slot": cohort.slot, "header": cohort.name, "value": cohort.value}, 1
    if journal is None:
        return
    for slot in SlotName:
        yield "inferstack_slot_active", {"slot": slot}, float(slot is journal.active)
    for phase in Phase:
        yield "inferstack_promotion_phase", {"phase": phase}, float(phase is journal.phase)
    yield "inferstack_promotion_generation", {}, journal.generation
    if (operation := journal.operation) is not None:
        yield "inferstack_promotion_started_timestamp_seconds", {"kind": operation.kind, "slot": operation.target}, operation.started
    last = {(entry.kind, entry.outcome): entry for entry in journal.history}
    for (kind, outcome), entry in sorted(last.items()):
        yield "inferstack_promotion_ended_timestamp_seconds", {"kind": kind, "outcome": outcome}, entry.ended
    for (kind, outcome), entry in sorted(last.items()):
        yield "inferstack_promotion_duration_seconds", {"kind": kind, "outcome": outcome}, entry.ended - entry.started
    if journal.kept_until is not None and journal.previous is not None:
        yield "inferstack_rollback_window_end_timestamp_seconds", {"slot": journal.previous}, journal.kept_until


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
