"""Defects of what the stock package stores, hands over, reads and saves; and ours without them."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from kademlia.crawling import ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.storage import ForgetfulStorage

from dht import wire
from dht.contacts import ContactRow
from dht.lookup import LookupConfig
from dht.node import DhtNode
from dht.records import (
    LIFETIME_MS,
    ContentPayload,
    Kind,
    NamePayload,
    Record,
    encode_record,
    sign_record,
)
from dht.routing import TableConfig
from dht.schedule import ScheduleRow
from dht.storage import RecordStore, SavedRecord
from identity.keys import Identity
from tests.dht.endpoints import stock_protocol
from tests.dht.nodes import (
    CONFIG,
    CONTENT_ID,
    NAME,
    OPEN,
    MemoryPersistence,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    until,
)
from tests.support.records import ALICE, BOB, HOUR_MS, NETWORK_ID, NOW_MS, signed

KEY = b"k" * 20
SENDER = ("192.0.2.1", 4100)
FAR_HALF = 0x80


def peer(first_byte: int, number: int) -> Node:
    return Node(bytes([first_byte]) + number.to_bytes(19, "big"), "127.0.0.1", number)


def distance(one: bytes, other: bytes) -> int:
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def test_stock_key_has_the_last_writers_value_and_ours_a_record_for_each_holder() -> None:
    stock = stock_protocol()
    for writer in (peer(0, 1), peer(0, 2)):
        stock.router.add_contact(writer)
    stock.rpc_store(SENDER, peer(0, 1).id, KEY, b"at alice's")
    stock.rpc_store(SENDER, peer(0, 2).id, KEY, b"at mallory's")
    assert stock.storage.get(KEY) == b"at mallory's"

    ours = RecordStore(NETWORK_ID)
    payload = NamePayload(NAME, CONTENT_ID, 7)
    for holder in (ALICE, BOB):
        ours.store(signed(payload, identity=holder), now_ms=NOW_MS)
    [key] = ours.keys()
    found = ours.find(key, now_ms=NOW_MS).records
    assert {record.public_key for record in found} == {ALICE.public_key, BOB.public_key}


class ValueProtocol:
    """Answers a stock read from a script, and keeps what is stored."""

    def __init__(self, answers: dict[bytes, Any]) -> None:
        self.answers = answers
        self.stored: list[tuple[bytes, bytes]] = []

    async def call_find_value(self, asked: Node, _key: Node) -> tuple[bool, Any]:
        return (True, self.answers[asked.id])

    async def call_store(self, storer: Node, _key: bytes, value: bytes) -> None:
        self.stored.append((storer.id, value))


async def test_stock_read_spreads_what_most_say_and_ours_returns_and_writes_no_forgery() -> None:
    empty, honest, *liars = (peer(0, number) for number in range(1, 5))
    forged, true = {"value": b"forged"}, {"value": b"true"}
    answers = {empty.id: [], honest.id: true, **{liar.id: forged for liar in liars}}
    protocol = ValueProtocol(answers)
    crawl = ValueSpiderCrawl(protocol, Node(bytes(20)), [empty, honest, *liars], 20, 4)
    assert await crawl.find() == b"forged"
    assert protocol.stored == [(empty.id, b"forged")]

    config = replace(CONFIG, handoff_s=3600.0)
    async with nodes_of(5, config=config) as [publisher, reader, storer, *lying]:
        await publisher.publish(file_payloads())
        for node in lying:
            lie(node, publisher)
        for node in (reader, storer):
            node.store.expire(node.now_ms() + LIFETIME_MS[Kind.PEER])
        found = await reader.find_name(NAME)
        assert [(each.publisher, each.payload.size_bytes) for each in found] == [
            (publisher.peer_id, 7)
        ]
        assert reader.counters()["record-signature"] >= 1
        assert len(reader.store) == len(storer.store) == 0


def lie(node: DhtNode, publisher: DhtNode) -> None:
    """Let a node answer every read with a newer record of the publisher, badly signed."""
    issued_ms = node.now_ms()
    record = sign_record(
        publisher._own.identity,
        OPEN.network_id,
        NamePayload(NAME, CONTENT_ID, 666),
        sequence=issued_ms + HOUR_MS,
        issued_ms=issued_ms,
    )
    forged = encode_record(msgspec.structs.replace(record, signature=b"s" * 64))
    node.engine.desk.find = lambda *_: wire.FoundRecords((forged,))  # type: ignore[method-assign]


class Linked(KademliaProtocol):  # type: ignore[misc]
    """The stock protocol whose calls go to one other node's answers, without a socket."""

    other: Linked

    async def call_find_node(self, _asked: Node, target: Node) -> tuple[bool, Any]:
        own = self.source_node
        return (True, self.other.rpc_find_node((own.ip, own.port), own.id, target.id))

    async def call_store(self, _asked: Node, key: bytes, value: bytes) -> tuple[bool, Any]:
        own = self.source_node
        return (True, self.other.rpc_store((own.ip, own.port), own.id, key, value))


async def test_stock_holders_renew_each_others_copies_for_ever_and_ours_expire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr("kademlia.storage.time", SimpleNamespace(monotonic=lambda: now_s))
    one, two = Server(), Server()
    for number, server in enumerate((one, two), start=1):
        server.node = peer(number, number)
        server.protocol = Linked(server.node, server.storage, 20)
    one.protocol.other, two.protocol.other = two.protocol, one.protocol
    one.protocol.router.add_contact(two.node)
    two.protocol.router.add_contact(one.node)
    one.storage[KEY] = b"its owner is long gone"
    lifetime_s = one.storage.ttl
    while now_s < 2 * lifetime_s:
        now_s += 3600.0
        await one._refresh_table()
        await two._refresh_table()
    assert b"its owner is long gone" in (one.storage.get(KEY), two.storage.get(KEY))

    stores = [RecordStore(NETWORK_ID), RecordStore(NETWORK_ID)]
    stores[0].store(signed(NamePayload(NAME, CONTENT_ID, 7)), now_ms=NOW_MS)
    copies: list[int] = []
    for now_ms in range(NOW_MS, NOW_MS + LIFETIME_MS[Kind.NAME] + HOUR_MS, HOUR_MS):
        for store, other in (stores, reversed(stores)):
            for record in list(store.records()):
                other.store(record, now_ms=now_ms)
        for store in stores:
            store.expire(now_ms)
        copies.append(len(stores[0]) + len(stores[1]))
    assert copies == [2] * (LIFETIME_MS[Kind.NAME] // HOUR_MS) + [0]


async def test_stock_hands_a_newcomer_the_wrong_keys_and_ours_those_that_it_is_closest_to() -> None:
    # The other two are in the half that is not the holder's: a key near it is near one of them.
    holder, other, newcomer = (Identity.from_seed(bytes([seed]) * 32) for seed in (1, 4, 3))
    ids = [each.peer_id for each in (newcomer, other, holder)]
    theirs = contents_nearest_first(ids[2], ids[0], ids[1])
    not_theirs = contents_nearest_first(ids[2], ids[1], ids[0])
    assert min(len(theirs), len(not_theirs)) > 3

    handed: list[bytes] = []
    stock = KademliaProtocol(Node(holder.peer_id), ForgetfulStorage(), 20)

    async def call_store(_to: Node, key: bytes, _value: bytes) -> None:
        handed.append(key)

    stock.call_store = call_store
    stock.router.add_contact(Node(other.peer_id, "127.0.0.1", 1))
    right: list[bytes] = []
    rng = random.Random(1)
    for _ in range(50):
        key = rng.randbytes(20)
        stock.storage[key] = b"value"
        nearest_first = sorted(ids, key=partial(distance, key))
        if nearest_first == [holder.peer_id, newcomer.peer_id, other.peer_id]:
            right.append(key)
    stock.welcome_if_new(Node(newcomer.peer_id, "127.0.0.1", 2))
    await asyncio.sleep(0)
    assert set(handed) - set(right), "keys that are none of its business"
    assert set(right) - set(handed), "keys that it is asked for from now on"

    config = replace(CONFIG, lookup=LookupConfig(k=1))
    nodes = [make_node(identity=each, config=config) for each in (holder, other, newcomer)]
    try:
        await nodes[0].listen("127.0.0.1", 0)
        await nodes[1].listen("127.0.0.1", 0)
        await nodes[1].bootstrap(entry(nodes[0]))
        await until(lambda: not nodes[0].engine.membership.newcomers)
        now_ms = nodes[0].now_ms()
        for payload in (*theirs, *not_theirs):
            record = in_open_network(payload, now_ms)
            nodes[0].store.store(record, now_ms=now_ms)
        await nodes[2].listen("127.0.0.1", 0)
        await nodes[2].bootstrap(entry(nodes[0]))
        await until(lambda: len(nodes[2].store) >= len(theirs))
        wanted = {in_open_network(payload, now_ms).key for payload in theirs}
        assert set(nodes[2].store.keys()) == wanted
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


def in_open_network(payload: ContentPayload, now_ms: int = NOW_MS) -> Record:
    return signed(payload, network_id=OPEN.network_id, issued_ms=now_ms, sequence=now_ms)


def contents_nearest_first(*ids: bytes) -> list[ContentPayload]:
    """Contents whose keys are nearest to the first id, then to the second, and so on."""
    payloads = [ContentPayload(number.to_bytes(32, "big")) for number in range(64)]
    return [
        payload
        for payload in payloads
        if sorted(ids, key=partial(distance, in_open_network(payload).key)) == list(ids)
    ]


class CountingStorage(ForgetfulStorage):  # type: ignore[misc]
    """Counts how often all of it is read."""

    scans = 0

    def __iter__(self) -> Iterator[tuple[bytes, Any]]:
        self.scans += 1
        yield from super().__iter__()


async def test_stock_reads_its_whole_storage_for_each_message_of_a_waiting_peer_and_ours_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = CountingStorage()
    stock = stock_protocol(1, storage)
    admitted, waiting = peer(FAR_HALF, 1), peer(FAR_HALF, 2)
    stock.rpc_ping(SENDER, admitted.id)
    storage.scans = 0
    for _ in range(10):
        stock.rpc_ping(SENDER, waiting.id)
    assert storage.scans == 10

    host = make_node(config=replace(CONFIG, table=TableConfig(k=1, split_bits=1)))
    nodes = [make_node(identity=identity_in_half(host, is_near=near)) for near in (0, 0, 1)]
    read_for: list[bytes] = []
    near_keys = host.store.near_keys

    def counted(target: bytes, limit: int | None = None) -> list[bytes]:
        read_for.append(target)
        return near_keys(target, limit)

    monkeypatch.setattr(host.store, "near_keys", counted)
    try:
        await host.listen("127.0.0.1", 0)
        for node in nodes:
            await node.listen("127.0.0.1", 0)
            await node.bootstrap(entry(host))
            for _ in range(10):
                await node.check([host.peer_id])
        await until(lambda: nodes[2].peer_id in read_for)
        assert len(host.engine.table) == 2
        assert set(read_for) == {nodes[0].peer_id, nodes[2].peer_id}
    finally:
        await asyncio.gather(*(node.close() for node in (host, *nodes)))


def identity_in_half(host: DhtNode, *, is_near: int) -> Identity:
    """An identity in the half of the id space that is the host's own, or in the other."""
    while True:
        identity = Identity.generate()
        if ((identity.peer_id[0] ^ host.peer_id[0]) < FAR_HALF) == bool(is_near):
            return identity


class Malicious:
    """Unpickled, it runs what its maker wants."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


async def test_stock_runs_what_its_state_file_says_and_ours_drops_rows_that_do_not_check(
    tmp_path: Path,
) -> None:
    trace, state = tmp_path / "it ran", tmp_path / "state"
    evil = pickle.dumps(Malicious(trace))
    state.write_bytes(evil)
    with pytest.raises(TypeError):
        await Server.load_state(str(state), 0)
    assert trace.exists()

    trace.unlink()
    disk = MemoryPersistence()
    disk.contacts = [ContactRow(b"i" * 20, evil, "127.0.0.1:4100", "eve", 0)]
    disk.records = {KEY: SavedRecord(KEY, evil, "")}
    disk.schedule = {KEY: ScheduleRow(KEY, 1, evil, 1, 0, None, 0, withdrawn=False)}
    node = make_node(persistence=disk)
    await node.listen("127.0.0.1", 0)
    try:
        assert await node.bootstrap([]) == 0
        assert not trace.exists()
        assert node.contacts() == []
        assert len(node.store) == len(node.schedule) == 0
        assert node.counters()["datagrams-sent"] == 0
    finally:
        await node.close()
