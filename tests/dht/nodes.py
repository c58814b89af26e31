"""Real DHT nodes on loopback for tests, and a deadline instead of sleeps."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

from dht.config import DhtConfig
from dht.contacts import ContactRow
from dht.lookup import LookupConfig
from dht.node import DhtNode
from dht.records import ContentPayload, NamePayload, Payload, PeerPayload, WordPayload
from dht.schedule import ScheduleRow
from dht.storage import SavedRecord
from dht.words import indexed_words
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode, Network

OPEN = Network("test-open")
PRIVATE = Network("test-private", b"k" * 32)
CONFIG = DhtConfig(handoff_s=0.02, bootstrap_retry_min_s=0.1, flush_s=0.1)
# Whoever waits for a dead peer to time out misses the deadline, and a busy machine does not.
STUBBORN = replace(CONFIG, call_timeout_s=30.0, lookup=LookupConfig(hard_timeout_s=30.0))
STUBBORN_DEADLINE_S = 10.0
CONTENT_ID = b"c" * 32
NAME = "blue whale song.txt"


async def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return once holds() is true; fail at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "the awaited state did not come"
        await asyncio.sleep(0.005)


def make_node(network: Network = OPEN, **options: object) -> DhtNode:
    options.setdefault("config", CONFIG)
    options.setdefault("nickname", "tester")
    identity = options.pop("identity", None) or Identity.generate()
    return DhtNode(identity, network, **options)  # type: ignore[arg-type]


def address_of(node: DhtNode) -> Address:
    return Address("127.0.0.1", node.bound.port)


def entry(node: DhtNode) -> list[BootstrapNode]:
    return [BootstrapNode(address_of(node))]


@contextlib.asynccontextmanager
async def nodes_of(
    count: int, network: Network = OPEN, config: DhtConfig = CONFIG
) -> AsyncIterator[list[DhtNode]]:
    """Run count nodes that all joined through the first."""
    nodes = [make_node(network, config=config, nickname=f"n{number}") for number in range(count)]
    try:
        for node in nodes:
            await node.listen("127.0.0.1", 0)
            if node is not nodes[0]:
                await node.bootstrap(entry(nodes[0]))
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


def file_payloads(
    name: str = NAME, content_id: bytes = CONTENT_ID, size_bytes: int = 7
) -> list[Payload]:
    """The records of one shared file."""
    words = [WordPayload(word, name, content_id, size_bytes) for word in indexed_words(name)]
    return [NamePayload(name, content_id, size_bytes), ContentPayload(content_id), *words]


def peer_payload(node: DhtNode, nickname: str = "bob") -> PeerPayload:
    here_until_ms = node.now_ms() + 3_600_000
    return PeerPayload(nickname, (address_of(node),), b"s" * 32, here_until_ms)


class MemoryPersistence:
    """Keeps what a node saves, as SQLite does."""

    def __init__(self) -> None:
        self.records: dict[bytes, SavedRecord] = {}
        self.contacts: list[ContactRow] = []
        self.schedule: dict[bytes, ScheduleRow] = {}

    def load_records(self) -> list[SavedRecord]:
        return list(self.records.values())

    def save_records(self, saved: Sequence[SavedRecord], deleted: Sequence[bytes]) -> None:
        self.records.update({row.entry_id: row for row in saved})
        for entry_id in deleted:
            self.records.pop(entry_id, None)

    def load_contacts(self) -> list[ContactRow]:
        return list(self.contacts)

    def save_contacts(self, rows: Sequence[ContactRow]) -> None:
        self.contacts = list(rows)

    def load_schedule(self) -> list[ScheduleRow]:
        return list(self.schedule.values())

    def save_schedule(self, saved: Sequence[ScheduleRow], deleted: Sequence[bytes]) -> None:
        self.schedule.update({row.draft_id: row for row in saved})
        for draft_id in deleted:
            self.schedule.pop(draft_id, None)


@contextlib.contextmanager
def raw_socket() -> Iterator[socket.socket]:
    """A UDP socket of a stranger; never blocks."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.bind(("127.0.0.1", 0))
    try:
        yield udp
    finally:
        udp.close()


def received(udp: socket.socket) -> list[bytes]:
    """Everything that waits in a raw socket."""
    datagrams: list[bytes] = []
    while True:
        try:
            datagrams.append(udp.recv(65_536))
        except BlockingIOError:
            return datagrams
