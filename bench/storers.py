"""Peers that store for a benchmark: real DHT nodes with a real gRPC listener each, on loopback.

`python -m bench.storers COUNT` runs some in a process of their own. It reads one line: the seed of
the network's key in hex and the port to join through (0: none yet); it writes the port of its first
peer, then, when all have joined, their number; it ends when its input does.
"""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass

from bench.host import LIFE_MAX_S, input_lines, say
from dht.config import DhtConfig
from dht.errors import PortInUse as UdpPortInUse
from dht.node import DhtNode, bulk_handler
from dht.upkeep import DhtPersistence
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode, Network
from identity.tls import make_tls
from peer.addresses import bind_one_port
from rpc.channels import ChannelPool
from rpc.errors import PortInUse as TcpPortInUse
from rpc.listener import RpcListener

HOST = "127.0.0.1"


@dataclass(slots=True)
class BenchPeer:
    """One node with its listener and channels."""

    node: DhtNode
    listener: RpcListener
    channels: ChannelPool

    @property
    def port(self) -> int:
        return self.node.bound.port

    async def join(self, port: int) -> None:
        """Join through a peer on loopback."""
        await self.node.bootstrap([BootstrapNode(Address(HOST, port))])

    async def close(self) -> None:
        """Stop without a farewell."""
        await self.listener.stop(0)
        await self.channels.close()
        await self.node.close()


async def make_peer(
    network: Network,
    *,
    config: DhtConfig | None = None,
    persistence: DhtPersistence | None = None,
) -> BenchPeer:
    """Start one peer on a port of its own."""
    identity = Identity.generate()
    node = DhtNode(identity, network, nickname="bench", config=config, persistence=persistence)
    tls = make_tls(identity, network)
    listeners: list[RpcListener] = []

    async def bind_tcp(host: str, port: int) -> int:
        listener = RpcListener(tls, network)
        listener.add(bulk_handler(node))
        listeners.append(listener)
        return await listener.start(host, port)

    await bind_one_port(
        Address(HOST, 0),
        bind_first=node.listen,
        unbind_first=node.close,
        bind_second=bind_tcp,
        in_use=(TcpPortInUse, UdpPortInUse),
    )
    node.advertise([Address(HOST, node.bound.port)])
    channels = ChannelPool(tls, network)
    node.use_grpc(channels.connect)
    return BenchPeer(node, listeners[-1], channels)


def network_of(seed: bytes) -> Network:
    """The private network of one run."""
    return Network("bench", seed)


async def _run(count: int) -> None:
    lines = await input_lines()
    line = json.loads(await lines.readline())
    network = network_of(bytes.fromhex(line["key"]))
    peers = [await make_peer(network) for _ in range(count)]
    say({"port": peers[0].port})
    for peer in peers:
        if port := line["port"] or (peers[0].port if peer is not peers[0] else 0):
            await peer.join(port)
    say({"joined": count})
    await lines.read()


if __name__ == "__main__":
    signal.alarm(LIFE_MAX_S)
    asyncio.run(_run(int(sys.argv[1])))
