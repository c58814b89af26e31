"""Joining: nobody waits for what TLS tells sooner, and only foreign nodes make a wrong key."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from identity.address import Address
from identity.network import BootstrapNode, Network
from identity.tls import make_tls
from peer.core import Core
from peer.errors import WrongNetworkKey
from peer.joining import join_network
from rpc.listener import RpcListener
from tests.dht.nodes import entry, make_node, nodes_of, until
from tests.peer.cores import NETWORK, cores_of
from tests.support.identities import identity

OTHER = Network("peer-tests", b"o" * 32)
HANGING_S = 1.8
"""Less than what UDP alone takes to give up."""


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncIterator[Core]:
    async with cores_of(tmp_path, "ada") as [core]:
        yield core


@contextlib.asynccontextmanager
async def node_of(network: Network, number: int) -> AsyncIterator[BootstrapNode]:
    """Something that listens over TCP only."""
    listener = RpcListener(make_tls(identity(number), network), network)
    port = await listener.start("127.0.0.1", 0)
    try:
        yield BootstrapNode(Address("127.0.0.1", port))
    finally:
        await listener.stop(0.1)


@contextlib.contextmanager
def mute_node() -> Iterator[BootstrapNode]:
    """Accepts connections and says nothing, over neither."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield BootstrapNode(Address("127.0.0.1", server.getsockname()[1]))


def absent_node() -> BootstrapNode:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return BootstrapNode(Address("127.0.0.1", server.getsockname()[1]))


async def test_foreign_bootstrap_node_is_told_soon(ada: Core) -> None:
    async with node_of(OTHER, 1) as foreign:
        began = time.monotonic()
        with pytest.raises(WrongNetworkKey):
            await join_network(ada, [foreign, absent_node()])
        assert time.monotonic() - began < HANGING_S


async def test_foreign_node_beside_one_of_ours_or_a_contact_is_no_wrong_key(ada: Core) -> None:
    async with node_of(OTHER, 1) as foreign, node_of(NETWORK, 2) as ours:
        assert await join_network(ada, [foreign, ours]) == 0
        async with nodes_of(1, NETWORK) as nodes:
            assert await join_network(ada, [foreign, *entry(nodes[0])]) == 1


async def test_foreign_node_beside_a_mute_one_is_a_wrong_key_in_the_end(ada: Core) -> None:
    with mute_node() as mute:
        async with node_of(OTHER, 1) as foreign:
            with pytest.raises(WrongNetworkKey):
                await join_network(ada, [foreign, mute])


async def test_absent_node_is_not_waited_for_and_counts_when_it_comes(ada: Core) -> None:
    absent = absent_node()
    began = time.monotonic()
    assert await join_network(ada, [absent]) == 0
    assert time.monotonic() - began < HANGING_S
    late = make_node(NETWORK)
    await late.listen("127.0.0.1", absent.address.port)
    try:
        await until(lambda: len(ada.dht.contacts()) == 1)
    finally:
        await late.close()


async def test_slow_node_still_counts_after_tls_has_told_nothing(ada: Core) -> None:
    with mute_node() as mute:
        joining = asyncio.create_task(join_network(ada, [mute]))
        async with nodes_of(1, NETWORK) as [node]:
            await asyncio.wait([joining], timeout=0.7)
            assert not joining.done()
            assert await node.hello_address(Address("127.0.0.1", ada.dht.bound.port)) is not None
            assert await joining == len(ada.dht.contacts())
