"""Nodes that come, go, restart and greet one another, over real sockets."""

import asyncio
import socket

import pytest

from dht.config import DhtConfig
from dht.routing import TableConfig
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode
from tests.dht.nodes import (
    NAME,
    STUBBORN,
    STUBBORN_DEADLINE_S,
    address_of,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    raw_socket,
    until,
)


async def test_own_address_among_the_bootstrap_nodes_is_skipped():
    async with nodes_of(1) as [node]:
        assert await node.bootstrap(entry(node)) == 0
        assert node.counters()["datagrams-sent"] == 0


async def test_restarted_peer_is_noticed_on_its_new_address():
    async with nodes_of(2) as nodes:
        identity = Identity.generate()
        proofs: list[Address] = []
        nodes[0].on_contact = lambda peer_id, address: (
            proofs.append(address) if peer_id == identity.peer_id else None
        )
        ports = []
        for _ in range(2):
            node = make_node(identity=identity)
            ports.append(await node.listen("127.0.0.1", 0))
            await node.bootstrap(entry(nodes[0]))
            await until(lambda: bool(proofs) and proofs[-1].port == ports[-1])
            await node.close()
        contact = nodes[0].engine.table.contact(identity.peer_id)
        assert contact is not None
        assert contact.address.port == ports[1]


async def test_peer_restarted_at_the_same_address_before_anybody_noticed_is_told():
    async with nodes_of(1) as [host]:
        identity = Identity.generate()
        proofs: list[bytes] = []
        host.on_contact = lambda peer_id, _: proofs.append(peer_id)
        port = 0
        for starts in (1, 2):
            node = make_node(identity=identity)
            port = await node.listen("127.0.0.1", port)
            await node.bootstrap(entry(host))
            await until(lambda: len(proofs) == starts)  # noqa: B023
            await node.close()


async def test_newcomer_is_handed_the_records_that_it_should_hold():
    async with nodes_of(3) as nodes:
        await nodes[0].publish(file_payloads())
        late = make_node()
        await late.listen("127.0.0.1", 0)
        try:
            await late.bootstrap(entry(nodes[1]))
            await until(lambda: len(late.store) == len(file_payloads()))
            expiries = {record.expires_ms for record in nodes[1].store.records()}
            assert {record.expires_ms for record in late.store.records()} == expiries
        finally:
            await late.close()


async def test_hello_tells_who_is_at_an_address_and_none_where_nobody_is():
    async with nodes_of(2) as nodes:
        view = await nodes[0].hello_address(address_of(nodes[1]))
        assert view is not None
        assert (view.peer_id, view.nickname, view.alive) == (nodes[1].peer_id, "n1", True)
        with raw_socket() as silent:
            nowhere = Address(*silent.getsockname())
            assert await nodes[0].hello_address(nowhere, timeout_s=0.1) is None


async def test_returned_peer_is_handed_what_was_published_while_it_was_away():
    identity = Identity.generate()
    async with nodes_of(2) as nodes:
        away = make_node(identity=identity)
        port = await away.listen("127.0.0.1", 0)
        await away.bootstrap(entry(nodes[0]))
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        await away.close()
        await nodes[0].check([identity.peer_id], timeout_s=0.1)
        await nodes[1].publish(file_payloads())
        back = make_node(identity=identity)
        await back.listen("127.0.0.1", port)
        try:
            await back.bootstrap(entry(nodes[0]))
            await until(lambda: len(back.store) == len(file_payloads()))
        finally:
            await back.close()


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_nodes_meet_over_ipv6_and_over_both_families(host):
    first, second = make_node(), make_node()
    target = "::1" if host == "::1" else "127.0.0.1"
    await first.listen(host, 0)
    try:
        await second.listen(target, 0)
        await second.bootstrap([BootstrapNode(Address(target, first.bound.port))])
        report = await second.publish(file_payloads())
        assert report.stored_on_min == 1
        assert len(await first.find_name(NAME)) == 1
    finally:
        await first.close()
        await second.close()


async def test_hello_at_the_same_time_costs_a_publish_no_acknowledgement():
    async with nodes_of(2) as nodes:
        for number in range(10):
            report, _ = await asyncio.gather(
                nodes[1].publish(file_payloads(f"{number}.txt")),
                nodes[1].hello_address(address_of(nodes[0])),
            )
            assert report.stored_on_min == 1


async def test_two_peers_greet_each_other_once_however_much_they_talk():
    async with nodes_of(2) as nodes:
        heard: list[bytes] = []
        for node in nodes:
            node.on_contact = lambda peer_id, _address: heard.append(peer_id)
        for _ in range(10):
            await nodes[0].find_name(NAME)
            await nodes[1].find_name(NAME)
        assert len(heard) <= 2


async def test_peer_for_whom_the_table_has_no_room_is_known_when_it_answers():
    config = DhtConfig(table=TableConfig(k=1, contacts_max=1))
    async with nodes_of(5) as nodes:
        node = make_node(config=config)
        await node.listen("127.0.0.1", 0)
        try:
            for other in nodes:
                met = await node.hello_address(address_of(other))
                assert met is not None, "it answered"
                assert met.peer_id == other.peer_id
                assert met.alive
            assert len(node.engine.table) < len(nodes)
            assert len(node.contacts()) == len(nodes)
        finally:
            await node.close()


def resolve(monkeypatch, name, hosts):
    """Let a host name have these addresses."""
    rows = {
        host: (socket.AF_INET6, (host, 0, 0, 0)) if ":" in host else (socket.AF_INET, (host, 0))
        for host in hosts
    }
    real = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        if host != name:
            return real(host, *arguments, **options)
        return [(family, socket.SOCK_DGRAM, 17, "", place) for family, place in rows.values()]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("own_host", ["127.0.0.1", "::"])
async def test_of_the_addresses_of_a_bootstrap_name_the_one_that_answers_is_enough(
    monkeypatch, own_host
):
    resolve(monkeypatch, "seed.example", ["127.0.0.2", "::1", "127.0.0.3", "127.0.0.1"])
    async with nodes_of(1) as [seed]:
        node = make_node(config=STUBBORN)
        await node.listen(own_host, 0)
        try:
            async with asyncio.timeout(STUBBORN_DEADLINE_S):
                gained = await node.bootstrap(
                    [BootstrapNode(Address("seed.example", seed.bound.port))]
                )
            assert gained == 1
            assert [each.address for each in node.contacts()] == [address_of(seed)]
        finally:
            await node.close()


async def test_nothing_is_sent_where_the_own_socket_cannot_reach(monkeypatch):
    resolve(monkeypatch, "seed.example", ["127.0.0.1", "::1"])
    seed, node = make_node(), make_node()
    await seed.listen("::1", 0)
    await node.listen("::1", 0)
    try:
        address = Address("seed.example", seed.bound.port)
        assert await node.bootstrap([BootstrapNode(address)]) == 1
        assert "send-error" not in node.counters()
        assert len(node.engine.membership.absent) == 0
    finally:
        await node.close()
        await seed.close()
