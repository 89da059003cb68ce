"""The processes of a local environment: started detached, recorded before they run, ended only when they are the ones recorded.

A record is written first, with a fresh token and no process id. The launcher puts its own id and start time into it and then
becomes the part. So at every moment a record names at most one process, and a process without a record is never started.
The token is also in the part's environment (`INFERSTACK_PART`), by which children that outlive it are found.
"""

import contextlib
import errno
import fcntl
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inferstack.local import launch
from inferstack.local.errors import LocalError
from inferstack.local.layout import Layout, read_json, write_json

TOKEN_VARIABLE = "INFERSTACK_PART"  # noqa: S105 - a name, not a secret
LAUNCH_SECONDS = 10.0
LARGE_LOG_BYTES = 16 * 2**20
_POLL_SECONDS = 0.02
_ENVIRONMENT_LOOKS = 5


@dataclass(frozen=True)
class Part:
    """One recorded process. `pid` and `identity` are None until the launcher has written them."""

    name: str
    token: str
    command: tuple[str, ...]
    pid: int | None = None
    identity: str | None = None

    @property
    def alive(self) -> bool:
        """Whether this very process runs; a later one with the same id does not count."""
        if self.pid is None or self.identity is None:
            return False
        _reap(self.pid)
        return launch.identity(self.pid) == self.identity


def read_parts(layout: Layout) -> dict[str, Part]:
    """All records, by name of the part."""
    parts = (_read(path) for path in sorted(layout.parts.glob("*.json")))
    return {part.name: part for part in parts if part is not None}


def read_part(layout: Layout, name: str) -> Part | None:
    return _read(_record(layout, name))


def start_part(layout: Layout, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Part:
    """Start `command` (an absolute program path first) in an own session with its output in the part's log.

    Raises LocalError when the program does not exist or the launcher does not come up.
    """
    if not os.access(command[0], os.X_OK):
        raise LocalError("missing_program", f"{command[0]} is not an executable file", path=command[0])
    running = read_part(layout, name)
    if running is not None and running.alive:
        return running
    part = Part(name, uuid.uuid4().hex, tuple(command))
    record = _record(layout, name)
    with _record_lock(record):
        write_json(record, {"name": name, "token": part.token, "command": list(command), "pid": None, "identity": None})
    _rotate(layout.log(name))
    with layout.log(name).open("ab") as log:
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", launch.__file__, str(record), part.token, *command],
            {**(os.environ if environment is None else environment), TOKEN_VARIABLE: part.token},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
            ],
        )
    deadline = time.monotonic() + LAUNCH_SECONDS
    while time.monotonic() < deadline:
        started = _read(record)
        if started is not None and started.token == part.token and started.pid is not None:
            return started
        if _reap(child):
            raise LocalError("part_failed", f"{name} did not start:\n{last_lines(layout, name)}", path=str(layout.log(name)))
        time.sleep(_POLL_SECONDS)
    raise LocalError("part_failed", f"{name} did not start within {LAUNCH_SECONDS:.0f} s", path=str(layout.log(name)))


def stop_part(layout: Layout, name: str, grace_seconds: float) -> bool:
    """End the part: SIGTERM, after `grace_seconds` SIGKILL, then what it left behind. True when something was running."""
    record = _record(layout, name)
    with _record_lock(record):  # from here on a launcher that was under way finds no record and gives up
        part = _read(record)
        if part is None:
            return False
        if part.pid is None:
            record.unlink(missing_ok=True)
    was_running = False
    if part.alive:
        was_running = True
        _signal(part, signal.SIGTERM)
        if not _wait_gone(part, grace_seconds):
            _signal(part, signal.SIGKILL)
            if not _wait_gone(part, 10):
                raise LocalError(
                    "cannot_stop", f"{name} (process {part.pid}) does not end", next_step=f"end it by hand: kill -9 {part.pid}"
                )
    for pid in _carriers(part.token):
        was_running = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with _record_lock(record):
        current = _read(record)
        if current is not None and current.token == part.token:
            record.unlink(missing_ok=True)
    return was_running


def last_lines(layout: Layout, name: str, count: int = 8) -> str:
    """The end of the part's log, indented."""
    try:
        with layout.log(name).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError as error:
        lines = [f"(its log cannot be read: {error})"]
    return "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"


def _rotate(log: Path) -> None:
    """Set a log that has grown large aside before a start; the one set aside before it goes."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LARGE_LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))


def _reap(pid: int) -> bool:
    """Collect the exit of a child of this very process, so that it is not taken for running; True when there was one to collect."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _record(layout: Layout, name: str) -> Path:
    return layout.parts / f"{name}.json"


def _read(record: Path) -> Part | None:
    data = read_json(record)
    if data is None:
        return None
    return Part(data["name"], data["token"], tuple(data["command"]), data["pid"], data["identity"])


@contextlib.contextmanager
def _record_lock(record: Path) -> Iterator[None]:
    record.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{record}.lock").open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _signal(part: Part, number: signal.Signals) -> None:
    """Send to the recorded process only: the descriptor pins it between the look at its identity and the signal."""
    assert part.pid is not None
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if part.alive:
                os.kill(part.pid, number)
            return
        try:
            descriptor = os.pidfd_open(part.pid)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            if part.alive:
                os.kill(part.pid, number)
            return
        try:
            if part.alive:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _wait_gone(part: Part, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while part.alive:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _carriers(token: str) -> list[int]:
    """Processes whose environment holds the token: the part's children. Needs /proc; elsewhere none are found.

    A process that is just becoming another program shows no environment for a moment, so an empty one is looked at again.
    """
    needle = f"{TOKEN_VARIABLE}={token}".encode()
    found: set[int] = set()
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if int(folder.name) != os.getpid()]
    for _ in range(_ENVIRONMENT_LOOKS):
        unknown = []
        for pid in pids:
            with contextlib.suppress(OSError):
                held = Path(f"/proc/{pid}/environ").read_bytes()
                if needle in held.split(b"\0"):
                    found.add(pid)
                elif not held and Path(f"/proc/{pid}/exe").readlink():  # kernel threads and zombies have no program
                    unknown.append(pid)
        if not unknown:
            break
        pids = unknown
        time.sleep(_POLL_SECONDS)
    return sorted(found)
