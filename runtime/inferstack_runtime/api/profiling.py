"""Profiling on demand: one profile of the answering process at a time, bounded, for admins."""

import asyncio
import threading

from inferstack_runtime.api.fields import Field, Fields
from inferstack_runtime.api.http import Request, Response, json_response
from inferstack_runtime.api.service import Service
from inferstack_runtime.errors import ApiError

PROFILE_FIELDS = Fields(
    (
        Field(
            "kind",
            "string",
            "`cpu`: stacks by sampling; `memory`: what is allocated meanwhile and held at the end; `torch`: operators.",
            "cpu",
            choices=("cpu", "memory", "torch"),
        ),
        Field("seconds", "integer", "How long to look.", 5, minimum=1, maximum=30),
    )
)
_busy = threading.Lock()
"""One for the process: tracers are the interpreter's."""


async def create(service: Service, request: Request) -> Response:
    """`POST /api/v1/profiling`: rows of the profile when its time is over; it ends early when the client leaves."""
    from inferstack_runtime import profiling  # loaded by its first user

    values = PROFILE_FIELDS.read(await service.json(request))
    if not _busy.acquire(blocking=False):
        raise ApiError(409, "A profile of this process is being taken; ask again when it is over.", code="profile_running")
    stop = threading.Event()

    def take() -> list[profiling.Row]:
        try:
            return profiling.profile(values["kind"], values["seconds"], stop)
        finally:
            _busy.release()

    work = asyncio.get_running_loop().run_in_executor(None, take)
    try:
        rows = await request.unless_disconnected(asyncio.shield(work))
    except profiling.Unavailable as error:
        raise ApiError(409, str(error), code="profile_unavailable") from None
    finally:
        stop.set()
    return json_response({"kind": values["kind"], "seconds": values["seconds"], "rows": rows})
