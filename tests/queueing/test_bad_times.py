"""Deliveries in bad times: ends that flap, clocks that are off, many at once, long absence."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from identity.errors import ShoalError
from queueing.errors import Expired
from queueing.journal import OutboxRow
from queueing.spool import Spool
from queueing.states import State
from tests.queueing.letters import HOUR_MS, NETWORK_ID, content_id_of, content_of
from tests.queueing.posts import ALICE, BOB, START_MS, Clock, Post, Switchable, World

MANY = 110
"""More than a page of a spool."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as closing:
        clock = Clock()
        middle = await Spool.open(tmp_path / "middle", NETWORK_ID, wall_ms=clock)
        closing.push_async_callback(middle.close)
        yield World(tmp_path, clock, Switchable(middle), closing)


async def _send(post: Post, content: bytes, lifetime_ms: int = HOUR_MS) -> OutboxRow:
    path = post.folder / "source"
    path.write_bytes(content)
    sent = await post.courier.send(
        path, name="a.txt", content_id=content_id_of(content), size=len(content),
        recipient=BOB.peer_id, recipient_sealing_key=BOB.sealing_public_key,
        expires_ms=START_MS + lifetime_ms,
    )  # fmt: skip
    return sent.row


async def _states(post: Post) -> set[State]:
    return {row.state for row in await post.courier.rows()}


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_doubled_while_both_ends_flap(world: World, seed: int) -> None:
    rng = random.Random(seed)
    alice, bob = await world.post(ALICE), await world.post(BOB)
    contents: list[bytes] = []
    for _round in range(25):
        world.store.reachable, world.direct = rng.random() < 0.6, rng.random() < 0.4
        world.clock.now_ms += 20_000
        bob.inbox.break_at = 512 * 1024 if rng.random() < 0.3 else None
        bob.inbox.crash_after_rename = rng.random() < 0.2
        match rng.randrange(5):
            case 0 if len(contents) < 8:
                contents.append(content_of(rng.choice((10, 600_000)), seed=len(contents)))
                await _send(alice, contents[-1])
            case 1:
                await alice.spool.close()
                alice = await world.post(ALICE, again=True)
                await alice.courier.recover()
            case 2:
                bob = await world.post(BOB, again=True)
            case _:
                await bob.courier.receive_all()
                await bob.courier.return_receipts()
                await alice.courier.retry()
                await alice.courier.poll_receipts()
    world.store.reachable = True
    bob.inbox.break_at, bob.inbox.crash_after_rename = None, False
    await alice.courier.retry(hurried=True)
    await bob.courier.receive_all()
    await alice.courier.poll_receipts()
    assert len(bob.inbox.finished) == len(contents) > 0
    received = sorted(path.read_bytes() for path in bob.inbox.folder.iterdir())
    assert received == sorted(contents)
    assert await _states(alice) == {State.DELIVERED}


async def test_many_that_waited_come_one_at_a_time_and_their_sender_is_sought_once(
    world: World,
) -> None:
    """So that a rejoin leaves room for what a person is waiting for."""
    alice, bob = await world.post(ALICE), await world.post(BOB)
    for number in range(MANY):
        manifest_row = await _send(alice, b"%d" % number)
    assert manifest_row.state is State.STORED
    in_hand, most, sought = 0, 0, 0
    begin, take = bob.inbox.begin, bob.journal.take

    async def begins(letter):
        nonlocal in_hand, most
        in_hand += 1
        most = max(most, in_hand)
        return await begin(letter)

    async def takes(*arguments, due):
        nonlocal in_hand
        in_hand -= 1
        await take(*arguments, due=due)

    async def seek(_sender: bytes, _receipt: bytes) -> bool:
        nonlocal sought
        sought += 1
        raise ShoalError("not reachable")

    bob.inbox.begin, bob.journal.take = begins, takes
    bob.receiver._return_receipt = seek
    result = await bob.courier.receive_all()
    assert (len(result.received), most, result.failures) == (MANY, 1, [])
    await bob.courier.return_receipts()
    assert sought == 1
    await alice.courier.poll_receipts()
    assert await _states(alice) == {State.DELIVERED}


async def test_a_receipt_is_returned_at_once_when_its_sender_shows_itself(world: World) -> None:
    alice, bob = await world.post(ALICE), await world.post(BOB)
    await _send(alice, b"content")
    await bob.courier.receive_all()
    await bob.courier.return_receipts()
    world.direct = True
    await bob.courier.return_receipts()
    assert await _states(alice) == {State.STORED}, "its pause is not over"
    await bob.journal.hasten(ALICE.peer_id)
    await bob.courier.return_receipts()
    assert await _states(alice) == {State.DELIVERED}


async def test_a_keeper_whose_clock_is_ahead_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await world.post(ALICE)

    async def says_expired(_manifest, _chunks):
        raise Expired

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "deposit", says_expired)
        row = await _send(alice, b"content")
    assert row.state is State.SPOOLED
    await alice.courier.retry(hurried=True)
    assert await _states(alice) == {State.STORED}


async def test_a_recipient_whose_clock_is_off_loses_nothing_before_the_expiry(
    world: World,
) -> None:
    alice, bob = await world.post(ALICE), await world.post(BOB)
    await _send(alice, b"content", lifetime_ms=HOUR_MS)
    world.clock.now_ms += 2 * HOUR_MS  # the keeper's and the recipient's, not the sender's
    assert (await bob.courier.receive_all()).received == []
    world.clock.now_ms -= 2 * HOUR_MS
    assert len((await bob.courier.receive_all()).received) == 1
    await alice.courier.poll_receipts()
    assert await _states(alice) == {State.DELIVERED}


async def test_who_stays_away_for_longer_than_the_expiry_gets_nothing_and_all_is_freed(
    world: World,
) -> None:
    alice, bob = await world.post(ALICE), await world.post(BOB)
    await _send(alice, b"content")
    world.clock.now_ms += HOUR_MS
    await alice.courier.expire()
    await world.store.spool.expire()
    assert (await bob.courier.receive_all()).received == []
    assert await _states(alice) == {State.EXPIRED}
    assert list(world.folder.glob("*/sealed/*")) == []
