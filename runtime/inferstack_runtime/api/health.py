"""Whether the process lives, is ready, and how it is (E10); the models it serves."""

import time
from typing import Any

from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.errors import not_found
from inferstack_runtime.lifecycle.models import Served


async def livez(service: Service, request: Request) -> Response:
    """200 while the process works, also while it loads and drains."""
    broken = {name: served.engine.failure for name, served in service.models.served.items() if served.engine and served.engine.failure}
    if broken:
        return json_response({"status": "broken", "models": broken}, 503)
    return json_response({"status": "ok"})


async def readyz(service: Service, request: Request) -> Response:
    """200 only after warm-up and while not draining."""
    state, identity = service.state, service.config.identity
    body = {
        "ready": state.ready,
        "draining": state.draining,
        "reason": "" if state.ready else ("draining" if state.draining else state.reason),
        "slot": identity.slot,
        "generation": identity.generation,
        "model_digest": service.models.digest,
        "in_flight": state.in_flight,
    }
    return json_response(body, 200 if state.ready else 503)


async def health(service: Service, request: Request) -> Response:
    """How the process is, for people."""
    state, identity = service.state, service.config.identity
    status = "draining" if state.draining else ("ok" if state.ready else "loading")
    body = {
        "status": status,
        "environment": identity.environment,
        "slot": identity.slot,
        "generation": identity.generation,
        "uptime_seconds": round(time.monotonic() - service.started, 1),
        "in_flight": state.in_flight,
        "models": {served.name: _summary(served) for served in service.models.served.values()},
    }
    return json_response(body)


async def models(service: Service, request: Request) -> Response:
    """`GET /v1/models`."""
    return json_response({"object": "list", "data": [_card(served, service) for served in service.models.served.values()]})


async def model(service: Service, request: Request) -> Response:
    """`GET /v1/models/{model}`."""
    served = service.models.find(request.params["model"])
    if served is None:
        raise not_found(f"The model {request.params['model'][:200]!r} does not exist.", "model", "model_not_found")
    return json_response(_card(served, service))


def _card(served: Served, service: Service) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": int(service.created),
        "owned_by": "inferstack",
        "max_model_len": served.config.context,
        "quantization": served.config.quantization,
        "state": served.state,
    }


def _summary(served: Served) -> dict[str, Any]:
    return {
        "state": served.state,
        "quantization": served.config.quantization,
        "digest": served.model.digest if served.model else served.config.digest,
        "context": served.config.context,
        **served.placed,
        "load_seconds": None if served.load_seconds is None else round(served.load_seconds, 3),
        "error": served.error,
    }
