"""Opens the store of a process, and answers its items with the handlers that clients use."""

from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from inferstack_runtime.access.keys import Caller
from inferstack_runtime.api.errors import ApiError
from inferstack_runtime.api.http import Request, Response
from inferstack_runtime.batches.database import open_database
from inferstack_runtime.batches.store import BatchStore, Item
from inferstack_runtime.config import RuntimeConfig
from inferstack_runtime.lifecycle.sources import cache_folder

if TYPE_CHECKING:
    from inferstack_runtime.api.service import Service

_PRIORITY = 50
"""Behind every client that did not ask for less."""


def database_url(config: RuntimeConfig) -> str:
    """The configured database, else a SQLite file of this slot in the cache folder."""
    if config.batches.url is not None:
        return config.batches.url
    path: Path = cache_folder(config.weight_cache) / "batches" / f"{config.identity.environment}-{config.identity.slot}.sqlite"
    return f"sqlite:///{path}"


def open_store(config: RuntimeConfig) -> BatchStore:
    """The store; a SQLite file belongs to one process, so what a former one left running is pending again. Raises DatabaseDown."""
    url = database_url(config)
    store = BatchStore(open_database(url))
    if url.startswith("sqlite:"):
        store.recover()
    return store


async def answer_item(service: "Service", item: Item) -> tuple[int, str]:
    """Answer one item as its tenant; status code and body as JSON."""
    from inferstack_runtime.api import chat, completions, embeddings

    handlers = {"/v1/chat/completions": chat.create, "/v1/completions": completions.create, "/v1/embeddings": embeddings.create}
    body = item.body if item.endpoint == "/v1/embeddings" else {"priority": _PRIORITY, **item.body}
    caller = Caller(item.tenant, item.tier, frozenset({"inference"}), "batch")
    request = Request.internal(item.endpoint, orjson.dumps(body), caller)
    try:
        response = await handlers[item.endpoint](service, request)
    except ApiError as error:
        return error.status, error.body().decode()
    except Exception as error:
        return 500, orjson.dumps(
            {"error": {"message": f"{type(error).__name__}", "type": "server_error", "param": None, "code": None}}
        ).decode()
    assert isinstance(response, Response)
    return response.status, response.body.decode()
