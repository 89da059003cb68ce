"""Take a local environment down: everything that was started for it and nothing else."""

from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path

from inferstack.environment import SlotName
from inferstack.local.layout import Layout, locked, read_json, write_json
from inferstack.local.machine import part_name
from inferstack.local.parts import read_parts, stop_part
from inferstack.local.progress import Report, phase

STOP_SECONDS = 5.0
DRAIN_MARGIN_SECONDS = 5.0


def down(root: Path, name: str, report: Report, *, drain_seconds: float | None = None) -> list[str]:
    """Stop every recorded part of environment `name` and return the names of those that ran.

    Slots go first and get up to `drain_seconds` (by default what their configuration says) to finish their streams, while the gateway
    still carries them. Needs no environment file: records alone say what runs. Weights, keys and logs stay.
    """
    layout = Layout(root, name)
    if not layout.directory.is_dir():
        return []
    with locked(layout):
        records = read_parts(layout)
        running = {key for key, part in records.items() if part.alive}  # before a part can read that the environment is down
        state = read_json(layout.state)
        if state is not None and state["desired"] != "down":
            write_json(layout.state, {**state, "desired": "down"})
        slots = [part for slot in SlotName if (part := part_name(slot)) in records]
        if slots:
            with phase("slots", report) as current, ThreadPoolExecutor(len(slots)) as pool:
                grace = {part: _drain(layout, part) if drain_seconds is None else drain_seconds for part in slots}
                running |= set(compress(slots, pool.map(lambda part: stop_part(layout, part, grace[part]), slots)))
                current.detail = ", ".join(slots)
        for part in (part for part in records if part not in slots):
            with phase(part, report):
                if stop_part(layout, part, STOP_SECONDS):
                    running.add(part)
        return [part for part in records if part in running]


def _drain(layout: Layout, part: str) -> float:
    config = read_json(layout.slot_config(part.removeprefix("slot-"))) or {}
    return float(config.get("drain", {}).get("seconds", 0)) + DRAIN_MARGIN_SECONDS
