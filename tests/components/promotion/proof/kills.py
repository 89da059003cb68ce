"""Real commands of a machine under load, killed, stopped and doubled at random times."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from inferstack.environment import SlotName
from inferstack.local.layout import read_json
from inferstack.local.machine import part_name
from inferstack.local.parts import read_part
from tests.components.promotion.proof.arena import FAULTY, NAME, Arena, Load, arena
from tests.components.promotion.proof.faulty_runtime import CODES
from tests.components.promotion.proof.scenarios import QUICK, judged

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMANDS = ("promote", "promote", "promote a bad version", "rollback", "abort", "recover")
PARTS = (None, None, None, "keeper", "gateway", "the new slot", "the live slot")
"""What is killed together with the command."""
LONGEST_SECONDS = 14.0
"""A promotion takes about as long here; later signals meet its end."""
FAULT = "a fault on demand"
"""What a bad version answers: its own fault, and nobody lost it."""
BEGUN = 0.85
"""Share of the commands that are killed only after they have taken the lease; the others die at any time from their start."""
ENDS_SECONDS = 240
"""Longest time that a command may take to its end, signals included."""
LEASE_SECONDS = 3
"""Of the commands that are stopped for longer than their lease lives."""


def command(made: Arena, *arguments: str, lease_seconds: float | None = None) -> subprocess.Popen[str]:
    """`inferstack ARGUMENTS --project …` as a process of its own, with the arena's runtime and, where given, a lease of another life."""
    lease = f"lease.acquire.__kwdefaults__['seconds'] = {lease_seconds}; " if lease_seconds else ""
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # what runs in the background ignores it
        "from inferstack.local import programs; from inferstack.promotion import lease; file = sys.argv.pop(1); "
        f"{lease}programs.runtime = lambda: [sys.executable, file]; from inferstack.cli import main; main()"
    )
    line = [sys.executable, "-c", program, str(FAULTY), *arguments, "--project", str(made.folder)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@dataclass
class Kills:
    """What came of the trials."""

    problems: list[str] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    """Trials by phase, signal, command and part killed."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """Times in which a part that carries traffic was dead."""

    def figures(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        """What was met, and what became of the requests that went through no killed part and met no bad version's fault."""
        beside = [result for result in results if not any(_overlaps(result, span) for span in self.spans)]
        spared = [result for result in beside if FAULT not in (result["reason"] or "")]
        return {
            "met": dict(sorted(self.met.items())),
            "problems": self.problems,
            "through_killed_parts": len(results) - len(beside),
            "faults_met": len(beside) - len(spared),
            "missed": [self._told(result) for result in spared if result["outcome"] in ("lost", "truncated")][:20],
            "load": judged(spared, []),
        }

    def _told(self, result: dict[str, Any]) -> str:
        """A request that nothing excuses, and how long after the last kill of a part it began."""
        since = min(
            (result["started"] - begin for begin, _ in self.spans if begin <= result["started"] + result["total"]), default=math.inf
        )
        return f"{result['outcome']} {since:.2f} s after a kill, {result['total']:.2f} s long, {result['slot']}: {result['reason']}"


def kills(count: int, seed: int) -> dict[str, Any]:
    """Commands killed at random times, some with a part of the environment: one `recover` ends with one live slot, and what did not go
    through a killed part lost nothing."""
    chance, found = random.Random(seed), Kills()
    with arena("light", **QUICK) as made, Load(made) as load:
        for index in range(count):
            _trial(made, chance, index, found)
        results = load.stop()
    return {"kills": count, "seed": seed, "survived": count - len(found.problems)} | found.figures(results)


def _overlaps(result: dict[str, Any], span: tuple[float, float]) -> bool:
    return bool(result["started"] <= span[1] and result["started"] + (result["total"] or 0) >= span[0])


def _trial(made: Arena, chance: random.Random, index: int, found: Kills) -> None:
    kind, number, part = chance.choice(COMMANDS), chance.choice(SIGNALS), chance.choice(PARTS)
    running = _start(made, kind, index)
    if chance.random() < BEGUN:
        _wait_begun(made, running)
    time.sleep(chance.uniform(0, LONGEST_SECONDS if kind.startswith("promote") else LONGEST_SECONDS / 3))
    ended_before = running.poll() is not None
    began = time.time()
    killed = kill_part(made, part) if part else ""
    running.send_signal(number)
    error = ending(running)
    journal = read_json(made.machine.layout.journal)
    phase = journal["phase"] if journal else "none"
    where = f"{index}: {kind}, {number.name}, {part or 'nothing else'} killed in {phase}"
    for word in (f"phase {phase}", f"signal {number.name}", f"command {kind}", f"with {part or 'nothing else'}"):
        found.met[word] += 1
    unsaid = "" if ended_before or number is signal.SIGKILL else untold(running.returncode, number, error)
    recovered = command(made, "recover", NAME, "--json")
    error = ending(recovered)
    if trouble := unsaid or not_whole(made, recovered.returncode, error):
        found.problems.append(f"{where}: {trouble}")
    if killed:
        found.spans.append((began, time.time()))


def ending(running: subprocess.Popen[str]) -> str:
    """What a command says on stderr until it ends; one that does not is killed, and then that is said."""
    try:
        return running.communicate(timeout=ENDS_SECONDS)[1]
    except subprocess.TimeoutExpired:
        running.kill()
        return f"did not end within {ENDS_SECONDS} s; {running.communicate()[1]}"


def _wait_begun(made: Arena, running: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < until:
        lease = read_json(made.machine.layout.directory / "lease.json")
        if lease and f":{running.pid}:" in lease["holder"]:
            return
        time.sleep(0.02)


def _start(made: Arena, kind: str, index: int) -> subprocess.Popen[str]:
    """The command; `abort` and `recover` work on a promotion that was killed before."""
    settings = ["--set", f"slot.engine.max_queue={64 + index % 7}"]
    if kind == "promote a bad version":
        return command(made, "promote", NAME, "--set", f"slot.engine.max_queue={CODES['erroring-live']}")
    if kind in ("abort", "recover"):
        first = command(made, "promote", NAME, *settings)
        time.sleep(3 + index % 5)
        first.kill()
        first.communicate()
        settings = []
    return command(made, kind, NAME, *(settings if kind == "promote" else []))


def kill_part(made: Arena, part: str) -> str:
    """Kill a part of the environment; its name when it carries traffic, else nothing. A slot without weight may have requests still."""
    machine = made.machine
    weights = machine.weights()
    live = max(SlotName, key=lambda slot: weights[slot])
    slots = {"the live slot": live, "the new slot": live.other}
    slot = slots.get(part)
    name = part_name(slot) if slot else part
    record = read_part(machine.layout, name)
    if record is None or not record.alive or record.pid is None:
        return ""
    carries = part == "gateway" or (slot is not None and (weights[slot] > 0 or machine.slot(slot).in_flight > 0))
    os.kill(record.pid, signal.SIGKILL)
    return name if carries else ""


def untold(code: int, number: signal.Signals, error: str) -> str:
    """What is wrong with how an interrupted command ended."""
    if error.startswith("did not end"):
        return error[-500:]
    if code == -number:  # while the interpreter started: it had begun nothing
        return ""
    if error.strip() == "error: interrupted":  # before it had the lease
        return ""
    if code == 130 and ("interrupted" not in error or "inferstack recover" not in error):
        return f"it does not say how to go on: {error[-300:]}"
    if code in (0, 4) and "Exception ignored" in error:  # met a library that was being imported and went no further
        return ""
    return "" if code in (130, 0, 4, 2, 5) and "Traceback" not in error else f"ended with {code}: {error[-500:]}"


def not_whole(made: Arena, code: int, error: str) -> str:
    """What is wrong after `recover`; empty when one slot has all traffic and answers through the gateway."""
    machine = made.machine
    if code not in (0, 4) or "Traceback" in error:
        return f"recover ended with {code}: {error[-500:]}"
    journal, weights = read_json(machine.layout.journal), machine.weights()
    if journal is None:
        return ""
    if journal["phase"] != "idle" or weights[journal["active_slot"]] != 100 or machine.cohort() is not None:
        return f"phase {journal['phase']}, {journal['active_slot']} live, weights {weights}"
    seen = made.platform().probe(8)
    wrong = [answer for answer in seen if answer.slot != journal["active_slot"]]
    return f"through the gateway: {wrong[0]}" if wrong else ""


def seconds(count: int, seed: int) -> dict[str, Any]:
    """A second promoter at random offsets from a first one that works, was killed, or was stopped for longer than its lease lives."""
    chance, kinds, problems = random.Random(seed), Counter[str](), list[str]()
    with arena("light", **QUICK) as made, Load(made) as load:
        for index in range(count):
            state = ("works", "was killed", "was stopped")[index % 3]
            what, trouble = _second(made, chance, index, state)
            kinds[f"the first {state}: the second {what}"] += 1
            if trouble:
                problems.append(f"{index}: the first {state}, the second {what}: {trouble}")
            command(made, "recover", NAME, "--json").communicate(timeout=300)
        found = judged(load.stop(), [])
    return {"trials": count, "seed": seed, "outcomes": dict(sorted(kinds.items())), "problems": problems, "load": found}


def _second(made: Arena, chance: random.Random, index: int, state: str) -> tuple[str, str]:
    """What the second promoter did, and what is wrong with it."""
    layout = made.machine.layout
    first = command(made, "promote", NAME, "--set", f"slot.engine.max_queue={128 + index % 7}", "--json", lease_seconds=LEASE_SECONDS)
    time.sleep(chance.uniform(0.0, 10.0))
    if state == "was killed":
        first.kill()
    if state == "was stopped":
        first.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + chance.uniform(-1.5, 1.5))
    asked = time.time()
    second = command(made, "promote", NAME, "--set", f"slot.engine.max_queue={256 + index % 7}", "--json", lease_seconds=LEASE_SECONDS)
    if state == "was stopped":
        time.sleep(chance.uniform(0.0, 8.0))
        before = _touched(made) if second.poll() is not None else None
        first.send_signal(signal.SIGCONT)
    _, first_error = first.communicate(timeout=300)
    _, error = second.communicate(timeout=300)
    if "Traceback" in error + first_error:
        return "failed", (error + first_error)[-800:]
    codes = (first.returncode, second.returncode)
    if state == "was stopped" and before is not None and "lost the lease" in first_error and _touched(made) != before:
        return "was overwritten", f"{before} became {_touched(made)}"
    if second.returncode == 5:
        return _refused(error, first.pid, asked)
    journal = json.loads(layout.journal.read_text()) if layout.journal.exists() else {}
    if second.returncode == 2 and "unfinished" in error:
        return "was told what is unfinished", ""
    if second.returncode == 0:
        took = "after it had ended" if first.returncode in (0, 4) else "in its place"
        return f"promoted {took}", "" if first.returncode in (0, 4, 5, -9, 130) else f"exit codes {codes}, {journal.get('phase')}"
    return f"ended with {second.returncode}", error[-500:]


def _refused(error: str, first: int, asked: float) -> tuple[str, str]:
    """Whether a refusal names the holder and since when."""
    try:
        told = json.loads(error[error.index("{") :])["error"]
    except (ValueError, KeyError):
        return "was refused", f"no JSON error: {error[-300:]}"
    if "holder" not in told:
        return "lost the lease meanwhile" if "lost the lease" in told["message"] else "failed", "" if "lost the lease" in told[
            "message"
        ] else error[-500:]
    named = f":{first}:" in told["holder"] and told["since"] <= asked + 60 and "since" in told["message"] and told["next"]
    return "was refused with the holder and since when", "" if named else f"another holder: {told}"


def _touched(made: Arena) -> tuple[Any, ...]:
    """What a promoter could write."""
    layout = made.machine.layout
    return tuple(path.read_text() for path in (layout.journal, layout.routes, *(layout.slot_config(slot) for slot in SlotName)))
