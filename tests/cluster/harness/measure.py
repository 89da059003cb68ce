"""Measurements on the environment `cluster`: starts, weight changes, promotions. Each returns its raw figures."""

import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from machine import build, client

from harness import commands
from harness.load import Load
from harness.slots import Deployed


@dataclass(frozen=True)
class Change:
    """One change of weights, seconds after the API server had it: first answer of the new slot, last one of the old."""

    first_new: float
    last_old: float
    failures: int
    requests: int


@dataclass(frozen=True)
class Moved:
    """A promotion or rollback under load: the command's seconds, seconds until no answer came from the old slot, requests and losses."""

    command_seconds: float
    traffic_seconds: float
    requests: int
    lost: int


def cold_build_seconds() -> dict[str, float]:
    """Build every program for real pods with empty caches of Go, modules downloaded anew; seconds of each, and of the custom resources."""
    with tempfile.TemporaryDirectory(prefix="inferstack-cold-") as folder:
        before = {name: os.environ.get(name) for name in ("GOCACHE", "GOMODCACHE")}
        os.environ |= {"GOCACHE": f"{folder}/build", "GOMODCACHE": f"{folder}/modules"}
        try:
            seconds = dict(build.build_seconds(build.build("pods", Path(folder) / "programs", print)))
            started = time.monotonic()
            build.custom_resources()
            return seconds | {"custom resources": time.monotonic() - started}
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)  # Go writes its modules without the right to remove them


def pod_seconds(deployed: Deployed, times: int = 3) -> list[float]:
    """From `no replica` to a ready endpoint, in the idle slot, with the image on the node and weights in the page cache."""
    seconds = []
    for _ in range(times):
        deployed.kubectl("scale", "deployment/inferstack-green", "--replicas=0")
        client.wait("no pod", 90, lambda: not deployed.pods("green") and not deployed.ready_addresses("green"))
        deployed.kubectl("scale", "deployment/inferstack-green", "--replicas=1")
        started = time.monotonic()
        client.wait("ready endpoint", 240, lambda: len(deployed.ready_addresses("green")) == 1, every=0.05)
        seconds.append(time.monotonic() - started)
    deployed.wait_ready("green")
    return seconds


def weight_changes(deployed: Deployed, times: int = 10) -> list[Change]:
    """Move all weight back and forth; who answers is asked without pause, each time on a new connection."""
    changes = []
    for number in range(times):
        new = "green" if number % 2 == 0 else "blue"
        seen: list[tuple[float, str]] = []
        stop = threading.Event()
        asking = threading.Thread(target=_ask_until, args=(deployed.url, stop, seen))
        asking.start()
        time.sleep(0.5)
        changed = deployed.set_weights(*((0, 100) if new == "green" else (100, 0)))
        time.sleep(2)
        stop.set()
        asking.join()
        of_new = [at - changed for at, slot in seen if slot == new]
        of_old = [at - changed for at, slot in seen if slot not in ("", new)]
        changes.append(Change(min(of_new), max(of_old), sum(slot == "" for _, slot in seen), len(seen)))
    return changes


def moved(deployed: Deployed, old: str, *words: str) -> Moved:
    """Run one promotion command of `inferstack` under streaming load and see when the last answer of ``old`` was sent for."""
    with Load(deployed.url) as load:
        load.wait_for(10)
        started = time.time()
        done = commands.run(deployed.machine, *words)
        ended = time.time()
        if done.returncode:
            raise RuntimeError(f"inferstack {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        load.wait_for(10)
    last = max((one.sent for one in load.answers if one.slot == old), default=started)
    return Moved(ended - started, last - started, len(load.answers), len(load.lost))


def _ask_until(url: str, stop: threading.Event, seen: list[tuple[float, str]]) -> None:
    while not stop.is_set():
        sent = time.time()
        try:
            slot = httpx.get(f"{url}/readyz", timeout=5).headers.get("x-inferstack-slot", "")
        except httpx.HTTPError:
            slot = ""
        seen.append((sent, slot))
