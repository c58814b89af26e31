"""A network that was cut in two grows together again, whoever forgot whom meanwhile."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dht import wire
from dht.lookup import Candidate
from dht.node import DhtNode
from dht.routing import TableConfig
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode
from tests.dht.nodes import (
    CONFIG,
    NAME,
    MemoryPersistence,
    address_of,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    until,
)

# Evictions and questions in a fraction of a second; only the seeking loop asks.
QUICK = replace(
    CONFIG,
    table=TableConfig(failure_spacing_s=0.01),
    call_timeout_s=0.3,
    resend_s=0.1,
    absent_retry_min_s=0.2,
    absent_retry_max_s=0.5,
    bootstrap_retry_min_s=3600.0,
    bootstrap_retry_max_s=3600.0,
    upkeep_s=3600.0,
)
UNSOUGHT = replace(QUICK, absent_retry_min_s=3600.0, absent_retry_max_s=3600.0)


class Cut:
    """Drops what comes to one side from the other."""

    def __init__(self, *sides: Sequence[DhtNode]) -> None:
        self._whole = False
        for side in sides:
            ports = {node.bound.port for node in side}
            for node in side:
                self._put_between(node, ports)

    def _put_between(self, node: DhtNode, near: set[int]) -> None:
        take = node.engine.protocol.datagram_received

        def receive(data: bytes, address: tuple[str, int]) -> None:
            if self._whole or address[1] in near:
                take(data, address)

        setattr(node.engine.protocol, "datagram_received", receive)  # noqa: B010

    def heal(self) -> None:
        self._whole = True


def knows(node: DhtNode, others: Sequence[DhtNode]) -> bool:
    known = {each.peer_id for each in node.engine.table.contacts()}
    return known == {other.peer_id for other in others if other is not node}


async def test_sides_that_forgot_each_other_find_each_other_again_unasked() -> None:
    async with nodes_of(6, config=QUICK) as nodes:
        await until(lambda: all(knows(node, nodes) for node in nodes))
        left, right = nodes[:2], nodes[2:]
        cut = Cut(left, right)
        while not all(knows(node, side) for side in (left, right) for node in side):
            await asyncio.gather(*(node.check(timeout_s=0.3) for node in nodes))
        await left[0].publish(file_payloads())
        assert await right[0].find_name(NAME) == []
        cut.heal()
        await until(lambda: all(knows(node, nodes) for node in nodes))
        for node in nodes:
            [found] = await node.find_name(NAME)
            assert found.publisher == left[0].peer_id


async def test_remembered_contact_that_was_silent_at_the_start_is_asked_again() -> None:
    disk = MemoryPersistence()
    async with nodes_of(2, config=QUICK) as nodes:
        identity = Identity.generate()
        away = make_node(identity=identity, config=QUICK)
        port = await away.listen("127.0.0.1", 0)
        await away.bootstrap(entry(nodes[0]))
        one = make_node(config=QUICK, persistence=disk)
        await one.listen("127.0.0.1", 0)
        await one.bootstrap(entry(away))
        await until(lambda: len(one.engine.table) == 3)
        await one.close()
        await away.close()
        one = make_node(config=QUICK, persistence=disk)
        await one.listen("127.0.0.1", 0)
        await one.bootstrap([])
        back = make_node(identity=identity, config=QUICK)
        await back.listen("127.0.0.1", port)
        try:
            await until(lambda: one.engine.table.contact(identity.peer_id) is not None)
        finally:
            await one.close()
            await back.close()


async def test_bootstrap_node_that_was_down_is_asked_again_though_others_are_there() -> None:
    async with nodes_of(1, config=QUICK) as [other]:
        seed = make_node(config=QUICK)
        port = await seed.listen("127.0.0.1", 0)
        await seed.close()
        node = make_node(config=QUICK)
        await node.listen("127.0.0.1", 0)
        down = BootstrapNode(Address("127.0.0.1", port))
        try:
            await node.bootstrap([down, *entry(other)])
            await seed.listen("127.0.0.1", port)
            await until(lambda: node.engine.table.contact(seed.peer_id) is not None)
        finally:
            await node.close()
            await seed.close()


async def test_lonely_node_asks_for_those_it_lost_not_only_for_bootstrap_nodes() -> None:
    async with nodes_of(1, config=QUICK) as [other]:
        node = make_node(config=UNSOUGHT)
        await node.listen("127.0.0.1", 0)
        try:
            await node.hello_address(address_of(other))
            cut = Cut([node], [other])
            while not knows(node, []):
                await node.check(timeout_s=0.3)
            cut.heal()
            assert await node.bootstrap([]) == 1
        finally:
            await node.close()


async def test_contact_that_took_its_leave_is_not_asked_for() -> None:
    async with nodes_of(2, config=QUICK) as nodes:
        leaver = make_node(config=QUICK)
        await leaver.listen("127.0.0.1", 0)
        await leaver.bootstrap(entry(nodes[0]))
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        nodes[0].engine.membership.on_silent(leaver.peer_id, address_of(leaver))
        assert len(nodes[0].engine.membership.absent) == 1
        nodes[0].engine.membership.on_farewell(leaver.peer_id)
        assert len(nodes[0].engine.membership.absent) == 0
        await leaver.close()


@pytest.mark.parametrize("moved", [False, True])
async def test_one_lost_answer_is_made_good_by_the_next(moved: bool) -> None:
    async with nodes_of(2, config=UNSOUGHT) as nodes:
        one, other = nodes
        membership = one.engine.membership
        await until(lambda: one.engine.table.contact(other.peer_id) is not None)
        membership.on_silent(other.peer_id, address_of(other))
        assert len(membership.absent) == 1
        if moved:
            await one.hello_address(address_of(other))
        else:
            await one.check([other.peer_id])
        assert len(membership.absent) == 0


async def test_evicted_contact_that_answers_a_call_is_proved_and_admitted_again() -> None:
    config = replace(UNSOUGHT, greeting_again_s=0.01)
    async with nodes_of(2, config=config) as [one, other]:
        await until(lambda: knows(one, [other]))
        cut = Cut([one], [other])
        while not knows(one, []):
            await one.check(timeout_s=0.3)
        cut.heal()
        known = Candidate(other.peer_id, address_of(other))
        await one.engine.caller.find(known, wire.FindRecords(b"k" * 20))
        await until(lambda: knows(one, [other]))
