"""Shoal's DHT nodes behind the benchmark's calls, in an open or a private network."""

import importlib.metadata
import time

from bench.systems.base import Got, Item
from dht.node import DhtConfig, DhtNode
from dht.records import Kind, NamePayload, name_key
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode, Network

_KEY = bytes(range(32))


class ShoalSystem:
    """Real `dht.node` nodes with the settings that every peer has."""

    uses_uvloop = True

    def __init__(self, *, is_private: bool) -> None:
        self.name = "shoal-private" if is_private else "shoal"
        self._network = Network("bench", _KEY if is_private else None)

    def version(self) -> str:
        """Shoal's version."""
        return f"shoal {importlib.metadata.version('shoal')}"

    async def make_node(self) -> "ShoalNode":
        """Make a node with an identity of its own."""
        node = DhtNode(Identity.generate(), self._network, nickname="bench", config=DhtConfig())
        await node.listen("127.0.0.1", 0)
        return ShoalNode(node)


class ShoalNode:
    """One Shoal node: stores signed `name` records, reads them from all k closest."""

    def __init__(self, node: DhtNode) -> None:
        self._node = node

    @property
    def port(self) -> int:
        return self._node.bound.port

    def distance(self, item: Item) -> int:
        key = name_key(self._node.network.network_id, item.name)
        return int.from_bytes(key) ^ int.from_bytes(self._node.peer_id)

    async def join(self, port: int) -> None:
        """Returns when the node has looked up its own neighbourhood."""
        gained = await self._node.bootstrap([BootstrapNode(Address("127.0.0.1", port))])
        assert gained > 0, "the bootstrap node answers"

    async def store(self, item: Item) -> bool:
        """Returns when all k closest have acknowledged with their signatures."""
        report = await self._node.publish([self._payload(item)])
        return report.stored_on_min > 0

    async def get(self, item: Item) -> Got:
        """The first time is that of the first verified record, the second that of all k closest."""
        key = name_key(self._node.network.network_id, item.name)
        began = time.perf_counter()
        first_s: float | None = None
        async for _, payload in self._node.read_stream(key, (Kind.NAME,)):
            if first_s is None and _is_same(payload, item):
                first_s = time.perf_counter() - began
        return Got(first_s, time.perf_counter() - began)

    async def close(self) -> None:
        await self._node.close()

    def _payload(self, item: Item) -> NamePayload:
        address = Address("127.0.0.1", self.port)
        return NamePayload(item.name, item.content_id, item.size_bytes, (address,))


def _is_same(payload: object, item: Item) -> bool:
    return (
        isinstance(payload, NamePayload)
        and payload.filename == item.name
        and payload.content_id == item.content_id
        and payload.size_bytes == item.size_bytes
    )
