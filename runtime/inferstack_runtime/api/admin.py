"""Models come and go by request (E7). Admin scope."""

import asyncio
import re
from typing import Any

from inferstack_runtime.api.fields import Field, Fields
from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.config import ModelConfig
from inferstack_runtime.engines.base import ModelLoadError
from inferstack_runtime.errors import ApiError, invalid, not_found
from inferstack_runtime.lifecycle.models import Served

_QUANTIZATIONS = ("none", "bf16", "fp16", "int8", "int4", "gguf", "nf4", "fp8", "awq", "gptq")
_SCHEMES = {"package": "package", "file": "file", "hf": "hf", "huggingface": "hf", "gs": "gs", "s3": "s3", "abfss": "abfss"}
_PROVIDERS = ("configured", *_SCHEMES)

LOAD_FIELDS = Fields(
    (
        Field(
            "model_name",
            "string",
            "A model of the configuration, or with another provider what follows `://` in its source.",
            required=True,
            schema={"type": "string", "minLength": 1, "maxLength": 500},
        ),
        Field("provider", "string", "`configured`, or the kind of source: " + ", ".join(_SCHEMES) + ".", "configured", choices=_PROVIDERS),
        Field("quantization", "string", "Weight format; by default the configured one, else `gguf`.", choices=_QUANTIZATIONS),
        Field("max_batch_size", "integer", "Most sequences decoded together.", minimum=1, maximum=4096),
        Field("context", "integer", "Longest prompt plus answer, in tokens.", minimum=1, maximum=2**24),
        Field("wait", "boolean", "Answer only when the model is loaded.", False),
    ),
    refused={"digest": ("put models with a digest into the configuration", ())},
)


async def load(service: Service, request: Request) -> Response:
    """`POST /api/v1/models/load`: 202 while it loads, 200 once it has; asking again changes nothing."""
    body = await service.json(request)
    if body.get("provider") == "local_ollama":
        raise invalid("`provider` 'local_ollama' is not served: use the model's GGUF file by 'file', 'hf' or 'package'.", "provider")
    values = LOAD_FIELDS.read(body)
    served = _find_or_add(service, values)
    if served.state != "ready":
        task = asyncio.create_task(service.models.load(served.name))
        if values["wait"]:
            try:
                await request.unless_disconnected(asyncio.shield(task))
            except ModelLoadError as error:
                raise ApiError(409, f"The model cannot be loaded: {error}", code="model_load_failed") from None
        else:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.sleep(0)
    return json_response(_status(served), 200 if served.state == "ready" else 202)


async def status(service: Service, request: Request) -> Response:
    """`GET /api/v1/models/status/{model_id}`."""
    return json_response(_status(_known(service, request)))


async def unload(service: Service, request: Request) -> Response:
    """`DELETE /api/v1/models/{model_id}`: answers when the last request in flight has ended and the memory is free."""
    served = _known(service, request)
    await request.unless_disconnected(service.models.unload(served.name, "request"))
    return json_response(_status(served))


def _known(service: Service, request: Request) -> Served:
    served = service.models.find(request.params["model_id"])
    if served is None:
        raise not_found(f"The model {request.params['model_id'][:200]!r} does not exist.", "model_id", "model_not_found")
    return served


def _find_or_add(service: Service, values: dict[str, Any]) -> Served:
    """The model that the request names; raises ApiError 400, 403, 404 or 409."""
    name, provider = values["model_name"], values["provider"]
    if provider == "configured":
        served = service.models.find(name)
        if served is None:
            raise not_found(
                f"The model {name[:200]!r} is not configured; name its provider to load another.", "model_name", "model_not_found"
            )
        _same(served, values)
        return served
    source = f"{_SCHEMES[provider]}://{name}"
    if not source.startswith(service.config.lifecycle.allow) or ".." in name.split("/"):
        allowed = ", ".join(service.config.lifecycle.allow) or "nothing"
        raise ApiError(
            403,
            f"Models from {source[:200]} may not be loaded; lifecycle.allow permits {allowed}.",
            param="provider",
            code="source_not_allowed",
        )
    known = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")
    served = service.models.find(known)
    if served is None:
        if not known:
            raise invalid("`model_name` has no letter or digit.", "model_name")
        wanted = {"max_sequences": values["max_batch_size"], "context": values["context"], "quantization": values["quantization"]}
        return service.models.add(
            ModelConfig(name=known, source=source, lazy=True, **{key: value for key, value in wanted.items() if value is not None})
        )
    if served.config.source != source:
        raise ApiError(409, f"The name {known!r} belongs to a model of another source.", param="model_name", code="model_exists")
    _same(served, values)
    return served


def _same(served: Served, values: dict[str, Any]) -> None:
    """Refuse to change a known model silently."""
    for field, wanted, has in (
        ("quantization", values["quantization"], served.config.quantization),
        ("max_batch_size", values["max_batch_size"], served.config.max_sequences or values["max_batch_size"]),
        ("context", values["context"], served.config.context),
    ):
        if wanted is not None and wanted != has:
            raise ApiError(
                409,
                f"The model {served.name!r} has {field} {has!r}; another one is a new version, which a promotion brings.",
                param=field,
                code="model_exists",
            )


def _status(served: Served) -> dict[str, Any]:
    state = {"ready": "loaded"}.get(served.state, served.state)
    return {
        "model_id": served.name,
        "status": state,
        "phase": served.phase,
        "progress": round(served.progress, 3),
        "error": served.error,
        "source": served.config.source,
        "quantization": served.config.quantization,
        "context": served.model.context if served.model else served.config.context,
        "digest": served.model.digest if served.model else served.config.digest,
        "weight_bytes": served.model.weight_bytes if served.model else None,
        **served.placed,
        "load_seconds": served.load_seconds,
        "requests_in_flight": served.users,
    }
