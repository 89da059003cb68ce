"""JSON schemas of the answers, for the OpenAPI document."""

from typing import Any

_STRING, _INTEGER, _NUMBER, _BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


ERROR = _object(
    {"error": _object({"message": _STRING, "type": _STRING, "param": _or_null(_STRING), "code": _or_null(_STRING)})},
)
_USAGE = _object(
    {"prompt_tokens": _INTEGER, "completion_tokens": _INTEGER, "total_tokens": _INTEGER},
    prompt_tokens_details=_object({"cached_tokens": _INTEGER}),
)
_FINISH = {"enum": ["stop", "length", "tool_calls", "abort", "content_filter", None]}
_TEXT_LOGPROBS = _or_null(
    _object(
        {
            "tokens": _list(_STRING),
            "token_logprobs": _list(_or_null(_NUMBER)),
            "top_logprobs": _list(_or_null({"type": "object", "additionalProperties": _NUMBER})),
            "text_offset": _list(_INTEGER),
        }
    )
)
_TOKEN = {"token": _STRING, "logprob": _NUMBER, "bytes": _or_null(_list(_INTEGER))}
_CHAT_LOGPROBS = _or_null(_object({"content": _list(_object({**_TOKEN, "top_logprobs": _list(_object(_TOKEN))}))}))
_CALL = _object({"id": _STRING, "type": {"const": "function"}, "function": _object({"name": _STRING, "arguments": _STRING})})
_MESSAGE = _object({"role": {"const": "assistant"}, "content": _or_null(_STRING)}, refusal={"type": "null"}, tool_calls=_list(_CALL))
_HEAD = {"id": _STRING, "created": _INTEGER, "model": _STRING}
_MODEL = _object(
    {"id": _STRING, "object": {"const": "model"}, "created": _INTEGER, "owned_by": _STRING},
    max_model_len=_INTEGER,
    quantization=_STRING,
    state=_STRING,
)
_FILE = _object(
    {"id": _STRING, "object": {"const": "file"}, "bytes": _INTEGER, "created_at": _INTEGER, "filename": _STRING, "purpose": _STRING}
)
_COUNTS = _object({"total": _INTEGER, "completed": _INTEGER, "failed": _INTEGER})
_BATCH = _object(
    {
        "id": _STRING,
        "object": {"const": "batch"},
        "endpoint": _STRING,
        "input_file_id": _STRING,
        "completion_window": _STRING,
        "status": {"enum": ["in_progress", "cancelling", "completed", "failed", "expired", "cancelled"]},
        "created_at": _INTEGER,
        "request_counts": _COUNTS,
    },
    output_file_id=_or_null(_STRING),
    error_file_id=_or_null(_STRING),
    metadata={"type": "object", "additionalProperties": _STRING},
)


def _page(items: dict[str, Any]) -> dict[str, Any]:
    return _object(
        {"object": {"const": "list"}, "data": _list(items), "has_more": _BOOLEAN}, first_id=_or_null(_STRING), last_id=_or_null(_STRING)
    )


SCHEMAS: dict[str, Any] = {
    "Completion": _object(
        {
            **_HEAD,
            "object": {"const": "text_completion"},
            "choices": _list(_object({"index": _INTEGER, "text": _STRING, "logprobs": _TEXT_LOGPROBS, "finish_reason": _FINISH})),
            "usage": _USAGE,
        }
    ),
    "ChatCompletion": _object(
        {
            **_HEAD,
            "object": {"const": "chat.completion"},
            "choices": _list(_object({"index": _INTEGER, "message": _MESSAGE, "logprobs": _CHAT_LOGPROBS, "finish_reason": _FINISH})),
            "usage": _USAGE,
        }
    ),
    "Embeddings": _object(
        {
            "object": {"const": "list"},
            "data": _list(
                _object({"object": {"const": "embedding"}, "index": _INTEGER, "embedding": {"anyOf": [_list(_NUMBER), _STRING]}}),
            ),
            "model": _STRING,
            "usage": _object({"prompt_tokens": _INTEGER, "total_tokens": _INTEGER}),
        }
    ),
    "SimpleBatch": _object(
        {
            "model": _STRING,
            "results": _list(
                _object(
                    {
                        "index": _INTEGER,
                        "text": _or_null(_STRING),
                        "finish_reason": _FINISH,
                        "usage": _or_null(_USAGE),
                        "error": _or_null(ERROR["properties"]["error"]),
                    }
                )
            ),
            "succeeded": _INTEGER,
            "failed": _INTEGER,
        }
    ),
    "Inference": _object({"id": _STRING, "model": _STRING, "text": _STRING, "finish_reason": _FINISH, "usage": _USAGE}),
    "Performance": _object(
        {
            "avg_response_time": _NUMBER,
            "memory_usage_mb": _NUMBER,
            "cache_hit_rate": _NUMBER,
            "model_loaded": _BOOLEAN,
            "gpu_available": _BOOLEAN,
        }
    ),
    "Model": _MODEL,
    "Models": _object({"object": {"const": "list"}, "data": _list(_MODEL)}),
    "File": _FILE,
    "FileList": _page(_FILE),
    "Deleted": _object({"id": _STRING, "object": _STRING, "deleted": _BOOLEAN}),
    "Batch": _BATCH,
    "BatchList": _page(_BATCH),
    "ModelStatus": _object(
        {
            "model_id": _STRING,
            "status": {"enum": ["unloaded", "loading", "loaded", "unloading", "failed"]},
            "phase": _STRING,
            "progress": _NUMBER,
            "error": _or_null(_STRING),
            "source": _STRING,
            "quantization": _STRING,
            "context": _INTEGER,
            "digest": _or_null(_STRING),
            "weight_bytes": _or_null(_INTEGER),
            "device": _or_null(_STRING),
            "cpu_fallback": _or_null(_STRING),
            "load_seconds": _or_null(_NUMBER),
            "requests_in_flight": _INTEGER,
        }
    ),
    "MetricsList": _object(
        {
            "metrics": _list(
                _object(
                    {
                        "name": _STRING,
                        "unit": _STRING,
                        "help": _STRING,
                        "values": _list(_object({"labels": {"type": "object"}, "value": _or_null(_NUMBER)})),
                    }
                )
            )
        }
    ),
    "Alerts": _object({"alerts": _list(_object({"alert_id": _or_null(_STRING), "name": _or_null(_STRING), "acknowledged": _BOOLEAN}))}),
    "Acknowledged": _object(
        {"alert_id": _STRING, "acknowledged": _BOOLEAN, "silence_id": _or_null(_STRING), "author": _STRING, "expires_at": _STRING}
    ),
    "Profile": _object({"kind": _STRING, "seconds": _INTEGER, "rows": _list(_object({"stack": _STRING}))}),
    "Livez": _object({"status": _STRING}),
    "Readyz": _object(
        {
            "ready": _BOOLEAN,
            "draining": _BOOLEAN,
            "reason": _STRING,
            "slot": _STRING,
            "generation": _INTEGER,
            "model_digest": _STRING,
            "in_flight": _INTEGER,
        }
    ),
    "Health": _object({"status": {"enum": ["ok", "loading", "draining"]}, "models": {"type": "object"}}),
    "ConsoleState": _object({"environment": _STRING, "served_by": _STRING}),
    "OpenApi": _object({"openapi": _STRING, "info": {"type": "object"}, "paths": {"type": "object"}}),
}
