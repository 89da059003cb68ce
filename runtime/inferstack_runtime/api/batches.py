"""OpenAI's Batch API (E3): `/v1/files` and `/v1/batches`."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from inferstack_runtime.api.fields import Field, Fields, bad
from inferstack_runtime.api.http import Disconnected, Request, Response, Stream, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.batches.database import DatabaseDown, DatabaseFull
from inferstack_runtime.errors import ApiError, invalid, not_found

if TYPE_CHECKING:
    from inferstack_runtime.batches.files import File
    from inferstack_runtime.batches.store import Batch, BatchStore

T = TypeVar("T")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
WINDOWS = {"24h": 24 * 3600}
PURPOSES = ("batch",)
_LONGEST_LINE = 1024 * 1024


def _metadata(value: Any, name: str) -> dict[str, str]:
    if len(value) > 16 or not all(len(key) <= 64 and isinstance(text, str) and len(text) <= 512 for key, text in value.items()):
        raise bad(name, "an object of at most 16 strings", value)
    return dict(value)


BATCH_FIELDS = Fields(
    (
        Field("input_file_id", "string", "A file of purpose `batch`.", required=True),
        Field("endpoint", "string", "What every line asks.", required=True, choices=ENDPOINTS),
        Field("completion_window", "string", "Time after which what is left expires.", required=True, choices=tuple(WINDOWS)),
        Field(
            "metadata",
            "object",
            "Up to 16 strings that come back with the batch.",
            check=_metadata,
            schema={
                "type": "object",
                "maxProperties": 16,
                "propertyNames": {"maxLength": 64},
                "additionalProperties": {"type": "string", "maxLength": 512},
            },
        ),
    ),
    refused={"output_expires_after": ("files stay until they are deleted", ())},
)


async def upload(service: Service, request: Request) -> Response:
    """`POST /v1/files`: multipart with `purpose` and `file`."""
    store = await _store(service)
    filename, purpose, data = await _read_form(service, request)
    try:
        if purpose not in PURPOSES:
            raise invalid("`purpose` must be 'batch'.", "purpose")
        file = await _in_thread(lambda: store.add_file(request.caller.tenant, filename, purpose, _chunks(data)))
    finally:
        data.close()
    return json_response(_file(file))


async def files(service: Service, request: Request) -> Response:
    """`GET /v1/files`."""
    store = await _store(service)
    query = request.query()
    found = await _in_thread(lambda: store.files(request.caller.tenant))
    if "purpose" in query:
        found = [file for file in found if file.purpose == query["purpose"]]
    return json_response(_page([_file(file) for file in found], query))


async def file(service: Service, request: Request) -> Response:
    """`GET /v1/files/{file_id}`."""
    return json_response(_file(await _known_file(service, request)))


async def content(service: Service, request: Request) -> Stream:
    """`GET /v1/files/{file_id}/content`."""
    known = await _known_file(service, request)
    parts = (await _store(service)).read(known.id)
    first = await _in_thread(lambda: next(parts, b""))

    async def rest() -> AsyncGenerator[bytes, None]:
        yield first
        while part := await asyncio.to_thread(next, parts, b""):
            yield part

    head = ((b"content-type", b"application/octet-stream"), (b"content-length", str(known.bytes).encode()))
    return Stream(rest(), head=head)


async def delete(service: Service, request: Request) -> Response:
    """`DELETE /v1/files/{file_id}`."""
    store = await _store(service)
    file_id = request.params["file_id"]
    outcome = await _in_thread(lambda: store.delete_file(request.caller.tenant, file_id))
    if outcome == "missing":
        raise _no_file(file_id)
    if outcome == "used":
        raise ApiError(409, "A batch that has not ended reads this file.", param="file_id", code="file_in_use")
    return json_response({"id": file_id, "object": "file", "deleted": True})


async def create(service: Service, request: Request) -> Response:
    """`POST /v1/batches`: accepted whole, or refused with the first line that is wrong."""
    values = BATCH_FIELDS.read(await service.json(request))
    store = await _store(service)
    caller = request.caller
    known = await _in_thread(lambda: store.file(caller.tenant, values["input_file_id"]))
    if known is None:
        raise _no_file(values["input_file_id"], "input_file_id")
    most = service.config.batches.max_items

    def accept() -> "Batch":
        items = list(_read_items(store, known.id, values["endpoint"], most))
        return store.add_batch(
            caller.tenant,
            caller.tier,
            values["endpoint"],
            known.id,
            values["completion_window"],
            WINDOWS[values["completion_window"]],
            values["metadata"] or {},
            items,
        )

    batch = await _in_thread(accept)
    service.batches.wake()
    return json_response(_batch(batch))


async def batches(service: Service, request: Request) -> Response:
    """`GET /v1/batches`."""
    store = await _store(service)
    found = await _in_thread(lambda: store.batches(request.caller.tenant))
    return json_response(_page([_batch(batch) for batch in found], request.query()))


async def batch(service: Service, request: Request) -> Response:
    """`GET /v1/batches/{batch_id}`."""
    return json_response(_batch(await _known_batch(service, request)))


async def cancel(service: Service, request: Request) -> Response:
    """`POST /v1/batches/{batch_id}/cancel`."""
    store = await _store(service)
    known = await _known_batch(service, request)
    if not await _in_thread(lambda: store.cancel(request.caller.tenant, known.id)):
        raise ApiError(409, f"The batch is {known.status}; only one in progress can be cancelled.", code="batch_not_in_progress")
    service.batches.wake()
    return json_response(_batch(await _known_batch(service, request)))


def _read_items(store: "BatchStore", file_id: str, endpoint: str, most: int) -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    seen: set[str] = set()
    for number, line in enumerate(_lines(store, file_id), 1):
        if not line.strip():
            continue
        if len(items) >= most:
            raise invalid(f"The file has more than {most} requests.", "input_file_id", "too_many_requests")
        items.append(_read_item(line, number, endpoint, seen))
    if not items:
        raise invalid("The file has no requests.", "input_file_id", "empty_file")
    return items


def _lines(store: "BatchStore", file_id: str) -> Any:
    rest = b""
    for part in store.read(file_id):
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            break
        yield from lines
    yield rest


def _read_item(line: bytes, number: int, endpoint: str, seen: set[str]) -> tuple[str, str]:
    def wrong(what: str) -> ApiError:
        return invalid(f"Line {number}: {what}.", "input_file_id", "invalid_line")

    if len(line) > _LONGEST_LINE:
        raise wrong(f"longer than {_LONGEST_LINE} bytes")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise wrong(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise wrong("expected a JSON object")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise wrong("`custom_id` must be text of 1 to 512 characters")
    if "\0" in custom_id:
        raise wrong("`custom_id` has a NUL character")
    if custom_id in seen:
        raise wrong(f"`custom_id` {custom_id[:60]!r} stands twice")
    seen.add(custom_id)
    if value.get("method", "POST") != "POST" or value.get("url") != endpoint:
        raise wrong(f"expected method 'POST' and url {endpoint!r}, that of the batch")
    body = value.get("body")
    if not isinstance(body, dict):
        raise wrong("`body` must be an object")
    if body.get("stream"):
        raise wrong("`stream` is not possible in a batch")
    return custom_id, orjson.dumps(body).decode()


async def _read_form(service: Service, request: Request) -> tuple[str, str, Any]:
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        raise ApiError(
            415, "Expected multipart/form-data with `purpose` and `file`.", reason="invalid", headers={"accept-post": "multipart/form-data"}
        )
    limits = service.config.http

    async def stream() -> AsyncGenerator[bytes, None]:
        async for chunk in request.chunks(limits.max_file_bytes, limits.body_seconds):
            yield chunk

    parser = MultiPartParser(Headers({"content-type": content_type}), stream(), max_files=1, max_fields=8, max_part_size=64 * 1024)
    try:
        form = await parser.parse()
    except (ApiError, Disconnected):
        for opened in parser._files_to_close_on_error:
            opened.close()
        raise
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        raise invalid(f"The form cannot be read: {getattr(error, 'message', error)}") from None
    upload_part, purpose = form.get("file"), form.get("purpose")
    problem = None
    unknown = [name for name in form if name not in ("file", "purpose")]
    if unknown:
        problem = invalid(f"Unknown field `{unknown[0][:60]}`.", unknown[0][:60], "unknown_parameter")
    elif not isinstance(upload_part, UploadFile):
        problem = invalid("`file` is missing.", "file", "missing_parameter")
    elif not isinstance(purpose, str):
        problem = invalid("`purpose` is missing.", "purpose", "missing_parameter")
    if problem is not None or not isinstance(upload_part, UploadFile):
        await form.close()
        raise problem or AssertionError
    return (upload_part.filename or "upload").replace("\0", "")[:255], str(purpose), upload_part.file


def _chunks(data: Any) -> Any:
    while chunk := data.read(1024 * 1024):
        yield chunk


def _page(entries: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """One page: `after` an id, at most `limit` (20, to 100)."""
    text = query.get("limit", "20")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 10000:
        raise invalid("`limit` must be a number from 1 to 10000.", "limit")
    limit = int(text)
    if "after" in query:
        position = next((index for index, entry in enumerate(entries) if entry["id"] == query["after"]), None)
        if position is None:
            raise invalid(f"`after` names {query['after'][:100]!r}, which does not exist.", "after")
        entries = entries[position + 1 :]
    page = entries[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(entries) > limit,
    }


def _file(file: "File") -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def _batch(batch: "Batch") -> dict[str, Any]:
    ended = {
        f"{status}_at": batch.ended_at if batch.status == status else None for status in ("completed", "failed", "expired", "cancelled")
    }
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "in_progress_at": batch.created_at,
        "expires_at": batch.expires_at,
        "finalizing_at": None,
        "cancelling_at": batch.cancelling_at,
        **ended,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
    }


async def _known_file(service: Service, request: Request) -> "File":
    store = await _store(service)
    found = await _in_thread(lambda: store.file(request.caller.tenant, request.params["file_id"]))
    if found is None:
        raise _no_file(request.params["file_id"])
    return found


async def _known_batch(service: Service, request: Request) -> "Batch":
    store = await _store(service)
    found = await _in_thread(lambda: store.batch(request.caller.tenant, request.params["batch_id"]))
    if found is None:
        raise not_found(f"The batch {request.params['batch_id'][:100]!r} does not exist.", "batch_id", "batch_not_found")
    return found


def _no_file(file_id: str, param: str = "file_id") -> ApiError:
    return not_found(f"The file {file_id[:100]!r} does not exist.", param, "file_not_found")


async def _store(service: Service) -> "BatchStore":
    try:
        return await service.batches.store()
    except DatabaseDown as error:
        raise _down(error) from None


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except DatabaseFull:
        raise ApiError(
            507, "No space is left for batches; nothing of this request was kept. Delete files and try again.", code="storage_full"
        ) from None
    except DatabaseDown as error:
        raise _down(error) from None


def _down(error: DatabaseDown) -> ApiError:
    return ApiError(503, f"The database of batches cannot be used: {error}", code="storage_unavailable", headers={"retry-after": "5"})
