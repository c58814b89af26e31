"""Reading a served file a few frames ahead of what is asked for.

Owns one class. A turn of a thread for each frame costs a sender more than the read itself when the
file is in the page cache, and most readers ask for chunk after chunk. Knows neither gRPC nor whom
the bytes are for.
"""

import asyncio

from transfer.sources import OpenSource

AHEAD_FRAMES_MAX = 4
"""Frames that one turn of a thread reads once they are asked for in order,"""
AHEAD_BYTES_MAX = 2 * 1024 * 1024
"""but no more bytes than these; a longer frame is read alone."""


class ReadAhead:
    """Spans of sources; those of one source that come in order are read several at a time.

    Only whole files are read ahead: what a partial one lacks now it may have when it is asked for.
    """

    def __init__(self) -> None:
        self._source: OpenSource | None = None
        self._start = self._next = 0
        self._kept = memoryview(b"")

    async def message(self, source: OpenSource, head: bytes, offset: int, length: int) -> bytes:
        """Return a head with a span after it; a long one is read right to where it belongs."""
        if length > AHEAD_BYTES_MAX // 2:
            return await asyncio.to_thread(source.read_after, head, offset, length)
        return b"".join((head, await self.span(source, offset, length)))

    async def span(self, source: OpenSource, offset: int, length: int) -> memoryview:
        """Return a span of a source; SourceChanged when that is no longer what it was."""
        is_next = source is self._source and offset == self._next
        at = offset - self._start
        if is_next and 0 <= at <= len(self._kept) - length:
            source.check()
        else:
            ahead = is_next and source.source.have is None
            rest = source.source.manifest.size_bytes - offset
            frames = max(1, min(AHEAD_FRAMES_MAX, AHEAD_BYTES_MAX // length)) if ahead else 1
            wanted = max(length, min(length * frames, rest))
            self.forget()
            data = await asyncio.to_thread(source.read, offset, wanted)
            self._source, self._start, self._kept, at = source, offset, memoryview(data), 0
        self._next = offset + length
        span = self._kept[at : at + length]
        if at + length == len(self._kept):
            self._kept = memoryview(b"")
        return span

    def forget(self) -> None:
        """Let go of what was read ahead."""
        self._source, self._kept = None, memoryview(b"")
