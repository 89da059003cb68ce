"""What a local environment is doing, in the form that `status --json` prints."""

from pathlib import Path
from typing import Any

from inferstack.environment import SlotName
from inferstack.local.layout import Layout, read_json
from inferstack.local.machine import LocalMachine
from inferstack.local.parts import read_parts
from inferstack.promotion.filestore import FileStore
from inferstack.promotion.journal import Journal, JournalUnreadable
from inferstack.promotion.platform import PlatformError


def status(root: Path, name: str) -> dict[str, Any]:
    """The contract's keys, `running`, `url`, `parts` and `problems`; for an environment that is down too. Raises InvalidEnvironment."""
    layout = Layout(root, name)
    state = read_json(layout.state)
    if state is None or not layout.routes.is_file():
        return _never_up(name)
    machine = LocalMachine.at(root, name)
    weights = machine.weights()
    active = max(SlotName, key=lambda slot: weights[slot])
    journal, problems = _journal(layout)
    slots = {str(slot): _slot(machine, slot) for slot in SlotName}
    parts = {part.name: {"pid": part.pid, "alive": part.alive, "log": str(layout.log(part.name))} for part in read_parts(layout).values()}
    running = state["desired"] == "up" and bool(parts) and all(part["alive"] for part in parts.values())
    return {
        "environment": name,
        "running": running,
        "url": machine.gateway_url,
        "active_slot": str(active),
        "previous_slot": journal.previous if journal is not None else None,
        "phase": "unknown" if problems else journal.phase if journal is not None else "idle" if state["desired"] == "up" else "down",
        "generation": machine.slot_config(active)["identity"]["generation"],
        "weights": weights,
        "slots": slots,
        "parts": parts,
        "problems": problems,
    }


def _journal(layout: Layout) -> tuple[Journal | None, list[str]]:
    """The promotion journal, and why it cannot be read: what runs is told all the same."""
    try:
        return FileStore(layout.directory, layout.name).read_journal()[0], []
    except (JournalUnreadable, PlatformError) as error:
        return None, [str(error)]


def _slot(machine: LocalMachine, slot: SlotName) -> dict[str, Any]:
    state = machine.slot(slot)
    model = state.config["models"][0]
    return {
        "ready": state.ready,
        "replicas": int(state.alive),
        "model": model["name"],
        "quantization": model["quantization"],
        "model_digest": state.model_digest,
        "url": state.url,
        "healthy": state.ready and machine.healthy(slot),
        "generation": state.generation,
        "in_flight": state.in_flight,
        "reason": state.reason,
    }


def _never_up(name: str) -> dict[str, Any]:
    empty = {"ready": False, "replicas": 0, "model": None, "quantization": None, "model_digest": None, "url": None, "healthy": False}
    return {
        "environment": name,
        "running": False,
        "url": None,
        "active_slot": None,
        "previous_slot": None,
        "phase": "down",
        "generation": 0,
        "weights": {str(slot): 0 for slot in SlotName},
        "slots": {str(slot): dict(empty) for slot in SlotName},
        "parts": {},
        "problems": [],
    }
