"""The little HTTP that the handlers need, straight on ASGI: a request, a response, a stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs

import orjson

from inferstack_runtime.errors import ApiError, invalid

T = TypeVar("T")
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Disconnected(Exception):
    """The client left before the request was complete."""


@dataclass(slots=True)
class Response:
    """A complete answer."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content_type: bytes = b"application/json"


@dataclass(slots=True)
class Stream:
    """An answer in parts: server-sent events, unless `head` says another content type. `events` yields the parts, of events complete
    `data: …\\n\\n` blocks; `close` frees what was begun, also when unread."""

    events: AsyncGenerator[bytes, None]
    close: Callable[[], None] = lambda: None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    head: tuple[tuple[bytes, bytes], ...] = EVENT_STREAM
    status: int = 200
    ready: bool = False
    """Nothing has to be generated: nobody need watch whether the client stays."""


def json_response(value: object, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Response:
    return Response(status, orjson.dumps(value), headers or [])


class Request:
    """One request: headers by lower-case name, path parameters, and the body read once within its bounds."""

    __slots__ = ("_body", "_headers", "_receive", "caller", "headers_out", "id", "labels", "notes", "params", "scope", "span")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        self._headers: dict[str, str] | None = None
        self._body: bytes | None = None
        self.params: Mapping[str, str] = {}
        self.caller: Any = None
        self.id = ""
        self.labels = {"model": "", "tier": ""}
        self.headers_out: list[tuple[bytes, bytes]] = []
        """More headers of the answer, whether it succeeds or not."""
        self.span: Any = None
        """Span of the request, where traces are on."""
        self.notes: dict[str, object] = {}
        """More fields of the request's log line."""

    @classmethod
    def internal(cls, path: str, body: bytes, caller: Any) -> "Request":
        """A request of the process itself, for instance an item of a batch."""
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        request = cls(scope, _never)
        request._body = body
        request.caller = caller
        request.labels["tier"] = caller.tier
        return request

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def headers(self) -> Mapping[str, str]:
        if self._headers is None:
            self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}
        return self._headers

    def header(self, name: bytes) -> bytes | None:
        """A header's raw value without decoding all of them."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return None

    @property
    def cache_control(self) -> set[bytes]:
        """What `Cache-Control` asks for, in lower case."""
        control = self.header(b"cache-control")
        return {word.strip() for word in control.lower().split(b",")} if control else set()

    def query(self) -> dict[str, str]:
        """Query parameters; the last of a repeated name counts."""
        text = self.scope.get("query_string", b"").decode("latin-1")
        try:
            return {
                name: values[-1] for name, values in parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=100).items()
            }
        except ValueError:
            raise invalid("The query string is not valid: expected at most 100 UTF-8 parameters.") from None

    async def body(self, limit: int, seconds: float) -> bytes:
        """The body. Raises ApiError 413 past `limit` bytes, 408 after `seconds`, Disconnected when the client leaves."""
        if self._body is not None:
            return self._body
        self._refuse_encoded()
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        message = await self._receive_within(seconds)
        body = message["body"]
        if message["more_body"]:
            parts = [body]
            size = len(body)
            deadline = asyncio.get_running_loop().time() + seconds
            while message["more_body"]:
                message = await self._receive_within(deadline - asyncio.get_running_loop().time())
                parts.append(message["body"])
                size += len(message["body"])
                if size > limit:
                    raise _too_large(limit)
            body = b"".join(parts)
        if len(body) > limit:
            raise _too_large(limit)
        self._body = bytes(body)
        return self._body

    async def chunks(self, limit: int, seconds: float) -> AsyncIterator[bytes]:
        """The body in pieces as they come, for uploads; bounds as in `body`, `seconds` between two pieces."""
        self._refuse_encoded()
        size = 0
        while True:
            message = await self._receive_within(seconds)
            size += len(message["body"])
            if size > limit:
                raise _too_large(limit)
            if message["body"]:
                yield message["body"]
            if not message["more_body"]:
                return

    def _refuse_encoded(self) -> None:
        """Raise ApiError 415 for a compressed body: its size would be unknown until it is unpacked."""
        coding = self.header(b"content-encoding")
        if coding is not None and coding.strip().lower() not in (b"", b"identity"):
            shown = coding.decode("latin-1")[:60]
            raise ApiError(
                415,
                f"A body with Content-Encoding {shown!r} is not read; send it as it is.",
                reason="invalid",
                headers={"accept-encoding": "identity"},
            )

    async def disconnected(self) -> None:
        """Return when the client has left; to be awaited beside the answer."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def unless_disconnected(self, work: Awaitable[T]) -> T:
        """The result of `work`, which is cancelled when the client leaves; raises Disconnected then."""
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self.disconnected())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Disconnected
        finally:
            for pending in (task, watch):
                if not pending.done():
                    pending.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)

    async def _receive_within(self, seconds: float) -> Any:
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "The request body did not arrive in time.", reason="invalid", headers={"connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise Disconnected
        return message


async def _never() -> Any:
    await asyncio.get_running_loop().create_future()


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ApiError 400 that says where the text is not JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, not {_json_type(value)}.")
    return value


def _json_type(value: object) -> str:
    names: dict[type, str] = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), "something else")


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"The body is larger than {limit} bytes.", code="body_too_large", reason="too_large", headers={"connection": "close"}
    )
