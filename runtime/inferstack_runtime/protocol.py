"""The HTTP/1.1 connection: uvicorn's httptools protocol, with bounds that a slow or broken client cannot pass."""

import asyncio
from typing import Any

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 256


class _OneWrite:
    """A transport whose writes of one turn of the event loop leave together: one system call and one segment for head, events and end.

    Also what keeps a quick answer whole behind Go's reverse proxy, which may close a connection that it reads the answer from
    (see `api.app`): what it has read at once it passes on.
    """

    __slots__ = ("_loop", "_parts", "_transport", "get_extra_info", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts = self._parts, []
            self._transport.write(b"".join(parts))


def bounded_protocol(header_seconds: float, max_connections: int, identity: list[tuple[bytes, bytes]]) -> type[HttpToolsProtocol]:
    """A protocol class whose headers must arrive within `header_seconds`, be at most 256 and 64 KiB, and of which
    at most `max_connections` are open. A request that breaks a bound gets 408, 431, 503 or 400 as a JSON error and the connection ends."""

    class Bounded(HttpToolsProtocol):
        def __init__(
            self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._header_timer: asyncio.TimerHandle | None = None
            self._header_bytes = 0
            self._refused = False
            self._asked = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(_OneWrite(transport, self.loop))  # type: ignore[arg-type]
            if len(self.connections) > max_connections:
                self._refuse(503, "Too many connections.")
                return
            self._expect_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._refused or self.parser is None:
                return
            self._asked = True
            if self._header_timer is None and (self.cycle is None or self.cycle.response_complete):
                self._expect_headers()
            super().data_received(data)

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._grow(len(url))

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._refused:
                return
            super().on_header(name, value)
            self._grow(len(name) + len(value))

        def on_headers_complete(self) -> None:
            self._headers_came()
            self._header_bytes = 0
            if not self._refused:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self._refused:
                super().on_message_complete()

        def send_400_response(self, msg: str) -> None:
            if not self._refused:
                self._refuse(400, msg)

        def _grow(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
                self._refuse(431, f"More than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them.")

        def _expect_headers(self) -> None:
            self._header_timer = self.loop.call_later(header_seconds, self._too_slow)

        def _headers_came(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _too_slow(self) -> None:
            self._header_timer = None
            if self._asked:
                self._refuse(408, "The request's headers did not arrive in time.")
            else:
                self.transport.close()

        def _refuse(self, status: int, message: str) -> None:
            if self._refused or self.transport.is_closing():
                return
            self._refused = True
            self._headers_came()
            if self.cycle is None or self.cycle.response_complete:
                body = orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
                head = [STATUS_LINE[status], b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)]
                head += [b"%s: %s\r\n" % header for header in identity]
                self.transport.write(b"".join([*head, b"\r\n", body]))
            self.transport.close()

    return Bounded
