"""Items of batches, answered by the handlers that clients use."""

import logging

import orjson

from inferstack_runtime.access.keys import Caller
from inferstack_runtime.api import chat, completions, embeddings
from inferstack_runtime.api.http import Request, Response
from inferstack_runtime.api.service import Service
from inferstack_runtime.batches.store import Item
from inferstack_runtime.batches.worker import Answered
from inferstack_runtime.errors import ApiError

_log = logging.getLogger(__name__)
_PRIORITY = 50
"""Behind every client that did not ask for less."""
_HANDLERS = {"/v1/chat/completions": chat.create, "/v1/completions": completions.create, "/v1/embeddings": embeddings.create}


async def answer_item(service: Service, item: Item) -> Answered:
    """Answer one item as its tenant."""
    body = item.body if item.endpoint == "/v1/embeddings" else {"priority": _PRIORITY, **item.body}
    caller = Caller(item.tenant, item.tier, frozenset({"inference"}), "batch")
    request = Request.internal(item.endpoint, orjson.dumps(body), caller)
    try:
        response = await _HANDLERS[item.endpoint](service, request)
    except ApiError as error:
        return Answered(error.status, error.body().decode(), float(error.headers.get("retry-after", 1)))
    except Exception as error:
        _log.exception("an item of a batch failed", extra={"fields": {"batch": item.batch_id, "position": item.position}})
        return Answered(500, ApiError(500, type(error).__name__).body().decode())
    assert isinstance(response, Response)
    return Answered(response.status, response.body.decode())
