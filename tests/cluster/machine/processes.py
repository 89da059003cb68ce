"""Long-running programs of a machine: started detached, remembered by pid and start time, ended without fail.

A pid alone may have been given to somebody else since; together with its start time it is the process that was started.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Running:
    """One program that was started. ``argv`` and ``environment`` are what it is started with again."""

    name: str
    pid: int
    started: int
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    inside: tuple[str, ...]

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


def start(
    folder: Path,
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
    sockets: Sequence[int] = (),
) -> Running:
    """Start ``argv`` in a session of its own, its output in ``folder/log/NAME``.

    ``inside`` is a command prefix that enters namespaces; the program is then the child of the process that is remembered.
    ``sockets`` are file descriptors that the program inherits under the same numbers.
    """
    (folder / "log").mkdir(exist_ok=True)
    (folder / "processes").mkdir(exist_ok=True)
    more = dict(environment or {})
    for socket in sockets:
        os.set_inheritable(socket, True)
    pid = os.posix_spawnp(
        (inside or argv)[0],
        [*inside, *argv],
        os.environ | more,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(folder / "log" / name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    running = Running(name, pid, _start_time(pid) or 0, tuple(argv), tuple(more.items()), tuple(inside))
    record = running.__dict__ | {"argv": list(argv), "environment": more, "inside": list(inside)}
    (folder / "processes" / f"{name}.json").write_text(json.dumps(record))
    return running


def remembered(folder: Path) -> Iterator[Running]:
    """What was started in ``folder``, alive or not."""
    for path in sorted((folder / "processes").glob("*.json")):
        try:
            r = json.loads(path.read_text())
        except ValueError:  # killed between creating and writing the file
            continue
        yield Running(r["name"], r["pid"], r["started"], tuple(r["argv"]), tuple(r["environment"].items()), tuple(r["inside"]))


def named(folder: Path, name: str) -> Running:
    """The program ``name`` of ``folder``. Raises LookupError when it was never started."""
    for running in remembered(folder):
        if running.name == name:
            return running
    raise LookupError(f"{folder}: no program `{name}` was started; there are {', '.join(r.name for r in remembered(folder)) or 'none'}")


def end(running: Running, seconds: float = 5) -> None:
    """Kill ``running`` and its children at once (SIGKILL) and wait until they are gone."""
    family = _descendants(running.pid) if running.alive else []
    if running.alive and not running.inside:
        family.append(running.pid)  # otherwise it ends by itself, after it has taken leave of its child
    for pid in family:
        kill(pid)
    until = time.monotonic() + seconds
    while running.alive and time.monotonic() < until:
        _reap(running.pid)
        time.sleep(0.02)
    if running.alive:
        kill(running.pid)
    _reap(running.pid)


def with_this_one(command: Sequence[str]) -> list[str]:
    """``command`` so that it is killed when this process is: a helper that outlives a killed `up` would be left behind."""
    return ["setpriv", "--pdeathsig", "SIGKILL", *command] if shutil.which("setpriv") else list(command)


def again(folder: Path, name: str) -> Running:
    """Start the program ``name``, which has ended, with the command that it had."""
    old = named(folder, name)
    if old.alive:
        raise RuntimeError(f"{name} still runs (pid {old.pid})")
    return start(folder, name, old.argv, dict(old.environment), old.inside)


def memory_bytes(running: Running) -> int:
    """Resident memory of ``running`` and its children; without the process that only enters the namespaces."""
    pids = _descendants(running.pid) if running.inside else [running.pid, *_descendants(running.pid)]
    return sum(_resident(pid) for pid in pids)


def inner_pid(running: Running) -> int:
    """Pid, as seen from outside, of the program itself where ``running`` enters namespaces first. Raises LookupError when it has ended."""
    if not running.inside:
        return running.pid
    children = _descendants(running.pid)
    if not children:
        raise LookupError(f"{running.name} has ended")
    return children[0]


def of_command(program: Path, mentioning: str) -> list[int]:
    """Pids of processes that run the file ``program`` with an argument that contains ``mentioning``."""
    found = []
    for pid in _pids():
        try:
            running = Path(f"/proc/{pid}/exe").readlink()
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if running == program and any(mentioning in argument for argument in arguments[1:]):
            found.append(pid)
    return found


def beginning(folder: Path) -> list[int]:
    """Pids of the shells that make the namespaces of ``folder``: `up` may be killed before it remembers them."""
    lines = {pid: command_line(pid) for pid in _pids()}
    return [pid for pid, line in lines.items() if line.startswith((b"unshare\0", b"sh\0")) and f"{folder}/enclosed".encode() in line]


def of_pod(uid: str) -> list[int]:
    """Pids, as seen from outside, of the processes in a pod's control groups."""
    names = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    found = []
    for pid in _pids():
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if any(name in groups for name in names):
            found.append(pid)
    return found


def command_line(pid: int) -> bytes:
    """The arguments of a process, separated by NUL; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it has ended (a zombie has ended)."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for other in _pids():
        fields = _stat(other)
        if fields:
            children.setdefault(int(fields[1]), []).append(other)
    found, queue = [], sorted(children.get(pid, []))
    while queue:
        found.append(queue.pop(0))
        queue += sorted(children.get(found[-1], []))
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def kill(pid: int) -> None:
    """SIGKILL to a process that may have ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
