"""The HTTP/1.1 connection: uvicorn's httptools protocol, with bounds that a slow or broken client cannot pass."""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from inferstack_runtime.halfclose import PROBE, HalfClosed

MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 256
GATEWAY_SECONDS = 0.005
_OF_UPGRADE = (b"upgrade", b"http2-settings", b"connection")
_ONE_READ = 4096
"""Bytes that Go's client reads at once."""


class _OneWrite:
    """A transport whose writes of one turn of the event loop leave together: one system call and one segment for head, events and end.

    It also keeps the beginning of an answer back until `GATEWAY_SECONDS` after the request's last byte, unless all of it fits into one
    read of the gateway. Gateways built on Go's reverse proxy (Traefik) look for the end of a request's body after they have passed
    it on; when an answer begins before that they fail to read it, and close the connection that they get the answer from
    (golang/go#40747). What they have read in one piece by then reaches the client nevertheless.
    """

    __slots__ = (
        "_closing",
        "_complete",
        "_loop",
        "_parts",
        "_transport",
        "_waiting",
        "abort",
        "get_extra_info",
        "pause_reading",
        "resume_reading",
        "spoken",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, complete: Callable[[], bool]) -> None:
        self._transport = transport
        self._loop = loop
        self._complete = complete
        self._parts: list[bytes] = []
        self._waiting = False
        self._closing = False
        self.spoken = loop.time()
        """When the other side last sent something, on the clock of the loop."""
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        if not self._waiting:
            self._waiting = True
            self._loop.call_soon(self._turn_over)

    def close(self) -> None:
        self._closing = True
        if not self._waiting:
            self._transport.close()

    def _turn_over(self) -> None:
        early = self.spoken + GATEWAY_SECONDS - self._loop.time()
        if early > 0 and not (self._complete() and sum(map(len, self._parts)) <= _ONE_READ):
            self._loop.call_later(early, self._flush)
        else:
            self._flush()

    def _flush(self) -> None:
        self._waiting = False
        parts, self._parts = self._parts, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(parts))
            if self._closing:
                self._transport.close()


def _ended_by_closing(app: Any, cycle: RequestResponseCycle) -> Any:
    """For HTTP/1.0, which has no chunks: an answer without a length is sent as it is, and ends with its connection."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        plain = False

        async def send_plain(message: Any) -> None:
            nonlocal plain
            if message["type"] == "http.response.start":
                plain = all(name != b"content-length" for name, _ in message["headers"])
                if plain:
                    cycle.chunked_encoding = False
            elif plain:
                cycle.expected_content_length = len(message["body"])
            await send(message)

        await app(scope, receive, send_plain)

    return run


def bounded_protocol(header_seconds: float, max_connections: int, identity: list[tuple[bytes, bytes]]) -> type[HttpToolsProtocol]:
    """A protocol class whose headers must arrive within `header_seconds` of their first byte, be at most 256 and 64 KiB, and of which
    at most `max_connections` are open. A request that breaks a bound gets 408, 431, 503 or 400 as a JSON error and the connection ends.
    A connection without a request stays open as long as one between two requests."""

    class Bounded(HttpToolsProtocol):
        def __init__(
            self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._header_timer: asyncio.TimerHandle | None = None
            self._header_bytes = 0
            self._refused = False
            self._in_body = False
            self._half_closed: HalfClosed | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._writer = _OneWrite(transport, self.loop, lambda: self.cycle is None or self.cycle.response_complete)
            super().connection_made(self._writer)  # type: ignore[arg-type]
            if len(self.connections) > max_connections:
                self._refuse(503, "Too many connections.")
                return
            self._keep_open()  # gateways open connections ahead of need

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            self._unset_keepalive_if_required()
            if self._half_closed is not None:
                self._half_closed.stop()
            super().connection_lost(exc)

        def eof_received(self) -> bool:  # type: ignore[override]
            """Whether the connection stays open: while a whole request waits for its answer, or an answer for its way out."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete:
                self._writer.close()
                return True
            if self._refused or cycle.more_body:
                return False

            def probe() -> None:
                if not cycle.response_started and cycle.scope["http_version"] == "1.1" and not self.pipeline:
                    self._writer.write(PROBE)

            probe()
            self._half_closed = HalfClosed(self._writer, self.loop, probe)
            return True

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._half_closed is not None and not self.pipeline and self.cycle.response_complete:
                self.transport.close()

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            super()._start_asgi_task(cycle, app if cycle.scope["http_version"] == "1.1" else _ended_by_closing(app, cycle))

        def data_received(self, data: bytes) -> None:
            if self._refused or self.parser is None:
                return
            self._writer.spoken = self.loop.time()
            if self._header_timer is None and (self.cycle is None or self.cycle.response_complete):
                self._expect_headers()
            self._unset_keepalive_if_required()
            self._feed(data)

        def _feed(self, data: bytes) -> None:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._feed_without_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")

        def _feed_without_upgrade(self, rest: bytes) -> None:
            """Read a request that offers another protocol as if it did not, as RFC 9110 (7.8) allows: with its body, which the parser
            takes for the other protocol's. Java's client and `curl --http2` offer HTTP/2 so."""
            kept = [header for header in self.headers if header[0] not in _OF_UPGRADE]
            if self._refused or len(kept) == len(self.headers):
                self.send_400_response("Invalid HTTP request received.")
                return
            head = [b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url), *(b"%s: %s\r\n" % header for header in kept), b"\r\n"]
            self._header_bytes = 0
            self.parser = httptools.HttpRequestParser(self)
            self._feed(b"".join(head) + rest)

        def on_url(self, url: bytes) -> None:
            super().on_url(url)
            self._grow(len(url))

        def on_header(self, name: bytes, value: bytes) -> None:
            if self._refused:
                return
            super().on_header(name, value)
            self._grow(len(name) + len(value))

        def on_headers_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._headers_came()
            self._header_bytes = 0
            self._in_body = True
            if not self._refused:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refused:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_body = False
            if not self._refused and not self.parser.should_upgrade():
                super().on_message_complete()
                if self.cycle.response_complete:  # answered before its body had come
                    self._headers_came()
                    self._keep_open()

        def send_400_response(self, msg: str) -> None:
            if not self._refused:
                self._refuse(400, msg)

        def _grow(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
                self._refuse(431, f"More than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them.")

        def _expect_headers(self) -> None:
            self._header_timer = self.loop.call_later(header_seconds, self._too_slow)

        def _keep_open(self) -> None:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

        def _headers_came(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

        def _too_slow(self) -> None:
            self._header_timer = None
            if self._in_body:
                self.transport.close()  # the rest of a body that was answered already
            else:
                self._refuse(408, "The request's headers did not arrive in time.")

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
