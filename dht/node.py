"""The DHT node: what the rest of the peer calls.

Owns the calls and their meaning: listen, join, publish, withdraw, find. Must not know files,
gRPC listeners, transfers or mail; how it is done is `dht.engine`'s and its parts'.
"""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

import grpc
import msgspec

from dht.bulk import Connect
from dht.collecting import Hit
from dht.config import DhtConfig
from dht.dialback import TcpProbe
from dht.engine import Engine, OpenEndpoint, open_udp
from dht.errors import NotListening
from dht.figures import Durations
from dht.lookup import Goal
from dht.publishing import PublishReport
from dht.reachability import Reach
from dht.readback import Confirmed, Sought
from dht.reads import WordRead
from dht.records import (
    ContentPayload,
    Kind,
    MailPayload,
    NamePayload,
    Payload,
    PeerPayload,
    Record,
    content_key,
    key_of,
    kind_of,
    mail_key,
    name_key,
    nickname_key,
    peer_key,
    sub_key_of,
)
from dht.running import candidate_of
from dht.schedule import PublishSchedule
from dht.searching import search_hits_of
from dht.self_view import SelfView
from dht.storage import RecordStore, StorageLimits, entry_id
from dht.tracing import Trace
from dht.upkeep import DhtPersistence
from dht.views import ContactView, Found, SearchHit, found_of, search_hits
from dht.words import query_of
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode, Network

__all__ = [
    "Confirmed",
    "ContactView",
    "DhtConfig",
    "DhtNode",
    "DhtPersistence",
    "Found",
    "PublishReport",
    "SearchHit",
    "bulk_handler",
]

FAREWELLS_MAX = 64
"""Contacts that hear that we leave."""
FAREWELL_TIMEOUT_S = 0.75
AWAY_TIMEOUT_S = 1.5
"""How long a leaving peer waits until its own record says so at its storers."""
LEAVE_TIMEOUT_S = 4.0
READ_BACK_TIMEOUT_S = 2.0
LEAVING_WAVES = ((Kind.NAME, Kind.MAIL), (Kind.CONTENT,), (Kind.WORD,))


def wall_clock_ms() -> int:
    """The system's wall time in milliseconds."""
    return time.time_ns() // 1_000_000


class DhtNode:
    """One peer's place in the DHT.

    `listen` first, then `bootstrap`; `close` at the end. States: made, listening, closed; calls
    outside of listening raise NotListening.
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
        open_endpoint: OpenEndpoint = open_udp,
    ) -> None:
        self.config = config or DhtConfig()
        self.network = network
        entropy: Callable[[int], bytes] = os.urandom if rng is None else rng.randbytes
        self._rng = rng or random.Random()
        self._wall_ms = wall_ms
        self._open_endpoint = open_endpoint
        self._own = SelfView(identity, network, nickname, self.config.client, entropy)
        self._persistence = persistence
        self._drops: Counter[str] = Counter()
        self._running: Engine | None = None
        self._connect: Connect | None = None
        self._tcp_probe: TcpProbe | None = None
        self.store = RecordStore(network.network_id, limits)
        self.schedule = PublishSchedule(network.network_id, identity.public_key, self._rng)
        self.on_contact: Callable[[bytes, Address], None] | None = None
        """Called when a peer proved itself: new, back, moved, or just started again."""
        self.on_clock: Callable[[int, bool], None] | None = None
        """Called with our clock's error in milliseconds, 0 when it is right again, and whether
        enough contacts say so for it to be corrected."""
        self.on_reach: Callable[[Reach], None] | None = None
        """Called with the new verdict, whether others can reach us."""

    # Life

    async def listen(self, host: str, port: int) -> int:
        """Bind the UDP socket, load what was kept, start the upkeep; return the port.

        Raises PortInUse.
        """
        assert self._running is None, "a node listens once"
        engine = Engine(
            self._own,
            self.store,
            self.schedule,
            self.config,
            raw_wall_ms=self._wall_ms,
            persistence=self._persistence,
            rng=self._rng,
            drops=self._drops,
            open_endpoint=self._open_endpoint,
        )
        engine.membership.on_contact = self._tell_contact
        engine.on_clock = self._tell_clock
        engine.on_reach = self._tell_reach
        await engine.start(host, port)
        self._running = engine
        if self._connect is not None:
            engine.use_grpc(self._connect)
        if self._tcp_probe is not None:
            engine.use_tcp(self._tcp_probe)
        return engine.bound.port

    def advertise(self, addresses: Sequence[Address]) -> None:
        """Tell others from now on that we are reached there; IP addresses only, at most 4."""
        self._own.advertise(addresses)

    def use_grpc(self, connect: Connect) -> None:
        """Send long sets of records over gRPC, through channels that connect gives."""
        self._connect = connect
        if self._running is not None:
            self._running.use_grpc(connect)

    def use_tcp(self, probe: TcpProbe) -> None:
        """Say that we listen on TCP under the same number, and how to try another peer's port."""
        self._tcp_probe = probe
        if self._running is not None:
            self._running.use_tcp(probe)

    async def bootstrap(self, nodes: Sequence[BootstrapNode]) -> int:
        """Join through bootstrap nodes and remembered contacts; return the contacts gained.

        Names are resolved, our own address is skipped. While the node is alone it tries again by
        itself, more and more rarely.
        """
        return await self._engine.bootstrap(nodes)

    async def close(self) -> None:
        """Stop, save and let the port go; withdraws nothing. Raises what broke the node, if so."""
        engine, self._running = self._running, None
        if engine is not None:
            await engine.close()

    async def watch(self) -> None:
        """Wait until the node ends; raise what broke it (a failing persistence, a bug)."""
        await self._engine.watch()

    # Publishing

    async def publish(
        self, payloads: Sequence[Payload], *, expires_ms: int | None = None
    ) -> PublishReport:
        """Sign records and store them on the k closest peers, now and then again in time.

        Returns when each was acknowledged or given up for now; what nobody took is retried.
        Raises BadRecord for payloads that no storer takes, and ScheduleFull.
        """
        report = await self._engine.publisher.publish(payloads, expires_ms=expires_ms)
        self._engine.upkeep.planned()
        return report

    async def read_back(
        self, payloads: Sequence[Payload], report: PublishReport
    ) -> list[Confirmed | None]:
        """Look whether what was just published is found over another way; see `dht.readback`.

        None for a record that nobody acknowledged, for a word that is in its shard as well, and
        for all of them when it takes too long. What a storer acknowledged and does not have is due
        again.
        """
        sought: dict[int, Sought] = {}
        for number, storers in enumerate(report.storers):
            payload = payloads[number]
            if storers and not self.schedule.shards_of([payload]):
                sought[number] = self._sought(payload, storers)
        confirmed: list[Confirmed | None] = [None] * len(payloads)
        try:
            async with asyncio.timeout(READ_BACK_TIMEOUT_S):
                seen = await self._engine.read_back.look(list(sought.values()))
        except TimeoutError:
            return confirmed
        for (number, each), found in zip(sought.items(), seen, strict=True):
            missing = found.missing_from(each.storers)
            confirmed[number] = Confirmed(len(found.holders), len(found.asked), len(missing))
            if missing:
                draft_id = self.schedule.draft_id_of(payloads[number])
                self.schedule.lost(draft_id, now_ms=self.now_ms())
                self._engine.upkeep.planned()
        return confirmed

    def _sought(self, payload: Payload, storers: frozenset[bytes]) -> Sought:
        public_key = self._own.identity.public_key
        key, kind = key_of(self.network.network_id, payload, public_key), kind_of(payload)
        return Sought(
            key,
            kind,
            entry_id(key, kind, public_key, sub_key_of(payload)),
            self.schedule.sequence_of(self.schedule.draft_id_of(payload)),
            storers,
        )

    async def plan(self, payloads: Sequence[Payload]) -> None:
        """Have records published when they are due: at once those that are new or changed.

        What the schedule knows from an earlier run keeps its time. Returns at once. Raises
        BadRecord for payloads that no storer takes, and ScheduleFull.
        """
        await self._engine.publisher.plan(payloads, urgent=False)
        self._engine.upkeep.planned()

    async def withdraw(self, payloads: Sequence[Payload]) -> PublishReport:
        """Store signed tombstones of our records; they are not republished.

        Words that are in their shards too are withdrawn there as well, last in the report.
        """
        now_ms = self.now_ms()
        everywhere = [*payloads, *self.schedule.shards_of(payloads)]
        planned = [self.schedule.withdraw(payload, now_ms=now_ms) for payload in everywhere]
        report = await self._engine.publisher.publish_planned(planned)
        self._engine.upkeep.planned()
        return report

    async def withdraw_all(self, *, timeout_s: float = LEAVE_TIMEOUT_S) -> bool:
        """Take our leave: withdraw all but the `peer` records, which then say that we are away.

        Names go first and words last: what is not withdrawn in time (the answer is False then)
        expires by itself, and a word that leads to no name does the least harm. All contacts hear
        of the leave, not only those who store our record. Requests of others are not answered any
        more: `close` comes next.
        """
        publisher = self._engine.publisher
        try:
            async with asyncio.timeout(timeout_s):
                for kinds in LEAVING_WAVES:
                    await publisher.withdraw(self.schedule.leaving(kinds))
                in_time = True
        except TimeoutError:
            in_time = False
        await self._say_farewell()
        return in_time

    async def _say_farewell(self) -> None:
        """Publish that we are away, and tell it to all contacts."""
        publisher = self._engine.publisher
        now_ms = self.now_ms()
        planned: list[bytes] = []
        farewell: bytes | None = None
        for payload in self.schedule.payloads((Kind.PEER,)):
            if isinstance(payload, PeerPayload):
                away = msgspec.structs.replace(payload, here_until_ms=now_ms)
                planned.append(self.schedule.add(away, now_ms=now_ms))
                farewell = farewell if payload.under_nickname else planned[-1]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AWAY_TIMEOUT_S):
                await publisher.publish_planned(planned)
        self._own.leaving = True
        if farewell is not None:
            contacts = self._engine.table.closest(self.peer_id, FAREWELLS_MAX)
            hearers = [candidate_of(each) for each in contacts]
            await publisher.tell(farewell, hearers, at_most_s=FAREWELL_TIMEOUT_S)

    # Reading

    async def read(
        self,
        key: bytes,
        kinds: Sequence[Kind],
        *,
        words: Sequence[str] = (),
        limit: int = 300,
        trace: Trace | None = None,
    ) -> list[tuple[Record, Payload]]:
        """Read the live records under a key from all closest storers, verified, newest first.

        `trace` hears of each step; see `dht.tracing`.
        """
        return await self._engine.reader.read(key, kinds, words=words, limit=limit, trace=trace)

    def read_stream(
        self, key: bytes, kinds: Sequence[Kind], *, words: Sequence[str] = (), limit: int = 300
    ) -> AsyncGenerator[Hit, None]:
        """Yield the records under a key as they come in; see `dht.reads`."""
        return self._engine.reader.read_stream(key, kinds, words=words, limit=limit)

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
        """Find files whose names have all the words; most holders first.

        Looks up the most selective word and lets the storers filter by the others; see
        `dht.search_plan`. A word that ends in `*` is a prefix. Raises BadQuery.
        """
        query = query_of(words)
        hits = await search_hits_of(
            self._engine.reader,
            self.network.network_id,
            query,
            records_max=self.config.records_wanted_max,
            reads_max=self.config.lookups_max,
        )
        return search_hits(hits, query, limit)

    async def read_word(
        self, key: bytes, words: Sequence[str], prefix: str, *, trace: Trace
    ) -> WordRead:
        """Read one key of a word as a search does, and tell each step."""
        reader = self._engine.reader
        return await reader.read_word(key, words=words, prefix=prefix, trace=trace)

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
        await self._engine.membership.check(peer_ids, timeout_s)

    async def hello_address(
        self, address: Address, timeout_s: float = 2.0, *, is_hint: bool = False
    ) -> ContactView | None:
        """Find out who is at an address; None when nobody of this network answers.

        `is_hint`: others gave us the address, so that the limits for strangers hold.
        """
        return await self._engine.membership.hello_address(address, timeout_s, is_hint=is_hint)

    async def closest_peers(self, key: bytes) -> list[ContactView]:
        """Look up the peers closest to a key that answer, closest first."""
        found = await self._engine.reader.closest(key, Goal.WRITE)
        views = {view.peer_id: view for view in self.contacts()}
        return [views[each.peer_id] for each in found if each.peer_id in views]

    def contacts(self) -> list[ContactView]:
        """Show all peers that proved themselves, departed ones too."""
        return self._engine.membership.contacts()

    def contact(self, peer_id: bytes) -> ContactView | None:
        """Show one peer that proved itself at some time."""
        return self._engine.membership.view(peer_id)

    def usable(self, addresses: Sequence[Address]) -> list[Address]:
        """Keep the addresses of a record that are worth a dial from here.

        Loopback only where we have to do with loopback ourselves; never link-local and the like.
        """
        return self._engine.membership.usable(addresses)

    # Itself

    @property
    def peer_id(self) -> bytes:
        return self._own.peer_id

    @property
    def bound(self) -> Address:
        """Where the UDP socket is bound."""
        return self._engine.bound

    @property
    def clock_offset_ms(self) -> int:
        """What our contacts agree must be added to our wall clock; 0 while it is right."""
        return 0 if self._running is None else self._running.clock_watch.offset_ms

    @property
    def clock_doubt_ms(self) -> int:
        """What the few contacts there are say that our clock is off by; not corrected."""
        return 0 if self._running is None else self._running.clock_watch.doubt_ms

    def clock_offsets_ms(self) -> tuple[int, ...]:
        """What each contact says must be added to our wall clock."""
        return () if self._running is None else self._running.clock_watch.samples_ms

    def now_ms(self) -> int:
        """Our wall time, corrected."""
        return self._wall_ms() + self.clock_offset_ms

    def observed_address(self) -> Address | None:
        """How at least two others see us."""
        return self._engine.membership.observed_address()

    def lookups(self) -> Durations:
        """How long the lookups of reads and publishes took, until they had their closest."""
        return self._engine.runner.durations

    def contact_count(self) -> int:
        """How many peers the routing table holds."""
        return len(self._engine.table)

    @property
    def reach(self) -> Reach:
        """Whether others can reach us, as far as two contacts agree."""
        return Reach.UNKNOWN if self._running is None else self._running.reach.state

    def counters(self) -> dict[str, int]:
        """Count drops, verdicts and datagrams since the start."""
        return dict(self._drops) if self._running is None else self._running.counters()

    @property
    def engine(self) -> Engine:
        """The running parts, for tests and diagnosis."""
        return self._engine

    @property
    def _engine(self) -> Engine:
        if self._running is None:
            raise NotListening
        return self._running

    def _tell_contact(self, peer_id: bytes, address: Address) -> None:
        if self.on_contact is not None:
            self.on_contact(peer_id, address)

    def _tell_clock(self, offset_ms: int, is_corrected: bool) -> None:
        if self.on_clock is not None:
            self.on_clock(offset_ms, is_corrected)

    def _tell_reach(self, reach: Reach) -> None:
        if self.on_reach is not None:
            self.on_reach(reach)


def bulk_handler(node: DhtNode) -> grpc.GenericRpcHandler:
    """Return the gRPC service for long sets; the node must be listening."""
    return node.engine.bulk_service.handler()
