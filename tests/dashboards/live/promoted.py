"""A canary in real time: the real executor, journal and keeper over a simulated platform whose weights the load follows."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from inferstack.environment import SlotName
from inferstack.platforms.keeper import serve
from inferstack.promotion import commands
from tests.components.promotion.world import Process, World, policy, version

ENVIRONMENT = "live"
STEPS = (25, 50, 100)


_TURN = threading.RLock()
"""Promoter and keeper look at one world from two threads."""


class _Paced(Process):
    """Sleeps as long as it says, and so does its world."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        with _TURN:
            super().sleep(seconds)

    def _call(self, name: str, work: Callable[[], Any]) -> Any:
        with _TURN:
            return super()._call(name, work)


class Promotion:
    """`address`: host and port of the keeper's metrics. Nothing moves before `begin`."""

    def __init__(self, seconds: float) -> None:
        self._world = World(replicas=1, delay=0.0)
        self._world.environment, self._world.time = ENVIRONMENT, time.time()
        self._step_seconds = seconds / 6
        self._ended: commands.Ended | None = None
        self._thread = threading.Thread(target=self._promote, daemon=True)
        server = serve(_Paced(self._world, "keeper@host:2").session(), "127.0.0.1", 0)
        self._server, self.address = server, f"127.0.0.1:{server.server_address[1]}"

    def begin(self) -> None:
        """Start to promote, in a thread."""
        self._thread.start()

    def green(self) -> float:
        """Share of the traffic that is green's, 0 to 1."""
        return self._world.effective().of(SlotName.GREEN) / 100

    def end(self) -> commands.Ended:
        """How the promotion ended; waits for it."""
        self._thread.join()
        assert self._ended
        return self._ended

    def _promote(self) -> None:
        session = _Paced(self._world).session()
        wanted = policy(strategy="canary", steps=STEPS, step_seconds=self._step_seconds, floor=1, rollback_window_seconds=3600)
        self._ended = commands.promote(session, lambda spec: version("int8"), wanted)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Answer scrapes until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
