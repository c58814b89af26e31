"""The parts of a running node, joined: socket, table, store, lookups, publishing, upkeep.

Owns the wiring and the life of the node's tasks. Must not know what the rest of the peer calls
things: `dht.node` is its face.
"""

import asyncio
import errno
import random
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from dht import wire
from dht.answering import Answerer
from dht.budget import VerifyBudget
from dht.bulk import BulkClient, BulkService, Connect
from dht.calling import Caller
from dht.clock import ClockWatch
from dht.config import DhtConfig
from dht.contacts import Contact, StockContacts
from dht.desk import RecordDesk
from dht.dialback import DialBackDesk, ReachWatch, TcpProbe, fresh_sender
from dht.dialling import DialLimits
from dht.errors import NotListening, PortInUse
from dht.hints import plain_host
from dht.intake import Intake
from dht.limits import RateLimit, RequestLimits
from dht.membership import Membership
from dht.placing import Placer
from dht.protocol import ShoalProtocol, room_bytes
from dht.publishing import Publisher
from dht.reachability import Reach, Reachability
from dht.readback import ReadBack
from dht.reads import Reader
from dht.records import Kind, PeerPayload, Record, decode_payload
from dht.routing import Table, contacts_from_rows
from dht.running import LookupRunner
from dht.schedule import PublishSchedule
from dht.seal import SESSION_BYTES, sealer_of
from dht.self_view import SelfView
from dht.stock import StockDesk, StockPinger
from dht.storage import RecordStore
from dht.tokens import AddressTokens
from dht.upkeep import DhtPersistence, Upkeep
from identity.address import Address, ip_of
from identity.network import BootstrapNode

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
TOKEN_SECRET_BYTES = 32


class OpenEndpoint(Protocol):
    """Bind a protocol to a host and port; PortInUse."""

    async def __call__(self, protocol: asyncio.DatagramProtocol, host: str, port: int) -> None: ...


class Engine:
    """Everything that lives from `start` to `close`; made within a running loop."""

    def __init__(
        self,
        own: SelfView,
        store: RecordStore,
        schedule: PublishSchedule,
        config: DhtConfig,
        *,
        raw_wall_ms: Callable[[], int],
        persistence: DhtPersistence | None,
        rng: random.Random,
        drops: Counter[str],
        open_endpoint: OpenEndpoint,
    ) -> None:
        self.own = own
        self.store = store
        self.schedule = schedule
        self.config = config
        self.drops = drops
        self.clock_watch = ClockWatch()
        self.bound = Address("127.0.0.1", 1)
        self.on_clock: Callable[[int, bool], None] | None = None
        self._raw_wall_ms = raw_wall_ms
        self._persistence = persistence
        self._rng = rng
        self._open_endpoint = open_endpoint
        self._clock = asyncio.get_running_loop().time
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._bootstrap_nodes: tuple[BootstrapNode, ...] = ()
        self._remembered: list[Contact] = []
        self._clock_told = (False, False)
        self.on_reach: Callable[[Reach], None] | None = None
        self._build_tables()
        self._build_wire()
        self._build_reading()
        self._build_work()

    # Life

    async def start(self, host: str, port: int) -> None:
        """Bind, load what was kept, start the upkeep; PortInUse."""
        self.own.leaving = False
        await self._open_endpoint(self.protocol, host, port)
        name = self.protocol.transport.get_extra_info("sockname")
        self.bound = Address(plain_host(name[0]), name[1])
        self.membership.wire_up(self.caller, self.reader, self.bound)
        self._remembered = contacts_from_rows(await self.upkeep.load())
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._live(ready))
        await ready.wait()

    async def close(self) -> None:
        """End all tasks, save, let the port go; raises what broke the node, if something did."""
        task = self._task
        if task is None:
            return
        self.own.leaving = True
        task.cancel()
        await asyncio.wait([task])
        self._task = None
        try:
            await self.upkeep.flush()
        finally:
            self.protocol.transport.close()
            await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn
        _raise_failure(task)

    async def watch(self) -> None:
        """Wait until the node ends, and raise what broke it."""
        if self._task is not None:
            task = self._task
            await asyncio.wait([task])
            _raise_failure(task)

    async def bootstrap(self, nodes: Sequence[BootstrapNode]) -> int:
        """Join, now and, while alone, again later."""
        self._bootstrap_nodes = tuple(nodes)
        self.upkeep.keep_company()
        return await self._bootstrap()

    def use_grpc(self, connect: Connect) -> None:
        """Send long sets over gRPC from now on."""
        client = BulkClient(connect, self.caller, self.own.entropy)
        self.reader.bulk = client
        self.publisher.bulk = client

    def use_tcp(self, probe: TcpProbe) -> None:
        """Dial askers back over TCP, too, and have our own TCP port judged."""
        self.dial_back.tcp_probe = probe
        self.reach.has_tcp = True

    def now_ms(self) -> int:
        """Our wall time, corrected by what contacts agree on."""
        return self._raw_wall_ms() + self.clock_watch.offset_ms

    def counters(self) -> dict[str, int]:
        """Count drops, verdicts and datagrams since the start."""
        counters = Counter(self.drops)
        counters.update(self.store.counters())
        counters.update({f"seal-{name}": count for name, count in self._sealer.drops.items()})
        counters["datagrams-sent"] = self.protocol.sent
        counters["datagrams-received"] = self.protocol.received
        counters["bytes-sent"] = self.protocol.sent_bytes
        counters["bytes-received"] = self.protocol.received_bytes
        counters["stock-contacts"] = len(self.stock)
        return dict(counters)

    # Wiring

    def _build_tables(self) -> None:
        self._sealer = sealer_of(self.own.network, self.own.entropy(SESSION_BYTES))
        self.table = Table(self.own.peer_id, self.config.table, now=self._clock())
        self.stock = StockContacts()
        budget = VerifyBudget(
            rate_hz=self.config.verify_rate_hz, burst_max=self.config.verify_burst_max
        )
        self.desk = RecordDesk(
            self.own,
            self.table,
            self.store,
            budget,
            clock=self._clock,
            wall_ms=self.now_ms,
            on_stored=self._on_stored,
        )
        self.intake = Intake(self.desk, budget, clock=self._clock)
        self.limits = RequestLimits(self.config.limits)
        self.bulk_service = BulkService(
            self.desk,
            self.intake,
            self.limits,
            self.own.network,
            clock=self._clock,
            drops=self.drops,
        )
        self.membership = Membership(
            self.table,
            self.own,
            self.config,
            self.clock_watch,
            clock=self._clock,
            raw_wall_ms=self._raw_wall_ms,
            spawn=self._spawn,
            rng=self._rng,
            drops=self.drops,
        )

    def _build_wire(self) -> None:
        config = self.config
        self.dials = DialLimits(config.dials)
        self.dial_back = self._build_dial_back()
        self.protocol = ShoalProtocol(
            self.table,
            self._sealer,
            self._build_answerer(),
            entropy=self.own.entropy,
            drops=self.drops,
        )
        self._stock_pinger = StockPinger(
            self.protocol,
            self.stock,
            self.dials,
            clock=self._clock,
            timeout_s=config.call_timeout_s,
        )
        self.caller = Caller(
            self.protocol,
            self.own,
            self.membership,
            config,
            self.membership.patience,
            self.dials,
            self._clock,
        )

    def _build_answerer(self) -> Answerer:
        return Answerer(
            self.own,
            self.table,
            self.desk,
            AddressTokens(self.own.entropy(TOKEN_SECRET_BYTES)),
            self.limits,
            self.dial_back,
            clock=self._clock,
            wall_ms=self.now_ms,
            room_bytes=room_bytes(self._sealer),
            stock=None if self.own.network.is_private else self._build_stock_desk(),
            on_newcomer=self.membership.greet,
            on_probe=self._on_probe,
        )

    def _build_dial_back(self) -> DialBackDesk:
        limits = self.config.limits
        return DialBackDesk(
            self.own.peer_id,
            self._sealer.seal,
            per_peer=RateLimit(limits.dial_backs),
            in_all=RateLimit(limits.dial_backs_all),
            entropy=self.own.entropy,
            clock=self._clock,
            spawn=self._spawn,
            send_fresh=fresh_sender(self._open_endpoint, lambda: self.bound),
            drops=self.drops,
        )

    def _build_stock_desk(self) -> StockDesk:
        return StockDesk(
            self.table,
            self.stock,
            self.config.limits,
            clock=self._clock,
            on_stranger=self._on_stock_stranger,
        )

    def _build_reading(self) -> None:
        self.runner = LookupRunner(
            self.caller,
            self.table,
            self.config,
            self.membership.patience,
            clock=self._clock,
            spawn=self._spawn,
            believe=self.membership.destinations.believe,
            drops=self.drops,
        )
        self.reader = Reader(
            self.caller,
            self.runner,
            self.store,
            self.own,
            self.config,
            wall_ms=self.now_ms,
            spawn=self._spawn,
            drops=self.drops,
        )
        self.read_back = ReadBack(
            self.runner,
            self.table,
            self.own.network.network_id,
            self.config,
            wall_ms=self.now_ms,
        )

    def _build_work(self) -> None:
        self.publisher = Publisher(
            self.caller,
            self.reader,
            Placer(self.reader, self.table, self.config, clock=self._clock, drops=self.drops),
            self.store,
            self.schedule,
            self.own,
            self.config,
            wall_ms=self.now_ms,
            spawn=self._spawn,
            drops=self.drops,
        )
        self.upkeep = Upkeep(
            self.table,
            self.store,
            self.schedule,
            self.membership,
            self.reader,
            self.publisher,
            self.config,
            own_id=self.own.peer_id,
            clock=self._clock,
            wall_ms=self.now_ms,
            persistence=self._persistence,
            bootstrap=self._bootstrap,
            rng=self._rng,
        )
        self.reach = self._build_reach()
        self.membership.on_first_contact = self.upkeep.retry_failed
        self.membership.on_newcomer = self._on_newcomer
        self.membership.on_departed = self.upkeep.neighbours_changed
        self.membership.on_lonely = self.upkeep.lonely
        self.membership.on_missed = self.upkeep.missed
        self.membership.on_moved = self.reach.moved
        self.membership.on_clock_sample = self._tell_clock
        self.publisher.on_clock = self._on_clock_answer

    def _build_reach(self) -> ReachWatch:
        return ReachWatch(
            Reachability(self.config.reach),
            self.own,
            self.caller,
            witnesses=self.membership.witnesses,
            own_hosts=self.membership.own_hosts,
            port=lambda: (*self.own.advertised, self.bound)[0].port,
            clock=self._clock,
            spawn=self._spawn,
            on_change=self._on_reach,
            drops=self.drops,
        )

    # Tasks and hooks

    async def _live(self, ready: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            for loop in self.upkeep.loops():
                group.create_task(loop())
            if not self.own.client:  # a client of the moment asks nobody
                group.create_task(self.reach.run())
            ready.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run work as a task of this node; NotListening once it is closed."""
        if self._group is None or self._task is None or self._task.done():
            work.close()
            raise NotListening
        try:
            return self._group.create_task(work)
        except RuntimeError:  # the group is ending
            work.close()
            raise NotListening from None

    async def _bootstrap(self) -> int:
        return await self.membership.bootstrap(self._bootstrap_nodes, self._remembered)

    def _on_newcomer(self) -> None:
        self.upkeep.neighbours_changed()
        self.reach.look_again()

    def _on_probe(self, probe: wire.Probe) -> None:
        self.reach.on_probe(probe)

    def _on_reach(self, reach: Reach) -> None:
        """Be a client while others cannot reach us, and let our contacts know."""
        was_client, self.own.client = self.own.client, reach is Reach.UNREACHABLE
        if self.own.client != was_client:
            self._spawn(self.membership.introduce())
        if self.on_reach is not None:
            self.on_reach(reach)

    def _on_stored(self, record: Record, sender_id: bytes) -> None:
        """A peer that stores its own `peer` record as away with us takes its leave.

        Its record under a nickname tells nothing: it may be that of a name it no longer goes by.
        """
        if record.kind is not Kind.PEER or record.publisher != sender_id:
            return
        payload = decode_payload(record.kind, record.payload)
        assert isinstance(payload, PeerPayload), "the kind says so"
        if not payload.under_nickname and payload.here_until_ms <= record.issued_ms:
            self.membership.on_farewell(sender_id)

    def _on_stock_stranger(self, node_id: bytes, address: Address) -> None:
        if self._stock_pinger.may_ping(address):
            self._spawn(self._stock_pinger.ping(node_id, address))
        else:
            self.drops["stock-unpinged"] += 1

    def _on_clock_answer(self, storer_id: bytes, their_ms: int) -> None:
        """A storer refused a record for its time, and said its own."""
        self.clock_watch.heard(storer_id, their_ms - self._raw_wall_ms())
        self._tell_clock()

    def _tell_clock(self) -> None:
        """Tell of a change, and publish again at once what was refused for its time."""
        watch = self.clock_watch
        told = (watch.offset_ms != 0, watch.doubt_ms != 0)
        if told != self._clock_told and self.on_clock is not None:
            self.on_clock(watch.offset_ms or watch.doubt_ms, watch.offset_ms != 0)
        if told != self._clock_told:
            self.upkeep.retry_failed()
        self._clock_told = told


def _raise_failure(task: asyncio.Task[None]) -> None:
    """Raise what ended a node's tasks, unless it was closed."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, BaseExceptionGroup):
        _, error = error.split(NotListening)
    if error is not None:
        raise error


async def open_udp(protocol: asyncio.DatagramProtocol, host: str, port: int) -> None:
    """Bind a protocol to a UDP socket of the system; PortInUse."""
    udp = _bind(host, port)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, sock=udp)


def _bind(host: str, port: int) -> socket.socket:
    """Bind a UDP socket that is ours alone; PortInUse when that cannot be."""
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
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"UDP port {port} on {host} is in use") from error
        text = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise PortInUse(text, hint="choose an address of this machine with --listen") from error
    return udp
