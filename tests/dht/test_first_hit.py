"""Whoever reads has the first verified record before the rest of what came with it is taken in."""

import asyncio
from typing import Any

from dht.records import Kind, name_key
from dht.running import ASKS_MAX
from tests.dht.nodes import NAME, entry, file_payloads, make_node, nodes_of, until
from tests.dht.test_requests import Desk, run


async def test_the_first_record_is_handed_on_before_answers_of_the_same_turn_are_taken() -> None:
    async with nodes_of(6) as nodes:
        await nodes[1].publish(file_payloads())
        reader = make_node()
        await reader.listen("127.0.0.1", 0)
        try:
            await reader.bootstrap(entry(nodes[0]))
            await until(lambda: len(reader.contacts()) == 6)
            protocol = reader.engine.protocol
            take, came = protocol.datagram_received, list[tuple[bytes, Any]]()

            def in_one_turn(data: bytes, address: Any) -> None:
                came.append((data, address))
                if len(came) == ASKS_MAX:
                    for each in came:
                        take(*each)
                elif len(came) > ASKS_MAX:
                    take(data, address)

            protocol.datagram_received = in_one_turn
            before = protocol.received
            key = name_key(reader.network.network_id, NAME)
            async for _ in reader.read_stream(key, (Kind.NAME,)):
                taken = protocol.received - before
                break
            assert 1 <= taken < ASKS_MAX
        finally:
            await reader.close()


def test_what_is_held_back_is_taken_in_order_in_the_next_turn() -> None:
    async def scene() -> None:
        desk = Desk()
        for _ in range(3):
            desk.begin()
        desk.answer(0)
        desk.protocol.hold_back()
        desk.answer(2)
        desk.answer(1)
        assert len(desk.ends) == 1
        await asyncio.sleep(0)
        ids = [outcome.message_id for outcome, _ in desk.ends]  # type: ignore[union-attr]
        assert ids == [desk.sent[place][1:21] for place in (0, 2, 1)]
        assert not desk.protocol.drops

    run(scene())
