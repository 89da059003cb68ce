"""Started between `up` and a part: records its own process id, then becomes the part.

    python -I -S launch.py RECORD TOKEN COMMAND...

The id is on disk before the part runs its first instruction, so a `down` finds it whenever `up` was killed. When the
record no longer carries TOKEN (a `down` came between), nothing is started. Uses the standard library only and nothing
of this package, because it runs before any of it is imported.
"""

# ruff: noqa: PTH105, PTH110, PTH120, PTH123, PTH208
# (pathlib would be most of the start time of so small a program)

import contextlib
import fcntl
import json
import os
import subprocess
import sys

ABANDONED = 75


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same id: boot and start time. None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except ProcessLookupError:
        return None
    else:
        return None if fields[0] in (b"Z", b"X") else f"{boot}/{fields[19].decode()}"
    answer = subprocess.run(["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = answer.stdout.strip().partition(" ")
    return started.strip() if started and not state.startswith("Z") else None


def main(arguments: list[str]) -> None:
    record, token, *command = arguments
    os.setsid()  # an own session: no terminal, and Ctrl-C in one does not reach it
    os.chdir(os.path.dirname(os.path.dirname(record)))  # the environment's folder
    for name in os.listdir("/dev/fd"):  # whatever the caller of `up` left open, a held lock for instance
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))
    with open(f"{record}.lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(record, encoding="utf-8") as file:
                data = json.load(file)
        except FileNotFoundError:
            sys.exit(ABANDONED)
        if data["token"] != token:
            sys.exit(ABANDONED)
        data["pid"], data["identity"] = os.getpid(), identity(os.getpid())
        with open(f"{record}.new", "w", encoding="utf-8") as file:
            json.dump(data, file)
        os.replace(f"{record}.new", record)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
