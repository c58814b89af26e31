"""What `shoal join` shows while its peer runs: the ready line, notes, and the live table.

Fulfils the peer's Observer. The ready line goes to stdout, since scripts wait for it; everything
else goes to stderr. Only the table shows the invite.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from console.output import is_terminal, print_line
from console.text import escape
from peer.views import Snapshot

if TYPE_CHECKING:
    from console.table import LiveTable

_REFRESH_S = 0.5


class JoinScreen:
    """The observer of one peer, which is run by `drawn_beside`."""

    def __init__(self, *, table: bool, quiet: bool) -> None:
        self.leaving = asyncio.Event()
        self._table_wanted = table and not quiet and is_terminal(sys.stderr)
        self._quiet = quiet
        self._snapshot: Callable[[], Snapshot] | None = None
        self._is_ready = asyncio.Event()
        self._say: Callable[[str], None] = _say_plainly

    @property
    def is_watched(self) -> bool:
        return self._table_wanted

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def ready(self, peer_id: str, address: str, invite: str | None) -> None:
        print_line(f"ready {peer_id} {address}", sys.stdout)
        # Above the table as well: inside its borders a long invite cannot be copied.
        if invite and not self._quiet and is_terminal(sys.stderr):
            self._say(f"to join: shoal join {escape(invite)}")
        self._is_ready.set()

    def note(self, text: str, hint: str = "") -> None:
        if self._quiet:
            return
        self._say(f"shoal: {escape(text)}")
        if hint:
            self._say(f"hint: {escape(hint)}")

    async def drawn_beside(self, peer: Coroutine[Any, Any, int]) -> int:
        """Run the peer, with its table drawn until it ends; returns its exit code."""
        async with asyncio.TaskGroup() as group:
            drawing = group.create_task(self._redraw())
            code = await peer
            drawing.cancel()
        return code

    async def _redraw(self) -> None:
        """Draw the table twice a second from ready on, where one is wanted."""
        await self._is_ready.wait()
        if not self._table_wanted or self._snapshot is None:
            return
        from console.table import LiveTable

        # A terminal that was closed is no reason for the peer to end without a clean leave.
        with contextlib.suppress(OSError):
            await self._draw(LiveTable(sys.stderr), self._snapshot)
        self._say("shoal: leaving")

    async def _draw(self, table: LiveTable, snapshot: Callable[[], Snapshot]) -> None:
        plain, self._say = self._say, table.say
        table.start()
        try:
            while not self.leaving.is_set():
                table.update(snapshot())
                await asyncio.sleep(_REFRESH_S)
        finally:
            self._say = plain
            with contextlib.suppress(OSError):
                table.stop()


def _say_plainly(line: str) -> None:
    with contextlib.suppress(OSError):
        print_line(line, sys.stderr)
