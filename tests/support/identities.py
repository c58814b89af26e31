"""Identities, networks and connected peers for tests: the same ones in every run."""

import contextlib
import functools
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import grpc

from identity.address import Address
from identity.keys import Identity
from identity.network import Network
from identity.tls import TlsMaterial, make_tls
from rpc.channels import ChannelPool
from rpc.config import RpcConfig
from rpc.listener import RpcListener

NETWORK_KEY = hashlib.sha256(b"tests/network").digest()


def network(private: bool = True, name: str = "tests") -> Network:
    """The network of the tests; another name makes another network."""
    return Network(name, NETWORK_KEY if private else None)


@functools.lru_cache(maxsize=1_024)
def identity(n: int) -> Identity:
    """The n-th identity."""
    return Identity.from_seed(hashlib.sha256(f"tests/identity/{n}".encode()).digest())


@functools.lru_cache(maxsize=256)
def tls(n: int, of: Network | None = None) -> TlsMaterial:
    """TLS material of the n-th identity; one leaf a run, as a peer keeps its leaf."""
    return make_tls(identity(n), of or network())


@dataclass(frozen=True, slots=True)
class RpcPair:
    """A listener (identity 1) and a client (identity 2) with a channel to it."""

    network: Network
    server: Identity
    client: Identity
    listener: RpcListener
    address: Address
    pool: ChannelPool
    channel: grpc.aio.Channel


@contextlib.asynccontextmanager
async def rpc_pair(
    *handlers: grpc.GenericRpcHandler,
    of: Network | None = None,
    config: RpcConfig = RpcConfig(),  # noqa: B008
) -> AsyncIterator[RpcPair]:
    """Start a listener with these services on loopback, and connect another peer to it."""
    net = of or network()
    async with (
        listening(1, *handlers, of=net, config=config) as (listener, address),
        pool(2, of=net, config=config) as channels,
    ):
        channel = await channels.connect(identity(1).peer_id, [address])
        yield RpcPair(net, identity(1), identity(2), listener, address, channels, channel)


@contextlib.asynccontextmanager
async def listening(
    n: int | TlsMaterial,
    *handlers: grpc.GenericRpcHandler,
    of: Network | None = None,
    port: int = 0,
    host: str = "127.0.0.1",
    config: RpcConfig = RpcConfig(),  # noqa: B008
) -> AsyncIterator[tuple[RpcListener, Address]]:
    """A started listener of the n-th identity, or with the TLS material given."""
    net = of or network()
    listener = RpcListener(tls(n, net) if isinstance(n, int) else n, net, config)
    for handler in handlers:
        listener.add(handler)
    bound = await listener.start(host, port)
    try:
        yield listener, Address("127.0.0.1" if host == "0.0.0.0" else host, bound)
    finally:
        await listener.stop(0)


@contextlib.asynccontextmanager
async def pool(
    n: int | TlsMaterial,
    of: Network | None = None,
    config: RpcConfig = RpcConfig(),  # noqa: B008
) -> AsyncIterator[ChannelPool]:
    """A channel pool of the n-th identity, or with the TLS material given."""
    net = of or network()
    channels = ChannelPool(tls(n, net) if isinstance(n, int) else n, net, config)
    try:
        yield channels
    finally:
        await channels.close()


def peer_ids(numbers: Iterable[int]) -> list[bytes]:
    """The peer ids of several identities."""
    return [identity(n).peer_id for n in numbers]
