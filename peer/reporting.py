"""What a command says while it runs: the bridge from views to the events of the control socket.

Owns the event vocabulary on the peer's side. Must not know commands or sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from peer.views import Progress, to_json

PROGRESS_INTERVAL_S = 0.15

Emit = Callable[[dict[str, Any]], Awaitable[None]]


class Reporter:
    """Sends one command's items, result, notes and progress to whoever asked for it."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    async def item(self, view: object) -> None:
        """Send one item of a list."""
        await self._emit({"event": "item", "item": to_json(view)})

    async def result(self, view: object) -> None:
        """Send the command's result."""
        await self._emit({"event": "result", "result": to_json(view)})

    async def note(self, text: str, hint: str = "") -> None:
        """Send a warning or advice; it goes to stderr and is no error."""
        await self._emit({"event": "note", "text": text, "hint": hint})

    async def ready(self, path: str, size_bytes: int) -> None:
        """Tell how much of a file may be read from its beginning while the rest is fetched."""
        await self._emit({"event": "ready", "path": path, "bytes": size_bytes})

    @contextlib.asynccontextmanager
    async def progressing(self) -> AsyncIterator[Callable[[Progress], None]]:
        """Give a plain function that may be called often; only the latest progress is sent."""
        latest: list[Progress] = []
        pump = asyncio.create_task(self._pump(latest))
        try:
            yield lambda progress: latest.__setitem__(slice(None), [progress])
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, latest: list[Progress]) -> None:
        sent: Progress | None = None
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            if latest and latest[0] is not sent:
                sent = latest[0]
                await self._emit({"event": "progress", **to_json(sent)})
