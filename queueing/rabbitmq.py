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
import collections
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from identity.keys import Identity
from queueing.envelope import OuterManifest
from queueing.errors import (
    BadEnvelope,
    Expired,
    MailboxFull,
    NoMailbox,
    NotPermitted,
    Unavailable,
)
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_messages import (
    ChunkMail,
    Mail,
    ManifestMail,
    ReceiptMail,
    decode_mail,
    encode_mail,
    expiration,
    mail_queue,
    quorum_sign,
    receipts_queue,
    sign_cancel,
)
from queueing.rabbitmq_staging import Staging, Verdict
from queueing.rabbitmq_url import AmqpUrl, parse_amqp_url
from queueing.rabbitmq_wire import Message, Outcome
from queueing.store import ChunkSource, DepositReceipt, StoreKind, Usage

HELD_BY = "rabbitmq"
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
            link = await BrokerLink.open(parse_amqp_url(url), config)
    except TimeoutError as error:
        raise Unavailable(f"the broker does not answer within {timeout_s:g} s") from error
    await link.close()


@dataclass(slots=True)
class Counters:
    """What was dropped, for metrics."""

    poison: int = 0
    reconnects: int = 0
    restored: int = 0
    """Queues that a killed broker had lost, and that were filled again."""


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
    ) -> None:
        """Open the staging folder; connects only when used. `identity` is needed for `cancel`."""
        self._url = url
        self._network_id = network_id
        self._sign = quorum_sign(network_id)
        self._identity = identity
        self._config = config or RabbitConfig()
        self._wall_ms = wall_ms
        self._random = randomness or random.Random()
        self._staging = Staging(staging, network_id, limit_bytes=self._config.staging_bytes_max)
        self._publisher: BrokerLink | None = None
        self._connecting = asyncio.Lock()
        # One reader a queue: a second one would take chunks away from the first one's manifests.
        self._draining: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._drains = asyncio.Semaphore(self._config.drains_max)
        self._closed = False
        self.counters = Counters()

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        """Publish a delivery and wait for the broker's confirms."""
        manifest.check(self._network_id, self._wall_ms())
        queue = mail_queue(self._network_id, manifest.recipient)
        deposit = _Deposit(queue, manifest, chunks, set(range(manifest.count)))
        # Noted first, so that a deposit that stopped halfway can be taken back too.
        await asyncio.to_thread(self._staging.note_sent, manifest)
        await self._persist(lambda link: self._publish_delivery(link, deposit))
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
            await self._persist(
                lambda link: self._publish_one(link, queue, order, manifest.expires_ms)
            )
        except NoMailbox:
            return False
        finally:
            await asyncio.to_thread(self._staging.forget_sent, manifest.delivery_id)
        return True

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
        link = await self._publisher_link()
        try:
            return await link.look(queue) > 0
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

    async def close(self) -> None:
        """Close connection and journal; deposits under way end as Unavailable."""
        self._closed = True
        link, self._publisher = self._publisher, None
        if link is not None:
            await link.close()
        self._staging.close()

    async def send_receipt(self, manifest: OuterManifest, receipt: bytes) -> None:
        """Put a receipt into the sender's queue, confirmed; declares that queue when it is gone."""
        queue = receipts_queue(self._network_id, manifest.sender)
        mail = ReceiptMail(manifest.delivery_id, receipt)
        expires_ms = manifest.expires_ms + self._grace_ms
        await self._persist(
            lambda link: self._publish_one(link, queue, mail, expires_ms, declare=True)
        )

    @property
    def _grace_ms(self) -> int:
        return int(self._config.receipt_grace_s * 1000)

    # Publishing.

    async def _publish_delivery(self, link: BrokerLink, deposit: "_Deposit") -> None:
        manifest = deposit.manifest
        if not deposit.announced:
            mail = ManifestMail(manifest)
            await self._publish_one(link, deposit.queue, mail, manifest.expires_ms, declare=True)
            deposit.announced = True
        try:
            await self._publish_chunks(link, deposit)
        except NoMailbox:
            await self._restore_queue(link, deposit)
            await self._publish_chunks(link, deposit)

    async def _restore_queue(self, link: BrokerLink, deposit: "_Deposit") -> None:
        """Chunks came back though the manifest did not: a broker that was killed lost the queue.

        Where it has fewer messages than it confirmed (or they were collected meanwhile), all is
        sent again: the recipient drops what it has.
        """
        try:
            waiting = await link.declare(deposit.queue, self._sign)
        except NotPermitted as error:
            raise NoMailbox("the recipient has no queue on the broker yet") from error
        manifest = deposit.manifest
        if waiting < 1 + manifest.count - len(deposit.missing):
            self.counters.restored += 1
            deposit.missing = set(range(manifest.count))
            mail = ManifestMail(manifest)
            await self._publish_one(link, deposit.queue, mail, manifest.expires_ms)

    async def _publish_chunks(self, link: BrokerLink, deposit: "_Deposit") -> None:
        """Keep a window of chunks unconfirmed; strike the confirmed ones off `deposit.missing`."""
        config, manifest = self._config, deposit.manifest
        window: collections.deque[tuple[int, asyncio.Future[Outcome]]] = collections.deque()
        window_max = max(1, min(config.window_max, config.window_bytes_max // manifest.chunk_bytes))
        try:
            for index in sorted(deposit.missing):
                if len(window) >= window_max:
                    await self._confirm_oldest(link, window, deposit)
                sealed = await deposit.chunks.read(index)
                if not manifest.chunk_is_good(index, sealed):
                    raise BadEnvelope("a sealed chunk is not the one that its envelope lists")
                mail = ChunkMail(manifest.delivery_id, index, manifest.count, sealed)
                sent = self._publish(link, deposit.queue, mail, manifest.expires_ms)
                window.append((index, sent))
            while window:
                await self._confirm_oldest(link, window, deposit)
        finally:
            # Also after a loss: what the broker did confirm need not be sent again.
            for index, sent in window:
                if _is_confirmed(sent):
                    deposit.missing.discard(index)

    async def _confirm_oldest(
        self,
        link: BrokerLink,
        window: collections.deque[tuple[int, asyncio.Future[Outcome]]],
        deposit: "_Deposit",
    ) -> None:
        index, sent = window[0]
        _demand(await self._confirm(link, sent))
        deposit.missing.discard(index)
        window.popleft()

    async def _publish_one(
        self, link: BrokerLink, queue: str, mail: Mail, expires_ms: int, *, declare: bool = False
    ) -> None:
        outcome = await self._confirm(link, self._publish(link, queue, mail, expires_ms))
        if outcome is Outcome.RETURNED and declare:
            try:
                await link.declare(queue, self._sign)
            except NotPermitted as error:
                raise NoMailbox("the recipient has no queue on the broker yet") from error
            outcome = await self._confirm(link, self._publish(link, queue, mail, expires_ms))
        _demand(outcome)

    def _publish(
        self, link: BrokerLink, queue: str, mail: Mail, expires_ms: int
    ) -> asyncio.Future[Outcome]:
        now_ms = self._wall_ms()
        if expires_ms <= now_ms:
            raise Expired
        encoded = encode_mail(mail)
        lifetime = expiration(expires_ms, now_ms)
        return link.publish(queue, encoded.headers, encoded.body, lifetime)

    async def _confirm(self, link: BrokerLink, sent: asyncio.Future[Outcome]) -> Outcome:
        try:
            async with asyncio.timeout(self._config.confirm_timeout_s):
                return await asyncio.shield(sent)
        except TimeoutError:
            link.block()
            return await sent

    async def _persist(self, work: Callable[[BrokerLink], Awaitable[None]]) -> None:
        """Do the work on the publisher's connection, again on a new one each time it is lost.

        A broker that cannot be reached at the first try is Unavailable at once.
        """
        for attempt in range(self._config.reconnects_max + 1):
            link: BrokerLink | None = None
            try:
                link = await self._publisher_link()
                await work(link)
            except Unavailable:
                if self._gives_up(attempt, link):
                    raise
            else:
                return
            self.counters.reconnects += 1
            await asyncio.sleep(self._pause_s(attempt))

    async def _publisher_link(self) -> BrokerLink:
        async with self._connecting:
            if self._publisher is None or self._publisher.is_lost:
                if self._publisher is not None:
                    await self._publisher.close()
                self._publisher = await BrokerLink.open(self._url, self._config)
            return self._publisher

    def _gives_up(self, attempt: int, link: BrokerLink | None) -> bool:
        """Tell whether another connection would not help: none was lost, or too many were."""
        if self._closed:
            return True
        if link is None:
            return attempt in (0, self._config.reconnects_max)
        return attempt == self._config.reconnects_max or not link.is_lost

    def _pause_s(self, attempt: int) -> float:
        """Full jitter: many peers that lost one broker do not come back together."""
        highest = self._config.reconnect_base_s * 2**attempt
        return self._random.uniform(0, min(self._config.reconnect_pause_max_s, highest))

    # Draining.

    async def _drain(self, queue: str, owner: bytes) -> bool:
        """Bring the queue's messages into the staging folder; False when that is full."""
        alone = self._draining.setdefault(queue, asyncio.Lock())
        async with alone, self._drains:
            await asyncio.to_thread(self._staging.expire, now_ms=self._wall_ms())
            for attempt in range(self._config.reconnects_max + 1):
                link: BrokerLink | None = None
                try:
                    link = await BrokerLink.open(self._url, self._config)
                    return await self._drain_link(link, queue, owner)
                except Unavailable:
                    if self._gives_up(attempt, link):
                        raise
                finally:
                    if link is not None:
                        await link.close()
                self.counters.reconnects += 1
                await asyncio.sleep(self._pause_s(attempt))
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

    async def _take_in(self, link: BrokerLink, messages: list[Message], owner: bytes) -> bool:
        verdicts = await asyncio.to_thread(
            lambda: self._staging.accept(
                [decode_mail(message.headers, message.body) for message in messages],
                owner,
                now_ms=self._wall_ms(),
                grace_ms=self._grace_ms,
            )
        )
        judged = list(zip((message.tag for message in messages), verdicts, strict=True))
        poison = [tag for tag, verdict in judged if verdict is Verdict.POISON]
        kept = [tag for tag, verdict in judged if verdict is Verdict.KEPT]
        self.counters.poison += len(poison)
        link.settle(poison, kept[-1] if kept else None)
        return Verdict.NO_ROOM not in verdicts


@dataclass(slots=True)
class _Deposit:
    """How far one deposit has come."""

    queue: str
    manifest: OuterManifest
    chunks: ChunkSource
    missing: set[int]
    announced: bool = False


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


def _demand(outcome: Outcome) -> None:
    match outcome:
        case Outcome.CONFIRMED:
            return
        case Outcome.REFUSED:
            raise MailboxFull("the broker refuses the delivery: the recipient's queue is full")
        case Outcome.RETURNED:
            raise NoMailbox("the broker has no queue for the recipient")


def _is_confirmed(sent: asyncio.Future[Outcome]) -> bool:
    if not sent.done() or sent.cancelled() or sent.exception() is not None:
        return False
    return sent.result() is Outcome.CONFIRMED
