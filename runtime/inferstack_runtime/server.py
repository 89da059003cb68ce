"""One runtime process: open the sockets, load the models, serve, drain, end.

code = run(config)                               # returns the exit code: 0 orderly, 5 cannot load or bind
"""

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from inferstack_runtime.config import Address, RuntimeConfig
from inferstack_runtime.metrics import TEXT

if TYPE_CHECKING:
    import uvicorn

    from inferstack_runtime.api.service import Service
    from inferstack_runtime.lifecycle.models import Loader

_log = logging.getLogger(__name__)
_QUIET_SECONDS = 1.0
"""A draining process that has nothing in flight still waits this long for a request that is on its way."""


class CannotStart(Exception):
    """The process cannot bind or load; the message says what and where."""


def open_socket(address: Address, what: str) -> socket.socket:
    """A listening socket; raises CannotStart."""
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address.host, address.port))
        server.listen(2048)
        server.setblocking(False)
    except OSError as error:
        raise CannotStart(f"{what}: cannot listen on {address.host}:{address.port}: {error.strerror or error}") from None
    return server


def run(config: RuntimeConfig, loader: "Loader | None" = None, started: float | None = None) -> int:
    """Serve until told to stop. `loader` stands for the engines in tests; `started` is the process's start by `time.monotonic`."""
    begin = time.monotonic() if started is None else started
    try:
        sockets = open_socket(config.listen, "listen"), open_socket(config.metrics, "metrics")
    except CannotStart as error:
        return _fail(str(error))
    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Process(config, loader, begin).serve(*sockets))
    except CannotStart as error:
        return _fail(str(error))
    finally:
        for opened in sockets:
            opened.close()


def _fail(message: str) -> int:
    print(json.dumps({"level": "error", "message": message}), file=sys.stderr, flush=True)
    return 5


def _say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class _Process:
    """The life of one process."""

    def __init__(self, config: RuntimeConfig, loader: "Loader | None", begin: float) -> None:
        self._config = config
        self._loader = loader
        self._begin = begin
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listen: socket.socket, metrics_socket: socket.socket) -> int:
        from inferstack_runtime.api.app import App
        from inferstack_runtime.api.items import answer_item
        from inferstack_runtime.assembly import assemble
        from inferstack_runtime.protocol import bounded_protocol

        config = self._config
        service = assemble(config, self._loader)
        app = App(service)
        protocol = bounded_protocol(config.http.header_seconds, config.http.max_connections, app.identity)
        server = http_server(app, protocol, config.http.keep_alive_seconds)
        metrics_server = http_server(_MetricsApp(service), protocol, 5)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        running = [asyncio.create_task(server.serve([listen])), asyncio.create_task(metrics_server.serve([metrics_socket]))]
        while not (server.started and metrics_server.started):
            await asyncio.sleep(0)
        _say("listening", port=listen.getsockname()[1], metrics_port=metrics_socket.getsockname()[1], seconds=self._seconds())
        for part in (*service.background(), service.batches.work(partial(answer_item, service))):
            self._start(part)
        loading = asyncio.create_task(self._load(service))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({loading, stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            await asyncio.wait({stopping, *running}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(service)
        finally:
            for task in (loading, stopping, *self._tasks):
                task.cancel()
            server.should_exit = metrics_server.should_exit = True
            await asyncio.gather(*running, loading, stopping, *self._tasks, return_exceptions=True)
            await service.close()
        return 0

    def _seconds(self) -> float:
        return round(time.monotonic() - self._begin, 3)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _start(self, part: Any) -> None:
        task = asyncio.create_task(part)
        self._tasks.add(task)
        task.add_done_callback(_report_failure)

    async def _load(self, service: "Service") -> None:
        from inferstack_runtime.engines.base import ModelLoadError
        from inferstack_runtime.warmup import warm_up

        try:
            for served in list(service.models.served.values()):
                if served.config.lazy:
                    continue
                service.state.reason = f"loading {served.name}"
                await service.models.load(served.name)
                service.state.reason = f"warming up {served.name}"
                await warm_up(service, served)
        except ModelLoadError as error:
            raise CannotStart(f"cannot load: {error}") from None
        gc.collect()
        gc.freeze()
        service.set_ready()
        _say("ready", seconds=self._seconds())

    async def _drain(self, service: "Service") -> None:
        """Not ready from now on; serve what comes and what runs until nothing does, the time is over, or a second signal comes."""
        service.set_draining()
        deadline = time.monotonic() + self._config.drain.seconds
        _log.info("draining", extra={"fields": {"in_flight": service.state.in_flight, "seconds": self._config.drain.seconds}})
        quiet_since = time.monotonic()
        while time.monotonic() < deadline and not self._hurry.is_set():
            if service.state.in_flight:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= _QUIET_SECONDS:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._hurry.wait()
        left = service.end_all()
        if left:
            _log.warning("ended before they were complete", extra={"fields": {"requests": left}})
            until = time.monotonic() + 2
            while service.state.in_flight and time.monotonic() < until:
                await asyncio.sleep(0.02)


def _report_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a background task ended", exc_info=task.exception())


def http_server(app: Any, protocol: Any, keep_alive: float) -> "uvicorn.Server":
    """A server of an ASGI application that leaves signals to its process."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield  # the process handles its signals itself

    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(keep_alive),
        timeout_graceful_shutdown=3,
    )
    return Server(config)


class _MetricsApp:
    """`GET /metrics` on its own port."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            self._service.refresh_metrics()
            status, body = 200, self._service.metrics.render()
        else:
            status, body = 404, b"Only GET /metrics is here.\n"
        headers = [(b"content-type", TEXT), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
