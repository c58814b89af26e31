"""A control server that plays back events, to test the command without any network."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from peer.control import ControlServer, Emit
from peer.home import Home

Scripted = dict[str, Any] | Exception | threading.Event


class ScriptedPeer:
    """Answers each command with its list of events.

    An exception among them is raised; a `threading.Event` is waited for, as a command that takes
    long would.
    """

    def __init__(self, folder: Path, script: dict[str, list[Scripted]]) -> None:
        self.folder = folder
        self.script = script
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cancelled = threading.Event()
        self.waiting = threading.Event()
        self._home = Home(folder / "home")
        self._home.ensure()
        self._loop = asyncio.new_event_loop()
        self._server = ControlServer(self._home.socket_path, self._handle)
        self._thread = threading.Thread(target=self._loop.run_forever)

    async def _handle(self, command: str, arguments: dict[str, Any], emit: Emit) -> None:
        self.asked.append((command, arguments))
        if command not in self.script:  # a command that takes long
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        for event in self.script[command]:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, threading.Event):
                await self._wait_for(event)
            else:
                await emit(event)

    async def _wait_for(self, event: threading.Event) -> None:
        try:
            while not event.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def __enter__(self) -> ScriptedPeer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(5)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def item(**fields: object) -> dict[str, Any]:
    return {"event": "item", "item": fields}


def result(**fields: object) -> dict[str, Any]:
    return {"event": "result", "result": fields}
