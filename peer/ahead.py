"""Doing several pieces of work at once, and taking their results in order.

Owns how many run ahead of the one that is waited for. Must not know what they do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

AHEAD_MAX = 16

Result = TypeVar("Result")


async def in_order(
    works: Iterable[Callable[[], Coroutine[Any, Any, Result]]], *, ahead_max: int = AHEAD_MAX
) -> AsyncGenerator[Result, None]:
    """Yield the results of works in their order; the first error ends it, what runs is cancelled.

    To be closed (`contextlib.aclosing`) by whoever may leave early.
    """
    running: deque[asyncio.Task[Result]] = deque()
    waiting = iter(works)
    try:
        while True:
            while len(running) < ahead_max and (work := next(waiting, None)) is not None:
                running.append(asyncio.create_task(work()))
            if not running:
                return
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
