"""Server-sent events: blocks, heartbeats, errors."""

import orjson

from inferstack_runtime.errors import ApiError

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": keep-alive\n\n"


def event(value: object) -> bytes:
    """One event with a JSON value."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """The event that ends a stream which cannot be completed."""
    return b"data: " + error.body() + b"\n\n"
