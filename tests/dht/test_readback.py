"""Reading back what was published: who really has it, and who only said so."""

import asyncio

import pytest

from dht.records import NamePayload, encode_record
from dht.storage import Stored, Verdict
from tests.dht.nodes import NAME, file_payloads, make_node, nodes_of, until


async def whole(nodes):
    await until(lambda: all(len(node.engine.table) == len(nodes) - 1 for node in nodes))


async def test_honest_storers_show_all_that_they_acknowledged():
    async with nodes_of(6) as nodes:
        await whole(nodes)
        payloads = file_payloads()
        report = await nodes[0].publish(payloads)
        confirmed = await nodes[0].read_back(payloads, report)
        assert [(each.found_on, each.closest, each.missing) for each in confirmed] == [
            (5, 5, 0)
        ] * len(payloads)


async def test_storer_that_acknowledged_and_kept_nothing_is_found_out_and_sent_it_again():
    async with nodes_of(4) as nodes:
        await whole(nodes)
        liar = nodes[2].engine.desk
        honest = liar.store
        liar.store = lambda encoded, block, sender: [Stored(Verdict.OK)] * len(encoded)
        payloads = file_payloads()
        report = await nodes[0].publish(payloads)
        assert set(report.stored_on) == {3}
        confirmed = await nodes[0].read_back(payloads, report)
        liar.store = honest  # before the sweep, and not before: others hand it records as well
        assert [(each.found_on, each.closest, each.missing) for each in confirmed] == [
            (2, 3, 1)
        ] * len(payloads)
        await until(lambda: len(nodes[2].store) == len(payloads), timeout_s=3.0)


async def test_older_record_than_the_one_published_does_not_count():
    async with nodes_of(2) as nodes:
        await whole(nodes)
        [payload] = file_payloads()[:1]
        await nodes[0].publish([payload])
        old = encode_record(next(iter(nodes[1].store.records())))
        report = await nodes[0].publish([payload])
        nodes[1].store._shelves.clear()
        nodes[1].store._count = 0
        nodes[1].store._publishers.clear()
        assert nodes[1].store.store(old, now_ms=nodes[1].now_ms()).verdict is Verdict.OK
        [confirmed] = await nodes[0].read_back([payload], report)
        assert (confirmed.found_on, confirmed.missing) == (0, 1)


async def test_our_record_is_found_among_many_of_others_under_the_key():
    async with nodes_of(3) as nodes:
        await whole(nodes)
        others = [NamePayload(NAME, bytes([number]) * 32, 1) for number in range(60)]
        await nodes[1].publish(others)
        [payload] = file_payloads()[:1]
        report = await nodes[0].publish([payload])
        [confirmed] = await nodes[0].read_back([payload], report)
        assert (confirmed.found_on, confirmed.closest, confirmed.missing) == (2, 2, 0)


async def test_lookup_starts_at_those_who_did_not_acknowledge_farthest_from_the_key_first():
    async with nodes_of(5) as nodes:
        await whole(nodes)
        back = nodes[0].engine.read_back
        key = bytes(20)
        ids = sorted((node.peer_id for node in nodes[1:]), reverse=True)
        seeds = [each.peer_id for each in back._seeds(key, {ids[1]})]
        assert seeds == [ids[0], *ids[2:]]
        assert [each.peer_id for each in back._seeds(key, set(ids))] == ids


async def test_nobody_is_asked_where_nobody_acknowledged():
    node = make_node()
    await node.listen("127.0.0.1", 0)
    try:
        payloads = file_payloads()
        report = await node.publish(payloads)
        assert await node.read_back(payloads, report) == [None] * len(payloads)
        assert node.counters()["datagrams-sent"] == 0
    finally:
        await node.close()


async def test_read_that_takes_too_long_says_nothing(monkeypatch: pytest.MonkeyPatch):
    async with nodes_of(2) as nodes:
        await whole(nodes)
        payloads = file_payloads()
        report = await nodes[0].publish(payloads)
        monkeypatch.setattr("dht.node.READ_BACK_TIMEOUT_S", 0.05)

        async def hang(sought: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(nodes[0].engine.read_back, "look", hang)
        assert await nodes[0].read_back(payloads, report) == [None] * len(payloads)
