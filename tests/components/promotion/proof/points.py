"""Real commands and parts of a machine killed at chosen points: before the n-th call of a phase, drawn by a seed, so that a run can be
repeated.

The command stops itself at its point (halted.py); a part of the environment is killed there, then the command is killed or goes on.
Whatever comes of it, one `recover` must end with one live slot that answers, and with every part running again.
"""

import itertools
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inferstack.local.machine import GATEWAY
from inferstack.local.monitoring import KEEPER
from inferstack.local.parts import read_part
from inferstack.local.up import CACHE
from inferstack.promotion.journal import Phase
from tests.components.promotion.proof import kills
from tests.components.promotion.proof.arena import FAULTY, NAME, ROOT, Arena, Load, arena
from tests.components.promotion.proof.faulty_runtime import CODES
from tests.components.promotion.proof.kills import Kills
from tests.components.promotion.proof.scenarios import QUICK

FORWARD = (
    Phase.RENDER,
    Phase.READY,
    Phase.WARM,
    Phase.PRECHECK,
    Phase.SHIFT,
    Phase.SETTLE,
    Phase.POSTCHECK,
    Phase.COMMIT,
    Phase.DRAIN,
    Phase.RELEASE,
)
BACK = (Phase.REVERT, Phase.REVERT_SETTLE, Phase.REVERT_DRAIN, Phase.CLEAN)
ROLLBACK = (Phase.SHIFT, Phase.SETTLE, Phase.DRAIN, Phase.RELEASE)
PLACES = [
    *(("promote", phase) for phase in FORWARD),
    *(("promote a bad version", phase) for phase in BACK),
    *(("rollback", phase) for phase in ROLLBACK),
    ("hold", Phase.IDLE),
    ("shrink", Phase.IDLE),
]
"""Where a kill can fall: a command in a phase; `hold`: nothing runs, the previous slot is kept; `shrink`: `recover` shrinks it."""
PARTS = ("", KEEPER, GATEWAY, "the new slot", "the live slot", CACHE)
FATES = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGCONT)
"""Of the command; SIGCONT: it goes on without the part."""
LATEST = 8
"""Highest number of a call; phases with fewer end before, which is told apart."""


@dataclass(frozen=True)
class Point:
    """One trial."""

    command: str
    phase: Phase
    call: int
    part: str
    fate: signal.Signals

    def __str__(self) -> str:
        how = "went on" if self.fate is signal.SIGCONT else self.fate.name
        return f"{self.command} in {self.phase}, before call {self.call}: {how}, {self.part or 'nothing'} killed"


def draw(count: int, seed: int) -> list[Point]:
    """`count` points; every place with every part comes before any comes twice."""
    chance = random.Random(seed)
    pairs = list(itertools.product(PLACES, PARTS))
    chance.shuffle(pairs)
    found = []
    for (command, phase), part in itertools.islice(itertools.cycle(pairs), count):
        fate = chance.choice(FATES if part else FATES[:3])
        found.append(Point(command, phase, min(int(chance.expovariate(0.4)), LATEST), part, fate))
    return found


def points(count: int, seed: int) -> dict[str, Any]:
    """`count` kills at drawn points under load, as plain figures."""
    found, reached = Kills(), 0
    with arena("light", cache="process", **QUICK) as made, Load(made) as load:
        for index, point in enumerate(draw(count, seed)):
            there = _trial(made, index, point, found)
            reached += there
            print(f"{index}: {point}, {'reached' if there else 'ended before'}; problems: {len(found.problems)}", flush=True)
        results = load.stop()
    return {"kills": count, "seed": seed, "reached": reached, "survived": count - len(found.problems)} | found.figures(results)


def _trial(made: Arena, index: int, point: Point, found: Kills) -> bool:
    """Whether the command came to its point."""
    if point.command in ("rollback", "hold", "shrink"):
        kills.command(made, "promote", NAME, "--set", f"slot.engine.max_queue={64 + index % 7}", "--json").communicate(timeout=300)
    for word in (f"command {point.command}", f"phase {point.phase}", f"with {point.part or 'nothing else'}", f"signal {point.fate.name}"):
        found.met[word] += 1
    if point.command == "hold":
        running, reached = None, True
    else:
        running = _started(made, index, point)
        reached = _halted(running)
    began, error, code = time.time(), "", 0
    killed = kills.kill_part(made, point.part) if point.part else ""
    if running is not None:
        if point.fate is not signal.SIGCONT:
            running.send_signal(point.fate)
        running.send_signal(signal.SIGCONT)
        error, code = kills.ending(running), running.returncode
    untold = kills.untold(code, point.fate, error) if reached and point.fate is not signal.SIGKILL else ""
    recovered = kills.command(made, "recover", NAME, "--json")
    error = kills.ending(recovered)
    if trouble := untold or kills.not_whole(made, recovered.returncode, error) or _dead(made):
        found.problems.append(f"{index}: {point}: {trouble}")
    if killed:
        found.spans.append((began, time.time()))
    return reached


def _started(made: Arena, index: int, point: Point) -> subprocess.Popen[str]:
    words = {
        "promote": ["promote", NAME, "--set", f"slot.engine.max_queue={71 + index % 7}"],
        "promote a bad version": ["promote", NAME, "--set", f"slot.engine.max_queue={CODES['erroring-live']}"],
        "rollback": ["rollback", NAME],
        "shrink": ["recover", NAME],
    }[point.command]
    if point.command == "shrink":
        _end_window(made)
    line = [sys.executable, "-m", "tests.components.promotion.proof.halted", str(FAULTY), str(point.phase), str(point.call), *words]
    return subprocess.Popen([*line, "--project", str(made.folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _end_window(made: Arena) -> None:
    """The rollback window of the last promotion is over now."""
    store = made.platform()
    journal, version = store.read_journal()
    if journal is not None and journal.kept_until is not None and journal.operation is None:
        store.acquire_lease("window@proof:0")
        store.write_journal(replace(journal, kept_until=time.time()), version)
        store.release_lease()


def _halted(running: subprocess.Popen[str]) -> bool:
    """Wait until the command stopped itself; False when it ended before."""
    until = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < until:
        state = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            return True
        time.sleep(0.02)
    return False


def _dead(made: Arena) -> str:
    """Parts that carry requests or watch over them, and do not run after `recover`."""
    for name in (GATEWAY, CACHE, KEEPER):
        record = read_part(made.machine.layout, name)
        if record is None or not record.alive:
            return f"{name} does not run again"
    return ""
