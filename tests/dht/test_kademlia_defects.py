"""Defects of the stock package: each test shows the stock class failing and ours right.

A package version that cures one fails its test here: then our override can go. Those of its
storage, its reads of values and its saved state are in `test_kademlia_defects_storage.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
import umsgpack
from kademlia.crawling import NodeSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from dht import wire
from dht.lookup import Ask, Candidate, Done, Goal, Lookup, LookupConfig
from dht.requests import Requests
from dht.routing import Bucket, Contact, Table, TableConfig
from dht.running import candidate_of
from identity.address import Address
from identity.network import BootstrapNode
from tests.dht.endpoints import OWN_ID, our_protocol, stock_protocol
from tests.dht.nodes import make_node, nodes_of

TARGET = bytes(20)
PEER = ("192.0.2.1", 4100)
STRANGER = ("192.0.2.66", 4100)
LOOP_TURNS = 50
"""Turns of the event loop in which anything that can run has run."""


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


def node(first_byte: int, number: int = 1, port: int = 1) -> Node:
    return Node(bytes([first_byte]) + number.to_bytes(19, "big"), "127.0.0.1", port)


def contact(of: Node) -> Contact:
    return Contact(of.id, Address(of.ip, of.port))


def candidate(of: Node) -> Candidate:
    return Candidate(of.id, Address(of.ip, of.port))


def lookup_of(*seeds: Node, **config: Any) -> Lookup:
    return Lookup(
        TARGET,
        [candidate(seed) for seed in seeds],
        own_id=b"\xff" * 20,
        goal=Goal.READ,
        config=LookupConfig(**config),
        now=0.0,
    )


def pack_ping(message_id: bytes) -> bytes:
    return wire.pack_stock_call(message_id, wire.Call.PING, OWN_ID)


def reply_to(protocol: Any) -> bytes:
    """A good answer to what a protocol sent last."""
    return wire.pack_stock_reply(protocol.transport.datagrams[-1][1:21], b"p" * 20)


class ScriptedProtocol:
    """Answers calls of a stock crawl from a script; whom it does not name stays silent."""

    def __init__(self, replies: dict[bytes, Any]) -> None:
        self.replies = replies
        self.asked: list[bytes] = []
        self.end = asyncio.Event()

    async def call_find_node(self, peer: Node, _target: Node) -> tuple[bool, Any]:
        self.asked.append(peer.id)
        if peer.id not in self.replies:
            await self.end.wait()
            return (False, None)
        return (True, self.replies[peer.id])


async def test_stock_round_waits_for_the_silent_and_our_lookup_goes_on() -> None:
    silent, quick, further = node(1), node(2), node(3)
    protocol = ScriptedProtocol({quick.id: [tuple(further)], further.id: []})
    crawl = NodeSpiderCrawl(protocol, Node(TARGET), [silent, quick], 20, 3)
    crawling = asyncio.create_task(crawl.find())
    await turns()
    assert further.id not in protocol.asked
    protocol.end.set()
    await crawling

    lookup = lookup_of(silent, quick, alpha=3)
    assert lookup.next(0.0) == Ask(candidate(silent))
    assert lookup.next(0.0) == Ask(candidate(quick))
    lookup.on_reply(quick.id, [candidate(further)], 0.001)
    assert lookup.next(0.001) == Ask(candidate(further))


async def test_stock_dead_peer_costs_five_seconds_and_ours_a_few_of_its_round_trips() -> None:
    stock = stock_protocol()
    began = asyncio.get_running_loop().time()
    stock.ping(("127.0.0.1", 1), OWN_ID).cancel()
    [(_, timeout)] = stock._outstanding.values()
    assert timeout.when() - began == pytest.approx(5.0, abs=0.5), "however fast it used to answer"
    timeout.cancel()

    known = contact(node(1))
    known.observe_rtt(0.002)
    lookup = Lookup(
        TARGET,
        [candidate_of(known), candidate(node(2))],
        own_id=b"\xff" * 20,
        goal=Goal.READ,
        config=LookupConfig(alpha=1),
        now=0.0,
    )
    assert lookup.next(0.0) == Ask(candidate_of(known))
    assert lookup.next(0.05) == Ask(candidate(node(2))), "the silent one's slot is free"


async def test_stock_lookup_ends_at_a_malformed_reply_and_ours_goes_on() -> None:
    liar, honest = node(1), node(2)
    protocol = ScriptedProtocol({liar.id: [7], honest.id: []})
    with pytest.raises(TypeError):
        await NodeSpiderCrawl(protocol, Node(TARGET), [liar, honest], 20, 3).find()

    lookup = lookup_of(liar, honest)
    lookup.next(0.0)
    lookup.next(0.0)
    lookup.on_bad(liar.id, 0.1)
    lookup.on_reply(honest.id, [], 0.1)
    assert lookup.next(0.1) == Done()
    assert lookup.closest() == [candidate(honest)]


async def test_stock_store_raises_when_nobody_answers_and_our_lookup_finds_nobody() -> None:
    server = Server()
    server.node = Node(OWN_ID)
    server.protocol = ScriptedProtocol({})
    server.protocol.end.set()
    server.protocol.router = RoutingTable(None, 20, server.node)
    server.protocol.router.buckets[0].add_node(node(1))
    with pytest.raises(ValueError, match="empty"):
        await server.set_digest(TARGET, b"value")

    lookup = lookup_of(node(1))
    lookup.next(0.0)
    lookup.on_failure(node(1).id, 0.1)
    assert lookup.next(0.1) == Done()
    assert lookup.closest() == []


async def test_stock_neighbours_are_not_the_k_closest_and_ours_are() -> None:
    class Pings:
        async def call_ping(self, _head: Node) -> None:
            return

    rng = random.Random(3)
    stock = RoutingTable(Pings(), 8, Node(OWN_ID))
    ours = Table(OWN_ID, TableConfig(k=8), now=0.0)
    for number in range(300):
        one = Node(rng.randbytes(20), "10.0.0.1", 1 + number)
        stock.add_contact(one)
        ours.proven(contact(one), 0.0)
    wrong = 0
    for _ in range(50):
        # In our own neighbourhood, where buckets are not full.
        target = Node(bytes([rng.randrange(8)]) + rng.randbytes(19))
        kept = [one for bucket in stock.buckets for one in bucket.get_nodes()]
        wrong += stock.find_neighbors(target) != sorted(kept, key=target.distance_to)[:8]
        true_ours = sorted(ours.contacts(), key=target.distance_to)[:8]
        assert ours.find_neighbors(target) == true_ours
        assert ours.closest(target.id, 8) == true_ours
    assert wrong
    await asyncio.sleep(0)


def test_stock_queries_of_others_mark_a_bucket_fresh_and_ours_do_not() -> None:
    stock = RoutingTable(None, 8, Node(OWN_ID))
    stock.buckets[0].last_updated = 0.0
    stock.find_neighbors(node(1))
    assert stock.buckets[0].last_updated > 0.0

    ours = Table(OWN_ID, now=0.0)
    ours.find_neighbors(node(1))
    ours.closest(node(1).id, 8)
    ours.proven(contact(node(1)), 5000.0)
    assert ours.buckets[0].last_updated == 0.0
    assert ours.stale_buckets(5000.0) == ours.buckets


def test_stock_table_misplaces_an_id_on_the_upper_bound_and_ours_does_not() -> None:
    stock = RoutingTable(None, 8, Node(OWN_ID))
    stock.split_bucket(0)
    bound = Node(stock.buckets[0].range[1].to_bytes(20, "big"))
    assert not stock.buckets[stock.get_bucket_for(bound)].has_in_range(bound)

    ours = Table(OWN_ID, now=0.0)
    ours.split_bucket(0)
    for bucket in ours.buckets:
        for long_id in bucket.range:
            bound = Node(long_id.to_bytes(20, "big"))
            assert ours.buckets[ours.get_bucket_for(bound)].has_in_range(bound)


def test_stock_ignores_a_peer_on_a_new_port_and_ours_moves_it_at_once() -> None:
    stock = stock_protocol()
    stock.welcome_if_new(node(1, port=1))
    stock.welcome_if_new(node(1, port=2))
    assert [one.port for one in stock.router.buckets[0].get_nodes()] == [1]

    ours = Table(OWN_ID, now=0.0)
    ours.proven(contact(node(1, port=1)), 0.0)
    ours.proven(contact(node(1, port=2)), 1.0)
    assert [one.port for one in ours.contacts()] == [2]


def test_stock_evicts_at_one_lost_datagram_and_ours_does_not() -> None:
    stock = stock_protocol()
    stock.welcome_if_new(node(1))
    stock.handle_call_response((False, None), node(1))
    assert stock.router.buckets[0].get_nodes() == []

    ours = Table(OWN_ID, now=0.0)
    ours.proven(contact(node(1)), 0.0)
    assert ours.failed(node(1).id, 5.0) is None
    assert [one.id for one in ours.contacts()] == [node(1).id]


def test_stock_bucket_reads_the_clock_and_ours_is_given_the_time() -> None:
    before = time.monotonic()
    assert KBucket(0, 1, 20).last_updated >= before
    bucket = Bucket(0, 1, TableConfig(), last_updated=12.5, placed={})
    bucket.touch_last_updated()
    assert bucket.last_updated == 12.5
    assert [half.last_updated for half in bucket.split()] == [12.5, 12.5]


async def test_stock_full_bucket_spawns_a_ping_and_ours_sends_nothing() -> None:
    pinged: list[Node] = []

    class Pings:
        async def call_ping(self, head: Node) -> None:
            pinged.append(head)

    far = [node(0x80, number) for number in range(50)]
    stock = RoutingTable(Pings(), 1, Node(OWN_ID))
    for one in far:
        stock.add_contact(one)
    await turns()
    assert pinged, "a task that nobody holds"

    tasks = asyncio.all_tasks()
    ours = Table(OWN_ID, TableConfig(k=1), now=0.0)
    for one in far:
        ours.proven(contact(one), 0.0)
    assert asyncio.all_tasks() == tasks
    ours.validate_state()


async def test_stock_believes_an_answer_from_anywhere_and_ours_only_from_whom_it_asked() -> None:
    stock = stock_protocol()
    asked = stock.ping(PEER, OWN_ID)
    stock.datagram_received(reply_to(stock), STRANGER)
    await turns()
    assert asked.result() == (True, b"p" * 20)

    ours = our_protocol()
    answers: list[Any] = []
    ours.ask(Address(*PEER), pack_ping, lambda _, value: answers.append(value))
    ours.datagram_received(reply_to(ours), STRANGER)
    assert answers == []
    assert ours.drops == {"wrong-address": 1}
    ours.datagram_received(reply_to(ours), PEER)
    assert [wire.read_peer_id(value) for value in answers] == [b"p" * 20]


async def test_stock_breaks_on_a_cancelled_request_and_ours_drops_its_answer() -> None:
    stock = stock_protocol()
    stock.ping(PEER, OWN_ID).cancel()
    [message_id] = stock._outstanding
    with pytest.raises(asyncio.InvalidStateError):
        stock._accept_response(message_id, b"p" * 20, PEER)
    with pytest.raises(asyncio.InvalidStateError):
        stock._timeout(message_id)

    ours = our_protocol()
    ends: list[Any] = []
    now = asyncio.get_running_loop().time()
    requests = Requests(ours, clock=asyncio.get_running_loop().time, on_silence=ends.append)
    request = requests.begin(
        Address(*PEER), pack_ping, patience_s=0.0, repeat_s=0.0, deadline=now, on_end=ends.append
    )
    requests.drop(request)
    await turns()  # its timer has gone off, too
    ours.datagram_received(reply_to(ours), PEER)
    assert ends == []
    assert ours.drops == {"unasked": 1}


async def test_stock_sends_a_misspelt_method_to_the_peer_and_ours_raises() -> None:
    stock = stock_protocol()
    stock.find_nodes(PEER, OWN_ID, TARGET)
    [(_, timeout)] = stock._outstanding.values()
    timeout.cancel()
    assert b"find_nodes" in stock.transport.datagrams[0]

    ours = our_protocol()
    with pytest.raises(AttributeError, match="find_nodes"):
        ours.find_nodes(PEER, OWN_ID, TARGET)
    assert ours.transport.datagrams == []


@pytest.mark.parametrize(
    ("host", "size_bytes"),
    [("192.168.100.100", 864), ("2001:0db8:aaaa:bbbb:cccc:dddd:eeee:ffff", 1_364)],
)
def test_stock_codec_is_replaced_by_one_that_makes_the_same_bytes(
    host: str, size_bytes: int
) -> None:
    contacts = [[bytes(20), host, 4100 + number] for number in range(20)]
    stock = b"\x01" + bytes(20) + umsgpack.packb(contacts)
    assert wire.pack_stock_reply(bytes(20), contacts) == stock
    assert len(stock) == size_bytes
    assert (
        umsgpack.packb(["ping", [OWN_ID]])
        == wire.pack_stock_call(bytes(20), wire.Call.PING, OWN_ID)[21:]
    )


async def test_stock_evicts_whoever_leaves_a_call_unanswered_and_ours_answers_all_five() -> None:
    async with nodes_of(1) as [ours]:
        address = ("127.0.0.1", ours.bound.port)
        us = Node(ours.peer_id, *address)
        server = Server()
        await server.listen(0, interface="127.0.0.1")
        try:
            protocol = server.protocol
            protocol._wait_timeout = 10.0
            assert (await protocol.stun(address))[0]
            for call in (
                protocol.call_ping(us),
                protocol.call_find_node(us, Node(TARGET)),
                protocol.call_find_value(us, Node(TARGET)),
                protocol.call_store(us, TARGET, b"value"),
            ):
                answered, _ = await call
                assert answered
                assert not protocol.router.is_new_node(us)
            await ours.close()
            protocol._wait_timeout = 0.1
            await protocol.call_store(us, TARGET, b"value")
            assert protocol.router.is_new_node(us), "one call without an answer"
        finally:
            server.stop()


async def test_stock_keeps_a_name_for_an_address_and_ours_resolves_it() -> None:
    host, stock, ours = Server(), Server(), make_node()
    await host.listen(0, interface="127.0.0.1")
    await stock.listen(0, interface="127.0.0.1")
    try:
        entry = ("localhost", host.transport.get_extra_info("sockname")[1])
        await stock.bootstrap([entry])
        told = stock.protocol.rpc_find_node(STRANGER, b"s" * 20, TARGET)
        assert [row[1:] for row in told if row[0] == host.node.id] == [entry]
    finally:
        host.stop()
        stock.stop()

    async with nodes_of(1) as [node_at_name]:
        await ours.listen("127.0.0.1", 0)
        try:
            address = Address("localhost", node_at_name.bound.port)
            assert await ours.bootstrap([BootstrapNode(address)]) == 1
            [known] = ours.engine.table.contacts()
            assert known.address == Address("127.0.0.1", node_at_name.bound.port)
        finally:
            await ours.close()
