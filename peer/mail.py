"""Mail of this peer: the courier, the stores that it may use, and the mailbox kept for others.

Owns their wiring: who hosts mail, when a recipient is nudged, how a receipt finds its sender. Must
not know envelopes or the stores' insides.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from dht.reachability import Reach
from dht.records import Kind, MailPayload
from identity.address import Address
from identity.keys import show_peer_id
from peer.background import Background
from peer.config import DeliveryMeans
from peer.core import Core
from peer.inbox import Inbox
from peer.mail_hosts import MailHosts
from peer.roles import authority_of
from peer.serving import Acceptance
from queueing.caretaker import Caretaker, CaretakerConfig
from queueing.courier import Courier, CourierConfig
from queueing.envelope import OuterManifest
from queueing.errors import QueueError
from queueing.handing_over import HandOver
from queueing.journal import Journal, OutboxRow
from queueing.kept import KeptMail
from queueing.mailbox_client import Host, MailboxClient
from queueing.mailbox_service import MailboxConfig, MailboxHooks, MailboxService
from queueing.mailbox_store import MailboxStore
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_health import QueueHealth
from queueing.rabbitmq_url import parse_amqp_url
from queueing.receiver import Receiver
from queueing.spool import Spool
from queueing.spool_index import SpoolConfig
from queueing.states import is_end
from queueing.store import PendingStore, Usage

if TYPE_CHECKING:  # pika is some megabytes, which a peer without a broker need not hold
    from queueing.broker_desk import BrokerDesk
    from queueing.rabbitmq import RabbitStore

DELIVERY_BYTES_MAX = 4 * 1024**3
MAIL_LIFE_MARGIN_MS = 1_000
TICK_S = 30.0
"""Between two passes of the courier when nothing wakes it; less where audits come more often."""
TIDY_S = 60.0
"""How often `mail` records are compared with what lies here; soon after a delivery has ended."""
TIDY_AFTER_S = 1.0
UNREACHED_COLLECT_S = 60.0
"""How often a peer that others cannot reach asks for its mail: nobody can nudge it."""


class Mail:
    """Everything about deliveries of one running peer; build it with `Mail.open`."""

    def __init__(
        self,
        core: Core,
        inbox: Inbox,
        acceptance: Acceptance,
        background: Background,
        spool: Spool,
        journal: Journal,
        *,
        queue_url: str | None,
        keeps_mail: bool,
        on_change: Callable[[OutboxRow], None],
    ) -> None:
        self._core = core
        self._background = background
        self._acceptance = acceptance
        self._spool = spool
        self._journal = journal
        self.keeps_mail = keeps_mail
        self._on_change = on_change
        self._addresses: tuple[Address, ...] = ()
        self._announcements = 0
        self._ended = asyncio.Event()
        self._hosts = MailHosts(core)
        self._client = MailboxClient(self._connect, core.file.network.network_id, core.paces.mail)
        self.queue_store = self._rabbit(queue_url) if queue_url else None
        self.queue_host = str(parse_amqp_url(queue_url)) if queue_url else None
        """The broker as it may be shown: without credentials."""
        self.desk: BrokerDesk | None = None
        """Keeps others' mail on the broker; None: it lies in the spool."""
        self.mailbox_store = self._mailboxes()
        self.receiver = Receiver(
            core.identity,
            core.file.network.network_id,
            journal,
            inbox,
            self._return_receipt,
            wall_ms=core.dht.now_ms,
        )
        inbox.receipts = self.receiver
        self.caretaker = self._caretaker()
        self.courier = Courier(
            core.identity,
            core.file.network.network_id,
            spool,
            journal,
            self._stores(),
            self.receiver,
            wall_ms=core.dht.now_ms,
            caretaker=self.caretaker,
            on_change=self._on_delivery,
            config=CourierConfig(tick_s=min(TICK_S, core.config.delivery.audit_s)),
        )

    @classmethod
    async def open(
        cls,
        core: Core,
        inbox: Inbox,
        acceptance: Acceptance,
        background: Background,
        *,
        queue_url: str | None,
        keeps_mail: bool,
        is_desk: bool = False,
        on_change: Callable[[OutboxRow], None],
    ) -> Mail:
        """Open spool and journal in the home; a bad queue URL is BadAmqpUrl.

        `is_desk`: what is kept for others goes to the broker, if there is one.
        """
        mailbox = core.config.mailbox
        limit_bytes = max(mailbox.quota_bytes, 1)
        config = SpoolConfig(
            limit_bytes=limit_bytes,
            sender_limit_bytes=mailbox.sender_quota_bytes,
            recipient_limit_bytes=mailbox.recipient_quota_bytes,
            delivery_bytes_max=min(DELIVERY_BYTES_MAX, limit_bytes),
            disk_floor_bytes=mailbox.free_bytes_min,
        )
        spool = await Spool.open(
            core.home.spool,
            core.file.network.network_id,
            wall_ms=core.dht.now_ms,
            config=config,
        )
        journal = await Journal.open(core.home.spool / "journal.db")
        mail = cls(
            core,
            inbox,
            acceptance,
            background,
            spool,
            journal,
            queue_url=queue_url,
            keeps_mail=keeps_mail,
            on_change=on_change,
        )
        if is_desk and mail.queue_store is not None:
            from queueing.broker_desk import BrokerDesk

            mail.desk = await BrokerDesk.open(
                core.home.spool / "desk",
                core.file.network.network_id,
                mail.queue_store,
                spool,
                config=config,
                wall_ms=core.dht.now_ms,
            )
        await mail.courier.recover()
        return mail

    def advertise(self, addresses: Sequence[Address]) -> None:
        """Set the addresses that `mail` records carry."""
        self._addresses = tuple(addresses)

    def service(self, caller_id: Callable[[Any], bytes]) -> MailboxService:
        """Return the Mailbox service; also a peer that keeps no mail takes nudges and receipts."""
        config = self._core.config.mailbox
        return MailboxService(
            self._kept,
            self._core.identity,
            self._core.file.network.network_id,
            caller_id,
            MailboxHooks(
                accepts=self._accepts,
                on_held=self.lies_here,
                on_nudge=self._on_nudge,
                on_receipt=self.courier.take_receipt,
                on_moved=self._on_moved,
                on_taken_over=self._on_taken_over,
            ),
            wall_ms=self._core.dht.now_ms,
            config=MailboxConfig(
                keeps_mail=self.keeps_mail, lifetime_max_ms=config.retention_s * 1000
            ),
            pace=self._core.paces.mail,
        )

    async def run(self) -> None:
        """Publish what lies here for others, then carry mail until cancelled."""
        for recipient, expires_ms in (await self._recipients()).items():
            if recipient != self._core.identity.peer_id:
                self.lies_here(recipient, expires_ms)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.courier.run())
            group.create_task(self._keep_records_tidy())
            group.create_task(self._collect_unreached())
            if self.desk is not None:
                group.create_task(self.desk.run())

    def lies_here(self, recipient: bytes, expires_ms: int) -> None:
        """Let a recipient know that mail lies here for it: by a `mail` record, and at once.

        A sender's own letters too: the recipient finds the sender on rejoin, whoever else has it.
        """
        self._announcements += 1
        self._background.start(self._announce(recipient, expires_ms))
        self._background.start(self._nudge(recipient))

    def on_contact(self, peer_id: bytes) -> None:
        """A peer proved itself: tell it of mail that waits here, and try mail of ours again."""
        self.courier.wake(collect=self._is_first_contact())
        self._background.start(self._greet(peer_id))

    async def hand_over(self, timeout_s: float) -> int:
        """Give what is kept for others to hosts that stay; return how many deliveries."""
        own_id = self._core.identity.peer_id
        try:
            return await HandOver(self._client, self._hosts, self._spool, own_id).run(timeout_s)
        except QueueError:  # the disk, say: the peer leaves all the same
            return 0

    async def figures(self) -> dict[str, int]:
        """Tell how full this mailbox is and what limits it, and how audits of others' ended."""
        config, usage = self._core.config.mailbox, await self._kept.usage()
        audits = {f"audits-{name}": count for name, count in self.caretaker.audits.items()}
        return {
            "deliveries": usage.deliveries,
            "bytes": usage.bytes,
            "quota-bytes": config.quota_bytes,
            "sender-quota-bytes": config.sender_quota_bytes,
            "recipient-quota-bytes": config.recipient_quota_bytes,
            "free-bytes-min": config.free_bytes_min,
            "disk-free-bytes": self._spool.free_bytes(),
            **audits,
        }

    async def hosts_noted(self) -> dict[str, str]:
        """Tell which hosts broke a promise, and which."""
        return {show_peer_id(host): note for host, note in (await self.caretaker.noted()).items()}

    def allows(self, means: DeliveryMeans, via: Sequence[str]) -> bool:
        """Tell whether a way of delivery may be used, by configuration and by the command."""
        return means in self._core.config.delivery.means and (not via or means in via)

    async def usage(self) -> Usage:
        """Return how full the mailbox for others is."""
        return await self._kept.usage()

    async def queue_health(self) -> QueueHealth | None:
        """Ask how the broker does; None where none is named."""
        return None if self.queue_store is None else await self.queue_store.health()

    def queue_counters(self) -> dict[str, int]:
        """Count what happened with the broker."""
        counts: dict[str, int] = {}
        if self.queue_store is not None:
            counts |= dataclasses.asdict(self.queue_store.counters)
        if self.desk is not None:
            counts |= {"forwarded": self.desk.forwarded, "failed": self.desk.forward_failures}
        return counts

    @property
    def _kept(self) -> KeptMail:
        return self._spool if self.desk is None else self.desk

    async def _recipients(self) -> dict[bytes, int]:
        """Tell for whom mail lies here, with the latest expiry."""
        found = await self._spool.recipients()
        if self.desk is not None:
            found |= await self.desk.recipients()
        return found

    def counters(self) -> dict[str, int]:
        """Count what others sent that did not verify, and work that was left out."""
        return {
            "bad-receipts": self.courier.bad_receipts,
            "bad-mail": self.mailbox_store.bad_manifests,
            "work-left-out": self._background.dropped,
        }

    async def close(self) -> None:
        """Close stores, journal and spool."""
        if self.desk is not None:
            await self.desk.close()
        for store in self._stores():
            await store.close()
        await self._journal.close()
        await self._spool.close()

    def _stores(self) -> list[PendingStore]:
        stores: list[PendingStore] = []
        for means in self._core.config.delivery.means:
            match means:
                case DeliveryMeans.QUEUE:
                    if self.queue_store is not None:
                        stores.append(self._by_size(self.queue_store))
                case DeliveryMeans.MAILBOX:
                    stores.append(self.mailbox_store)
        return stores

    def _caretaker(self) -> Caretaker:
        delivery = self._core.config.delivery
        return Caretaker(
            self._client,
            self._hosts,
            self._journal,
            self._spool,
            self._core.file.network.network_id,
            self._core.identity,
            wall_ms=self._core.dht.now_ms,
            is_connected=lambda: any(contact.alive for contact in self._core.dht.contacts()),
            config=CaretakerConfig(
                audit_ms=delivery.audit_s * 1000, silent_max_ms=delivery.host_silent_s * 1000
            ),
        )

    def _by_size(self, broker: RabbitStore) -> PendingStore:
        """Return what takes deliveries for the broker: large ones go to mailboxes, if allowed."""
        limit = self._core.config.queue.delivery_bytes_max
        if not limit or not self.allows(DeliveryMeans.MAILBOX, ()):
            return broker
        from queueing.rabbitmq_claims import ClaimingStore

        return ClaimingStore(
            broker,
            self.mailbox_store,
            whole_bytes_max=limit,
            on_claim=self._on_claim,
        )

    def _on_claim(self, hosts: Sequence[bytes]) -> None:
        for host_id in hosts:
            self._hosts.nudged(host_id)
        self.courier.wake()

    def _mailboxes(self) -> MailboxStore:
        core = self._core
        return MailboxStore(
            self._connect,
            self._hosts,
            self._journal.placements,
            core.file.network.network_id,
            core.identity,
            wall_ms=core.dht.now_ms,
            pace=core.paces.mail,
        )

    def _rabbit(self, url: str) -> RabbitStore:
        from queueing.rabbitmq import RabbitStore

        return RabbitStore(
            parse_amqp_url(url),
            self._core.file.network.network_id,
            self._core.home.spool / "rabbitmq",
            identity=self._core.identity,
            config=RabbitConfig(ca_file=authority_of(self._core.config, self._core.home)),
            wall_ms=self._core.dht.now_ms,
            pace=self._core.paces.mail,
        )

    async def _connect(self, peer_id: bytes, addresses: Sequence[Address], /) -> grpc.aio.Channel:
        return await self._core.connect(peer_id, addresses)

    def _accepts(self, sender: bytes, recipient: bytes) -> bool:
        """Mail for ourselves follows the inbox's rule; for others any member may leave some."""
        if recipient == self._core.identity.peer_id:
            return self._acceptance.refusal(sender) is None
        return True

    def _is_first_contact(self) -> bool:
        """Tell whether we were alone till now: then nobody could be asked for our mail before."""
        return sum(contact.alive for contact in self._core.dht.contacts()) <= 1

    def _on_nudge(self, host_id: bytes) -> None:
        self._hosts.nudged(host_id)
        self.courier.wake()

    async def _announce(self, recipient: bytes, expires_ms: int) -> None:
        if expires_ms > self._core.dht.now_ms() + MAIL_LIFE_MARGIN_MS:
            await self._core.dht.publish(
                [MailPayload(recipient, self._addresses)], expires_ms=expires_ms
            )

    def _on_delivery(self, row: OutboxRow) -> None:
        if is_end(row.state):
            self._ended.set()
        self._on_change(row)

    async def _keep_records_tidy(self) -> None:
        while True:
            self._ended.clear()  # before the look: what ends meanwhile is looked at again
            await self._withdraw_idle()
            try:
                async with asyncio.timeout(TIDY_S):
                    await self._ended.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(TIDY_AFTER_S)

    async def _collect_unreached(self) -> None:
        while True:
            await asyncio.sleep(UNREACHED_COLLECT_S)
            if self._core.dht.reach is Reach.UNREACHABLE:
                self.courier.wake()

    async def _withdraw_idle(self) -> None:
        """Withdraw the `mail` records of recipients for whom nothing waits here any more."""
        announced = [
            payload
            for payload in self._core.dht.schedule.payloads((Kind.MAIL,))
            if isinstance(payload, MailPayload)
        ]
        if not announced:
            return
        announcements = self._announcements
        waiting = await self._recipients()
        if announcements == self._announcements:  # else something new has come meanwhile
            idle = [each for each in announced if each.recipient not in waiting]
            if idle:
                await self._core.dht.withdraw(idle)

    async def _on_moved(self, host_id: bytes, delivery_id: bytes, promise: bytes) -> None:
        if await self.caretaker.heed_move(host_id, delivery_id, promise):
            await self.courier.recount(delivery_id)

    async def _on_taken_over(self, manifest: OuterManifest) -> None:
        await self._journal.placements.take_over(
            manifest.delivery_id, manifest.sender, manifest.expires_ms
        )

    async def _greet(self, peer_id: bytes) -> None:
        """Do at once what waited for a peer that was away: it proved itself just now."""
        await self.caretaker.is_back(peer_id)
        await self._journal.hasten(peer_id)
        await self._nudge(peer_id)
        await self.caretaker.tell_taken_over(Host(peer_id, ()), self._kept)

    async def _nudge(self, recipient: bytes) -> None:
        """Tell a recipient that is there that mail of its waits here."""
        if not await self._kept.waiting(recipient, 0, 1):
            return
        addresses = await self._core.locate(recipient)
        if addresses:
            await self._client.nudge(Host(recipient, addresses))

    async def _return_receipt(self, sender: bytes, receipt: bytes, /) -> bool:
        addresses = await self._core.locate(sender)
        return await self._client.return_receipt(Host(sender, addresses), receipt)
