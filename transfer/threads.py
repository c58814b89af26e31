"""Blocking work that is never torn from a caller that is cancelled.

Owns one helper. `asyncio.to_thread` returns at once when its caller is cancelled, while the thread
goes on: with a descriptor that the caller then closes and the next file gets, or towards a result,
an open and locked file, that nobody takes. Work that only reads may use `asyncio.to_thread`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

Result = TypeVar("Result")


async def run_to_end(
    work: Callable[[], Result],
    *,
    undo: Callable[[Result], object] | None = None,
    pool: Executor | None = None,
) -> Result:
    """Run work in a thread and wait for its end, whatever happens to the caller.

    The thread is one of `pool`, or one of the event loop's own. A caller that was cancelled
    meanwhile is told so then; the result is given to `undo`.
    """
    running = asyncio.get_running_loop().run_in_executor(pool, work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return running.result()
    if running.exception() is None and undo is not None:
        undo(running.result())
    raise cancelled
