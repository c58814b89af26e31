"""Large deliveries where there is a broker: the chunks with mailbox peers, a claim on the broker.

Owns that choice, as a `PendingStore` before a `RabbitStore` and a mailbox store. Must not know
pika, gRPC or how hosts are found.

A delivery above the limit is deposited with mailbox peers, which check, audit and replace copies;
then its manifest and the ids of those peers go into the recipient's queue. So the recipient learns
of it from the broker as of any other, whatever the DHT says, and the broker's disk and memory hold
a few hundred bytes. Where no peer keeps mail the broker gets the whole delivery: better than none.
"""

from collections.abc import AsyncIterator, Callable, Sequence

from identity.keys import parse_peer_id
from queueing.envelope import OuterManifest
from queueing.errors import NoMailbox, QueueError
from queueing.rabbitmq import HELD_BY, RabbitDelivery, RabbitStore
from queueing.store import ChunkSource, DepositReceipt, PendingStore, StoreKind, Usage

_TOLD_MAX = 10_000


class ClaimingStore:
    """The broker for small deliveries; for large ones mailbox peers, and a claim on the broker."""

    kind = StoreKind.RABBITMQ

    def __init__(
        self,
        broker: RabbitStore,
        mailboxes: PendingStore,
        *,
        whole_bytes_max: int,
        on_claim: Callable[[Sequence[bytes]], None],
    ) -> None:
        """Take both stores; `on_claim` hears the ids of peers that keep something for us."""
        self._broker = broker
        self._mailboxes = mailboxes
        self._whole_bytes_max = whole_bytes_max
        self._on_claim = on_claim
        self._told: set[bytes] = set()
        self.claimed = 0
        self.claim_failures = 0

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        """Deposit by size; the receipt's kind says who looks after the chunks."""
        if manifest.sealed_bytes <= self._whole_bytes_max:
            return await self._broker.deposit(manifest, chunks)
        try:
            kept = await self._mailboxes.deposit(manifest, chunks)
        except NoMailbox:
            return await self._broker.deposit(manifest, chunks)
        try:
            await self._broker.claim(manifest, [parse_peer_id(host) for host in kept.held_by])
        except QueueError:  # it is stored all the same, and found by the hosts' `mail` records
            self.claim_failures += 1
            return kept
        self.claimed += 1
        return DepositReceipt(kept.kind, (*kept.held_by, HELD_BY), kept.expires_ms)

    async def collect(self, recipient: bytes) -> AsyncIterator[RabbitDelivery]:
        """Yield what waits on the broker, and tell who keeps what claims have announced."""
        async for delivery in self._broker.collect(recipient):
            yield delivery
        claims = await self._broker.claims(recipient)
        fresh = [delivery_id for delivery_id in claims if delivery_id not in self._told]
        hosts = list(dict.fromkeys(host for each in fresh for host in claims[each]))
        if len(self._told) + len(fresh) > _TOLD_MAX:
            self._told.clear()
        self._told.update(fresh)
        if hosts:
            self._on_claim(hosts)

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return the receipts that came over the broker; mailboxes are asked by themselves."""
        return await self._broker.receipts(sender, delivery_ids)

    async def cancel(self, manifest: OuterManifest) -> bool:
        """Take a delivery back from the broker; from mailboxes it is taken back by themselves."""
        return await self._broker.cancel(manifest)

    async def usage(self) -> Usage:
        """Count what the broker's store counts."""
        return await self._broker.usage()

    async def close(self) -> None:
        """Close the broker's store; the mailboxes have another owner."""
        await self._broker.close()
