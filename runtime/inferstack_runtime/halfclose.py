"""Clients that end their sending side after the request and wait for the answer, told apart from clients that left.

Both look the same at first: the end of their data. The difference shows when something is sent to them: the system of a client that left
answers with a reset. Before an answer has begun that something is `100 Continue`, which every HTTP/1.1 client must pass over (RFC 9110,
15.2); once it has begun it is the answer's next part. On Linux the connection's state then says so without another write; elsewhere the
next write fails, so that a few more are made: no more than a client of Go takes (five informational answers).
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
CAN_TELL = hasattr(socket, "TCP_INFO")
_TCP_CLOSE = 7  # Linux: include/net/tcp_states.h
_LOOK_SECONDS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
_LAST_SECONDS = 0.25
_PROBE_SECONDS = (0.02, 0.2, 2.0)


class HalfClosed:
    """Watches a connection whose client sends no more, and has it end as soon as the client is known to be gone.

    `probe` sends `PROBE` where nothing of an answer was sent yet.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop, probe: Callable[[], None]) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._loop = loop
        self._probe = probe
        self._pauses: Iterator[float] = chain(_LOOK_SECONDS, repeat(_LAST_SECONDS)) if CAN_TELL else iter(_PROBE_SECONDS)
        self._timer = loop.call_later(next(self._pauses), self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if not CAN_TELL:
            self._probe()
        elif self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self._transport.abort()
            return
        if (pause := next(self._pauses, None)) is not None:
            self._timer = self._loop.call_later(pause, self._look)
