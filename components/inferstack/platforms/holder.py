"""Who holds a lease: a person or pipeline, a machine, a process of it. Enough to see that a holder on this machine has died."""

import getpass
import os
import socket
from pathlib import Path


def holder_name() -> str:
    """This process, as the lease names it: `user@machine:pid:start`."""
    return f"{person()}@{socket.gethostname()}:{os.getpid()}:{_start(os.getpid())}"


def person() -> str:
    """Who promotes: the pipeline's actor where one is named, else the user of this process."""
    actor = os.environ.get("GITHUB_ACTOR")
    if actor:
        return f"{actor} (run {os.environ.get('GITHUB_RUN_ID', '?')})"
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def is_gone(holder: str) -> bool:
    """Whether the holder was a process of this machine that no longer exists. False whenever that cannot be told."""
    place, _, rest = holder.rpartition("@")[2].partition(":")
    pid, _, start = rest.partition(":")
    if place != socket.gethostname() or not pid.isdigit() or not start or start == "?":
        return False
    return _start(int(pid)) != start


def _start(pid: int) -> str:
    """What tells a process from a later one with the same id; `-` when there is none, `?` where that cannot be asked."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except FileNotFoundError:
        return "-" if Path("/proc/self/stat").exists() else "?"
    except OSError:
        return "-"
    return "-" if fields[0] in ("Z", "X") else f"{boot}.{fields[19]}"
