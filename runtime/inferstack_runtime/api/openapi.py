"""The OpenAPI document of the process, made from the routes and the tables that requests are validated by; and its offline page."""

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from inferstack_runtime import __version__
from inferstack_runtime.api import admin, batches, chat, completions, embeddings, monitoring, profiling, simple
from inferstack_runtime.api.fields import Fields
from inferstack_runtime.api.responses import ERROR, SCHEMAS
from inferstack_runtime.api.routing import Route

_REASONS = {
    "200": "The answer.",
    "202": "It has begun.",
    "400": "The request is wrong; `param` names the field.",
    "401": "The key is missing or unknown.",
    "403": "The key may not do this.",
    "404": "There is no such thing.",
    "405": "The path does not take this method.",
    "408": "The body did not arrive in time.",
    "409": "Its state does not allow this.",
    "413": "The body is too large.",
    "415": "Not the expected content type, or compressed.",
    "429": "A limit is reached or the queue is full; `Retry-After` says when to try again.",
    "500": "The server failed.",
    "502": "A server behind this one did not answer.",
    "503": "Not ready, or the model cannot answer now.",
    "507": "No space is left.",
}


@dataclass(frozen=True)
class Doc:
    """What the document says of one operation, beside its route."""

    summary: str
    answer: str
    """Name of the answer's schema; empty for bytes."""
    body: Fields | None = None
    form: Mapping[str, Any] | None = None
    stream: bool = False
    statuses: tuple[str, ...] = ()
    media: str = "application/octet-stream"
    """Media type of an answer without a schema."""
    query: Mapping[str, Any] = field(default_factory=dict)


_PAGE = {"limit": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 20}, "after": {"type": "string"}}
_UPLOAD = {
    "type": "object",
    "properties": {"purpose": {"enum": list(batches.PURPOSES)}, "file": {"type": "string", "format": "binary"}},
    "required": ["purpose", "file"],
    "additionalProperties": False,
}
_MODEL_STATUSES = ("404", "429", "500", "503")
_STORE = ("503",)

DOCS: Mapping[tuple[str, str], Doc] = {
    ("POST", "/v1/completions"): Doc("Complete a text", "Completion", completions.FIELDS, stream=True, statuses=_MODEL_STATUSES),
    ("POST", "/v1/chat/completions"): Doc("Answer a conversation", "ChatCompletion", chat.FIELDS, stream=True, statuses=_MODEL_STATUSES),
    ("POST", "/v1/embeddings"): Doc("Embed texts", "Embeddings", embeddings.FIELDS, statuses=_MODEL_STATUSES),
    ("POST", "/v1/batch"): Doc("Answer many prompts at once", "SimpleBatch", simple.BATCH_FIELDS, statuses=_MODEL_STATUSES),
    ("POST", "/v1/inference"): Doc("Answer one prompt", "Inference", simple.INFERENCE_FIELDS, statuses=_MODEL_STATUSES),
    ("POST", "/chat/stream"): Doc("Stream an answer to a question", "", simple.CHAT_FIELDS, stream=True, statuses=_MODEL_STATUSES),
    ("POST", "/api/prediction/chat"): Doc(
        "The same under the gateway's path", "", simple.CHAT_FIELDS, stream=True, statuses=_MODEL_STATUSES
    ),
    ("GET", "/chat/performance"): Doc("Figures of the last 100 answers", "Performance"),
    ("GET", "/v1/models"): Doc("List the models", "Models"),
    ("GET", "/v1/models/{model}"): Doc("Describe a model", "Model", statuses=("404",)),
    ("POST", "/v1/files"): Doc("Upload a file of requests", "File", form=_UPLOAD, statuses=("503", "507")),
    ("GET", "/v1/files"): Doc("List files", "FileList", query={**_PAGE, "purpose": {"type": "string"}}, statuses=("400", *_STORE)),
    ("GET", "/v1/files/{file_id}"): Doc("Describe a file", "File", statuses=("404", *_STORE)),
    ("DELETE", "/v1/files/{file_id}"): Doc("Delete a file", "Deleted", statuses=("404", "409", *_STORE)),
    ("GET", "/v1/files/{file_id}/content"): Doc("Download a file", "", statuses=("404", *_STORE)),
    ("POST", "/v1/batches"): Doc("Start a batch", "Batch", batches.BATCH_FIELDS, statuses=("404", "503", "507")),
    ("GET", "/v1/batches"): Doc("List batches", "BatchList", query=_PAGE, statuses=("400", *_STORE)),
    ("GET", "/v1/batches/{batch_id}"): Doc("Describe a batch", "Batch", statuses=("404", *_STORE)),
    ("POST", "/v1/batches/{batch_id}/cancel"): Doc("Cancel a batch", "Batch", statuses=("404", "409", *_STORE)),
    ("POST", "/api/v1/models/load"): Doc("Load a model", "ModelStatus", admin.LOAD_FIELDS, statuses=("202", "403", "404", "409")),
    ("GET", "/api/v1/models/status/{model_id}"): Doc("Progress of a model", "ModelStatus", statuses=("403", "404")),
    ("DELETE", "/api/v1/models/{model_id}"): Doc("Unload a model", "ModelStatus", statuses=("403", "404")),
    ("GET", "/api/v1/monitoring/metrics"): Doc("Every metric as JSON", "MetricsList", statuses=("403",)),
    ("GET", "/api/v1/monitoring/alerts"): Doc("Alerts that fire now", "Alerts", statuses=("403", "404", "502")),
    ("PUT", "/api/v1/monitoring/alerts/{alert_id}/acknowledge"): Doc(
        "Silence an alert for a time", "Acknowledged", monitoring.ACKNOWLEDGE_FIELDS, statuses=("403", "404", "502")
    ),
    ("POST", "/api/v1/profiling"): Doc("A profile of the answering process", "Profile", profiling.PROFILE_FIELDS, statuses=("403", "409")),
    ("GET", "/livez"): Doc("Whether the process works", "Livez", statuses=("503",)),
    ("GET", "/readyz"): Doc("Whether the process takes requests", "Readyz", statuses=("503",)),
    ("GET", "/health"): Doc("How the process is", "Health"),
    ("GET", "/openapi.json"): Doc("This document", "OpenApi"),
    ("GET", "/docs"): Doc("This document as a page", "", media="text/html"),
    ("GET", "/console"): Doc("The console's page", "", statuses=("404",), media="text/html"),
    ("GET", "/console/{file}"): Doc("A file of the console's page", "", statuses=("404",), media="*/*"),
    ("GET", "/console/api/state"): Doc("Both slots, weights and promotions as they are now", "ConsoleState", statuses=("403", "404")),
}


@cache
def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes; nobody changes it."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        doc = DOCS[route.method, route.path]
        operation: dict[str, Any] = {
            "operationId": f"{route.method.lower()}{''.join(part.strip('{}').title() for part in route.path.replace('.', '/').split('/'))}",
            "summary": doc.summary,
            "description": " ".join((route.handler.__doc__ or "").split()),
            "parameters": [*_path_parameters(route.path), *_query_parameters(doc.query)],
            "responses": _responses(route, doc),
        }
        if route.access == "open":
            operation["security"] = []
        if doc.body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": doc.body.to_schema()}}}
        if doc.form is not None:
            operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": doc.form}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Inferstack runtime",
            "version": __version__,
            "description": "An OpenAI-compatible inference server. Metrics are on a port of their own, at `/metrics`.",
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": ERROR, **SCHEMAS},
        },
    }


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names]


def _query_parameters(query: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in query.items()]


def _responses(route: Route, doc: Doc) -> dict[str, Any]:
    statuses = set(doc.statuses)
    if route.access != "open":
        statuses |= {"401"}
    if doc.body is not None or doc.form is not None:
        statuses |= {"400", "408", "413", "415"}
    content: dict[str, Any] = {}
    if doc.answer:
        content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{doc.answer}"}}
    elif not doc.stream:
        content[doc.media] = {"schema": {"type": "string"}}
    if doc.stream:
        content["text/event-stream"] = {
            "schema": {
                "type": "object",
                "properties": {"data": {"type": "string", "description": "JSON, or `[DONE]`."}},
                "required": ["data"],
            }
        }
    responses: dict[str, Any] = {"200": {"description": _REASONS["200"], "content": content}}
    for status in sorted(statuses):
        own = status == "202" or (status == "503" and doc.answer in ("Readyz", "Livez"))
        schema = {"$ref": f"#/components/schemas/{doc.answer if own else 'Error'}"}
        responses[status] = {"description": _REASONS[status], "content": {"application/json": {"schema": schema}}}
    return responses


def reference_page(described: Mapping[str, Any]) -> bytes:
    """A document as one HTML page that needs nothing from elsewhere."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Inferstack runtime</title>",
        "<style>body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}code,pre{font:13px monospace}summary{cursor:pointer;padding:.3rem 0}summary b{display:inline-block;width:4.5rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2rem .5rem;text-align:left;vertical-align:top}</style>",
        f"<h1>{html.escape(described['info']['title'])} {html.escape(described['info']['version'])}</h1>",
        f"<p>{_prose(described['info']['description'])} The document itself: <a href=/openapi.json>/openapi.json</a>.</p>",
    ]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(_section(method.upper(), path, operation))
    return "\n".join(parts).encode()


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = []
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for name, entry in schema["properties"].items():
            kind = entry.get("type") or ("any" if "enum" not in entry else "enum")
            shown = "/".join(kind) if isinstance(kind, list) else kind
            needed = " (required)" if name in schema["required"] else ""
            rows.append(
                f"<tr><td><code>{html.escape(name)}</code>{needed}<td>{html.escape(shown)}<td>{html.escape(json.dumps(entry.get('default')))}"
                f"<td>{_prose(entry.get('description', ''))}"
            )
    table = f"<table><tr><th>field<th>type<th>default<th>meaning{''.join(rows)}</table>" if rows else ""
    answers = "".join(f"<li><b>{status}</b> {_prose(answer['description'])}" for status, answer in operation["responses"].items())
    return (
        f"<details><summary><b>{method}</b> <code>{html.escape(path)}</code> {html.escape(operation['summary'])}</summary>"
        f"<p>{_prose(operation['description'])}</p>{table}<ul>{answers}</ul></details>"
    )


def _prose(text: str) -> str:
    """Text with `code` marked."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if position % 2 else piece for position, piece in enumerate(pieces))
