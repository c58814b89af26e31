"""A node whose socket is cut: datagrams come from any address, and what it sends is kept."""

from __future__ import annotations

import asyncio
import random

from dht import wire
from dht.hello import Hello, make_hello
from dht.node import DhtNode
from identity.address import Address
from identity.keys import Identity


class Sink(asyncio.DatagramTransport):
    """Takes the place of a node's transport; nothing leaves the process."""

    def __init__(self, node: DhtNode) -> None:
        super().__init__()
        self.sent: list[tuple[bytes, Address]] = []
        self._behind = node.engine.protocol.transport
        node.engine.protocol.transport = self

    def sendto(self, data: bytes, addr: tuple[str, int] | None = None) -> None:  # type: ignore[override]
        assert addr is not None
        self.sent.append((data, Address(*addr)))

    def is_closing(self) -> bool:
        return self._behind.is_closing()

    def close(self) -> None:
        self._behind.close()


def token_for(node: DhtNode, address: Address, peer_id: bytes) -> bytes:
    """The token that the node would have given out."""
    tokens = node.engine.protocol._handler._tokens  # type: ignore[attr-defined]
    now = asyncio.get_running_loop().time()
    return tokens.make(address.host, address.port, peer_id, now)


def hello_for(node: DhtNode, identity: Identity, rng: random.Random) -> Hello:
    """A sound hello to the node."""
    network_id = node.network.network_id
    return make_hello(
        identity, network_id, nonce=rng.randbytes(16), dialled=Address("127.0.0.1", node.bound.port)
    )


def drop_count(node: DhtNode) -> int:
    """All that was counted as dropped so far."""
    return sum(node.engine.drops.values())


def bodies(rng: random.Random, key: bytes, record: bytes) -> dict[wire.Call, bytes]:
    """A sound body for each call of ours."""
    find = wire.FindRecords(key, (1, 2, 3, 4, 5), withdrawn=True)
    return {
        wire.Call.HELLO: wire.pack_body(wire.SayHello()),
        wire.Call.FIND_RECORDS: wire.pack_body(find),
        wire.Call.STORE_RECORDS: wire.pack_body(wire.StoreRecords((record,))),
        wire.Call.DIAL_BACK: wire.pack_body(wire.DialBack(4100, rng.randbytes(16), False)),
        wire.Call.PROBE: wire.pack_body(wire.Probe(rng.randbytes(16))),
    }
