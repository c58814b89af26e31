"""What the Mailbox service needs of whatever keeps the mail behind it.

Owns that Protocol, which `Spool` implements, and reading a delivery's chunks through it; another
store may stand in its place. Must not know any implementation, nor gRPC.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from queueing.envelope import OuterManifest
from queueing.spool_index import Row
from queueing.store import Usage


class KeptMail(Protocol):
    """Keeps deliveries of many senders for many recipients, each chunk by its index."""

    async def begin(self, manifest: OuterManifest) -> list[int]:
        """Check a manifest, reserve room, return missing chunks; see `Spool.begin`."""
        ...

    async def put(self, manifest: OuterManifest, index: int, sealed: bytes) -> None:
        """Write one chunk of a delivery that was begun."""
        ...

    async def finish(self, manifest: OuterManifest) -> None:
        """Make a delivery durable; it is handed out from now on."""
        ...

    async def row(self, delivery_id: bytes) -> Row | None:
        """Return what is known of a delivery."""
        ...

    async def waiting(self, recipient: bytes, after: int, limit: int) -> list[Row]:
        """Return one page of whole deliveries for a recipient, oldest first."""
        ...

    async def manifest(self, delivery_id: bytes) -> OuterManifest | None:
        """Return the outer manifest of a delivery whose chunks are here."""
        ...

    async def read(self, manifest: OuterManifest, index: int) -> bytes:
        """Return one checked chunk; BadEnvelope when it is lost."""
        ...

    async def settle(self, delivery_id: bytes, receipt: bytes) -> None:
        """Keep the recipient's receipt and let go of the chunks."""
        ...

    async def drop(self, delivery_id: bytes) -> bool:
        """Let go of a delivery for good; False when it was not here any more."""
        ...

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return the receipts kept for a sender's deliveries."""
        ...

    async def usage(self, sender: bytes | None = None) -> Usage:
        """Return how full it is, or how much of it one sender fills."""
        ...


class KeptChunks:
    """The sealed chunks of one kept delivery, for depositing them elsewhere: a `ChunkSource`."""

    def __init__(
        self, read: Callable[[OuterManifest, int], Awaitable[bytes]], manifest: OuterManifest
    ) -> None:
        """``read``: `KeptMail.read`, or what stands in for it."""
        self._read = read
        self._manifest = manifest

    async def read(self, index: int) -> bytes:
        """Return one sealed chunk; BadEnvelope when it is lost."""
        return await self._read(self._manifest, index)
