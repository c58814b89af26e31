"""A network of real DHT nodes in one process, on the virtual clock and the virtual network.

Owns the peers and their lives: made, joined, killed, gone, back, silent. Must not know what a
scenario wants to find out. Everything that a peer draws by chance comes from the world's seed.
"""

import asyncio
import gc
import ipaddress
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from dht.config import DhtConfig
from dht.contacts import ContactRow
from dht.node import DhtNode
from dht.schedule import ScheduleRow
from dht.storage import SavedRecord
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode, Network
from simulation.bulk import VirtualBulk
from simulation.loop import running_loop
from simulation.network import Endpoint, Place, VirtualNetwork, Weather
from simulation.signing import StubIdentity

WALL_BEGIN_MS = 1_800_000_000_000
"""Wall time at the start of the loop's clock."""
PORT = 4_100
NODE = DhtConfig()
"""As in production."""
ENTRIES_COUNT = 4
"""The first peers are the bootstrap nodes of all others."""
FIRST_BLOCK = int(ipaddress.IPv4Address("20.0.0.0")) >> 8
"""Public /24 blocks from here on, one after the other."""
BLOCKS_MAX = 5 << 16


class MemoryPersistence:
    """Keeps what a node saves, as its disk does; a killed node's last words do not reach it."""

    def __init__(self) -> None:
        self.records: dict[bytes, SavedRecord] = {}
        self.contacts: tuple[ContactRow, ...] = ()
        self.schedule: dict[bytes, ScheduleRow] = {}
        self.is_cut_off = False

    def load_records(self) -> list[SavedRecord]:
        """Give back the records."""
        return list(self.records.values())

    def save_records(self, saved: Sequence[SavedRecord], deleted: Sequence[bytes]) -> None:
        """Keep changed records, forget deleted ones."""
        if self.is_cut_off:
            return
        self.records.update({row.entry_id: row for row in saved})
        for entry_id in deleted:
            self.records.pop(entry_id, None)

    def load_contacts(self) -> list[ContactRow]:
        """Give back the contacts."""
        return list(self.contacts)

    def save_contacts(self, rows: Sequence[ContactRow]) -> None:
        """Keep these contacts instead of the last ones."""
        if not self.is_cut_off:
            self.contacts = tuple(rows)

    def load_schedule(self) -> list[ScheduleRow]:
        """Give back the schedule."""
        return list(self.schedule.values())

    def save_schedule(self, saved: Sequence[ScheduleRow], deleted: Sequence[bytes]) -> None:
        """Keep changed drafts, forget deleted ones."""
        if self.is_cut_off:
            return
        self.schedule.update({row.draft_id: row for row in saved})
        for draft_id in deleted:
            self.schedule.pop(draft_id, None)


@dataclass(slots=True, eq=False)
class Peer:
    """One peer over all its lives; `node` is its present one."""

    number: int
    identity: Identity
    address: Address
    place: Place
    persistence: MemoryPersistence | None = None
    reachable: bool = True
    config: DhtConfig | None = None
    """Its own settings instead of the world's."""
    lives: int = 0
    side: int = 0
    node: DhtNode | None = None
    endpoint: Endpoint | None = None

    @property
    def is_up(self) -> bool:
        """Whether its process runs and its network works."""
        return self.node is not None and self.endpoint is not None and not self.endpoint.silent

    @property
    def running(self) -> DhtNode:
        """Its node, which must be there."""
        assert self.node is not None, f"peer {self.number} does not run"
        return self.node

    @property
    def port(self) -> Endpoint:
        """Its endpoint, which must be there."""
        assert self.endpoint is not None, f"peer {self.number} does not run"
        return self.endpoint


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """What a world is made of."""

    seed: int
    weather: Weather = field(default_factory=Weather)
    node: DhtConfig = NODE
    identity: type[Identity] = StubIdentity
    """StubIdentity needs `stub_signatures` around the run."""
    network: Network = field(default_factory=lambda: Network("simulation"))
    peers_per_block: int = 1
    """Peers that share one public address block."""
    join_gap_s: float = 0.02
    """Time between two joins of a growing network."""
    is_persistent: bool = False
    """Whether peers keep contacts, records and schedule over their lives."""


class World:
    """All peers of one simulation; made within a virtual loop."""

    def __init__(self, config: WorldConfig) -> None:
        gc.collect()  # the last world's peers know each other in circles
        self.config = config
        self.loop = running_loop()
        self.rng = self.random("world")
        self.network = VirtualNetwork(self.loop, self.random("network"), config.weather)
        self.bulk_traffic = self.network.traffic
        self.peers: list[Peer] = []
        self._hosts = 0

    @classmethod
    async def grown(cls, config: WorldConfig, peers: int, *, settle_s: float = 30.0) -> Self:
        """Make a world of this many peers that have all joined and come to rest."""
        world = cls(config)
        await world.grow(peers)
        await asyncio.sleep(settle_s)
        return world

    def random(self, name: str) -> random.Random:
        """Make the generator of one purpose: other purposes do not disturb it."""
        return random.Random(f"{self.config.seed}/{name}")

    def now(self) -> float:
        """Return the virtual monotonic time."""
        return self.loop.time()

    def wall_ms(self) -> int:
        """Return the virtual wall time."""
        return WALL_BEGIN_MS + round(self.loop.time() * 1000)

    # Peers

    def add(self, *, address: Address | None = None, identity: Identity | None = None) -> Peer:
        """Make a peer that has not joined yet."""
        number = len(self.peers)
        made = identity or self.config.identity(self.random(f"identity/{number}").randbytes(32))
        persistence = MemoryPersistence() if self.config.is_persistent else None
        place = self.network.new_place()
        peer = Peer(number, made, address or self.next_address(), place, persistence)
        self.peers.append(peer)
        return peer

    def next_address(self) -> Address:
        """Return the next unused public address."""
        block, host = divmod(self._hosts, self.config.peers_per_block)
        assert block < BLOCKS_MAX, "too many peers for the address plan"
        self._hosts += 1
        return Address(str(ipaddress.IPv4Address(((FIRST_BLOCK + block) << 8) + 1 + host)), PORT)

    async def grow(self, count: int) -> list[Peer]:
        """Let this many new peers join one after the other; return when all have."""
        made = [self.add() for _ in range(count)]
        joins: list[asyncio.Task[int]] = []
        for peer in made:
            if peer.number < ENTRIES_COUNT:
                await self.join(peer)
                continue
            joins.append(asyncio.create_task(self.join(peer)))
            await asyncio.sleep(self.config.join_gap_s)
        await asyncio.gather(*joins)
        return made

    async def join(self, peer: Peer) -> int:
        """Start a peer's node and let it join; return the contacts that it gained."""
        node = await self.start(peer)
        return await node.bootstrap(self.entries(peer))

    async def start(self, peer: Peer) -> DhtNode:
        """Start a peer's node without joining."""
        assert peer.node is None, f"peer {peer.number} runs already"
        peer.lives += 1
        endpoint = Endpoint(peer.address, peer.place, peer.reachable, side=peer.side)

        async def bind(protocol: asyncio.DatagramProtocol, host: str, port: int) -> None:
            assert host == peer.address.host
            if port == 0:  # a port of the moment, to dial somebody back from
                address = self.network.free_port(host)
                fresh = Endpoint(address, peer.place, peer.reachable, side=peer.side)
                self.network.bind(fresh, protocol)
                return
            assert port == peer.address.port
            self.network.bind(endpoint, protocol)

        if peer.persistence is not None:
            peer.persistence.is_cut_off = False
        node = DhtNode(
            peer.identity,
            self.config.network,
            nickname=f"peer-{peer.number}",
            config=peer.config or self.config.node,
            persistence=peer.persistence,
            wall_ms=self.wall_ms,
            rng=self.random(f"node/{peer.number}/{peer.lives}"),
            open_endpoint=bind,
        )
        await node.listen(peer.address.host, peer.address.port)
        node.advertise([peer.address])
        bulk = VirtualBulk(self, peer, node.engine)
        node.engine.reader.bulk = node.engine.publisher.bulk = bulk
        peer.node, peer.endpoint = node, endpoint
        return node

    def entries(self, peer: Peer) -> list[BootstrapNode]:
        """Return the bootstrap nodes of the network, without the peer itself."""
        return [
            BootstrapNode(each.address) for each in self.peers[:ENTRIES_COUNT] if each is not peer
        ]

    async def kill(self, peer: Peer) -> None:
        """End a peer as kill -9 does: nothing is sent, and nothing more is saved."""
        node, peer.node = peer.running, None
        peer.port.silent = True
        if peer.persistence is not None:
            peer.persistence.is_cut_off = True
        await node.close()

    async def leave(self, peer: Peer) -> None:
        """Let a peer leave cleanly: it withdraws its records, says farewell, saves, ends."""
        node = peer.running
        await node.withdraw_all()
        peer.node = None
        await node.close()

    async def close(self) -> None:
        """End all peers."""
        for peer in self.peers:
            if peer.node is not None:
                await self.kill(peer)

    def silence(self, peers: Sequence[Peer]) -> None:
        """Let these peers swallow everything from now on; others still have them as contacts."""
        for peer in peers:
            peer.port.silent = True

    def part(self, side_of: Callable[[Peer], int]) -> None:
        """Cut the network: nothing passes between different sides."""
        for peer in self.peers:
            peer.side = side_of(peer)
            if peer.endpoint is not None:
                peer.endpoint.side = peer.side

    def heal(self) -> None:
        """Join all sides again."""
        self.part(lambda _: 0)

    def up(self) -> list[Peer]:
        """Return the peers that run and are not silent, in the order in which they were made."""
        return [peer for peer in self.peers if peer.is_up]

    def holds(self, peer: Peer, key: bytes, publisher: Peer) -> bool:
        """Tell whether a peer stores a live record of a publisher under a key."""
        page = peer.running.store.find(key, now_ms=self.wall_ms())
        public_key = publisher.identity.public_key
        return any(record.public_key == public_key for record in page.records)

    def at(self, peer_id: bytes, address: Address) -> Peer | None:
        """Return the running peer of this id at an address."""
        endpoint = self.network.endpoint_at(address)
        for peer in self.peers:
            if peer.endpoint is endpoint and peer.node is not None:
                return peer if peer.identity.peer_id == peer_id else None
        return None
