"""The one interface behind which deliveries wait: what a backend takes and gives.

Owns the Protocols and the small values that cross them. Must not know any backend.

Rules that every backend keeps (tests/queueing/contract.py holds them to it):
- `deposit` returns after the data is durable, never before; doing it again changes nothing, and
  continues where an interrupted one stopped where the backend can.
- `collect` hands out only whole deliveries, each delivery id once a call, oldest first, and none
  that was acked, rejected, cancelled or has expired.
- `ack` first makes the receipt reachable for the sender, then lets go of the chunks.
- Remote bytes that do not verify become `BadEnvelope` or a counted drop, never another exception.
"""

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from queueing.envelope import OuterManifest


class StoreKind(enum.StrEnum):
    """Which backend keeps a delivery."""

    SPOOL = "spool"
    MAILBOX = "mailbox"
    RABBITMQ = "rabbitmq"


@dataclass(frozen=True, slots=True)
class DepositReceipt:
    """Where a delivery is kept, and until when."""

    kind: StoreKind
    held_by: tuple[str, ...]
    """Peer ids as shown, or "rabbitmq"; empty for the sender's own spool."""
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a store is."""

    deliveries: int
    bytes: int
    limit_bytes: int


class ChunkSource(Protocol):
    """Where the sealed chunks of one delivery are read from, in any order and repeatedly."""

    async def read(self, index: int) -> bytes:
        """Return the sealed chunk; BadEnvelope when it is lost.

        It is checked against its digest, unless it was sealed by this process a moment ago. Nobody
        who deposits it checks it again: whoever takes it does.
        """
        ...


class Delivery(Protocol):
    """One whole delivery as its recipient gets it."""

    @property
    def manifest(self) -> OuterManifest:
        """The checked outer manifest."""
        ...

    def chunks(self, start: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (index, sealed chunk) in order from `start`, each checked against its digest."""
        ...

    async def ack(self, receipt: bytes) -> None:
        """Hand in the signed receipt and let go of the chunks; a second ack does nothing."""
        ...

    async def reject(self, reason: str, receipt: bytes | None) -> None:
        """Let go of it for good; with a receipt (REFUSED) the sender learns why."""
        ...


class PendingStore(Protocol):
    """Keeps sealed deliveries for recipients that are away, and receipts for senders."""

    @property
    def kind(self) -> StoreKind:
        """Which backend this is."""
        ...

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        """Keep a delivery. Unavailable, Blocked, MailboxFull, NoMailbox, TooLarge, Refused,
        Expired, BadEnvelope."""
        ...

    def collect(self, recipient: bytes) -> AsyncIterator[Delivery]:
        """Yield what waits for this peer id now, oldest first, then end."""
        ...

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return the receipts at hand for these deliveries of this sender; unchecked bytes.

        They may be asked for again until they expire, or not (a broker hands them out once).
        """
        ...

    async def cancel(self, manifest: OuterManifest) -> bool:
        """Take a delivery back; False when there was nothing left to take back."""
        ...

    async def usage(self) -> Usage:
        """Return how full this store is."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; a second close does nothing."""
        ...
