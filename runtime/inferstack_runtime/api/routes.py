"""The routes of the process: path, handler, and who may call it. OpenAPI document and metrics labels come from here."""

from inferstack_runtime.api import admin, batches, chat, completions, console, embeddings, health, monitoring, profiling, simple
from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.openapi import document, reference_page
from inferstack_runtime.api.routing import Route
from inferstack_runtime.api.service import Service


async def openapi(service: Service, request: Request) -> Response:
    """The OpenAPI document."""
    return json_response(document(ROUTES))


async def page(service: Service, request: Request) -> Response:
    """The document as one page that needs no network."""
    return Response(200, reference_page(document(ROUTES)), content_type=b"text/html; charset=utf-8")


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
