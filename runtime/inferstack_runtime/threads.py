"""Work in threads that do not keep the process from ending."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon(work: Callable[[], T], name: str) -> T:
    """As `asyncio.to_thread`, in a thread of its own that nobody waits for at the end: for work that may take minutes, or for ever."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[T], None] | Callable[[BaseException], None], value: object) -> None:
        if not outcome.done():
            set_it(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            step = (outcome.set_result, work())
        except BaseException as error:
            step = (outcome.set_exception, error)  # type: ignore[assignment]
        try:
            loop.call_soon_threadsafe(settle, *step)
        except RuntimeError:  # the loop is closed: the process ends
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome
