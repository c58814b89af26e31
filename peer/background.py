"""The peer's own tasks. Owns their number and their end; must not know what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

from identity.errors import ShoalError

TASKS_MAX = 512


class Background:
    """Tasks that nobody waits for: referenced, bounded, cancelled at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self.dropped = 0
        """Pieces of work that were left out because too many were under way."""

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work on its own; ShoalErrors end it quietly, for it is always tried again later."""
        if self._is_closed or len(self._tasks) >= TASKS_MAX:
            self.dropped += 1
            work.close()
            return
        task = asyncio.create_task(_quietly(work))
        self._tasks.add(task)

        def end(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            work.close()  # it may have been cancelled before it began

        task.add_done_callback(end)

    async def close(self) -> None:
        """Cancel what still runs and wait for its end; what comes later is left out."""
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(work: Awaitable[Any]) -> None:
    try:
        await work
    except ShoalError:
        return
