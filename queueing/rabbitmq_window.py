"""Room for what is published and not yet confirmed.

Owns the count of it, over all deposits of one peer, so that however many are made at once no more
of them is in memory than of one. Must not know what is published.
"""

import asyncio


class Window:
    """Messages and bytes that may be unconfirmed at a time; who waits longest is let in first."""

    def __init__(self, messages_max: int, bytes_max: int, silence_s: float) -> None:
        """Take the bounds; `silence_s` is how long nobody may leave before a wait fails."""
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._silence_s = silence_s
        self._messages = 0
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()

    async def enter(self, size_bytes: int) -> None:
        """Wait for room; one message finds it however large it is. TimeoutError."""
        async with self._turn:
            while self._messages and not self._has_room(size_bytes):
                self._left.clear()
                async with asyncio.timeout(self._silence_s):
                    await self._left.wait()
            self._messages += 1
            self._bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Give the room back: confirmed, refused or lost."""
        self._messages -= 1
        self._bytes -= size_bytes
        assert self._messages >= 0, "a message left twice"
        assert self._bytes >= 0, "it was larger when it left"
        self._left.set()

    def _has_room(self, size_bytes: int) -> bool:
        return self._messages < self._messages_max and self._bytes + size_bytes <= self._bytes_max
