"""RabbitMQ as a store for pending deliveries.

Owns how deliveries become messages: publishing in a window, reconnecting, draining a queue into the
staging folder. Must not know pika's objects, names or contents of files, or the DHT.

Depositing: the manifest is published and confirmed first, its chunks after it, so that a reader of
the queue always knows what a chunk belongs to. Publications are persistent and mandatory, and the
deposit returns when all are confirmed. (Classic durable queues fsync before the confirm up to
RabbitMQ 3.12; from 3.13 on a power cut of the broker may lose what it confirmed just before, which
the sender's own copy outlives.) The recipient declares its queue when it collects; a sender whose
manifest is returned declares it in its place, and gets NoMailbox when the broker's permissions keep
that to the recipient. After a lost connection only what is unconfirmed is sent again; a deposit
that is repeated sends everything, for the broker may have lost its disk meanwhile, and the
recipient drops what it has.

Collecting: see rabbitmq_staging. The queue is drained before the first delivery is handed out, so
that a cancellation that stands behind its delivery counts. A delivery is settled in the staging
folder only after the broker confirmed the receipt.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from identity.keys import Identity
from queueing.envelope import OuterManifest
from queueing.errors import (
    BadEnvelope,
    MailboxFull,
    NoMailbox,
    NotPermitted,
    QueueError,
    Unavailable,
)
from queueing.rabbitmq_config import RabbitConfig, limited
from queueing.rabbitmq_health import QueueHealth
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_messages import (
    CLAIM_HOSTS_MAX,
    ChunkMail,
    ClaimMail,
    Mail,
    ManifestMail,
    ReceiptMail,
    dead_queue,
    decode_mail,
    mail_queue,
    quorum_sign,
    receipts_queue,
    sign_cancel,
)
from queueing.rabbitmq_nodes import BrokerNodes
from queueing.rabbitmq_publisher import Counters, Deposit, Patience, Publisher
from queueing.rabbitmq_staging import Staging, Verdict
from queueing.rabbitmq_url import AmqpUrl, parse_amqp_url
from queueing.rabbitmq_wire import Message
from queueing.store import ChunkSource, DepositReceipt, StoreKind, Usage
from rpc.pace import BothWays

HELD_BY = "rabbitmq"
JOURNAL_BYTES = 64 * 1024
"""What a message that brings no chunk may want of the disk."""
_IDLE_S = 0.2
_EMPTY_ANSWERS = 2
"""The broker counts messages as gone while they are still on their way to us; those handed over
before its first answer stand before its second."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def reachable(url: str, timeout_s: float = 3.0, *, ca_file: Path | None = None) -> None:
    """Return when a broker lets us in; else raise Unavailable, NotPermitted or BadAmqpUrl."""
    config = RabbitConfig(connect_timeout_s=timeout_s, ca_file=ca_file)
    try:
        async with asyncio.timeout(timeout_s):
            link = await BrokerNodes(parse_amqp_url(url), config).open()
    except TimeoutError as error:
        raise Unavailable(f"the broker does not answer within {timeout_s:g} s") from error
    await link.close()


class RabbitStore:
    """A PendingStore on a RabbitMQ broker, with `staging` as the folder for mail taken off it."""

    kind = StoreKind.RABBITMQ

    def __init__(
        self,
        url: AmqpUrl,
        network_id: bytes,
        staging: Path,
        *,
        identity: Identity | None = None,
        config: RabbitConfig | None = None,
        wall_ms: Callable[[], int] = _wall_ms,
        randomness: random.Random | None = None,
        pace: BothWays | None = None,
    ) -> None:
        """Open the staging folder; connects only when used. `identity` is needed for `cancel`.

        `pace` is shared with all other mail of this peer.
        """
        pace = pace or BothWays()
        self._network_id = network_id
        self._sign = quorum_sign(network_id)
        self._identity = identity
        self._config = limited(config or RabbitConfig(), pace.down.rate_bytes_per_s)
        self._down = pace.down
        self._nodes = BrokerNodes(url, self._config)
        self._wall_ms = wall_ms
        self._patience = Patience(self._config, randomness or random.Random())
        self._staging = Staging(
            staging,
            network_id,
            limit_bytes=self._config.staging_bytes_max,
            disk_floor_bytes=self._config.disk_floor_bytes,
        )
        self._wanted_bytes = 0
        """Room that is lacking, 0: none. Until it is there no queue is read."""
        # One reader a queue: a second one would take chunks away from the first one's manifests.
        self._draining: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._drains = asyncio.Semaphore(self._config.drains_max)
        self.counters = Counters()
        self._publisher = Publisher(
            self._nodes, network_id, self._config, self._patience, self.counters, wall_ms, pace.up
        )

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        """Publish a delivery and wait for the broker's confirms."""
        manifest.check(self._network_id, self._wall_ms())
        queue = mail_queue(self._network_id, manifest.recipient)
        deposit = Deposit(queue, manifest, chunks, set(range(manifest.count)))
        # Noted first, so that a deposit that stopped halfway can be taken back too.
        await asyncio.to_thread(self._staging.note_sent, manifest)
        await self._publisher.deliver(deposit)
        return DepositReceipt(self.kind, (HELD_BY,), manifest.expires_ms)

    async def collect(self, recipient: bytes) -> AsyncIterator["RabbitDelivery"]:
        """Drain this peer's queue, then yield what is whole, oldest first."""
        queue = mail_queue(self._network_id, recipient)
        handed_out: set[bytes] = set()
        while True:
            drained = await self._drain(queue, recipient)
            waiting = await asyncio.to_thread(
                self._staging.waiting, recipient, now_ms=self._wall_ms()
            )
            fresh = [manifest for manifest in waiting if manifest.delivery_id not in handed_out]
            for manifest in fresh:
                handed_out.add(manifest.delivery_id)
                yield RabbitDelivery(self, self._staging, manifest)
            if drained:
                return
            if not fresh:
                raise MailboxFull(
                    "the folder for collected mail is full",
                    hint="settle what has arrived, or wait until incomplete deliveries expire",
                )

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Drain this peer's receipts queue, then return those asked for; they stay until expiry."""
        await self._drain(receipts_queue(self._network_id, sender), sender)
        return await asyncio.to_thread(self._staging.receipts, delivery_ids)

    async def cancel(self, manifest: OuterManifest) -> bool:
        """Order the recipient to drop a delivery that was deposited from here; a broker cannot."""
        if self._identity is None or self._identity.peer_id != manifest.sender:
            raise NotPermitted
        if not await asyncio.to_thread(self._staging.was_sent, manifest.delivery_id):
            return False
        order = sign_cancel(self._identity, self._network_id, manifest.delivery_id)
        queue = mail_queue(self._network_id, manifest.recipient)
        try:
            await self._publisher.publish(queue, order, manifest.expires_ms)
        except NoMailbox:
            return False
        finally:
            await asyncio.to_thread(self._staging.forget_sent, manifest.delivery_id)
        return True

    # What a ClaimingStore uses besides.

    async def claim(self, manifest: OuterManifest, hosts: Sequence[bytes]) -> None:
        """Tell the recipient, through its queue, at which mailbox peers a delivery lies."""
        queue = mail_queue(self._network_id, manifest.recipient)
        mail = ClaimMail(manifest, tuple(hosts[:CLAIM_HOSTS_MAX]))
        await self._publisher.publish(queue, mail, manifest.expires_ms, declare=True)

    async def claims(self, recipient: bytes) -> dict[bytes, tuple[bytes, ...]]:
        """Return the claims that came, by delivery id, until they expire."""
        now_ms = self._wall_ms()
        return await asyncio.to_thread(self._staging.claims, recipient, now_ms=now_ms)

    # What a desk (queueing.broker_desk) uses, which answers for many recipients.

    async def bring(self, recipient: bytes) -> bool:
        """Drain a recipient's queue into the staging folder; False when that is full.

        Makes no queue: whoever asks at a desk may be anybody.
        """
        queue = mail_queue(self._network_id, recipient)
        return not await self._has_mail(queue) or await self._drain(queue, recipient)

    async def bring_receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return a sender's receipts as `receipts` does; makes no queue."""
        queue = receipts_queue(self._network_id, sender)
        if await self._has_mail(queue):
            await self._drain(queue, sender)
        return await asyncio.to_thread(self._staging.receipts, delivery_ids)

    async def _has_mail(self, queue: str) -> bool:
        try:
            return await self._publisher.look(queue) > 0
        except NoMailbox:
            return False

    async def staged(self, manifest: OuterManifest, index: int) -> bytes | None:
        """Return a chunk from the staging folder, or None when it is not there."""
        try:
            return await asyncio.to_thread(self._staging.read, manifest, index)
        except (FileNotFoundError, BadEnvelope):
            return None

    async def staged_for(self, recipient: bytes) -> list[OuterManifest]:
        """Return what is whole in the staging folder for a recipient, oldest first."""
        return await asyncio.to_thread(self._staging.waiting, recipient, now_ms=self._wall_ms())

    async def was_sent(self, delivery_id: bytes) -> bool:
        """Tell whether a delivery was deposited from here."""
        return await asyncio.to_thread(self._staging.was_sent, delivery_id)

    async def let_go(self, delivery_id: bytes) -> None:
        """Settle a delivery in the staging folder, if it is there; no receipt goes anywhere."""
        await asyncio.to_thread(self._staging.settle, delivery_id)

    async def usage(self) -> Usage:
        """Count what lies in the staging folder and what this peer has on the broker."""
        await asyncio.to_thread(self._staging.expire, now_ms=self._wall_ms())
        deliveries, held_bytes = await asyncio.to_thread(self._staging.usage)
        return Usage(deliveries, held_bytes, self._config.staging_bytes_max)

    async def health(self) -> QueueHealth:
        """Ask the broker how it does, and the folder what came of late."""
        failure: QueueError | None = None
        dead: int | None = None
        name = dead_queue(self._network_id)
        try:
            dead = await self._publisher.look(name)
        except NoMailbox:
            dead = None
        except QueueError as error:
            failure = error
        poison = await asyncio.to_thread(self._staging.poison)
        return QueueHealth(failure, tuple(poison), name, dead, self._wanted_bytes)

    async def close(self) -> None:
        """Close connection and journal; deposits under way end as Unavailable."""
        self._patience.is_over = True
        await self._publisher.close()
        self._staging.close()

    async def send_receipt(self, manifest: OuterManifest, receipt: bytes) -> None:
        """Put a receipt into the sender's queue, confirmed; declares that queue when it is gone."""
        queue = receipts_queue(self._network_id, manifest.sender)
        mail = ReceiptMail(manifest.delivery_id, receipt)
        expires_ms = manifest.expires_ms + self._grace_ms
        await self._publisher.publish(queue, mail, expires_ms, declare=True)

    @property
    def _grace_ms(self) -> int:
        return int(self._config.receipt_grace_s * 1000)

    # Draining.

    async def _drain(self, queue: str, owner: bytes) -> bool:
        """Bring the queue's messages into the staging folder; False when that is full.

        What finds no room goes back to the broker once, with the connection, and the queue is left
        alone until there is room: no message goes to and fro.
        """
        alone = self._draining.setdefault(queue, asyncio.Lock())
        async with alone, self._drains:
            await asyncio.to_thread(self._staging.expire, now_ms=self._wall_ms())
            if await self._lacks_room():
                return False
            for attempt in range(self._config.reconnects_max + 1):
                link: BrokerLink | None = None
                try:
                    link = await self._nodes.open()
                    return await self._drain_link(link, queue, owner)
                except Unavailable:
                    if self._patience.gives_up(attempt, link):
                        raise
                finally:
                    if link is not None:
                        await link.close()
                self.counters.reconnects += 1
                await asyncio.sleep(self._patience.pause_s(attempt))
            raise AssertionError("the last attempt raises")

    async def _drain_link(self, link: BrokerLink, queue: str, owner: bytes) -> bool:
        if await link.declare(queue, self._sign) == 0:
            return True
        link.consume(queue)
        empty, wait_s = 0, 0.0
        while True:
            if messages := await link.received(wait_s):
                empty, wait_s = 0, 0.0
                if not await self._take_in(link, messages, owner):
                    return False
            elif empty == _EMPTY_ANSWERS:
                return True
            elif await link.ready(queue) == 0:
                empty, wait_s = empty + 1, 0.0
            else:
                empty, wait_s = 0, _IDLE_S

    async def _lacks_room(self) -> bool:
        if self._wanted_bytes and await asyncio.to_thread(self._staging.room_bytes) >= (
            self._wanted_bytes
        ):
            self._wanted_bytes = 0
        return self._wanted_bytes > 0

    async def _take_in(self, link: BrokerLink, messages: list[Message], owner: bytes) -> bool:
        self._down.note(sum(len(message.body) for message in messages))
        mails = [decode_mail(message.headers, message.body) for message in messages]
        try:
            verdicts = await asyncio.to_thread(
                self._staging.accept,
                mails,
                owner,
                now_ms=self._wall_ms(),
                grace_ms=self._grace_ms,
            )
        except MailboxFull:
            self._stop_reading(mails)
            return False
        # What is not settled yet the broker counts as under way: it sends little more meanwhile.
        await self._down.caught_up()
        judged = list(zip((message.tag for message in messages), verdicts, strict=True))
        poison = [tag for tag, verdict in judged if verdict is Verdict.POISON]
        kept = [tag for tag, verdict in judged if verdict is Verdict.KEPT]
        self.counters.poison += len(poison)
        link.settle(poison, kept[-1] if kept else None)
        if Verdict.NO_ROOM not in verdicts:
            return True
        self._stop_reading(mails[verdicts.index(Verdict.NO_ROOM) :])
        return False

    def _stop_reading(self, mails: Sequence[Mail | None]) -> None:
        """Note how much room the first that found none wants."""
        self.counters.stops += 1
        self._wanted_bytes = min(_size_of(mails[0]), self._config.staging_bytes_max)


class RabbitDelivery:
    """One whole delivery in the staging folder."""

    def __init__(self, store: RabbitStore, staging: Staging, manifest: OuterManifest) -> None:
        self._store = store
        self._staging = staging
        self.manifest = manifest

    async def chunks(self, start: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (index, sealed chunk) in order, each checked against its digest."""
        for index in range(start, self.manifest.count):
            yield index, await asyncio.to_thread(self._staging.read, self.manifest, index)

    async def ack(self, receipt: bytes) -> None:
        """Have the broker confirm the receipt, then let go of the chunks."""
        await self._settle(receipt)

    async def reject(self, reason: str, receipt: bytes | None) -> None:  # noqa: ARG002
        """Let go of it; the reason stands in the receipt, where the sender can trust it."""
        await self._settle(receipt)

    async def _settle(self, receipt: bytes | None) -> None:
        if await asyncio.to_thread(self._staging.is_settled, self.manifest.delivery_id):
            return
        if receipt is not None:
            await self._store.send_receipt(self.manifest, receipt)
        await asyncio.to_thread(self._staging.settle, self.manifest.delivery_id)


def _size_of(mail: Mail | None) -> int:
    """Return the room that a message asks for; a manifest that of its whole delivery."""
    match mail:
        case ManifestMail(manifest):
            return len(manifest.encoded) + manifest.sealed_bytes
        case ChunkMail(_, _, _, sealed):
            return len(sealed)
        case _:
            return JOURNAL_BYTES
