"""The ASGI application: route, authenticate, answer, count. Every answer carries the slot's identity and the request's id."""

import asyncio
import logging
import random
import re
import time
from contextlib import aclosing

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.access.authenticate import require
from inferstack_runtime.api.http import Disconnected, Receive, Request, Response, Scope, Send, Stream
from inferstack_runtime.api.routes import ROUTES
from inferstack_runtime.api.routing import Route, Router
from inferstack_runtime.api.service import Service
from inferstack_runtime.errors import ApiError

_log = logging.getLogger("inferstack_runtime.access_log")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
SERVER_FAULT = ApiError(500, "The server failed on this request; its log has the request id.")
_KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


class App:
    """The application of one process."""

    def __init__(self, service: Service, routes: tuple[Route, ...] = ROUTES) -> None:
        self._service = service
        self._router = Router(routes)
        identity = service.config.identity
        self.identity = [
            (b"x-inferstack-slot", identity.slot.encode()),
            (b"x-inferstack-generation", str(identity.generation).encode()),
        ]
        metrics = service.metrics
        self._requests = metrics[catalogue.REQUESTS]
        self._seconds = metrics[catalogue.REQUEST_SECONDS]
        self._in_flight = metrics[catalogue.IN_FLIGHT]
        self._streams = metrics[catalogue.OPEN_STREAMS]
        self._disconnects = metrics[catalogue.DISCONNECTS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        started = time.perf_counter()
        request = Request(scope, receive)
        request_id = self._request_id(request)
        request.id = request_id.decode()
        path = "(unknown)"
        counted = False
        status = 499
        try:
            try:
                route = self._route(request)
                path, counted = route.path, route.counted
                if counted:
                    self._count(+1)
                    if self._service.tracer is not None:
                        request.span = self._service.tracer.begin(request.headers, request.method, path)
                await self._authorize(route, request)
                response = await route.handler(self._service, request)
            except ApiError as error:
                if error.reason is not None:
                    self._service.count_rejected(error.reason)
                response = error_response(error)
            except Disconnected:
                self._disconnects.inc()
                return
            except Exception:
                _log.exception("request failed", extra={"fields": {"request_id": request.id, "route": path}})
                response = error_response(SERVER_FAULT)
            headers = self._headers(request, request_id, response)
            status = 500  # until it is sent
            if isinstance(response, Stream):
                complete = await self._send_stream(request, response, headers, send)
                status = response.status if complete else 499
            else:
                await send_response(response, headers, send)
                status = response.status
        finally:
            if counted:
                self._count(-1)
            self._finish(request, path, status, started, counted)

    def _route(self, request: Request) -> Route:
        found = self._router.find(request.path, request.scope.get("raw_path") or request.path.encode())
        if found is None:
            raise ApiError(404, f"There is no {request.path[:200]}; /openapi.json lists what there is.", code="not_found")
        methods, params = found
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise ApiError(405, f"{request.path[:200]} takes {allowed}.", code="method_not_allowed", headers={"allow": allowed})
        request.params = params
        return route

    async def _authorize(self, route: Route, request: Request) -> None:
        if route.access == "open":
            return
        caller = await self._service.authenticator.authenticate(request.header(b"authorization"), jwt=route.access == "jwt")
        request.caller = caller
        request.labels["tier"] = caller.tier
        require(caller, "admin" if route.access == "admin" else "inference")

    def _request_id(self, request: Request) -> bytes:
        given = request.header(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%032x" % random.getrandbits(128)

    def _headers(self, request: Request, request_id: bytes, response: Response | Stream) -> list[tuple[bytes, bytes]]:
        served = self._service.models.find(request.labels["model"]) if request.labels["model"] else None
        digest = served.model.digest if served is not None and served.model is not None else self._service.models.digest
        headers = [*self.identity, (b"x-inferstack-model-digest", digest.encode()), (b"x-request-id", request_id), *request.headers_out]
        if self._service.state.draining:
            headers.append((b"connection", b"close"))
        return [*headers, *response.headers]

    async def _send_stream(self, request: Request, stream: Stream, headers: list[tuple[bytes, bytes]], send: Send) -> bool:
        """Send a stream while watching whether the client is still there; whether it was sent to its end."""
        self._streams.inc()
        head = [*stream.head, *headers]
        if stream.ready:
            try:
                await _pump(stream, head, send)
            finally:
                self._streams.dec()
            return True
        task = asyncio.create_task(_pump(stream, head, send))
        watch = asyncio.create_task(request.disconnected())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            self._disconnects.inc()
            return False
        finally:
            for pending in (task, watch):
                if not pending.done():
                    pending.cancel()
            await asyncio.gather(task, watch, return_exceptions=True)
            stream.close()
            self._streams.dec()

    def _count(self, change: int) -> None:
        self._service.state.in_flight += change
        self._in_flight.set(self._service.state.in_flight)

    def _finish(self, request: Request, path: str, status: int, started: float, counted: bool) -> None:
        seconds = time.perf_counter() - started
        model = request.labels["model"]
        self._requests.labels(path, model, str(status), request.labels["tier"]).inc()
        if request.span is not None and self._service.tracer is not None:
            self._service.tracer.end(request.span, status, request.id, model)
        if counted:
            self._seconds.labels(path, model).observe(seconds)
            if model and status == 200:
                self._service.response_times.append(seconds)
            if _log.isEnabledFor(logging.INFO):
                fields: dict[str, object] = {
                    "request_id": request.id,
                    "method": request.method if request.method in _KNOWN_METHODS else "(other)",
                    "route": path,
                    "status": status,
                    "model": model,
                    "seconds": round(seconds, 4),
                }
                if request.caller is not None:
                    fields.update(tenant=request.caller.tenant, key=request.caller.key_id)
                _log.info("request", extra={"fields": fields | request.notes})


async def _pump(stream: Stream, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    """Send a stream; its head leaves with the first block, in one write.

    A head that comes back at once meets gateways that are not done with the request yet: those built on Go's reverse proxy (Traefik)
    then fail to read the end of the request's body and cut the connection on both sides (golang/go#40747).
    """
    async with aclosing(stream.events) as events:
        first = await anext(events, b"")
        await send({"type": "http.response.start", "status": stream.status, "headers": headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for block in events:
            await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_response(response: Response, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    """Send a complete answer with these headers more."""
    length = (b"content-length", str(len(response.body)).encode())
    await send(
        {"type": "http.response.start", "status": response.status, "headers": [(b"content-type", response.content_type), length, *headers]}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


def error_response(error: ApiError) -> Response:
    """The answer that an error is."""
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    return Response(error.status, error.body(), headers)
