"""Several answers followed as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from inferstack_runtime.api.run import Delta, Run


async def follow_all(runs: Sequence[Run], heartbeat: float) -> AsyncGenerator[tuple[int, list[Delta]], None]:
    """The deltas of several runs as they come, each list with its run's position."""
    if len(runs) == 1:
        async with aclosing(runs[0].follow(heartbeat)) as deltas:
            async for news in deltas:
                yield 0, news
        return
    queue: asyncio.Queue[tuple[int, list[Delta] | Exception | None]] = asyncio.Queue()

    async def pump(position: int) -> None:
        try:
            async with aclosing(runs[position].follow(heartbeat)) as deltas:
                async for news in deltas:
                    queue.put_nowait((position, news))
            queue.put_nowait((position, None))
        except Exception as error:
            queue.put_nowait((position, error))

    tasks = [asyncio.create_task(pump(position)) for position in range(len(runs))]
    try:
        left = len(tasks)
        while left:
            position, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield position, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
