"""Work of other processes that takes longer than a lease lives: the lease is renewed meanwhile, and they are ended when it is lost."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from inferstack.promotion import lease
from inferstack.promotion.lease import LeaseLost
from inferstack.promotion.platform import PlatformError

TASKS = Path("/proc/self/task")
"""Linux lists here the threads of this process, and what each of them started."""


@contextlib.contextmanager
def under_lease(renew: Callable[[], object], seconds: float = lease.SECONDS / 3) -> Iterator[None]:
    """Call `renew` every `seconds` while what is inside runs.

    Once it raises LeaseLost, the processes that were started inside get a SIGINT (on which `pulumi` lets what it is at end, frees the
    stack's lock and stops), and LeaseLost is raised when the inside has ended, however that ended.
    """
    before, ended, lost = _children(), threading.Event(), list[LeaseLost]()

    def keep() -> None:
        while not ended.wait(seconds):
            try:
                renew()
            except LeaseLost as error:
                lost.append(error)
                for child in _children() - before:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGINT)
                return
            except PlatformError:
                continue  # tried again at the next turn; who writes next asks for the lease anyway

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        if not lost:
            raise
    finally:
        ended.set()
        thread.join()
    if lost:
        raise lost[0]


def _children() -> set[int]:
    """Processes that this one has started: by Linux' own list, elsewhere (macOS) by the program `ps` that POSIX names."""
    found: set[int] = set()
    if not TASKS.is_dir():
        with subprocess.Popen(["ps", "-A", "-o", "pid=", "-o", "ppid="], stdout=subprocess.PIPE, text=True) as ps:
            assert ps.stdout is not None
            pairs = [map(int, line.split()) for line in ps.stdout]
        return {pid for pid, parent in pairs if parent == os.getpid()} - {ps.pid}
    for file in TASKS.glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found.update(map(int, file.read_text().split()))
    return found
