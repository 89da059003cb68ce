"""What is measured, each scenario a function that returns plain figures."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from inferstack.environment import SlotName
from inferstack.local import gateway
from inferstack.local.layout import write_json
from inferstack.local.machine import part_name
from inferstack.local.parts import stop_part
from tests.components.promotion.proof.arena import ROOT, Arena, Load, Ran, arena
from tests.components.promotion.proof.faulty_runtime import CODES

QUICK = {"min_requests": 5, "window_seconds": 2}
BAD = (
    "slow",
    "erroring",
    "wrong-answer",
    "leaking",
    "crash-looping",
    "never-ready",
    "twice-between-tokens",
    "wrong-when-long",
    "hanging",
    "empty",
    "truncating",
    "another-encoding",
)
FAINT = ("erroring-rarely", "leaking-slowly")
"""Faults that few requests cannot show: judged by the gates' defaults, less the length of the window."""
LIVE: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {}),
    ({}, {"min_requests": 5, "window_seconds": 8}),
    ({"steps": (100,)}, {}),
    ({"strategy": "canary", "steps": (5, 25, 100)}, {"min_requests": 5, "window_seconds": 4}),
)
"""What is bad for live traffic alone, in several promotions: the default one first, one that moves all at once third."""


def run_tests(*arguments: str, **environment: str) -> dict[str, Any]:
    """Run tests of this folder and report what they print about crash points and pauses."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    survived = [line for line in done.stdout.splitlines() if "crash points survived" in line or "pauses changed nothing" in line]
    return {"passed": done.returncode == 0, "lines": [line.lstrip(".F") for line in survived], "seconds": time.time() - started}


def crash(every_request: bool) -> dict[str, Any]:
    """Exhaustive crash injection, over the protocol and over each adapter's own calls; and promoters paused there and overtaken."""
    return run_tests("tests/components/promotion", "-k", "test_killed or test_paused", INFERSTACK_EXHAUSTIVE=str(int(every_request)))


def sequences(count: int) -> dict[str, Any]:
    return {"sequences": count} | run_tests("tests/components/promotion/test_sequences.py", INFERSTACK_SEQUENCES=str(count))


def judged(results: Sequence[dict[str, Any]], settled: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    """Counts by outcome; `wrong`: answers to requests that were sent while all traffic was proven to be on the other slot."""
    kinds: dict[str, dict[str, int]] = {}
    wrong = 0
    for result in results:
        counts = kinds.setdefault(result["kind"], {"requests": 0, "ok": 0, "lost": 0, "truncated": 0, "limited": 0, "wrong_slot": 0})
        counts["requests"] += 1
        counts[result["outcome"]] += 1
        if result["outcome"] == "ok":
            wrong += any(begin <= result["started"] < end and result["slot"] != slot for begin, end, slot in settled)
    total = {key: sum(counts[key] for counts in kinds.values()) for key in ("requests", "ok", "lost", "truncated", "limited")}
    reasons = sorted({result["reason"] for result in results if result["reason"]})[:5]
    return total | {"wrong": wrong, "kinds": kinds, "reasons": reasons}


def settled_times(runs: Sequence[Ran]) -> list[tuple[float, float, str]]:
    """Spans in which one slot was proven to have all traffic: from the end of a settle to the next change of weights."""
    changes: list[tuple[str, float, str | None]] = []
    given: str | None = None
    for ran in runs:
        for name, start, end, slot in ran.calls:
            if name == "set_weights":
                given = str(slot) if slot else None
                changes.append(("moved", start, None))
            elif name == "probe" and given is not None:
                changes.append(("probed", end, given))
    spans = []
    for index, (kind, when, slot) in enumerate(changes):
        following = changes[index + 1] if index + 1 < len(changes) else None
        if kind == "probed" and (following is None or following[0] == "moved"):
            spans.append((when, following[1] if following else math.inf, slot))
    return spans


def timing(ran: Ran) -> dict[str, float]:
    """A rollback's seconds from its decision: until the weights were sent (decide), served (switch), proven (settle)."""
    begin, end = ran.last("set_weights")
    proven = ran.last("probe")[1]
    return {"decide": begin - ran.started, "switch": end - begin, "settle": proven - end, "total": proven - ran.started}


def pairs(count: int, model: str, seconds: float) -> dict[str, Any]:
    """Promotions of an unchanged version and rollbacks under load, `count` of each or as many as `seconds` allow."""
    runs: list[Ran] = []
    promoted = rolled = 0
    reverted: list[str] = []
    rollbacks: list[dict[str, float]] = []
    durations: list[float] = []
    with arena(model, **QUICK) as made, Load(made) as load:
        began = time.time()
        while (promoted < count or rolled < count) and time.time() - began < seconds:
            ran = made.promote()
            runs.append(ran)
            promoted += 1
            durations.append(ran.finished - ran.started)
            if ran.outcome != "committed":
                reverted.append(ran.reason)
                continue
            back = made.rollback()
            runs.append(back)
            rolled += 1
            if back.outcome != "committed":
                reverted.append(f"rollback: {back.reason}")
            else:
                rollbacks.append(timing(back))
        took = time.time() - began
        results = load.stop()
    found = judged(results, settled_times(runs))
    return {
        "model": model,
        "promotions": promoted,
        "rollbacks": rolled,
        "reverted": reverted,
        "seconds": took,
        "rate": found["ok"] / took,
        "promotion_seconds": durations,
        "rollback_seconds": rollbacks,
        "load": found,
    }


def naive(count: int, model: str, *, wait_ready: bool) -> dict[str, Any]:
    """A switch by hand: start the new version (and wait for it, or not), point the route at it, stop the old one."""
    with arena(model, **QUICK) as made, Load(made) as load:
        began = time.time()
        for index in range(count):
            _switch(made, index, wait_ready=wait_ready)
            time.sleep(3)
        took = time.time() - began
        found = judged(load.stop(), [])
    return {"model": model, "switches": count, "waits_until_ready": wait_ready, "seconds": took, "rate": found["ok"] / took, "load": found}


def _switch(made: Arena, index: int, *, wait_ready: bool) -> None:
    machine = made.machine
    weights = machine.weights()
    old = max(SlotName, key=lambda slot: weights[slot])
    config = machine.slot_config(old.other)
    config["identity"]["generation"] = 1000 + index
    machine.restart_slot(old.other, config)
    if wait_ready:
        machine.wait_ready(old.other, 120)
    document = gateway.routes({str(old): 0, str(old.other): 100}, machine.environment.gateway.timeout_seconds)
    write_json(machine.layout.routes, document)
    stop_part(machine.layout, part_name(old), 0.5)


def caught(model: str) -> list[dict[str, Any]]:
    """Each bad version promoted once under load: reverted, and the share of requests that met it."""
    found = []
    for fault in BAD:
        with arena(model, **QUICK) as made, Load(made) as load:
            found.append(_try(made, load, fault, {"ready_seconds": 25} if fault == "never-ready" else {}))
    for fault in FAINT:
        with arena(model, window_seconds=QUICK["window_seconds"]) as made, Load(made) as load:
            found.append(_try(made, load, fault, {}))
    for fault in ("erroring-live", "slow-live"):
        for changes, gates in LIVE:
            with arena(model, **gates) as made, Load(made) as load:
                found.append(_try(made, load, fault, changes))
    return found


def _try(made: Arena, load: Load, fault: str, changes: dict[str, Any]) -> dict[str, Any]:
    before = load.answered
    ran = made.promote({"slot.engine.max_queue": CODES[fault]}, **changes)
    target = str(made.environment.slots.initial.other)
    results = load.stop()
    met = sum(result["slot"] == target for result in results)
    moved = [start for name, start, *_ in ran.calls if name == "set_weights"]
    return {
        "fault": fault,
        "strategy": changes.get("strategy", "blue_green"),
        "steps": list(made.policy(**changes).steps),
        "window_seconds": made.environment.promotion.gates.window_seconds,
        "outcome": ran.outcome,
        "reason": ran.reason.splitlines()[0] if ran.reason else "",
        "seconds": ran.finished - ran.started,
        "requests": len(results),
        "requests_before": before,
        "met": met,
        "share": met / len(results) if results else None,
        "exposed_seconds": moved[-1] - moved[0] if len(moved) > 1 else 0.0,
        "lost_or_truncated": sum(result["outcome"] in ("lost", "truncated") and result["slot"] != target for result in results),
    }


def alarms(count: int, model: str, seconds: float) -> dict[str, Any]:
    """Promotions of an unchanged version under load, one after another from slot to slot: any that is not committed is a false alarm."""
    reasons: list[str] = []
    done = suspected = 0
    with arena(model, **QUICK) as made, Load(made) as load:
        began = time.time()
        while done < count and time.time() - began < seconds:
            ran = made.promote()
            done += 1
            suspected += any(verdict.suspected for verdict in ran.ended.entry.verdicts) if ran.ended.entry else 0
            if ran.outcome != "committed":
                reasons.append(ran.reason)
        took = time.time() - began
        found = judged(load.stop(), [])
    counts = {key: found[key] for key in ("requests", "ok", "lost", "truncated")}
    return {"model": model, "window_seconds": QUICK["window_seconds"], "promotions": done, "suspected": suspected, "reverted": reasons} | {
        "promoting_seconds": took,
        "load": counts,
    }
