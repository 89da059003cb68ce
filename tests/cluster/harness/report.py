"""docs/cluster-report.md: figures of the machine and the environment on it, measured now."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from machine import lifecycle, pins, processes, runtime_image
from machine.layout import Machine, cache_folder, default_folder, project_root

from harness import measure, slots


def write(target: Path, *, cold: bool) -> None:
    """Start a machine anew, measure, end it, and write ``target``. With ``cold`` the programs are also built with empty caches."""
    lines = [
        "# A real Kubernetes on one machine: measured",
        "",
        "Written by `scripts/cluster report" + (" --cold" if cold else "") + "`; every figure is from that one run.",
        "",
        *_conditions(),
        "",
    ]
    built = measure.cold_build_seconds() if cold else None
    lifecycle.down()
    archive = runtime_image.archive(project_root(), cache_folder(), print)
    started = time.monotonic()
    machine = lifecycle.up("pods")
    up = time.monotonic() - started
    try:
        lifecycle.import_image(machine, archive)
        deployed = slots.deploy(machine)
        lines += _start(built, up, archive, deployed.seconds)
        lines += _table("Pods and weights", _pods_and_weights(deployed))
        lines += [f"Load average before the promotions: {os.getloadavg()[0]:.1f}.", ""]
        lines += _table("Promotion under streaming load", _promotion(deployed))
        lines += _table("Memory with both slots ready", _memory(machine))
    finally:
        started = time.monotonic()
        lifecycle.down(default_folder())
    lines += [f"`scripts/cluster down` took {time.monotonic() - started:.1f} s."]
    target.write_text("\n".join(lines) + "\n")


def _conditions() -> list[str]:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {os.cpu_count()} cores ({model or platform.machine()}), {memory:.0f} GiB; "
        f"load average at the start {load:.1f}; Kubernetes {pins.kubernetes_version()}, one node, real pods.",
        "Replicas are those of `stacks/Pulumi.cluster.yaml`: one compute thread each. Load: 3 clients, each with one streamed answer of 12 "
        "tokens after another on a kept connection. *Lost* counts requests without an answer and streams without their end.",
    ]


def _start(built: dict[str, float] | None, up: float, archive: Path, deploy: float) -> list[str]:
    rows = []
    if built:
        rows.append(
            (
                "Cold: programs built with empty caches of Go, then `up`, to a ready node",
                f"{(sum(built.values()) + up) / 60:.1f} min",
                "≤ 15 min",
            )
        )
        rows += [(f"— {name}", f"{seconds:.0f} s", "") for name, seconds in built.items()]
    else:
        rows.append(("Cold: programs built with empty caches of Go, then `up`", "not measured in this run (`--cold`)", "≤ 15 min"))
    rows += [
        ("`scripts/cluster up`, programs built, to a ready node", f"{up:.1f} s", "≤ 90 s"),
        ("Environment applied, to two ready slots", f"{deploy:.1f} s", ""),
        ("Size of the runtime's image with its model", f"{archive.stat().st_size / 1e6:.0f} MB", ""),
    ]
    return _table("Start", rows)


def _pods_and_weights(deployed: slots.Deployed) -> list[tuple[str, str, str]]:
    pods = measure.pod_seconds(deployed)
    changes = measure.weight_changes(deployed)
    return [
        ("Pod created to ready endpoint, image on the node, warm page cache", _spread(pods), ""),
        ("Weights written to first answer of the new slot", _spread([max(0.0, one.first_new) for one in changes]), ""),
        ("Weights written to last answer of the old slot", _spread([max(0.0, one.last_old) for one in changes]), ""),
        ("Lost during these changes", f"{sum(one.failures for one in changes)} of {sum(one.requests for one in changes)}", "0"),
    ]


def _promotion(deployed: slots.Deployed) -> list[tuple[str, str, str]]:
    deployed.reset()
    there = measure.moved(deployed, "blue", "promote", "--set", "slot.context=768", "--yes")
    back = measure.moved(deployed, "green", "rollback")
    return [
        ("`promote` to its end", f"{there.command_seconds:.1f} s", ""),
        ("`promote` to all traffic on the new slot", f"{there.traffic_seconds:.1f} s", ""),
        ("Lost meanwhile", f"{there.lost} of {there.requests}", "0"),
        ("`rollback` to its end", f"{back.command_seconds:.1f} s", ""),
        ("`rollback` to all traffic on the previous slot", f"{back.traffic_seconds:.1f} s", ""),
        ("Lost meanwhile", f"{back.lost} of {back.requests}", "0"),
    ]


def _memory(machine: Machine) -> list[tuple[str, str, str]]:
    parts = {running.name: processes.memory_bytes(running) / 2**20 for running in processes.remembered(machine.folder) if running.alive}
    parts["pods of both slots, with their shims"] = parts.pop("enclosure", 0.0)
    return [*((name, f"{size:.0f} MiB", "") for name, size in sorted(parts.items())), ("together", f"{sum(parts.values()):.0f} MiB", "")]


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.2f} s, most {max(values):.2f} s (of {len(values)})"


def _table(title: str, rows: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"## {title}", "", "| what | measured | aim |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows), ""]
