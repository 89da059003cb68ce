"""Clients that end their sending side after the request and wait for the answer, told apart from clients that left.

Both look the same at first: the end of their data. The difference shows when something is sent to them: the system of a client that left
answers with a reset, and the connection's state says so without another write. Before an answer has begun that something is
`100 Continue`, which every HTTP/1.1 client must pass over (RFC 9110, 15.2); once it has begun it is the answer's next part.
"""

import asyncio
import socket
from typing import Any

PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
CAN_TELL = hasattr(socket, "TCP_INFO")
_TCP_CLOSE = 7  # Linux: include/net/tcp_states.h
_FIRST_SECONDS, _LONGEST_SECONDS = 0.002, 0.25


class HalfClosed:
    """Watches a connection whose client sends no more, and aborts it as soon as the client is known to be gone."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self._loop = loop
        self._pause = _FIRST_SECONDS
        self._timer = loop.call_later(self._pause, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
            self._transport.abort()
            return
        self._pause = min(self._pause * 2, _LONGEST_SECONDS)
        self._timer = self._loop.call_later(self._pause, self._look)
