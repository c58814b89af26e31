"""Dialling back: a fresh port, the asker's host alone, few at once; and what a verdict changes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator

import pytest

from dht import dialback, reachability, wire
from dht.dialback import DIALS_MAX, OUTCOMES_MAX
from dht.hints import Scope
from dht.limits import Limits, Rate
from dht.lookup import Candidate
from dht.node import DhtConfig, DhtNode
from dht.reachability import Reach, ReachConfig
from identity.address import Address
from tests.dht.nodes import (
    CONFIG,
    CONTENT_ID,
    PRIVATE,
    address_of,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    raw_socket,
    received,
    until,
)

RETRY = ReachConfig(retry_min_s=0.2, retry_max_s=0.4)
NONCE = b"n" * 16


def candidate(node: DhtNode) -> Candidate:
    return Candidate(node.peer_id, address_of(node))


async def dialled(
    asker: DhtNode, witness: DhtNode, port: int, *, tcp: bool = False, nonce: bytes = NONCE
) -> wire.DialBackState:
    """Ask until the witness has come to an end."""
    body = wire.DialBack(port, nonce, tcp)
    while True:
        state = await asker.engine.caller.dial_back(candidate(witness), body)
        if state is not wire.DialBackState.TRYING:
            return state
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("network", [PRIVATE, None])
async def test_probe_carries_the_nonce_and_leaves_from_a_port_never_used_before(network) -> None:
    options = {} if network is None else {"network": network}
    async with nodes_of(2, **options) as [asker, witness]:
        probes: list[wire.Probe] = []
        sources: list[tuple[str, int]] = []
        protocol = asker.engine.protocol
        take = protocol.datagram_received

        def spy(data: bytes, source: tuple[str, int]) -> None:
            sources.append(source)
            take(data, source)

        protocol.datagram_received = spy
        asker.engine.reach.on_probe = probes.append  # type: ignore[method-assign]
        assert await dialled(asker, witness, asker.bound.port) is wire.DialBackState.OPEN
        await until(lambda: len(probes) == dialback.PROBES)
        assert {probe.nonce for probe in probes} == {NONCE}
        [fresh] = {source for source in sources if source[1] != witness.bound.port}
        assert fresh[0] == "127.0.0.1"


async def test_tcp_is_tried_at_the_askers_host_and_port_for_the_very_peer() -> None:
    async with nodes_of(2) as [asker, witness]:
        tried: list[tuple[bytes, Address]] = []

        async def probe(peer_id: bytes, address: Address) -> bool:
            tried.append((peer_id, address))
            return address.port == 4321

        witness.use_tcp(probe)
        closed = await dialled(asker, witness, 1234, tcp=True)
        opened = await dialled(asker, witness, 4321, tcp=True, nonce=b"m" * 16)
        assert (closed, opened) == (wire.DialBackState.CLOSED, wire.DialBackState.OPEN)
        assert tried == [
            (asker.peer_id, Address("127.0.0.1", 1234)),
            (asker.peer_id, Address("127.0.0.1", 4321)),
        ]


async def test_tcp_that_hangs_counts_as_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialback, "TCP_TIMEOUT_S", 0.05)
    async with nodes_of(2) as [asker, witness]:

        async def probe(_id: bytes, _address: Address) -> bool:
            await asyncio.Event().wait()
            return True

        witness.use_tcp(probe)
        assert await dialled(asker, witness, 1234, tcp=True) is wire.DialBackState.CLOSED


async def test_witness_without_tcp_is_busy_for_who_has_it_and_over_the_rate_for_all() -> None:
    limits = Limits(dial_backs=Rate(0.001, 2.0))
    async with nodes_of(2, config=dataclasses.replace(CONFIG, limits=limits)) as [asker, witness]:
        port = asker.bound.port
        assert await dialled(asker, witness, port, tcp=True) is wire.DialBackState.BUSY
        states = [
            await dialled(asker, witness, port, nonce=bytes([number]) * 16) for number in range(3)
        ]
        assert [state.name for state in states] == ["OPEN", "OPEN", "BUSY"]
        assert witness.counters()["dial-back-busy"] == 2
        again = await dialled(asker, witness, port, nonce=bytes(16))
        assert again is wire.DialBackState.OPEN, "what came of a dial is told at no further cost"


async def test_dials_at_once_and_remembered_outcomes_are_bounded() -> None:
    plenty = Rate(1e6, 1e6)
    limits = Limits(dial_backs=plenty, dial_backs_all=plenty)
    async with nodes_of(1, config=dataclasses.replace(CONFIG, limits=limits)) as [node]:
        gate = asyncio.Event()
        desk = node.engine.dial_back

        async def send(_datagrams: object, _target: object) -> None:
            await gate.wait()

        desk._send_fresh = send  # type: ignore[assignment]
        answers = [
            desk.answer(wire.DialBack(1, number.to_bytes(16, "big"), False), b"a" * 20, "127.0.0.1")
            for number in range(DIALS_MAX + 3)
        ]
        assert [each.state for each in answers].count(wire.DialBackState.BUSY) == 3
        gate.set()
        for number in range(3 * OUTCOMES_MAX):
            await until(lambda: desk._running < DIALS_MAX)
            body = wire.DialBack(1, number.to_bytes(16, "little"), False)
            desk.answer(body, b"b" * 20, "127.0.0.1")
        assert len(desk) == OUTCOMES_MAX


async def test_nobody_is_dialled_for_a_stranger_and_a_probe_unasked_for_is_a_counted_drop() -> None:
    async with nodes_of(1) as [node]:
        with raw_socket() as udp:
            sender = wire.Sender(b"s" * 20, b"t" * 17)
            body = wire.pack_body(wire.DialBack(udp.getsockname()[1], NONCE))
            to = ("127.0.0.1", node.bound.port)
            udp.sendto(wire.pack_call(b"1" * 20, wire.Call.DIAL_BACK, sender, body, 0), to)
            probe = wire.pack_body(wire.Probe(NONCE))
            udp.sendto(wire.pack_call(b"2" * 20, wire.Call.PROBE, sender, probe, 0), to)
            await until(lambda: node.counters().get("probe-unasked", 0) == 1)
            [reply] = received(udp)
            assert wire.read_reply(wire.split_frame(reply).value).status is wire.Status.TOKEN
        assert len(node.engine.dial_back) == 0


class Firewall:
    """Lets through to a node what answers a datagram of its own, and while open everything."""

    def __init__(self, node: DhtNode) -> None:
        self.is_open = False
        protocol = node.engine.protocol
        asked: set[Address] = set()
        take, send = protocol.datagram_received, protocol.send

        def filtered(data: bytes, source: tuple[str, int]) -> None:
            if self.is_open or Address(*source[:2]) in asked:
                take(data, source)

        def noted(plain: bytes, address: Address) -> None:
            asked.add(address)
            send(plain, address)

        protocol.datagram_received, protocol.send = filtered, noted  # type: ignore[method-assign]


@pytest.fixture
def each_port_a_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On loopback all peers are on our own host: let each port pass for a host of its own."""
    monkeypatch.setattr(reachability, "_JUDGES", frozenset({Scope.LOOPBACK}))
    monkeypatch.setattr(reachability, "place_of", str)
    monkeypatch.setattr("dht.membership.Membership.own_hosts", lambda _self: frozenset())
    return


@contextlib.asynccontextmanager
async def walled(config: DhtConfig) -> AsyncIterator[tuple[DhtNode, Firewall, list[DhtNode]]]:
    async with nodes_of(4, config=config) as others:
        node = make_node(config=config, nickname="walled")
        await node.listen("127.0.0.1", 0)
        try:
            yield node, Firewall(node), others
        finally:
            await node.close()


def tables_with(node: DhtNode, others: list[DhtNode]) -> int:
    return sum(each.engine.table.contact(node.peer_id) is not None for each in others)


@pytest.mark.usefixtures("each_port_a_host")
async def test_unreachable_peer_is_in_nobodys_table_and_stores_nothing_till_reached() -> None:
    config = dataclasses.replace(CONFIG, reach=RETRY)
    async with walled(config) as (node, firewall, others):
        told: list[Reach] = []
        node.on_reach = told.append
        await node.bootstrap(entry(others[0]))
        await until(lambda: node.reach is Reach.UNREACHABLE, 20.0)
        await until(lambda: tables_with(node, others) == 0)
        assert all(each.reach is Reach.REACHABLE for each in others)
        kept = len(node.store)
        await others[1].publish(file_payloads())
        report = await node.publish(file_payloads("from behind the wall.txt", b"w" * 32))
        assert report.stored_on_min == len(others), "it publishes"
        assert not any(report.stored_here)
        assert len(node.store) == kept, "and keeps nothing"
        assert len(await node.find_content(CONTENT_ID)) == 1, "it finds"
        assert len(await others[2].find_content(b"w" * 32)) == 1
        firewall.is_open = True
        await until(lambda: node.reach is Reach.REACHABLE, 20.0)
        await until(lambda: tables_with(node, others) == len(others))
        assert told == [Reach.UNREACHABLE, Reach.REACHABLE]


@pytest.mark.usefixtures("each_port_a_host")
async def test_peer_whose_tcp_port_is_closed_is_a_client_though_udp_gets_through() -> None:
    async def probe(_id: bytes, address: Address) -> bool:
        return address.port not in closed

    closed: set[int] = set()
    config = dataclasses.replace(CONFIG, reach=RETRY)
    async with walled(config) as (node, firewall, others):
        firewall.is_open = True
        closed.add(node.bound.port)
        for each in (node, *others):
            each.use_tcp(probe)
        await node.bootstrap(entry(others[0]))
        await until(lambda: node.reach is Reach.UNREACHABLE, 20.0)


async def test_peers_of_one_host_and_clients_of_the_moment_ask_nobody() -> None:
    async with nodes_of(4) as nodes:
        client = make_node(config=dataclasses.replace(CONFIG, client=True))
        await client.listen("127.0.0.1", 0)
        await client.bootstrap(entry(nodes[0]))
        await client.find_content(CONTENT_ID)
        await client.close()
        assert all(each.reach is Reach.UNKNOWN for each in nodes)
        assert all(len(each.engine.dial_back) == 0 for each in nodes)
