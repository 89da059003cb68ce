"""The small endpoints of other systems: a batch of prompts (E3), one inference (E4), a chat stream and its figures (E5, E6)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from inferstack_runtime import metrics as catalogue
from inferstack_runtime.api.chat import chat_tokens
from inferstack_runtime.api.fields import Field, Fields, bad
from inferstack_runtime.api.http import Request, Response, Stream, json_response
from inferstack_runtime.api.parameters import Generate, room, tokens_of
from inferstack_runtime.api.run import Delta, Run
from inferstack_runtime.api.service import Service, abandon
from inferstack_runtime.api.sse import HEARTBEAT, error_event, event
from inferstack_runtime.engines.base import LoadedModel, Sampling
from inferstack_runtime.engines.device import find_gpu
from inferstack_runtime.errors import ApiError, invalid
from inferstack_runtime.lifecycle.models import Served
from inferstack_runtime.threads import LONG_TEXT, in_turn

MAX_PROMPTS = 1000
_AT_ONCE = 8


def _prompts(value: Any, name: str) -> list[str]:
    if not value or len(value) > MAX_PROMPTS or not all(isinstance(text, str) for text in value):
        raise bad(name, f"an array of 1 to {MAX_PROMPTS} strings", value)
    return list(value)


_MODEL = Field("model", "string", "Name of a model; by default the first of the configuration.")
_MAX_TOKENS = Field("max_tokens", "integer", "Most tokens of an answer; the context bounds it too.", 256, minimum=1, maximum=2**31 - 1)
_TEMPERATURE = Field("temperature", "number", "0 takes the likeliest token; higher is more random.", 0.0, minimum=0, maximum=2)
_SEED = Field("seed", "integer", "Makes a sampled answer repeatable.", minimum=-(2**63), maximum=2**63 - 1)

BATCH_FIELDS = Fields(
    (
        Field(
            "prompts",
            "array",
            "Prompts, answered in this order.",
            required=True,
            check=_prompts,
            schema={"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
        ),
        _MAX_TOKENS,
        _MODEL,
        _TEMPERATURE,
        _SEED,
    )
)
INFERENCE_FIELDS = Fields((Field("prompt", "string", "Text to continue.", required=True), _MAX_TOKENS, _TEMPERATURE, _MODEL, _SEED))
CHAT_FIELDS = Fields((Field("query", "string", "What the user says.", required=True), _MAX_TOKENS, _TEMPERATURE, _MODEL, _SEED))


async def batch(service: Service, request: Request) -> Response:
    """`POST /v1/batch`: every prompt gets a result or an error of its own, in order."""
    values = BATCH_FIELDS.read(await service.json(request))
    served = await _model(service, request, values)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(index: int, prompt: str) -> dict[str, Any]:
        async with turns:
            try:
                generate = _generate(
                    values, await _tokens(served.loaded, prompt, "prompts"), served.loaded, request.caller.tenant, "prompts"
                )
                run = await service.run(request, served, generate)
                return {"index": index, **await _whole(run), "error": None}
            except ApiError as error:
                return {"index": index, "text": None, "finish_reason": None, "usage": None, "error": error.to_json()["error"]}

    async def all_of_them() -> list[dict[str, Any]]:
        return await asyncio.gather(*(one(index, prompt) for index, prompt in enumerate(values["prompts"])))

    results = await request.unless_disconnected(all_of_them())
    request.headers_out.clear()  # those of the limits belong to single prompts
    failed = sum(result["error"] is not None for result in results)
    return json_response({"model": served.name, "results": results, "succeeded": len(results) - failed, "failed": failed})


async def inference(service: Service, request: Request) -> Response:
    """`POST /v1/inference`: one prompt, one text."""
    values = INFERENCE_FIELDS.read(await service.json(request))
    served = await _model(service, request, values)
    tokens = await _tokens(served.loaded, values["prompt"], "prompt")
    run = await service.run(request, served, _generate(values, tokens, served.loaded, request.caller.tenant, "prompt"))
    return json_response({"id": f"inf-{run.id}", "model": served.name, **await request.unless_disconnected(_whole(run))})


async def chat_stream(service: Service, request: Request) -> Stream:
    """`POST /chat/stream`: `data: {"content", "done"}` events; the last has `done: true` with finish reason and usage."""
    values = CHAT_FIELDS.read(await service.json(request))
    served = await _model(service, request, values)
    query = values["query"]
    tokens = await in_turn(len(query) > LONG_TEXT, lambda: chat_tokens(served, [{"role": "user", "content": query}]))
    run = await service.run(request, served, _generate(values, tokens, served.loaded, request.caller.tenant, "query"))
    return Stream(_events(run, served.name, service.config.http.heartbeat_seconds), lambda: abandon([run]))


async def performance(service: Service, request: Request) -> Response:
    """`GET /chat/performance`: the figures of the last 100 answers and of the process."""
    times = service.response_times
    metrics = service.metrics
    hits = sum(metrics.sum(catalogue.CACHE_LOOKUPS, tier=tier, result="hit") for tier in ("exact_process", "exact_shared", "semantic"))
    hits += metrics.sum(catalogue.CACHE_LOOKUPS, tier="exact_process", result="coalesced")
    asked = metrics.sum(catalogue.CACHE_LOOKUPS, tier="exact_process")
    return json_response(
        {
            "avg_response_time": round(sum(times) / len(times), 4) if times else 0.0,
            "memory_usage_mb": round(resident_bytes() / 2**20, 1),
            "cache_hit_rate": round(hits / asked, 4) if asked else 0.0,
            "model_loaded": any(served.state == "ready" for served in service.models.served.values()),
            "gpu_available": find_gpu().missing is None,
        }
    )


def resident_bytes() -> int:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


async def _model(service: Service, request: Request, values: dict[str, Any]) -> Served:
    return await service.model(request, values["model"] or next(iter(service.models.served)))


async def _tokens(model: LoadedModel, prompt: str, field: str) -> tuple[int, ...]:
    tokens = await in_turn(len(prompt) > LONG_TEXT, lambda: tokens_of(model, prompt, field))
    if not tokens:
        raise invalid("The prompt has no tokens.", field)
    return tokens


def _generate(values: dict[str, Any], tokens: tuple[int, ...], model: LoadedModel, tenant: str, field: str) -> Generate:
    sampling = Sampling(temperature=float(values["temperature"]), seed=values["seed"])
    return Generate(tokens, room(len(tokens), values["max_tokens"], model.context, field), sampling, tenant=tenant)


async def _whole(run: Run) -> dict[str, Any]:
    deltas: list[Delta] = []
    async with aclosing(run.follow(3600)) as news:
        async for part in news:
            deltas += part
    return {"text": "".join(delta.text for delta in deltas), "finish_reason": deltas[-1].finish_reason, "usage": run.usage.to_json()}


async def _events(run: Run, model: str, heartbeat: float) -> AsyncGenerator[bytes, None]:
    finish = None
    try:
        async with aclosing(run.follow(heartbeat)) as news:
            async for deltas in news:
                finish = deltas[-1].finish_reason if deltas else None
                text = "".join(delta.text for delta in deltas)
                yield event({"content": text, "done": False}) if text else HEARTBEAT
    except ApiError as error:
        yield error_event(error)
        return
    yield event({"content": "", "done": True, "finish_reason": finish, "model": model, "usage": run.usage.to_json()})
