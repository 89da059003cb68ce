"""The routes of the process: path, handler, and who may call it. OpenAPI document and metrics labels come from here."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from inferstack_runtime.api import admin, batches, chat, completions, console, embeddings, health, monitoring, profiling, simple
from inferstack_runtime.api.http import Request, Response, Stream
from inferstack_runtime.api.service import Service

Handler = Callable[[Service, Request], Awaitable[Response | Stream]]
Access = Literal["open", "inference", "jwt", "admin"]
"""`open`: no key; `inference`: a key; `jwt`: a key or a token of the identity provider; `admin`: a key with that scope."""


async def openapi(service: Service, request: Request) -> Response:
    """The OpenAPI document."""
    from inferstack_runtime.api import openapi as document  # built by its first reader

    return await document.openapi(service, request)


async def page(service: Service, request: Request) -> Response:
    """The document as one page that needs no network."""
    from inferstack_runtime.api import openapi as document

    return await document.page(service, request)


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` may hold `{name}` parts. `counted`: it is work in flight (health calls are not)."""

    method: str
    path: str
    handler: Handler
    access: Access = "inference"
    counted: bool = True


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/completions", completions.create),
    Route("POST", "/v1/chat/completions", chat.create),
    Route("POST", "/v1/embeddings", embeddings.create),
    Route("POST", "/v1/batch", simple.batch),
    Route("POST", "/v1/files", batches.upload),
    Route("GET", "/v1/files", batches.files, counted=False),
    Route("GET", "/v1/files/{file_id}", batches.file, counted=False),
    Route("DELETE", "/v1/files/{file_id}", batches.delete),
    Route("GET", "/v1/files/{file_id}/content", batches.content),
    Route("POST", "/v1/batches", batches.create),
    Route("GET", "/v1/batches", batches.batches, counted=False),
    Route("GET", "/v1/batches/{batch_id}", batches.batch, counted=False),
    Route("POST", "/v1/batches/{batch_id}/cancel", batches.cancel),
    Route("POST", "/v1/inference", simple.inference),
    Route("POST", "/chat/stream", simple.chat_stream, "jwt"),
    Route("POST", "/api/prediction/chat", simple.chat_stream, "jwt"),
    Route("GET", "/chat/performance", simple.performance, "jwt", counted=False),
    Route("POST", "/api/v1/models/load", admin.load, "admin"),
    Route("GET", "/api/v1/models/status/{model_id}", admin.status, "admin", counted=False),
    Route("DELETE", "/api/v1/models/{model_id}", admin.unload, "admin"),
    Route("GET", "/api/v1/monitoring/metrics", monitoring.metrics, "admin", counted=False),
    Route("GET", "/api/v1/monitoring/alerts", monitoring.alerts, "admin", counted=False),
    Route("PUT", "/api/v1/monitoring/alerts/{alert_id}/acknowledge", monitoring.acknowledge, "admin", counted=False),
    Route("POST", "/api/v1/profiling", profiling.create, "admin", counted=False),
    Route("GET", "/console", console.page, "open", counted=False),
    Route("GET", "/console/{file}", console.page, "open", counted=False),
    Route("GET", "/console/api/state", console.state, "admin", counted=False),
    Route("GET", "/v1/models", health.models),
    Route("GET", "/v1/models/{model}", health.model),
    Route("GET", "/openapi.json", openapi, "open", counted=False),
    Route("GET", "/docs", page, "open", counted=False),
    Route("GET", "/livez", health.livez, "open", counted=False),
    Route("GET", "/readyz", health.readyz, "open", counted=False),
    Route("GET", "/health", health.health, "open", counted=False),
)


class Router:
    """Finds the route of a request: exact paths by one look-up, the few with parameters by their parts."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[tuple[str, ...], dict[str, Route]]] = []
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            (patterns if "{" in route.path else self._exact).setdefault(route.path, {})[route.method] = route
        self._patterns = [(tuple(path.split("/")), methods) for path, methods in patterns.items()]

    def find(self, path: str) -> tuple[dict[str, Route], dict[str, str]] | None:
        """The routes of `path` by method, and its parameters; None for a path that does not exist."""
        methods = self._exact.get(path)
        if methods is not None:
            return methods, {}
        parts = path.split("/")
        for pattern, methods in self._patterns:
            if len(pattern) != len(parts):
                continue
            params: dict[str, str] = {}
            for expected, part in zip(pattern, parts, strict=True):
                if expected.startswith("{"):
                    if not part:
                        break
                    params[expected[1:-1]] = part
                elif expected != part:
                    break
            else:
                return methods, params
        return None
