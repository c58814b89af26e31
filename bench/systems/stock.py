"""The stock `kademlia` package behind the benchmark's calls."""

import importlib.metadata
import logging
import time

from kademlia.network import Server
from kademlia.utils import digest

from bench.systems.base import Got, Item


class StockSystem:
    """`kademlia.network.Server` as it comes: k 20, alpha 3."""

    name = "kademlia"
    uses_uvloop = True

    def __init__(self) -> None:
        # It tells of each lost request, thousands where nodes are silent.
        for logger in ("rpcudp", "kademlia"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)

    def version(self) -> str:
        """The versions of the package and of its datagram layer."""
        return ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("kademlia", "rpcudp")
        )

    async def make_node(self) -> "StockNode":
        """Make a listening server."""
        server = Server()
        await server.listen(0, interface="127.0.0.1")
        return StockNode(server)


class StockNode:
    """One stock server; a get has one end, the majority of the first round with a value."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def port(self) -> int:
        port: int = self._server.transport.get_extra_info("sockname")[1]
        return port

    def distance(self, item: Item) -> int:
        own_id: int = self._server.node.long_id
        return int.from_bytes(digest(item.name)) ^ own_id

    async def join(self, port: int) -> None:
        """Returns when the crawl for the node's own id has ended."""
        found = await self._server.bootstrap([("127.0.0.1", port)])
        assert found, "the bootstrap node answers"

    async def store(self, item: Item) -> bool:
        return bool(await self._server.set(item.name, item.value))

    async def get(self, item: Item) -> Got:
        began = time.perf_counter()
        value = await self._server.get(item.name)
        taken_s = time.perf_counter() - began
        return Got(taken_s if value == item.value else None, taken_s)

    async def close(self) -> None:
        self._server.stop()
