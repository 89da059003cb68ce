"""Which loopback ports an environment gets, and who holds one that is taken."""

import contextlib
import socket
from pathlib import Path

from inferstack.local.errors import LocalError


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True


def pick(previous: int | None, taken: set[int]) -> int:
    """`previous` while it is free, else a free port; not one of `taken`, to which the choice is added."""
    port = previous
    while port is None or port in taken or not is_free(port):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    taken.add(port)
    return port


def require(port: int, key: str) -> int:
    """`port` when it is free; raises LocalError that names its holder and the key that moves it."""
    if not is_free(port):
        raise LocalError(
            "port_taken",
            f"port {port} on 127.0.0.1 is taken{holder(port)}",
            path=key,
            next_step=f"end that process, or set another {key} in the environment file",
        )
    return port


def holder(port: int) -> str:
    """` by process N (name)` where /proc tells, else nothing."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            if any(str(entry.readlink()) in inodes for entry in (folder / "fd").iterdir()):
                return f" by process {folder.name} ({(folder / 'comm').read_text(encoding='utf-8').strip()})"
    return ""
