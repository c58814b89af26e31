"""The running DHT node: what the rest of the peer calls.

Owns the wiring of the parts and their life from `listen` to `close`. Must not know files, gRPC
listeners, transfers or mail. All rules live in the parts; this module only joins them.
"""

import asyncio
import errno
import os
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

from dht.answering import Answerer
from dht.calling import Caller
from dht.clock import ClockWatch
from dht.collecting import Hit
from dht.config import DhtConfig
from dht.contacts import Contact, StockContacts
from dht.errors import NotListening, PortInUse
from dht.hints import plain_host
from dht.limits import RateLimit
from dht.membership import Membership
from dht.lookup import Goal
from dht.protocol import ShoalProtocol, room_bytes
from dht.publishing import Publisher, PublishReport
from dht.reads import Reader, candidate_of
from dht.records import (
    Kind,
    NamePayload,
    Payload,
    PeerPayload,
    Record,
    content_key,
    decode_payload,
    mail_key,
    name_key,
    nickname_key,
    peer_key,
    word_key,
    ContentPayload,
    MailPayload,
)
from dht.routing import Table, contacts_from_rows
from dht.schedule import PublishSchedule
from dht.seal import SESSION_BYTES, sealer_of
from dht.self_view import SelfView
from dht.stock import StockDesk, StockPinger
from dht.storage import RecordStore, StorageLimits
from dht.tokens import AddressTokens
from dht.upkeep import DhtPersistence, Upkeep
from dht.views import ContactView, Found, SearchHit, found_of, search_hits
from dht.words import query_words
from identity.address import Address, ip_of
from identity.keys import Identity
from identity.network import BootstrapNode, Network

__all__ = [
    "ContactView",
    "DhtConfig",
    "DhtNode",
    "DhtPersistence",
    "Found",
    "PublishReport",
    "SearchHit",
]

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
FAREWELLS_MAX = 64


def wall_clock_ms() -> int:
    """The system's wall time in milliseconds."""
    return time.time_ns() // 1_000_000


class DhtNode:
    """One peer's place in the DHT.

    `listen` first, then `bootstrap`; `close` at the end. States: made, listening, closed.
    """

    def __init__(
        self,
        identity: Identity,
        network: Network,
        *,
        nickname: str,
        config: DhtConfig | None = None,
        persistence: DhtPersistence | None = None,
        limits: StorageLimits | None = None,
        wall_ms: Callable[[], int] = wall_clock_ms,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config or DhtConfig()
        self.network = network
        self._entropy: Callable[[int], bytes] = os.urandom if rng is None else rng.randbytes
        self._rng = rng or random.Random()
        self._raw_wall_ms = wall_ms
        self._clock_watch = ClockWatch()
        self._own = SelfView(identity, network, nickname, self.config.client, self._entropy)
        self._drops: Counter[str] = Counter()
        self._persistence = persistence
        self.store = RecordStore(network.network_id, limits)
        self.schedule = PublishSchedule(network.network_id, identity.public_key, self._rng)
        self.on_clock: Callable[[int], None] | None = None
        self._contact_hook: Callable[[bytes, Address], None] | None = None
        self._bootstrap_nodes: tuple[BootstrapNode, ...] = ()
        self._remembered: list[Contact] = []
        self._clock_told_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None

    # Life

    async def listen(self, host: str, port: int) -> int:
        """Bind the UDP socket, load what was kept, start the upkeep; return the port.

        Raises PortInUse.
        """
        assert self._task is None, "a node listens once"
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._build()
        udp = _bind(host, port)
        await loop.create_datagram_endpoint(lambda: self.protocol, sock=udp)
        name = udp.getsockname()
        self.bound = Address(plain_host(name[0]), name[1])
        self._membership.wire_up(self.caller, self._reader, self.bound)
        rows = self._upkeep.load()
        self._remembered = contacts_from_rows(rows)
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._live(ready))
        await ready.wait()
        return self.bound.port

    def advertise(self, addresses: Sequence[Address]) -> None:
        """Tell others from now on that we are reached there."""
        self._own.advertise(addresses)

    async def bootstrap(self, nodes: Sequence[BootstrapNode]) -> int:
        """Join through bootstrap nodes and remembered contacts; return the contacts gained.

        Names are resolved, our own address is skipped. While the node is alone it tries again by
        itself, more and more rarely.
        """
        self._bootstrap_nodes = tuple(nodes)
        self._upkeep.may_retry_bootstrap = True
        return await self._bootstrap()

    async def close(self) -> None:
        """Stop, save and let the port go; withdraws nothing. Raises what broke the node, if so."""
        task, self._task = self._task, None
        if task is None:
            return
        self._upkeep.flush()
        self.protocol.transport.close()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    # Publishing

    async def publish(
        self, payloads: Sequence[Payload], *, expires_ms: int | None = None
    ) -> PublishReport:
        """Sign records and store them on the k closest peers, once now and then again in time.

        Returns when each was acknowledged or given up for now; what nobody took is retried.
        Raises BadRecord for payloads that no storer takes, and ScheduleFull.
        """
        report = await self._publisher.publish(payloads, expires_ms=expires_ms)
        self._upkeep.planned()
        return report

    async def withdraw(self, payloads: Sequence[Payload]) -> PublishReport:
        """Store signed tombstones of our records; they are not republished."""
        now_ms = self.now_ms()
        planned = [self.schedule.withdraw(payload, now_ms=now_ms) for payload in payloads]
        report = await self._publisher.publish_planned(planned)
        self._upkeep.planned()
        return report

    async def withdraw_all(self) -> PublishReport:
        """Take our leave: withdraw all but the `peer` records, which then say that we are away.

        All contacts hear it, not only those who store that record.
        """
        now_ms = self.now_ms()
        planned = self.schedule.withdraw_all(now_ms=now_ms)
        farewell: bytes | None = None
        for payload in self.schedule.payloads():
            if isinstance(payload, PeerPayload):
                away = PeerPayload(
                    payload.nickname,
                    payload.addresses,
                    payload.sealing_key,
                    now_ms,
                    payload.under_nickname,
                )
                planned.append(self.schedule.add(away, now_ms=now_ms))
                if not payload.under_nickname:
                    farewell = planned[-1]
        report = await self._publisher.publish_planned(planned)
        self._own.leaving = True
        if farewell is not None:
            contacts = self.table.closest(self.peer_id, FAREWELLS_MAX)
            await self._publisher.tell(farewell, [candidate_of(each) for each in contacts])
        return report

    # Reading

    async def read(
        self, key: bytes, kinds: Sequence[Kind], *, words: Sequence[str] = (), limit: int = 300
    ) -> list[tuple[Record, Payload]]:
        """Read the live records under a key from all closest storers, verified, newest first."""
        return await self._reader.read(key, kinds, words=words, limit=limit)

    def read_stream(
        self, key: bytes, kinds: Sequence[Kind], *, words: Sequence[str] = (), limit: int = 300
    ) -> AsyncIterator[Hit]:
        """Yield the records under a key as they come in; see `dht.reads`."""
        return self._reader.read_stream(key, kinds, words=words, limit=limit)

    async def find_name(self, filename: str, limit: int = 300) -> list[Found[NamePayload]]:
        """Find who offers a file of exactly this name (NFC)."""
        key = name_key(self.network.network_id, filename)
        return found_of(await self.read(key, (Kind.NAME,), limit=limit), NamePayload)

    async def find_content(
        self, content_id: bytes, limit: int = 300
    ) -> list[Found[ContentPayload]]:
        """Find who has a content, whole or in part."""
        key = content_key(self.network.network_id, content_id)
        return found_of(await self.read(key, (Kind.CONTENT,), limit=limit), ContentPayload)

    async def search(self, words: Sequence[str], limit: int = 50) -> list[SearchHit]:
        """Find files whose names have all the words; most holders first."""
        wanted = query_words(words)
        if not wanted:
            return []
        key = word_key(self.network.network_id, wanted[0])
        hits = await self.read(key, (Kind.WORD,), words=wanted[1:])
        return search_hits(hits, limit)

    async def find_peer(self, peer_id: bytes) -> Found[PeerPayload] | None:
        """Find a peer's own record by its id."""
        key = peer_key(self.network.network_id, peer_id)
        found = found_of(await self.read(key, (Kind.PEER,)), PeerPayload)
        return next((each for each in found if each.publisher == peer_id), None)

    async def find_nickname(self, nickname: str) -> list[Found[PeerPayload]]:
        """Find the peers that go by a nickname; it is a label, several may claim it."""
        key = nickname_key(self.network.network_id, nickname)
        return found_of(await self.read(key, (Kind.PEER,)), PeerPayload)

    async def find_mail(self, recipient: bytes) -> list[Found[MailPayload]]:
        """Find who keeps mail for a peer."""
        key = mail_key(self.network.network_id, recipient)
        return found_of(await self.read(key, (Kind.MAIL,)), MailPayload)

    # Contacts

    async def check(
        self, peer_ids: Sequence[bytes] | None = None, *, timeout_s: float = 1.0
    ) -> None:
        """Ping contacts at once (None: all), so that `contacts` is current."""
        await self._membership.check(peer_ids, timeout_s)

    async def hello_address(self, address: Address, timeout_s: float = 2.0) -> ContactView | None:
        """Find out who is at an address; None when nobody of this network answers."""
        return await self._membership.hello_address(address, timeout_s)

    async def closest_peers(self, key: bytes) -> list[ContactView]:
        """Look up the peers closest to a key that answer, closest first."""
        found = await self._reader.closest(key, Goal.WRITE)
        views = {view.peer_id: view for view in self.contacts()}
        return [views[each.peer_id] for each in found if each.peer_id in views]

    def contacts(self) -> list[ContactView]:
        """Show all peers that proved themselves, departed ones too."""
        return self._membership.contacts()

    @property
    def on_contact(self) -> Callable[[bytes, Address], None] | None:
        """Called when a peer proved itself: new, back, moved, or just started again."""
        return self._contact_hook

    @on_contact.setter
    def on_contact(self, hook: Callable[[bytes, Address], None] | None) -> None:
        self._contact_hook = hook
        if self._task is not None:
            self._membership.on_contact = hook

    # Itself

    @property
    def peer_id(self) -> bytes:
        return self._own.peer_id

    @property
    def clock_offset_ms(self) -> int:
        """What our contacts agree must be added to our wall clock; 0 while it is right."""
        return self._clock_watch.offset_ms

    def now_ms(self) -> int:
        """Our wall time, corrected."""
        return self._raw_wall_ms() + self._clock_watch.offset_ms

    def observed_address(self) -> Address | None:
        """How at least two others see us."""
        return self._membership.observed_address()

    def counters(self) -> dict[str, int]:
        """Count drops, verdicts and datagrams since the start."""
        counters = Counter(self._drops)
        counters.update(self.store.counters())
        if self._task is not None:
            counters.update({f"seal-{name}": n for name, n in self._sealer.drops.items()})
            counters["datagrams-sent"] = self.protocol.sent
            counters["datagrams-received"] = self.protocol.received
        return dict(counters)

    def _build(self) -> None:
        """Make the parts and join them."""
        own, config, clock = self._own, self.config, self._clock
        self._sealer = sealer_of(self.network, self._entropy(SESSION_BYTES))
        self._stock = StockContacts()
        self.table = Table(own.peer_id, config.table, now=clock())
        self._membership = Membership(
            self.table,
            own,
            config,
            self._clock_watch,
            clock=clock,
            raw_wall_ms=self._raw_wall_ms,
            spawn=self._spawn,
            drops=self._drops,
        )
        self._membership.on_contact = self._contact_hook
        self.answerer = self._build_answerer()
        self.protocol = ShoalProtocol(
            self.table, self._sealer, self.answerer, entropy=self._entropy, drops=self._drops
        )
        self._stock_pinger = StockPinger(
            self.protocol, self._stock, clock=clock, timeout_s=config.call_timeout_s
        )
        self.caller = Caller(self.protocol, own, self._membership, config, clock)
        self._reader = Reader(
            self.caller,
            self.table,
            self.store,
            own,
            config,
            clock=clock,
            wall_ms=self.now_ms,
            spawn=self._spawn,
            believe=self._membership.believe,
            drops=self._drops,
        )
        self._publisher = Publisher(
            self.caller,
            self._reader,
            self.table,
            self.store,
            self.schedule,
            own,
            config,
            wall_ms=self.now_ms,
            drops=self._drops,
        )
        self._upkeep = Upkeep(
            self.table,
            self.store,
            self.schedule,
            self._membership,
            self._reader,
            self._publisher,
            config,
            own_id=own.peer_id,
            clock=clock,
            wall_ms=self.now_ms,
            persistence=self._persistence,
            bootstrap=self._bootstrap,
            rng=self._rng,
        )
        self._membership.on_first_contact = self._upkeep.first_contact
        self._membership.on_newcomer = self._upkeep.newcomer
        self._membership.on_clock_sample = self._tell_clock

    def _build_answerer(self) -> Answerer:
        config = self.config
        return Answerer(
            self._own,
            self.table,
            self.store,
            AddressTokens(self._entropy(32)),
            RateLimit(rate_hz=config.hello_rate_hz, burst_max=config.hello_burst_max),
            clock=self._clock,
            wall_ms=self.now_ms,
            room_bytes=room_bytes(self._sealer),
            stock=None if self.network.is_private else self._build_stock_desk(),
            on_newcomer=self._membership.greet,
            on_stored=self._on_stored,
            drops=self._drops,
        )

    def _build_stock_desk(self) -> StockDesk:
        config = self.config
        return StockDesk(
            self.table,
            self._stock,
            RateLimit(rate_hz=config.stock_rate_hz, burst_max=config.stock_burst_max),
            clock=self._clock,
            on_stranger=self._on_stock_stranger,
            drops=self._drops,
        )

    async def _live(self, ready: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for loop in self._upkeep.loops():
                group.create_task(loop())
            ready.set()

    async def _bootstrap(self) -> int:
        return await self._membership.bootstrap(self._bootstrap_nodes, self._remembered)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run work as a task of this node; NotListening once it is closed."""
        if self._group is None or self._task is None:
            work.close()
            raise NotListening
        return self._group.create_task(work)

    def _on_stored(self, record: Record, sender_id: bytes) -> None:
        """A peer that stores its own `peer` record as away with us takes its leave."""
        if record.kind is not Kind.PEER or record.publisher != sender_id:
            return
        payload = decode_payload(record.kind, record.payload)
        if isinstance(payload, PeerPayload) and payload.here_until_ms <= record.issued_ms:
            self._membership.on_farewell(sender_id)

    def _on_stock_stranger(self, node_id: bytes, address: Address) -> None:
        self._spawn(self._stock_pinger.ping(node_id, address))

    def _tell_clock(self) -> None:
        offset_ms = self._clock_watch.offset_ms
        if bool(offset_ms) != bool(self._clock_told_ms) and self.on_clock is not None:
            self.on_clock(offset_ms)
        self._clock_told_ms = offset_ms


def _bind(host: str, port: int) -> socket.socket:
    """Bind a UDP socket of our own alone; PortInUse when that cannot be."""
    ip = ip_of(host)
    family = socket.AF_INET6 if ip is not None and ip.version == 6 else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind((host, port))
    except OSError as error:
        udp.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUse(f"cannot listen on {host}:{port}: {error.strerror}") from error
        raise PortInUse(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return udp
