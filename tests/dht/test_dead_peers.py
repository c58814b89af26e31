"""What the dead and the slow cost: nobody waits for the dead, and the slow still count."""

import asyncio
import time

from dht.node import DhtNode
from tests.dht.nodes import (
    NAME,
    STUBBORN,
    STUBBORN_DEADLINE_S,
    address_of,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    peer_payload,
    until,
)

LATE_S = 1.3
"""Nobody waits so long for a peer that usually answers at once; a call waits longer."""


class Delay:
    """Delays what a node receives, but for the first few datagrams."""

    def __init__(self, node: DhtNode, delay_s: float, *, first: int = 0) -> None:
        self.delay_s = delay_s
        self._first = first
        self._take = node.engine.protocol.datagram_received
        setattr(node.engine.protocol, "datagram_received", self._receive)  # noqa: B010

    def _receive(self, data: bytes, address: tuple[str, int]) -> None:
        if self._first > 0:
            self._first -= 1
            self._take(data, address)
            return
        asyncio.get_running_loop().call_later(self.delay_s, self._take, data, address)


async def test_dead_contacts_hold_up_neither_publish_nor_read_nor_leave() -> None:
    async with nodes_of(5, config=STUBBORN) as nodes:
        await until(lambda: all(len(node.engine.table) == 4 for node in nodes))
        for dead in nodes[3:]:
            await dead.close()
        began = time.monotonic()
        report = await nodes[0].publish(file_payloads())
        assert set(report.stored_on) == {2}
        assert len(await nodes[1].find_name(NAME)) == 1
        assert await nodes[1].find_name("nothing") == []
        await nodes[0].withdraw_all()
        assert time.monotonic() - began < STUBBORN_DEADLINE_S
        assert await nodes[1].find_name(NAME) == []


async def test_newcomer_does_not_wait_for_the_dead_that_others_name() -> None:
    async with nodes_of(3, config=STUBBORN) as nodes:
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        await nodes[2].close()
        newcomer = make_node(config=STUBBORN)
        await newcomer.listen("127.0.0.1", 0)
        try:
            began = time.monotonic()
            assert await newcomer.bootstrap(entry(nodes[0])) >= 1
            report = await newcomer.publish([peer_payload(newcomer)])
            assert time.monotonic() - began < STUBBORN_DEADLINE_S
            assert report.stored_on_min == 2
        finally:
            await newcomer.close()


async def test_check_ends_soon_and_says_who_is_silent() -> None:
    async with nodes_of(3, config=STUBBORN) as nodes:
        await until(lambda: len(nodes[0].engine.table) == 2)
        await nodes[2].close()
        began = time.monotonic()
        await nodes[0].check(timeout_s=20.0)
        assert time.monotonic() - began < STUBBORN_DEADLINE_S
        alive = {view.peer_id: view.alive for view in nodes[0].contacts()}
        assert alive == {nodes[1].peer_id: True, nodes[2].peer_id: False}


async def test_late_answer_makes_a_silent_contact_alive_again() -> None:
    async with nodes_of(2) as nodes:
        await until(lambda: len(nodes[0].engine.table) == 1)
        Delay(nodes[1], LATE_S)
        await nodes[0].check(timeout_s=20.0)
        assert [view.alive for view in nodes[0].contacts()] == [False]
        await until(lambda: [view.alive for view in nodes[0].contacts()] == [True])
        assert len(nodes[0].engine.table) == 1


async def test_storer_that_answers_too_late_is_given_the_records_all_the_same() -> None:
    async with nodes_of(3) as nodes:
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        delay = Delay(nodes[2], LATE_S)
        report = await nodes[0].publish(file_payloads())
        assert set(report.stored_on) == {1}
        assert len(nodes[2].store) == 0
        await until(lambda: len(nodes[2].store) == len(file_payloads()))
        delay.delay_s = 0.0


async def test_late_acknowledgement_reaches_the_schedule() -> None:
    async with nodes_of(2) as nodes:
        await until(lambda: len(nodes[0].engine.table) == 1)
        Delay(nodes[1], LATE_S, first=1)  # the lookup's request; the store comes late
        report = await nodes[0].publish([peer_payload(nodes[0])])
        assert report.is_alone
        assert nodes[0].schedule.rows()[0].failures == 1
        # Sooner than any retry would.
        await until(lambda: nodes[0].schedule.rows()[0].failures == 0, timeout_s=4.0)
        assert len(nodes[1].store) == 1


async def test_report_on_an_older_version_does_not_count_for_the_newer() -> None:
    async with nodes_of(2) as nodes:
        schedule, now_ms = nodes[0].schedule, nodes[0].now_ms()
        payload = file_payloads()[0]
        draft_id = schedule.add(payload, now_ms=now_ms)
        (older,) = schedule.take([draft_id], now_ms=now_ms)
        schedule.withdraw(payload, now_ms=now_ms)
        (tombstone,) = schedule.take([draft_id], now_ms=now_ms)
        schedule.stored(draft_id, 1, sequence=older.sequence, now_ms=now_ms)
        assert len(schedule) == 1, "the tombstone is not stored yet"
        schedule.stored(draft_id, 1, sequence=tombstone.sequence, now_ms=now_ms)
        assert len(schedule) == 0


async def test_slow_link_works_from_the_first_contact() -> None:
    nodes = [make_node(nickname=f"n{number}") for number in range(3)]
    try:
        for node in nodes:
            await node.listen("127.0.0.1", 0)
            Delay(node, 0.15)  # each way: a round trip takes 300 ms
        for node in nodes[1:]:
            assert await node.bootstrap(entry(nodes[0])) >= 1
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        assert set((await nodes[1].publish(file_payloads())).stored_on) == {2}
        assert await nodes[2].find_name("nothing") == []
        (hit,) = await nodes[2].find_name(NAME)
        assert hit.publisher == nodes[1].peer_id
        await nodes[0].check()
        assert all(view.alive for view in nodes[0].contacts())
        met = await nodes[0].hello_address(address_of(nodes[2]))
        assert met is not None
        assert met.peer_id == nodes[2].peer_id
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


async def test_round_trip_longer_than_the_resend_is_measured() -> None:
    async with nodes_of(1) as [node]:
        slow = make_node()
        await slow.listen("127.0.0.1", 0)
        try:
            Delay(slow, 0.8)
            view = await node.hello_address(address_of(slow), timeout_s=5.0)
            assert view is not None
            assert view.rtt_s is not None
            assert view.rtt_s > 0.7
        finally:
            await slow.close()
