"""Reading sealed chunks for those who send or open them: once for several hosts, and ahead.

Owns the chunks that were read last, and those that are read next. Knows only a `ChunkSource`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TypeVar

from queueing.store import ChunkSource

_Item = TypeVar("_Item")

KEPT_MAX = 12
"""Chunks kept for hosts that are a little behind; one that is further behind reads again."""


class SharedChunks:
    """A `ChunkSource` over another one; all callers are on one loop."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source
        self._reads: OrderedDict[int, asyncio.Task[bytes]] = OrderedDict()

    async def read(self, index: int) -> bytes:
        """Return a chunk; its first reader's failure is that of all who wait for it."""
        read = self._reads.get(index)
        if read is None:
            read = self._reads[index] = asyncio.create_task(self._source.read(index))
            read.add_done_callback(lambda ended: self._forget_failure(index, ended))
            while len(self._reads) > KEPT_MAX:
                self._reads.popitem(last=False)
        # Shielded: a host that is given up must not take the read away from the others.
        return await asyncio.shield(read)

    def _forget_failure(self, index: int, ended: asyncio.Task[bytes]) -> None:
        """Let the next reader try again, and count the failure as seen: who waited was told."""
        failed = ended.cancelled() or ended.exception() is not None
        if failed and self._reads.get(index) is ended:
            del self._reads[index]


async def in_turn(
    source: ChunkSource, indexes: Iterable[int]
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yield (index, sealed chunk) of these indexes."""
    for index in indexes:
        yield index, await source.read(index)


async def one_ahead(items: AsyncIterator[_Item]) -> AsyncGenerator[_Item, None]:
    """Yield what an iterator gives while its next one is awaited already.

    To be closed by whoever may leave early; the iterator is its owner's to close, after this.
    """

    async def step() -> list[_Item]:
        try:
            return [await anext(items)]
        except StopAsyncIteration:
            return []

    ahead = asyncio.create_task(step())
    try:
        while found := await ahead:
            ahead = asyncio.create_task(step())
            yield found[0]
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
