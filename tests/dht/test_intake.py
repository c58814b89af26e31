"""Long batches: turns among callers, the budget, and who is refused."""

import asyncio

import pytest

from bench.lag import loop_lag
from dht.budget import VerifyBudget
from dht.errors import BusyStorer
from dht.intake import CALLER_WAITING_MAX, WAITING_MAX, Intake
from dht.records import ContentPayload, encode_record
from dht.storage import Verdict
from dht.turns import SIGN_TURN
from tests.dht.nodes import OPEN, make_node
from tests.support.records import ALICE, signed

LONG = 10 * SIGN_TURN


def batch(node, count, first=0):
    return [
        encode_record(
            signed(
                ContentPayload((first + number).to_bytes(32, "big")),
                network_id=OPEN.network_id,
                sequence=node.now_ms(),
                issued_ms=node.now_ms(),
            )
        )
        for number in range(count)
    ]


@pytest.fixture
async def node():
    node = make_node()
    await node.listen("127.0.0.1", 0)
    yield node
    await node.close()


async def test_long_batch_keeps_nobody_waiting_for_50_ms(node):
    encoded = batch(node, 600)
    async with loop_lag() as lag:
        stored = await node.engine.intake.store(encoded, "", ALICE.peer_id)
    assert {each.verdict for each in stored} == {Verdict.OK}
    assert len(node.store) == 600
    assert lag.longest_s < 0.05


async def test_short_batch_is_done_while_long_ones_of_another_caller_wait(node):
    intake = node.engine.intake
    one, two, short = batch(node, LONG), batch(node, LONG, 1_000), batch(node, 3, 2_000)
    long_tasks = [asyncio.create_task(intake.store(each, "", b"g" * 20)) for each in (one, two)]
    await asyncio.sleep(0)
    stored = await intake.store(short, "", b"m" * 20)
    assert {each.verdict for each in stored} == {Verdict.OK}
    assert not any(task.done() for task in long_tasks)
    await asyncio.gather(*long_tasks)
    assert len(node.store) == 2 * LONG + 3


async def test_caller_with_many_batches_gets_no_more_turns_than_one_with_a_single_batch(node):
    intake = node.engine.intake
    greedy = [batch(node, LONG, 1_000 * number) for number in range(CALLER_WAITING_MAX)]
    modest = batch(node, 5 * SIGN_TURN, 9_000)
    tasks = [asyncio.create_task(intake.store(each, "", b"g" * 20)) for each in greedy]
    await asyncio.sleep(0)
    await intake.store(modest, "", b"m" * 20)
    assert len(node.store) <= (5 + 8) * SIGN_TURN
    await asyncio.gather(*tasks)


async def test_what_exceeds_the_budget_waits(node):
    loop = asyncio.get_running_loop()
    budget = VerifyBudget(rate_hz=400.0, burst_max=SIGN_TURN)
    node.engine.desk._budget = budget
    intake = Intake(node.engine.desk, budget, clock=loop.time)
    began = loop.time()
    await intake.store(batch(node, 4 * SIGN_TURN), "", ALICE.peer_id)
    assert loop.time() - began >= 3 * SIGN_TURN / 400.0 - 0.01
    assert len(node.store) == 4 * SIGN_TURN


async def test_records_that_are_here_already_cost_no_check(node):
    encoded = batch(node, LONG)
    intake = node.engine.intake
    await intake.store(encoded, "", ALICE.peer_id)
    spent = []
    budget = node.engine.desk._budget
    honest = budget.spend
    budget.spend = lambda *, now: spent.append(now) or honest(now=now)
    stored = await intake.store(encoded, "", ALICE.peer_id)
    assert {each.verdict for each in stored} == {Verdict.OK}
    assert spent == []


async def test_caller_with_too_many_batches_is_refused_and_others_are_not(node):
    intake = node.engine.intake
    encoded = batch(node, SIGN_TURN + 1)
    tasks = [
        asyncio.create_task(intake.store(encoded, "", b"g" * 20)) for _ in range(CALLER_WAITING_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BusyStorer):
        await intake.store(encoded, "", b"g" * 20)
    await intake.store(encoded, "", b"m" * 20)
    await asyncio.gather(*tasks)
    await intake.store(encoded, "", b"g" * 20)


async def test_batches_in_all_are_bounded(node):
    intake = node.engine.intake
    encoded = batch(node, 1)
    tasks = [
        asyncio.create_task(intake.store(encoded, "", number.to_bytes(20, "big")))
        for number in range(WAITING_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(BusyStorer):
        await intake.store(encoded, "", b"m" * 20)
    await asyncio.gather(*tasks)


async def test_cancelled_batch_frees_its_place(node):
    intake = node.engine.intake
    encoded = batch(node, LONG)
    for _ in range(2 * CALLER_WAITING_MAX):
        task = asyncio.create_task(intake.store(encoded, "", b"g" * 20))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert intake._callers == {}
    await intake.store(encoded, "", b"g" * 20)


async def test_datagrams_beyond_the_senders_share_are_busy_and_counted(node):
    budget = VerifyBudget(rate_hz=1.0, burst_max=8)
    node.engine.desk._budget = budget
    stored = node.engine.desk.store(batch(node, 5), "", b"g" * 20)
    assert [each.verdict for each in stored] == [Verdict.OK] * 2 + [Verdict.BUSY] * 3
    assert node.counters()["store-busy"] == 3
    stored = node.engine.desk.store(batch(node, 2, 100), "", b"m" * 20)
    assert {each.verdict for each in stored} == {Verdict.OK}
