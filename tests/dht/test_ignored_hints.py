"""Addresses that others give us and that are never dialled, on each way that they can come in."""

from __future__ import annotations

import pytest

from dht.contacts import StockContacts
from dht.hints import pack_contact
from dht.wire import FindRecords, FoundRecords
from identity.address import Address
from identity.network import BootstrapNode
from tests.dht.nodes import address_of, make_node, nodes_of
from tests.dht.sink import Sink

UNUSABLE = [
    "169.254.1.1",
    "fe80::1",
    "0.0.0.0",
    "0.9.9.9",
    "::",
    "224.0.0.1",
    "ff02::1",
    "239.1.2.3",
    "255.255.255.255",
    "240.0.0.1",
    "::ffff:224.0.0.1",
]
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]
KEY = b"k" * 20


def sent_hosts(sink: Sink) -> set[str]:
    return {to.host for _, to in sink.sent}


@pytest.mark.parametrize("host", UNUSABLE)
async def test_contact_in_a_reply_is_ignored_and_counted(host: str) -> None:
    async with nodes_of(2) as [node, liar]:
        packed = pack_contact(b"v" * 20, Address(host, 4100))
        liar.engine.desk.find = lambda *_, **__: FoundRecords((), b"", (packed,) if packed else ())
        dialled: list[Address] = []
        send = node.engine.protocol.send

        def watch(plain: bytes, to: Address) -> None:
            dialled.append(to)
            send(plain, to)

        node.engine.protocol.send = watch
        await node.closest_peers(KEY)
        assert {each.host for each in dialled} == {"127.0.0.1"}
        assert node.counters()["contact-unbelievable"] >= 1


@pytest.mark.parametrize("host", LOOPBACK)
async def test_loopback_in_the_reply_of_somebody_elsewhere_is_ignored(host: str) -> None:
    async with nodes_of(1) as [node]:
        believe = node.engine.membership.destinations.believe
        assert not believe(Address(host, 4100), "8.8.8.8")
        assert not believe(Address(host, 4100), "192.168.1.7")


async def test_addresses_of_a_record_are_ignored_where_they_lead_nowhere() -> None:
    node = await listening()
    destinations = node.engine.membership.destinations
    destinations.bound = Address("192.168.1.5", 4100)
    given = [Address(host, 4100) for host in (*UNUSABLE, *LOOPBACK, "a.name", "8.8.8.8")]
    assert destinations.usable(given, knows_local=False) == [Address("8.8.8.8", 4100)]
    assert destinations._drops["hint-unusable"] == len(given) - 1
    with_local = destinations.usable(given, knows_local=True)
    assert {each.host for each in with_local} == {*LOOPBACK, "8.8.8.8"}
    assert destinations.usable([destinations.bound], knows_local=True) == [], "our own"
    await node.close()


async def test_bootstrap_nodes_at_unusable_addresses_are_not_dialled() -> None:
    node = await listening()
    sink = Sink(node)
    await node.bootstrap([BootstrapNode(Address(host, 4100)) for host in UNUSABLE])
    assert sink.sent == []
    await node.close()


async def test_advertised_addresses_that_lead_nowhere_are_neither_said_nor_told_on() -> None:
    async with nodes_of(2) as [node, other]:
        other.advertise([Address(host, 4100) for host in UNUSABLE])
        assert other.engine.own.advertised == ()
        # A dishonest peer says them all the same.
        other.engine.own.advertised = tuple(Address(host, 4100) for host in UNUSABLE[:4])
        await node.hello_address(address_of(other))
        found = node.engine.desk.find(FindRecords(KEY), b"a" * 20, "192.168.7.7", 1_000)
        assert found.contacts == ()


async def test_stock_node_at_a_link_local_address_is_not_told_on() -> None:
    async with nodes_of(1) as [node]:
        stock: StockContacts = node.engine.stock
        stock.seen(b"s" * 20, "169.254.3.3", 4100, node.engine._clock())
        stock.seen(b"t" * 20, "192.168.3.3", 4100, node.engine._clock())
        desk = node.engine.protocol._handler._stock
        told = desk._closest(KEY, b"a" * 20, Address("192.168.7.7", 4100))
        assert [row[1] for row in told] == ["192.168.3.3"]


async def listening():
    node = make_node()
    await node.listen("127.0.0.1", 0)
    return node
