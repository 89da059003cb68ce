"""What a figure was measured on."""

import os
import platform
from pathlib import Path

_TELLING = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "asimddp", "i8mm")
"""Flags of /proc/cpuinfo that decide which kernels run."""


def describe() -> dict[str, object]:
    """CPU model, instruction sets, kernels where named, cores that this process may use, memory in bytes, load averages and system."""
    lines = _lines(Path("/proc/cpuinfo"))
    flags = set((lines.get("flags") or lines.get("Features") or "").split())
    memory = _lines(Path("/proc/meminfo")).get("MemTotal", "0").split()[0]
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "instruction_sets": [flag for flag in _TELLING if flag in flags],
        "kernels": os.environ.get("INFERSTACK_KERNELS"),
        "cores": cores(),
        "memory_bytes": int(memory) * 1024,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children; 0 when it is gone."""
    total = 0
    for process in [pid, *_children(pid)]:
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total


def mapped_bytes(pid: int, endings: tuple[str, ...]) -> int:
    """Resident memory of a process and its children that is mapped from files with these endings."""
    total = 0
    for process in [pid, *_children(pid)]:
        try:
            lines = Path(f"/proc/{process}/smaps").read_text().splitlines()
        except OSError:
            continue
        counts = False
        for line in lines:
            head, _, value = line.partition(" ")
            if not head.endswith(":"):  # a mapping: addresses, rights, offset, device, inode, path
                counts = line.endswith(endings)
            elif head == "Rss:" and counts:
                total += int(value.split()[0]) * 1024
    return total


def _children(pid: int) -> list[int]:
    try:
        direct = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []
    return [found for child in direct for found in (child, *_children(child))]


def _lines(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    result: dict[str, str] = {}
    for name, _, value in pairs:
        result.setdefault(name.strip(), value.strip())
    return result
