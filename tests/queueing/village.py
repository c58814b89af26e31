"""Hosts, a sender and a recipient in this process, over real sockets, with a clock of the test's.

Hosts can be stopped and started again, damaged on disk, and made to leave cleanly.
"""

import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from identity.address import Address
from identity.keys import Identity, show_peer_id
from identity.tls import make_tls
from queueing.caretaker import Caretaker, CaretakerConfig
from queueing.courier import Courier, CourierConfig
from queueing.envelope import OuterManifest
from queueing.handing_over import HandOver
from queueing.journal import Journal, OutboxRow
from queueing.mailbox_client import Host, MailboxClient
from queueing.mailbox_service import MailboxHooks, MailboxService
from queueing.mailbox_store import MailboxStore, MailboxStoreConfig
from queueing.receiver import Receiver
from queueing.spool import Spool
from rpc.caller import caller_of
from rpc.channels import ChannelPool
from rpc.listener import RpcListener
from tests.queueing.letters import HOUR_MS, NETWORK, NETWORK_ID, content_id_of, identity
from tests.queueing.posts import START_MS, Clock, FolderInbox

MINUTE_MS = 60_000
CARE = CaretakerConfig(audit_ms=10 * MINUTE_MS, silent_retry_ms=MINUTE_MS, silent_max_ms=HOUR_MS)


@dataclass
class Villager:
    """One peer with all that it has: it sends, receives and keeps mail."""

    village: "Village"
    own: Identity
    folder: Path
    spool: Spool
    journal: Journal
    pool: ChannelPool
    client: MailboxClient
    store: MailboxStore
    caretaker: Caretaker
    courier: Courier
    inbox: FolderInbox
    port: int = 0
    listener: RpcListener | None = None
    keeps_mail: bool = True

    @property
    def name(self) -> str:
        return show_peer_id(self.own.peer_id)

    @property
    def host(self) -> Host:
        return Host(self.own.peer_id, (Address("127.0.0.1", self.port),))

    async def start(self) -> None:
        """Serve, at the port it had before."""
        hooks = MailboxHooks(
            accepts=lambda _sender, _recipient: True,
            on_held=lambda _recipient, _expires_ms: None,
            on_nudge=lambda _host: None,
            on_receipt=self.courier.take_receipt,
            on_moved=self.on_moved,
            on_taken_over=self.on_taken_over,
        )
        service = MailboxService(
            self.spool, self.own, NETWORK_ID, lambda context: caller_of(context, NETWORK).peer_id,
            hooks, wall_ms=self.village.clock,
        )  # fmt: skip
        self.listener = RpcListener(make_tls(self.own, NETWORK), NETWORK)
        self.listener.add(service.handler())
        self.port = await self.listener.start("127.0.0.1", self.port)

    async def stop(self) -> None:
        """Fall silent, as after a crash."""
        if self.listener is not None:
            await self.listener.stop(0.0)
            self.listener = None

    async def leave(self) -> int:
        """Hand over, then fall silent; return how many deliveries were handed over."""
        handed = await HandOver(self.client, self.village, self.spool, self.own.peer_id).run(20.0)
        await self.stop()
        return handed

    async def on_moved(self, host_id: bytes, delivery_id: bytes, promise: bytes) -> None:
        if await self.caretaker.heed_move(host_id, delivery_id, promise):
            await self.courier.recount(delivery_id)

    async def on_taken_over(self, manifest: OuterManifest) -> None:
        await self.journal.placements.take_over(
            manifest.delivery_id, manifest.sender, manifest.expires_ms
        )

    async def send(self, recipient: "Villager", content: bytes = b"content") -> OutboxRow:
        path = self.folder / "source"
        path.write_bytes(content)
        sent = await self.courier.send(
            path, name="a.txt", content_id=content_id_of(content), size=len(content),
            recipient=recipient.own.peer_id,
            recipient_sealing_key=recipient.own.sealing_public_key,
            expires_ms=self.village.clock.now_ms + 100 * HOUR_MS,
        )  # fmt: skip
        return sent.row

    async def row(self, delivery: OutboxRow) -> OutboxRow:
        row = await self.journal.get(delivery.delivery_id)
        assert row is not None
        return row

    async def keeps(self, delivery: OutboxRow) -> bool:
        """Tell whether the sealed chunks lie here."""
        return await self.spool.manifest(delivery.delivery_id) is not None

    def damage(self, delivery: OutboxRow) -> None:
        """Alter each chunk of what this host keeps, as a bad disk would."""
        path = self.folder / "spool" / "sealed" / delivery.delivery_id.hex()
        path.write_bytes(bytes(path.stat().st_size))


@dataclass
class Village:
    """All peers; as a HostFinder it knows those that serve."""

    folder: Path
    closing: AsyncExitStack
    clock: Clock = field(default_factory=lambda: Clock(START_MS))
    hosts: list[Villager] = field(default_factory=list)
    peers: dict[bytes, Villager] = field(default_factory=dict)
    is_connected: bool = True

    async def settle(self, name: str) -> Villager:
        """Build a peer that does not serve yet."""
        own, folder = identity(name), self.folder / name
        folder.mkdir()
        spool = await Spool.open(folder / "spool", NETWORK_ID, wall_ms=self.clock)
        self.closing.push_async_callback(spool.close)
        journal = await Journal.open(folder / "journal.db")
        self.closing.push_async_callback(journal.close)
        pool = ChannelPool(make_tls(own, NETWORK), NETWORK)
        self.closing.push_async_callback(pool.close)
        client = MailboxClient(self._connect(pool), NETWORK_ID)
        store = MailboxStore(
            self._connect(pool), self, journal.placements, NETWORK_ID, own, wall_ms=self.clock,
            config=MailboxStoreConfig(straggler_grace_s=5.0),
        )  # fmt: skip
        caretaker = Caretaker(
            client, self, journal, spool, NETWORK_ID, own, wall_ms=self.clock,
            is_connected=lambda: self.is_connected, rng=random.Random(name), config=CARE,
        )  # fmt: skip
        inbox = FolderInbox(folder / "inbox")

        async def hand_over(sender: bytes, receipt: bytes) -> bool:
            return await client.return_receipt(Host(sender, ()), receipt)

        receiver = Receiver(own, NETWORK_ID, journal, inbox, hand_over, wall_ms=self.clock)
        courier = Courier(
            own, NETWORK_ID, spool, journal, [store], receiver, wall_ms=self.clock,
            caretaker=caretaker, rng=random.Random(name), config=CourierConfig(),
        )  # fmt: skip
        made = Villager(
            self, own, folder, spool, journal, pool, client, store, caretaker, courier, inbox
        )
        self.peers[own.peer_id] = made
        self.closing.push_async_callback(made.stop)
        return made

    async def host(self, name: str) -> Villager:
        """Build a peer that keeps mail, and start it."""
        made = await self.settle(name)
        await made.start()
        self.hosts.append(made)
        return made

    def _connect(self, pool: ChannelPool):
        async def connect(peer_id: bytes, addresses: Sequence[Address], /):
            known = self.peers[peer_id].host.addresses
            return await pool.connect(peer_id, addresses or known, timeout_s=2.0)

        return connect

    # As a HostFinder

    async def hosts_near(self, _recipient: bytes) -> Sequence[Host]:
        return [each.host for each in self.hosts if each.listener is not None]

    async def hosts_with_mail(self, recipient: bytes) -> Sequence[Host]:
        return [
            each.host
            for each in self.hosts
            if each.listener is not None and recipient in await each.spool.recipients()
        ]

    async def locate(self, peer_id: bytes) -> Host | None:
        known = self.peers.get(peer_id)
        return known.host if known is not None and known.listener is not None else None
