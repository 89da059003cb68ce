"""docs/promotion-report.md and its plots, from measured figures alone: a part that was not measured is said to be missing."""

import math
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
    yield from (f"- {line}" for line in part["figures"]["lines"])
    yield ""
    yield f"{'All passed' if part['figures']['passed'] else '**Some failed**'}. {_where(part)}"
    if (kills := known.get("kills")) is not None:
        figures = kills["figures"]
        phases = ", ".join(f"{phase} {count}" for phase, count in figures["phases"].items())
        load = figures["load"]
        yield ""
        yield "The command itself, killed at random times on a running machine under load:"
        yield f"{figures['survived']} of {figures['kills']} times one `recover` ended with one live slot (killed in: {phases})."
        yield f"A second promoter met the first one's lease or journal {figures['second_refused']} times and stopped."
        yield f"Requests meanwhile: {load['requests']}, lost {load['lost']}, truncated {load['truncated']}."
        yield from (f"- **not recovered**: {problem}" for problem in figures["problems"])
        yield ""
        yield _where(kills)


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
    live = [item for part in ("caught", "model-caught") if part in known for item in known[part]["figures"] if item["exposed_seconds"]]
    if live:
        yield ""
        yield "Detect: versions whose fault only live traffic shows, from their first weight to the weights being sent back."
        yield ""
        yield from (f"- {item['fault']}: {item['exposed_seconds']:.1f} s at {item['strategy']}" for item in live)


def _alarms(known: dict[str, Any]) -> Iterator[str]:
    parts = [known[part]["figures"] for part in ("pairs", "model-pairs", "alarms", "model-alarms") if part in known]
    if not parts:
        yield "Not measured yet."
        return
    yield "Promotions of an unchanged version under load that were reverted all the same. Suspected: worse in one window, not in the next."
    yield ""
    for figures in parts:
        suspected = f", {figures['suspected']} suspected" if "suspected" in figures else ""
        count = figures["promotions"] + figures.get("rollbacks", 0)
        what = "promotions and rollbacks" if "rollbacks" in figures else "promotions"
        yield f"- {figures['model']}: {len(figures['reverted'])} of {count} {what}{suspected}"
        yield from (f"  - {reason}" for reason in figures["reverted"])
    for part in ("alarms", "model-alarms"):
        if part in known:
            yield ""
            yield f"{part}: {_where(known[part])}"


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
            cells = [f"{item['fault']} ({item['strategy']})", engine, item["outcome"], item["met"], item["requests"], share, why]
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
