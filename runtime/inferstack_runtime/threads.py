"""Work away from the event loop: in a thread where it is long, in a thread of its own where it may never end."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


LONG_TEXT = 8192
"""Characters from which reading and dividing a text takes milliseconds: the streams of others must not wait for it."""


async def in_turn(long: bool, work: Callable[[], T]) -> T:
    """The result of `work`: at once where it is short, else from a thread."""
    return await asyncio.to_thread(work) if long else work()


async def in_daemon(work: Callable[[], T], name: str) -> T:
    """As `asyncio.to_thread`, in a thread of its own that nobody waits for at the end: for work that may take minutes, or for ever."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # who gives up waiting ends nothing

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)
