"""Sealed chunks that several hosts get at about the same time, read from the disk once.

Owns the chunks that were read last. Knows only a `ChunkSource`.
"""

import asyncio
from collections import OrderedDict

from queueing.store import ChunkSource

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
