"""Publishing between real nodes: what is due when, refusals, long sets, leaving."""

import asyncio
import time

from bench.lag import loop_lag
from dht.budget import VerifyBudget
from dht.drafts import ScheduleConfig
from dht.node import DhtNode
from dht.records import Kind, name_key
from dht.schedule import PublishSchedule
from identity.keys import Identity
from tests.dht.nodes import (
    NAME,
    OPEN,
    MemoryPersistence,
    address_of,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    peer_payload,
    until,
)

FILES = 120


def many_payloads(files=FILES):
    return [
        payload
        for number in range(files)
        for payload in file_payloads(f"tune {number}.txt", number.to_bytes(32, "big"))
    ]


def acks(node: DhtNode) -> int:
    return node.counters().get("ack-ok", 0)


async def restarted(node, kept, bootstrap_node):
    """Run the same peer anew after its process was killed: nothing said, all saved."""
    again = make_node(identity=node._own.identity, persistence=kept)
    await again.listen("127.0.0.1", 0)
    await again.bootstrap(entry(bootstrap_node))
    return again


async def test_planned_after_a_restart_only_what_is_new_or_changed_is_published():
    kept = MemoryPersistence()
    async with nodes_of(3) as nodes:
        node = make_node(persistence=kept)
        await node.listen("127.0.0.1", 0)
        await node.bootstrap(entry(nodes[0]))
        await until(lambda: len(node.engine.table) == 3)
        await node.publish(file_payloads())
        await node.close()
        again = await restarted(node, kept, nodes[0])
        try:
            await until(lambda: len(again.engine.table) == 3)
            await again.plan(file_payloads())
            await again.plan(file_payloads("new.txt", b"n" * 32)[:1])
            await until(lambda: acks(again) == 3)
            await again.publish([peer_payload(again)])  # the sweep is over by now
            assert acks(again) == 6
        finally:
            await again.close()


async def test_after_a_clean_leave_all_is_published_again():
    kept = MemoryPersistence()
    async with nodes_of(3) as nodes:
        node = make_node(persistence=kept)
        await node.listen("127.0.0.1", 0)
        await node.bootstrap(entry(nodes[0]))
        await until(lambda: len(node.engine.table) == 3)
        await node.publish(file_payloads())
        assert await node.withdraw_all()
        await node.close()
        assert await nodes[1].find_name(NAME) == []
        again = await restarted(node, kept, nodes[0])
        try:
            await again.plan(file_payloads())
            await until(lambda: acks(again) == 3 * len(file_payloads()))
            assert len(await nodes[1].find_name(NAME)) == 1
        finally:
            await again.close()


async def test_long_publish_keeps_nobody_waiting_for_50_ms():
    kept = MemoryPersistence()
    async with nodes_of(3) as nodes:
        node = make_node(persistence=kept)
        await node.listen("127.0.0.1", 0)
        await node.bootstrap(entry(nodes[0]))
        payloads = many_payloads()
        async with loop_lag() as lag:
            report = await node.publish(payloads)
            await until(lambda: len(kept.schedule) == len(payloads))
        assert report.stored_on == (3,) * len(payloads)
        assert lag.longest_s < 0.05
        await node.close()


async def test_report_is_in_the_order_given_however_keys_lie():
    async with nodes_of(2) as nodes:
        payloads = [*many_payloads(4), *many_payloads(1)]
        report = await nodes[1].publish(payloads)
        assert report.stored_on == (1,) * len(payloads)
        assert report.stored_here == (True,) * len(payloads)


async def test_busy_storer_is_asked_again_later():
    async with nodes_of(2) as nodes:
        await until(lambda: len(nodes[1].engine.table) == 1)
        schedule = PublishSchedule(
            OPEN.network_id,
            nodes[1]._own.identity.public_key,
            nodes[1]._rng,
            ScheduleConfig(retry_ms=50),
        )
        nodes[1].schedule = nodes[1].engine.publisher._schedule = schedule
        nodes[1].engine.upkeep._schedule = schedule
        roomy = nodes[0].engine.desk._budget
        nodes[0].engine.desk._budget = VerifyBudget(rate_hz=0.001, burst_max=8)
        report = await nodes[1].publish(file_payloads())
        assert sorted(report.stored_on) == [0] * (len(report.stored_on) - 2) + [1] * 2
        assert nodes[1].counters()["ack-busy"] >= len(report.stored_on) - 2
        nodes[0].engine.desk._budget = roomy
        nodes[1].engine.upkeep.planned()
        await until(lambda: len(nodes[0].store) == len(report.stored_on))


async def test_refusal_for_the_time_corrects_the_clock_and_is_published_again():
    wrong_by_ms = 2 * 24 * 3_600_000
    async with nodes_of(3) as nodes:
        wall_ms = nodes[0]._wall_ms
        skew = [0]
        lost = make_node(wall_ms=lambda: wall_ms() + skew[0])
        await lost.listen("127.0.0.1", 0)
        try:
            await lost.bootstrap(entry(nodes[0]))
            await until(lambda: len(lost.engine.table) == 3)
            # The clock jumps after all hellos: only the verdicts can tell.
            skew[0] = -wrong_by_ms
            report = await lost.publish(file_payloads())
            assert set(report.stored_on) == {0}
            assert abs(lost.clock_offset_ms - wrong_by_ms) < 60_000
            # Sooner than any retry would.
            await until(lambda: len(nodes[1].store) == len(file_payloads()), timeout_s=3.0)
        finally:
            await lost.close()


async def test_peer_that_lost_its_schedule_and_its_time_gets_ahead_of_its_old_records():
    identity = Identity.generate()
    async with nodes_of(2) as nodes:
        first = make_node(identity=identity)
        await first.listen("127.0.0.1", 0)
        await first.bootstrap(entry(nodes[0]))
        await first.publish(file_payloads())
        await first.close()
        wall_ms = nodes[0]._wall_ms
        second = make_node(identity=identity, wall_ms=lambda: wall_ms() - 60_000)
        await second.listen("127.0.0.1", 0)
        try:
            await second.bootstrap(entry(nodes[0]))
            await until(lambda: len(second.engine.table) == 2)
            moved = file_payloads(size_bytes=8)
            await second.publish(moved)
            key = name_key(OPEN.network_id, NAME)

            def sizes() -> set[int]:
                found = [node.store.find(key, now_ms=node.now_ms()).records for node in nodes]
                return {len(records) and records[0].sequence for records in found}

            before = sizes()
            assert second.counters()["ack-stale"] > 0
            await until(lambda: min(sizes()) > max(before))
            found = await nodes[0].find_name(NAME)
            assert [each.payload.size_bytes for each in found] == [8]
        finally:
            await second.close()


async def test_leave_that_is_cut_short_withdraws_names_first_and_says_farewell():
    async with nodes_of(3) as nodes:
        leaver = make_node()
        await leaver.listen("127.0.0.1", 0)
        await leaver.bootstrap(entry(nodes[0]))
        await until(lambda: len(leaver.engine.table) == 3)
        await leaver.publish([*many_payloads(40), peer_payload(leaver)])
        began = time.monotonic()
        withdraw = leaver.engine.publisher.withdraw
        waves = []

        async def hang_after_names(draft_ids):
            waves.append(len(draft_ids))
            if len(waves) > 1:
                await asyncio.Event().wait()
            return await withdraw(draft_ids)

        leaver.engine.publisher.withdraw = hang_after_names
        assert not await leaver.withdraw_all(timeout_s=2.0)
        assert time.monotonic() - began < 6.0
        await leaver.close()
        assert waves == [40, 40]
        assert await nodes[1].find_name("tune 3.txt") == []
        assert {view.alive for view in nodes[1].contacts() if view.peer_id == leaver.peer_id} == {
            False
        }
        kinds = {record.kind for record in nodes[1].store.records() if not record.withdrawn}
        assert kinds == {Kind.CONTENT, Kind.WORD, Kind.PEER}


async def test_bytes_are_counted_both_ways():
    async with nodes_of(2) as nodes:
        before = [node.counters() for node in nodes]
        await nodes[1].publish(file_payloads())

        def counted(name: str) -> list[int]:
            after = [node.counters() for node in nodes]
            return [a[name] - b[name] for a, b in zip(after, before, strict=True)]

        # What was sent last may still be on its way, and so may a greeting.
        await until(lambda: counted("bytes-sent") == counted("bytes-received")[::-1])
        sent = counted("bytes-sent")
        assert sum(sent) > 900
        assert address_of(nodes[0]) != address_of(nodes[1])
