"""Profiles of this process over a bounded time: stacks by sampling, allocations by line, operators of torch.

Each function blocks for at most `seconds`, ends early when `stop` is set, and returns rows, the most expensive first. Nothing of a
request is in them: names of functions, files, lines and operators only.
"""

import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Event
from types import FrameType
from typing import Literal

Kind = Literal["cpu", "memory", "torch"]
Row = dict[str, str | int | float]

MOST_SECONDS = 30
MOST_ROWS = 500
_SAMPLE_SECONDS = 0.01
_DEEPEST = 80
_HERE = __name__.partition(".")[0]


class Unavailable(Exception):
    """This process has no such profile; the message says why."""


def profile(kind: Kind, seconds: float, stop: Event) -> list[Row]:
    """The rows of one profile. Raises Unavailable."""
    return _PROFILES[kind](min(seconds, MOST_SECONDS), stop)[:MOST_ROWS]


def _cpu(seconds: float, stop: Event) -> list[Row]:
    """Samples by stack, `thread;outermost;…;innermost` as flame graphs read them. Waiting counts too: it is the clock's time."""
    counts: Counter[str] = Counter()
    end, own = time.monotonic() + seconds, threading.get_ident()
    while time.monotonic() < end and not stop.wait(_SAMPLE_SECONDS):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                counts[";".join((names.get(ident, "unnamed"), *_stack(frame)))] += 1
    return [{"stack": stack, "samples": count} for stack, count in counts.most_common()]


def _stack(frame: FrameType | None) -> Iterator[str]:
    """Functions from the outermost to the innermost, the outer ones of a very deep stack left out."""
    found: list[str] = []
    while frame is not None and len(found) < _DEEPEST:
        code = frame.f_code
        found.append(f"{code.co_qualname} ({_short(code.co_filename)}:{frame.f_lineno})")
        frame = frame.f_back
    return reversed(found)


def _memory(seconds: float, stop: Event) -> list[Row]:
    """Bytes allocated during the profile and still held at its end, by line. Slows the process while it runs."""
    if tracemalloc.is_tracing():
        raise Unavailable("Allocations are traced already (PYTHONTRACEMALLOC).")
    tracemalloc.start(1)
    try:
        stop.wait(seconds)
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    lines = snapshot.filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)]).statistics("lineno")
    return [
        {"stack": f"{_short(line.traceback[0].filename)}:{line.traceback[0].lineno}", "bytes": line.size, "blocks": line.count}
        for line in lines
    ]


def _torch(seconds: float, stop: Event) -> list[Row]:
    """Operators of all threads with their own time on CPU and device, seconds."""
    if "torch" not in sys.modules:
        raise Unavailable("This process does not compute with torch.")
    import torch
    from torch.profiler import ProfilerActivity, _ExperimentalConfig
    from torch.profiler import profile as record

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with record(activities=activities, experimental_config=_ExperimentalConfig(profile_all_threads=True)) as recorded:
        stop.wait(seconds)
    rows: list[Row] = [
        {
            "stack": event.key,
            "calls": event.count,
            "cpu_seconds": event.self_cpu_time_total / 1e6,
            "device_seconds": event.self_device_time_total / 1e6,
        }
        for event in recorded.key_averages()
    ]
    return sorted(rows, key=lambda row: -float(row["cpu_seconds"]) - float(row["device_seconds"]))


def _short(file: str) -> str:
    """The path from this package, or from the folder of packages, on."""
    for mark in (f"/{_HERE}/", "/site-packages/"):
        _, found, rest = file.rpartition(mark)
        if found:
            return rest if mark == "/site-packages/" else f"{_HERE}/{rest}"
    return file.rpartition("/")[2]


_PROFILES: dict[Kind, Callable[[float, Event], list[Row]]] = {"cpu": _cpu, "memory": _memory, "torch": _torch}
