"""docs/promotion-report.md and its plots, from measured figures alone: a part that was not measured is said to be missing."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HEAD = """# Promotion, measured

Made by `scripts/prove-promotion` from what it measured; the figures themselves are in [promotion-report.json](promotion-report.json).
Every part names its day and machine. Real Envoy and real runtime processes carry real requests here; `light` is a small deterministic
engine in the real runtime process, `model` is SmolLM2-135M-Instruct.
"""


def write(known: dict[str, Any], docs: Path) -> None:
    """The page, and `promotion-rollback.svg` where rollbacks were timed."""
    lines = [HEAD]
    for title, make in (
        ("Killed anywhere", _crash),
        ("Random sequences", _sequences),
        ("Under load", _load),
        ("Time to roll back", _rollback),
        ("False alarms", _alarms),
        ("Bad versions", _caught),
    ):
        lines += [f"## {title}", "", *make(known), ""]
    (docs / "promotion-report.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    times = [item for part in ("pairs", "model-pairs") if part in known for item in known[part]["figures"]["rollback_seconds"]]
    if times:
        _plot([item["total"] for item in times], docs / "promotion-rollback.svg")


def _where(part: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in part["versions"].items())
    return f"Measured {part['measured']} in {part['seconds']:.0f} s on {part['machine']}, shared with other work; {versions}."


def _crash(known: dict[str, Any]) -> Iterator[str]:
    part = known.get("crash")
    if part is None:
        yield "Not measured yet."
        return
    yield "The process is killed before and after every single call; after each kill one re-run ends with exactly one serving slot, and the"
    yield "invariants are looked at after every call."
    yield ""
    yield from (f"- {line}" for line in part["figures"]["lines"] if "crash points" in line)
    yield ""
    if pauses := [line for line in part["figures"]["lines"] if "pauses" in line]:
        yield "A promoter is paused before every single call until its lease has ended and somebody else has finished its work or turned it"
        yield "back; then it goes on, and must change nothing."
        yield ""
        yield from (f"- {line}" for line in pauses)
        yield ""
    yield f"{'All passed' if part['figures']['passed'] else '**Some failed**'}. {_where(part)}"
    yield from _kills(known)


def _kills(known: dict[str, Any]) -> Iterator[str]:
    for name, lines in (("kills", _AT_RANDOM), ("points", _AT_POINTS)):
        if (part := known.get(name)) is not None and (runs := _runs(part)):
            met = sum((Counter(run["met"]) for run in runs), Counter[str]())
            yield ""
            yield from lines
            yield ""
            survived, kills = (sum(run[key] for run in runs) for key in ("survived", "kills"))
            reached = f", {sum(run['reached'] for run in runs)} at their point" if name == "points" else ""
            yield f"- {survived} of {kills} recovered{reached} (seeds {', '.join(str(run['seed']) for run in runs)})"
            yield from (f"- {title}: {_counted(met, word)}" for title, word in _MET)
            yield f"- requests: {_summed(runs, 'requests')}, lost {_summed(runs, 'lost')}, truncated {_summed(runs, 'truncated')}"
            yield from (f"- **not recovered**: {problem}" for run in runs for problem in run["problems"])
            yield from (f"  - {missed}" for run in runs for missed in run.get("missed", ()))
            yield ""
            yield _where(part)
    if (part := known.get("seconds")) is not None and (runs := _runs(part)):
        outcomes = sum((Counter(run["outcomes"]) for run in runs), Counter[str]())
        yield ""
        yield "A second promoter, started at random times after a first one:"
        yield ""
        yield from (f"- {what}: {count}" for what, count in sorted(outcomes.items()))
        yield f"- requests meanwhile: {_summed(runs, 'requests')}, lost {_summed(runs, 'lost')}, truncated {_summed(runs, 'truncated')}"
        yield from (f"- **wrong**: {problem}" for run in runs for problem in run["problems"])
        yield ""
        yield _where(part)


_AT_RANDOM = (
    "The commands themselves, killed at random times on a running machine under streaming load, some together with a part of it;",
    "then one `recover` must end with one slot that has all traffic and answers through the gateway. Requests that went through a",
    "killed gateway or slot are left out, as are a bad version's own faults; of all others none may be lost.",
)
_AT_POINTS = (
    "The same at points drawn by a seed, which can be repeated: the command stops itself before the n-th call of a phase, a part of the",
    "environment is killed there, and the command is killed (SIGKILL, SIGTERM, SIGINT) or goes on (SIGCONT). After `recover` gateway,",
    "cache and keeper must run again too.",
)
_MET = (("killed in", "phase"), ("by", "signal"), ("command", "command"), ("together", "with"))


def _counted(met: Counter[str], word: str) -> str:
    return ", ".join(f"{name.removeprefix(word + ' ')} {count}" for name, count in sorted(met.items()) if name.startswith(f"{word} "))


def _runs(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs that were kept beside each other."""
    return list(part["figures"].get("runs", ()))


def _summed(runs: list[dict[str, Any]], key: str) -> int:
    return sum(run["load"][key] for run in runs)


def _sequences(known: dict[str, Any]) -> Iterator[str]:
    part = known.get("sequences")
    if part is None:
        yield "Not measured yet."
        return
    figures = part["figures"]
    found = "no invariant was broken" if figures["passed"] else "**an invariant was broken**"
    yield f"{figures['sequences']} random sequences of promotions, rollbacks, kills, API errors, conflicts, lost pods, scaler writes,"
    yield f"clock jumps, operator edits and second promoters: {found}. {_where(part)}"


def _load(known: dict[str, Any]) -> Iterator[str]:
    rows = [("blue-green promotion", part, known[part]["figures"]) for part in ("pairs", "model-pairs") if part in known]
    if not rows and "naive" not in known:
        yield "Not measured yet."
        return
    yield "Clients: streams and short answers, each over kept and over new connections. Lost: no answer or 5xx; truncated: a stream without"
    yield "its end; wrong: answered by the other slot after all traffic was proven to be on one."
    yield ""
    yield "| switch | engine | switches | requests | answered/s | lost | truncated | wrong |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, _, figures in rows:
        count = f"{figures['promotions']} promotions, {figures['rollbacks']} rollbacks"
        yield _row(name, count, figures, str(figures["load"]["wrong"]))
    for figures in known.get("naive", {"figures": []})["figures"]:
        name = "naive: start, wait until ready, switch, stop" if figures["waits_until_ready"] else "naive: start, switch, stop"
        yield _row(name, f"{figures['switches']} switches", figures, "–")
    yield ""
    for part in ("pairs", "model-pairs", "naive"):
        if part in known:
            yield f"{part}: {_where(known[part])}"
    for name, part, figures in rows:
        yield ""
        yield f"By class of clients ({part}, {name}):"
        yield ""
        yield "| clients | requests | lost | truncated |"
        yield "|---|---|---|---|"
        for kind, counts in sorted(figures["load"]["kinds"].items()):
            yield f"| {kind} | {counts['requests']} | {counts['lost']} | {counts['truncated']} |"


def _row(name: str, count: str, figures: dict[str, Any], wrong: str) -> str:
    load = figures["load"]
    cells = [name, figures["model"], count, load["requests"], f"{figures['rate']:.1f}", load["lost"], load["truncated"], wrong]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _rollback(known: dict[str, Any]) -> Iterator[str]:
    parts = [part for part in ("pairs", "model-pairs") if part in known and known[part]["figures"]["rollback_seconds"]]
    if not parts:
        yield "Not measured yet."
        return
    yield "From the command to all traffic proven back on the warm slot, seconds. Decide: lease, a look, the slot verified by a generation;"
    yield "switch: until Envoy serves the weights; settle: 20 answers in a row from the slot."
    yield ""
    yield "| engine | rollbacks | | decide | switch | settle | total |"
    yield "|---|---|---|---|---|---|---|"
    for part in parts:
        figures = known[part]["figures"]
        times = figures["rollback_seconds"]
        for label, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            cells = " | ".join(f"{_at([item[key] for item in times], q):.2f}" for key in ("decide", "switch", "settle", "total"))
            yield f"| {figures['model']} | {len(times)} | {label} | {cells} |"
    yield ""
    yield "![Seconds to roll back](promotion-rollback.svg)"
    caught = [item for part in ("caught", "model-caught") if part in known for item in known[part]["figures"]]
    live = [item for item in caught if item["exposed_seconds"] and item["outcome"] == "reverted"]
    if live:
        yield ""
        yield "Detect: versions whose fault only live traffic shows, from their first weight to the weights being sent back."
        yield ""
        yield from (f"- {item['fault']}: {item['exposed_seconds']:.1f} s ({_way(item)})" for item in live)


def _alarms(known: dict[str, Any]) -> Iterator[str]:
    if not any(part in known for part in ("pairs", "model-pairs", "alarms", "model-alarms")):
        yield "Not measured yet."
        return
    yield "Promotions of an unchanged version under load that were reverted all the same. Suspected: worse in one window, not in the next."
    yield "The version of the gates is a hash of the code that judges; what other gates judged is told apart."
    yield ""
    for part in ("alarms", "model-alarms"):
        versions: dict[str, list[dict[str, Any]]] = {}
        for run in known.get(part, {"figures": {}})["figures"].get("runs", ()):
            versions.setdefault(run["gates"], []).append(run)
        for version, runs in reversed(versions.items()):
            model, reverted = runs[0]["model"], [reason for run in runs for reason in run["reverted"]]
            done, suspected = (sum(run[key] for run in runs) for key in ("promotions", "suspected"))
            days = " to ".join(sorted({runs[0]["measured"], runs[-1]["measured"]}))
            judged = f"gates {version}" if version else "earlier gates"
            yield (
                f"- {model}, {judged}: {len(reverted)} of {done} promotions, {suspected} suspected "
                f"({len(runs)} runs, {days}; {_summed(runs, 'requests')} requests, {_summed(runs, 'lost')} lost)"
            )
            yield from (f"  - {reason}" for reason in reverted)
    for part in ("pairs", "model-pairs"):
        if part in known:
            figures = known[part]["figures"]
            yield (
                f"- {figures['model']}, beside rollbacks ({part}, {known[part]['measured']}): {len(figures['reverted'])} of "
                f"{figures['promotions'] + figures['rollbacks']} promotions and rollbacks"
            )
            yield from (f"  - {reason}" for reason in figures["reverted"])
    for part in ("alarms", "model-alarms"):
        if part in known:
            yield ""
            yield f"{part}: {_where(known[part])}"
    yield from _resampled(known)


def _resampled(known: dict[str, Any]) -> Iterator[str]:
    parts = [part for part in ("rounds", "model-rounds") if part in known]
    if not parts:
        return
    yield ""
    yield "How often the comparison before the switch suspects a version, and the second, longer one confirms it: rounds of an unchanged"
    yield "one recorded under load, drawn again in blocks, the new slot's times multiplied. Both (independent here) turn a version back."
    yield ""
    yield "| engine | rounds recorded | checks simulated | times as slow | suspected | confirmed | both | rounds |"
    yield "|---|---|---|---|---|---|---|---|"
    for part in parts:
        figures = known[part]["figures"]
        for row in figures["by_factor"]:
            again = row.get("confirmed", row["suspected"])  # a comparison that was like the first one
            shares = f"{row['suspected']:.2%} | {again:.2%} | {row['twice']:.3%} | {row['rounds']:.1f}"
            yield f"| {figures['model']} | {figures['rounds']} | {figures['checks']} | {row['factor']:g} | {shares} |"
    for part in parts:
        yield ""
        yield f"{part}: {_where(known[part])}"


def _way(item: dict[str, Any]) -> str:
    """How it was promoted; of steps and window only where they were noted."""
    noted = f" {', '.join(map(str, item['steps']))} %, windows of {item['window_seconds']:g} s" if "steps" in item else ""
    return f"{item['strategy']}{noted}"


def _caught(known: dict[str, Any]) -> Iterator[str]:
    parts = [part for part in ("caught", "model-caught") if part in known]
    if not parts:
        yield "Not measured yet."
        return
    yield "Each promoted once under load. Met: requests of clients that the bad version answered, of all that were sent meanwhile."
    yield ""
    yield "| version | engine | outcome | met | of | share | why |"
    yield "|---|---|---|---|---|---|---|"
    for part in parts:
        engine = "model" if part.startswith("model") else "light"
        for item in known[part]["figures"]:
            why = item["reason"].replace("|", "/")
            share = "–" if item["share"] is None else f"{item['share']:.2%}"
            cells = [f"{item['fault']} ({_way(item)})", engine, item["outcome"], item["met"], item["requests"], share, why]
            yield f"| {' | '.join(str(cell) for cell in cells)} |"
    yield ""
    for part in parts:
        yield f"{part}: {_where(known[part])}"


def _at(values: Sequence[float], q: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * q) - 1)]


def _plot(seconds: list[float], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "inferstack"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 2.6))
    ordered = sorted(seconds)
    axes.step(ordered, [100 * (index + 1) / len(ordered) for index in range(len(ordered))], where="post")
    axes.axvline(2.0, linestyle="--", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"seconds from the decision to all traffic back ({len(ordered)} rollbacks; dashed: 2 s)")
    axes.set_ylabel("% of rollbacks")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
