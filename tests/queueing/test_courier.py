"""The courier end to end over real spools and journals: nothing lost, nothing twice."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from queueing import envelope
from queueing.errors import (
    BadReceipt,
    MailboxFull,
    NotCancellable,
    StorageFailed,
    UnknownDelivery,
)
from queueing.receipt import Outcome, decode_receipt
from queueing.receiver import push_delivery_id
from queueing.spool import Spool
from queueing.states import State
from queueing.store import StoreKind
from tests.queueing.letters import (
    HOUR_MS,
    NETWORK_ID,
    collect_all,
    content_id_of,
    content_of,
    receipt_for,
    seal,
)
from tests.queueing.posts import (
    ALICE,
    BOB,
    EVE,
    START_MS,
    Clock,
    Post,
    Switchable,
    World,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as closing:
        clock = Clock()
        middle = await Spool.open(tmp_path / "middle", NETWORK_ID, wall_ms=clock)
        closing.push_async_callback(middle.close)
        yield World(tmp_path, clock, Switchable(middle), closing)


@pytest.fixture
async def alice(world: World) -> Post:
    return await world.post(ALICE)


@pytest.fixture
async def bob(world: World) -> Post:
    return await world.post(BOB)


async def _send(post: Post, content: bytes = b"content", **options):
    path = post.folder / "source"
    path.write_bytes(content)
    options = {"recipient": BOB, "name": "a.txt", "expires_ms": START_MS + HOUR_MS, **options}
    recipient = options.pop("recipient")
    sent = await post.courier.send(
        path, content_id=content_id_of(content), size=len(content),
        recipient=recipient.peer_id, recipient_sealing_key=recipient.sealing_public_key, **options,
    )  # fmt: skip
    path.unlink()
    return sent.row


async def _state(post: Post, delivery_id: bytes) -> State:
    (row,) = [row for row in await post.courier.rows() if row.delivery_id == delivery_id]
    return row.state


async def test_a_file_arrives_and_its_receipt_comes_back(alice: Post, bob: Post) -> None:
    content = content_of(1024 * 1024 + 7)
    row = await _send(alice, content)
    assert (row.state, row.held_by) == (State.STORED, ("a host",))
    result = await bob.courier.receive_all()
    ((letter, path),) = result.received
    assert Path(path).read_bytes() == content
    assert (letter.name, letter.sender_id) == ("a.txt", ALICE.peer_id)
    await alice.courier.poll_receipts()
    assert await _state(alice, row.delivery_id) is State.DELIVERED
    assert await alice.spool.manifest(row.delivery_id) is None, "the sender's copy is gone"


@pytest.mark.parametrize("size", [0, 1, 512 * 1024 - 1, 512 * 1024, 512 * 1024 + 1])
async def test_every_size_arrives(alice: Post, bob: Post, size: int) -> None:
    content = content_of(size)
    await _send(alice, content)
    ((_letter, path),) = (await bob.courier.receive_all()).received
    assert Path(path).read_bytes() == content


async def test_unreachable_stores_leave_it_spooled_and_a_retry_stores_it(
    world: World, alice: Post
) -> None:
    world.store.reachable = False
    row = await _send(alice)
    assert row.state is State.SPOOLED
    world.store.reachable = True
    await alice.courier.retry()
    assert await _state(alice, row.delivery_id) is State.SPOOLED, "its pause is not over"
    world.clock.now_ms += 60_000
    await alice.courier.retry()
    assert await _state(alice, row.delivery_id) is State.STORED


async def test_a_store_that_the_sender_does_not_allow_never_gets_it(
    world: World, alice: Post
) -> None:
    rows = [
        await _send(alice, only=only) for only in ([], [StoreKind.RABBITMQ], [StoreKind.MAILBOX])
    ]
    assert [row.state for row in rows] == [State.SPOOLED, State.SPOOLED, State.STORED]
    await alice.courier.retry(hurried=True)
    assert world.store.deposits == 1
    states = [row.state for row in await alice.courier.rows()]
    assert states == [State.SPOOLED, State.SPOOLED, State.STORED]


@asynccontextmanager
async def _running(post: Post) -> AsyncIterator[None]:
    task = asyncio.create_task(post.courier.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_idle_courier_asks_mailboxes_once_and_again_when_nudged(alice: Post) -> None:
    store, passes = alice.courier._stores[0], 0
    asked = 0

    async def collect(recipient):
        nonlocal asked
        asked += 1
        return
        yield

    async def return_receipts():
        nonlocal passes
        passes += 1

    store.collect, alice.courier.return_receipts = collect, return_receipts
    async with _running(alice):
        while passes < 5:  # noqa: ASYNC110 - poll
            await asyncio.sleep(0.001)
        assert asked == 1
        alice.courier.wake(collect=False)
        while passes < 8:  # noqa: ASYNC110 - poll
            await asyncio.sleep(0.001)
        assert asked == 1
        alice.courier.wake()
        while asked < 2:  # noqa: ASYNC110 - poll
            await asyncio.sleep(0.001)


async def test_waking_retries_everything_spooled(world: World, alice: Post) -> None:
    world.store.reachable = False
    row = await _send(alice)
    world.store.reachable = True
    alice.courier.wake()
    async with _running(alice):
        while await _state(alice, row.delivery_id) is not State.STORED:  # noqa: ASYNC110 - poll
            await asyncio.sleep(0.001)


async def test_a_recipient_may_collect_straight_from_the_sender(
    world: World, alice: Post, bob: Post
) -> None:
    world.store.reachable = False
    row = await _send(alice)
    result = await bob.receiver.receive_all([alice.spool])
    assert len(result.received) == 1
    await alice.courier.poll_receipts()
    assert await _state(alice, row.delivery_id) is State.DELIVERED


async def test_a_failing_disk_ends_a_pass_and_not_the_courier(
    alice: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise StorageFailed

    monkeypatch.setattr(alice.courier, "expire", fails)
    async with _running(alice):
        while alice.courier.failed_passes < 2:  # noqa: ASYNC110 - poll with a deadline
            await asyncio.sleep(0.001)


async def test_the_sender_may_crash_after_sealing(world: World, alice: Post, bob: Post) -> None:
    world.store.reachable = False
    row = await _send(alice)
    await alice.spool.close()
    alice = await world.post(ALICE, again=True)
    await alice.courier.recover()
    world.store.reachable = True
    world.clock.now_ms += 60_000
    await alice.courier.retry()
    assert len((await bob.courier.receive_all()).received) == 1
    assert await _state(alice, row.delivery_id) is State.STORED


async def test_a_sealed_copy_without_a_row_is_swept(world: World, alice: Post) -> None:
    manifest, source = seal(
        ALICE, BOB, b"content", created_ms=START_MS, expires_ms=START_MS + HOUR_MS
    )
    await alice.spool.deposit(manifest, source)
    await alice.courier.recover()
    assert await collect_all(alice.spool, BOB) == []


async def test_a_crash_between_rename_and_journal_doubles_nothing(
    world: World, alice: Post, bob: Post
) -> None:
    row = await _send(alice)
    bob.inbox.crash_after_rename = True
    assert (await bob.courier.receive_all()).received == []
    bob = await world.post(BOB, again=True)
    bob.inbox.crash_after_rename = False
    assert len((await bob.courier.receive_all()).received) == 1
    assert bob.inbox.finished == ["a.txt"]
    await alice.courier.poll_receipts()
    assert await _state(alice, row.delivery_id) is State.DELIVERED


async def test_a_crash_between_journal_and_ack_doubles_nothing(
    world: World, alice: Post, bob: Post
) -> None:
    row = await _send(alice)
    (delivery,) = await collect_all(world.store, BOB)
    receipt = receipt_for(BOB, delivery.manifest)
    await bob.journal.take(
        ALICE.peer_id, row.seal_id, row.delivery_id, receipt, row.expires_ms, due=True
    )
    result = await bob.courier.receive_all()
    assert (result.received, result.duplicates, bob.inbox.finished) == ([], 1, [])
    await alice.courier.poll_receipts()
    assert await _state(alice, row.delivery_id) is State.DELIVERED


async def test_the_same_letter_in_two_envelopes_is_taken_once(
    world: World, alice: Post, bob: Post
) -> None:
    first = await _send(alice, seal_id=b"s" * 16)
    second = await _send(alice, seal_id=b"s" * 16)
    assert first.delivery_id != second.delivery_id
    result = await bob.courier.receive_all()
    assert (len(result.received), result.duplicates) == (1, 1)
    await alice.courier.poll_receipts()
    assert {row.state for row in await alice.courier.rows()} == {State.DELIVERED}


async def test_a_refusal_reaches_the_sender_with_its_reason(alice: Post, bob: Post) -> None:
    bob.inbox.refuse = "only contacts may send to me"
    row = await _send(alice)
    assert (await bob.courier.receive_all()).refused == 1
    await alice.courier.poll_receipts()
    (row,) = await alice.courier.rows()
    assert (row.state, row.reason) == (State.REFUSED, "only contacts may send to me")


async def test_no_room_leaves_the_letter_for_later(alice: Post, bob: Post) -> None:
    await _send(alice, content_of(3 * 512 * 1024))
    bob.inbox.break_at = 512 * 1024
    result = await bob.courier.receive_all()
    assert isinstance(result.failures[0], MailboxFull)
    assert bob.inbox.aborted == 1
    bob.inbox.break_at = None
    assert len((await bob.courier.receive_all()).received) == 1


async def test_a_letter_that_cannot_be_opened_never_loops(
    world: World, alice: Post, bob: Post
) -> None:
    # Sealed to Eve's key, addressed to Bob: the outer signature is good, the inside is not his.
    path = world.folder / "poison"
    path.write_bytes(b"content")
    sent = await alice.courier.send(
        path, name="a.txt", content_id=bytes(32), size=7, recipient=BOB.peer_id,
        recipient_sealing_key=EVE.sealing_public_key, expires_ms=START_MS + HOUR_MS,
    )  # fmt: skip
    good = await _send(alice)
    result = await bob.courier.receive_all()
    assert (result.bad, len(result.received)) == (1, 1)
    again = await bob.courier.receive_all()
    assert (again.bad, again.duplicates, again.received) == (0, 0, [])
    await alice.courier.poll_receipts()
    assert await _state(alice, sent.row.delivery_id) is State.REFUSED
    assert await _state(alice, good.delivery_id) is State.DELIVERED


async def test_a_receipt_that_is_altered_or_anothers_leaves_it_stored(
    world: World, alice: Post, bob: Post
) -> None:
    row, other = await _send(alice), await _send(alice)
    deliveries = await collect_all(world.store, BOB)
    manifest = {each.manifest.delivery_id: each.manifest for each in deliveries}[row.delivery_id]
    good = receipt_for(BOB, manifest)
    for at in range(0, len(good), 7):
        await alice.courier.take_receipt(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    await alice.courier.take_receipt(receipt_for(EVE, manifest))
    assert await _state(alice, row.delivery_id) is State.STORED
    assert alice.courier.bad_receipts > 0
    assert await alice.courier.take_receipt(good)
    assert await _state(alice, row.delivery_id) is State.DELIVERED
    assert await _state(alice, other.delivery_id) is State.STORED


async def test_a_receipt_returns_directly_once_the_sender_is_reachable(
    world: World, alice: Post, bob: Post
) -> None:
    row = await _send(alice)
    await bob.courier.receive_all()
    await bob.courier.return_receipts()
    assert await _state(alice, row.delivery_id) is State.STORED
    world.direct = True
    await bob.courier.return_receipts()
    assert await _state(alice, row.delivery_id) is State.STORED, "its pause is not over"
    world.clock.now_ms += 60_000
    await bob.courier.return_receipts()
    assert await _state(alice, row.delivery_id) is State.DELIVERED
    assert await bob.journal.due(world.clock.now_ms + HOUR_MS) == []


async def test_a_cancelled_delivery_is_not_received(world: World, alice: Post, bob: Post) -> None:
    row = await _send(alice)
    assert (await alice.courier.cancel(row.delivery_id)).state is State.CANCELLED
    assert (await bob.courier.receive_all()).received == []
    with pytest.raises(NotCancellable):
        await alice.courier.cancel(row.delivery_id)
    with pytest.raises(UnknownDelivery):
        await alice.courier.cancel(bytes(32))


async def test_a_cancel_during_the_deposit_takes_it_back(
    world: World, alice: Post, bob: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel() -> None:
        (row,) = await alice.courier.rows()
        world.store.reachable = False  # the cancel itself reaches nobody
        await alice.courier.cancel(row.delivery_id)
        world.store.reachable = True

    monkeypatch.setattr(world.store, "after_deposit", cancel)
    row = await _send(alice)
    assert row.state is State.CANCELLED
    assert (await bob.courier.receive_all()).received == []


async def test_content_that_is_not_what_was_signed_for_is_refused(
    alice: Post, bob: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lying(content_id: bytes, _digest: bytes, size: int, name: str) -> bytes:
        return header_bytes(content_id, bytes(32), size, name)

    header_bytes = envelope._header_bytes
    monkeypatch.setattr(envelope, "_header_bytes", lying)
    row = await _send(alice)
    result = await bob.courier.receive_all()
    assert (result.bad, result.received, bob.inbox.finished) == (1, [], [])
    await alice.courier.poll_receipts()
    assert await _state(alice, row.delivery_id) is State.REFUSED


async def test_what_was_delivered_cannot_be_cancelled(alice: Post, bob: Post) -> None:
    row = await _send(alice)
    await bob.courier.receive_all()
    with pytest.raises(NotCancellable):
        await alice.courier.cancel(row.delivery_id)
    assert await _state(alice, row.delivery_id) is State.DELIVERED


async def test_expiry_ends_a_delivery_and_frees_the_copy(world: World, alice: Post) -> None:
    row = await _send(alice)
    world.clock.now_ms = row.expires_ms
    await alice.courier.expire()
    assert await _state(alice, row.delivery_id) is State.EXPIRED
    assert await alice.spool.manifest(row.delivery_id) is None


async def test_the_first_of_two_ends_stays(alice: Post, bob: Post) -> None:
    """A receipt and a cancel at one time: whichever is written first, the other changes nothing."""
    row = await _send(alice)
    await alice.journal.update(dataclasses.replace(row, state=State.DELIVERED))
    assert not await alice.journal.update(dataclasses.replace(row, state=State.CANCELLED))
    assert await _state(alice, row.delivery_id) is State.DELIVERED


async def test_a_push_and_its_receipt_are_entered(alice: Post, bob: Post) -> None:
    seal_id, content_id = b"p" * 16, content_id_of(b"content")
    delivery_id = push_delivery_id(ALICE.peer_id, BOB.peer_id, seal_id, content_id)
    receipt = await bob.receiver.take_push(ALICE.peer_id, seal_id, content_id, delivery_id)
    assert decode_receipt(receipt).outcome is Outcome.DELIVERED
    entry = {
        "name": "a.txt", "content_id": content_id, "size": 7, "recipient": BOB.peer_id,
        "seal_id": seal_id, "delivery_id": delivery_id, "expires_ms": START_MS + HOUR_MS,
    }  # fmt: skip
    with pytest.raises(BadReceipt):
        await alice.courier.sent_directly(**entry, receipt=receipt[:-1] + b"\0")
    row = await alice.courier.sent_directly(**entry, receipt=receipt)
    assert row.state is State.DELIVERED
    # The push's answer was lost, and the sender mails the file besides: it is not taken twice.
    await _send(alice, seal_id=seal_id)
    result = await bob.courier.receive_all()
    assert (result.received, result.duplicates) == ([], 1)


async def test_the_running_courier_delivers_and_wakes_waiters(
    world: World, alice: Post, bob: Post
) -> None:
    row = await _send(alice)
    world.direct = True
    async with _running(alice), _running(bob):
        ended = await alice.courier.wait_until_ended(row.delivery_id)
    assert ended.state is State.DELIVERED
