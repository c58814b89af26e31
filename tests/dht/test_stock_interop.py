"""Stock `kademlia` nodes on an open network: they bootstrap through us and stay routed."""

import contextlib
import socket

from kademlia.network import Server
from kademlia.node import Node
from kademlia.routing import KBucket

from dht import wire
from tests.dht.nodes import (
    PRIVATE,
    file_payloads,
    nodes_of,
    raw_socket,
    received,
    until,
)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return int(udp.getsockname()[1])


@contextlib.asynccontextmanager
async def stock_server():
    server = Server()
    port = free_port()
    await server.listen(port, interface="127.0.0.1")
    try:
        yield server
    finally:
        server.stop()


def routed_ids(server):
    return {node.id for bucket in server.protocol.router.buckets for node in bucket.get_nodes()}


async def test_running_table_holds_kademlia_nodes_in_kademlia_buckets():
    async with nodes_of(3) as nodes:
        table = nodes[0].engine.protocol.router
        assert all(isinstance(bucket, KBucket) for bucket in table.buckets)
        assert len(table.contacts()) == 2
        assert all(isinstance(contact, Node) for contact in table.contacts())


async def test_stock_node_bootstraps_through_us_and_keeps_us_after_get_and_set():
    async with nodes_of(2) as nodes, stock_server() as server:
        found = await server.bootstrap([("127.0.0.1", nodes[0].bound.port)])
        ids = {node.peer_id for node in nodes}
        assert {node.id for node in found} == ids
        assert await server.set("colour", "green") is True
        await server.get("nothing")
        assert routed_ids(server) == ids
        assert len(nodes[0].store) == 0, "stock values are not kept"
        assert (await server.protocol.stun(("127.0.0.1", nodes[0].bound.port)))[0]


async def test_stock_nodes_find_each_other_and_their_values_through_us():
    async with nodes_of(1) as [node], stock_server() as first, stock_server() as second:
        ours = ("127.0.0.1", node.bound.port)
        await first.bootstrap([ours])
        await until(lambda: node.counters()["stock-contacts"] == 1)
        await second.bootstrap([ours])
        assert first.node.id in routed_ids(second)
        await second.set("colour", "green")
        assert await first.get("colour") == "green"


async def test_stock_node_is_never_asked_to_store_and_in_no_table():
    async with nodes_of(2) as nodes, stock_server() as server:
        await server.bootstrap([("127.0.0.1", node.bound.port) for node in nodes])
        await until(lambda: nodes[0].counters()["stock-contacts"] == 1)
        report = await nodes[0].publish(file_payloads())
        assert set(report.stored_on) == {1}
        assert nodes[0].engine.table.contact(server.node.id) is None
        assert not server.storage.data


async def test_stock_node_gets_nothing_from_a_private_network():
    async with nodes_of(1, PRIVATE) as [node], stock_server() as server:
        server.protocol._wait_timeout = 0.2
        assert await server.bootstrap([("127.0.0.1", node.bound.port)]) == []
        assert node.counters()["sealed"] >= 1


async def test_stock_flood_is_limited():
    async with nodes_of(1) as [node]:
        burst = int(node.config.limits.stock.burst_max)
        with raw_socket() as udp:
            for _ in range(burst * 2):
                data = wire.pack_stock_call(b"m" * 20, wire.Call.PING, node.peer_id)
                udp.sendto(data, ("127.0.0.1", node.bound.port))
            await until(lambda: node.counters().get("stock-rate", 0) > 0)
            assert len(received(udp)) <= burst + 20
