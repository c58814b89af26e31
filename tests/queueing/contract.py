"""What every `PendingStore` must do: one suite, run against every backend.

A backend's test module subclasses `StoreContract` and gives a fixture `bed` (see `StoreBed`). The
class is not collected here; tests/queueing/test_broken_store.py proves that it can fail.
"""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from identity.keys import Identity
from queueing.errors import BadEnvelope, Expired, MailboxFull, QueueError, Unavailable
from queueing.receipt import Outcome, check_receipt
from queueing.store import PendingStore
from tests.queueing.letters import (
    HOUR_MS,
    NETWORK_ID,
    MemorySource,
    collect_all,
    content_of,
    fresh_identity,
    read_content,
    receipt_for,
    seal,
)

CHUNK = 512 * 1024
THREE_CHUNKS = 2 * CHUNK + 1000


class StoreBed(Protocol):
    """What a backend gives the suite."""

    resumes: bool
    """An interrupted deposit is continued, not begun anew."""
    checks_deposits: bool
    """Forged manifests are refused when deposited."""
    checks_chunks: bool
    """Damaged chunks too; where not, whatever they are read from is believed, since it checks."""
    cancels: bool
    """A delivery can be taken back."""
    full_at_bytes: int | None
    """A sender's room; None when the backend has no such limit here."""
    errors: frozenset[type[QueueError]]
    """What else a deposit meets at this backend, besides Expired, BadEnvelope and MailboxFull."""

    async def store_of(self, identity: Identity) -> PendingStore:
        """Return the store as this peer uses it."""
        ...

    async def second_store_of(self, identity: Identity) -> PendingStore:
        """Return another store of the same peer, as a second process would have."""
        ...

    def failing(
        self, error: type[QueueError], identity: Identity
    ) -> AbstractAsyncContextManager[tuple[PendingStore, int]]:
        """Yield a store that must refuse with one of `errors`, and the size that it refuses."""
        ...

    async def crash(self) -> None:
        """End what keeps the data, without warning, and start it again."""
        ...

    def now_ms(self) -> int:
        """Return the wall time of the backend."""
        ...

    async def pass_time(self, until_ms: int) -> None:
        """Return when the backend's wall time is later."""
        ...


class StoreContract:
    """The suite; `alice` sends, `bob` receives."""

    @pytest.fixture
    def alice(self) -> Identity:
        return fresh_identity()

    @pytest.fixture
    def bob(self) -> Identity:
        return fresh_identity()

    async def test_a_deposit_is_collected_as_it_was(self, bed, alice, bob) -> None:
        content = content_of(THREE_CHUNKS)
        manifest = await _deposit(bed, alice, bob, content)
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert delivery.manifest == manifest
        assert await read_content(delivery, bob) == content

    async def test_deposit_says_who_keeps_it_until_when(self, bed, alice, bob) -> None:
        manifest, source = _seal(bed, alice, bob, b"content")
        store = await bed.store_of(alice)
        kept = await store.deposit(manifest, source)
        assert (kept.kind, kept.expires_ms) == (store.kind, manifest.expires_ms)

    async def test_deliveries_come_oldest_first(self, bed, alice, bob) -> None:
        sent = [await _deposit(bed, alice, bob, b"%d" % n, age_ms=-n) for n in range(4)]
        found = await collect_all(await bed.store_of(bob), bob)
        assert [each.manifest.delivery_id for each in found] == [m.delivery_id for m in sent]

    async def test_a_second_deposit_changes_nothing(self, bed, alice, bob) -> None:
        manifest, source = _seal(bed, alice, bob, b"content")
        store = await bed.store_of(alice)
        await store.deposit(manifest, source)
        await store.deposit(manifest, source)
        recipient_store = await bed.store_of(bob)
        (delivery,) = await collect_all(recipient_store, bob)
        await delivery.ack(receipt_for(bob, manifest))
        assert await collect_all(recipient_store, bob) == []

    async def test_an_unfinished_deposit_is_not_handed_out(self, bed, alice, bob) -> None:
        manifest, source = _seal(bed, alice, bob, content_of(THREE_CHUNKS))
        broken = MemorySource(source.chunks, break_after=1)
        with pytest.raises(QueueError):
            await (await bed.store_of(alice)).deposit(manifest, broken)
        assert await collect_all(await bed.store_of(bob), bob) == []

    async def test_an_unfinished_deposit_delays_no_other(self, bed, alice, bob) -> None:
        manifest, source = _seal(bed, alice, bob, content_of(THREE_CHUNKS))
        broken = MemorySource(source.chunks, break_after=1)
        with contextlib.suppress(QueueError):
            await (await bed.store_of(alice)).deposit(manifest, broken)
        second = await _deposit(bed, alice, bob, b"second")
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert delivery.manifest == second

    async def test_an_interrupted_deposit_is_resumed(self, bed, alice, bob) -> None:
        content = content_of(THREE_CHUNKS)
        manifest, source = _seal(bed, alice, bob, content)
        store = await bed.store_of(alice)
        # Two chunks a copy: at least one is written before the stream ends.
        broken = MemorySource(source.chunks, break_after=8)
        broken.chunks = [*source.chunks[:2], b"\0" * len(source.chunks[2])]
        broken.checked_by = None if bed.checks_chunks else manifest
        with pytest.raises((BadEnvelope, Unavailable)):
            await store.deposit(manifest, broken)
        whole = MemorySource(source.chunks)
        await store.deposit(manifest, whole)
        if bed.resumes:
            assert 0 < whole.reads < 2 * manifest.count
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert await read_content(delivery, bob) == content

    async def test_a_crash_in_the_midst_of_a_deposit_hands_out_nothing_and_loses_nothing(
        self, bed, alice, bob
    ) -> None:
        content = content_of(THREE_CHUNKS)
        manifest, source = _seal(bed, alice, bob, content)
        broken = MemorySource(source.chunks, break_after=2)
        with contextlib.suppress(QueueError):
            await (await bed.store_of(alice)).deposit(manifest, broken)
        await bed.crash()
        assert await collect_all(await bed.store_of(bob), bob) == []
        await (await bed.store_of(alice)).deposit(manifest, source)
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert await read_content(delivery, bob) == content

    async def test_two_collectors_at_once_take_everything_and_leave_nothing(
        self, bed, alice, bob
    ) -> None:
        contents = {
            (await _deposit(bed, alice, bob, b"%d" % n)).delivery_id: b"%d" % n for n in range(5)
        }
        stores = await bed.store_of(bob), await bed.second_store_of(bob)
        first, second = await asyncio.gather(*(_take_all(store, bob) for store in stores))
        assert first | second == contents, "each delivery came whole to at least one"
        for store in stores:
            assert await collect_all(store, bob) == []
        found = await _receipts(await bed.store_of(alice), alice, list(contents), len(contents))
        assert len(found) >= len(contents)

    async def test_each_failure_is_an_error_of_the_interface_and_harms_nothing(
        self, bed, alice, bob
    ) -> None:
        kept = await _deposit(bed, alice, bob, b"kept")
        for error in sorted(bed.errors, key=lambda each: each.__name__):
            async with bed.failing(error, alice) as (store, size):
                manifest, source = _seal(bed, alice, bob, content_of(size))
                with pytest.raises(error) as raised:
                    await store.deposit(manifest, source)
                assert raised.type is error
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert delivery.manifest == kept

    async def test_an_expired_delivery_is_not_handed_out(self, bed, alice, bob) -> None:
        manifest = await _deposit(bed, alice, bob, b"content", lifetime_ms=1500)
        await bed.pass_time(manifest.expires_ms)
        assert await collect_all(await bed.store_of(bob), bob) == []

    async def test_an_expired_delivery_is_not_deposited(self, bed, alice, bob) -> None:
        manifest, source = _seal(bed, alice, bob, b"content", age_ms=5000, lifetime_ms=1000)
        with pytest.raises(Expired):
            await (await bed.store_of(alice)).deposit(manifest, source)

    async def test_a_forged_envelope_is_not_deposited(self, bed, alice, bob) -> None:
        if not bed.checks_deposits:
            pytest.skip("this backend cannot judge what is deposited")
        manifest, source = _seal(bed, alice, bob, b"content", network_id=b"another network")
        with pytest.raises(BadEnvelope):
            await (await bed.store_of(alice)).deposit(manifest, source)
        assert await collect_all(await bed.store_of(bob), bob) == []

    async def test_a_cancelled_delivery_is_not_handed_out(self, bed, alice, bob) -> None:
        if not bed.cancels:
            pytest.skip("this backend cannot take a delivery back")
        kept = await _deposit(bed, alice, bob, b"kept")
        cancelled = await _deposit(bed, alice, bob, b"cancelled")
        store = await bed.store_of(alice)
        assert await store.cancel(cancelled)
        assert not await store.cancel(cancelled)
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert delivery.manifest == kept

    async def test_a_cancel_that_comes_too_late_changes_nothing(self, bed, alice, bob) -> None:
        manifest = await _deposit(bed, alice, bob, b"content")
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        receipt = receipt_for(bob, manifest)
        await delivery.ack(receipt)
        sender_store = await bed.store_of(alice)
        await sender_store.cancel(manifest)
        assert await _receipts(sender_store, alice, [manifest.delivery_id]) == [receipt]

    async def test_a_full_store_says_so_and_keeps_what_it_has(self, bed, alice, bob) -> None:
        if bed.full_at_bytes is None:
            pytest.skip("this backend has no such limit")
        first = await _deposit(bed, alice, bob, b"first")
        manifest, source = _seal(bed, alice, bob, content_of(bed.full_at_bytes))
        with pytest.raises(MailboxFull):
            await (await bed.store_of(alice)).deposit(manifest, source)
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert delivery.manifest == first

    async def test_a_crash_after_the_deposit_loses_nothing(self, bed, alice, bob) -> None:
        content = content_of(CHUNK + 1)
        await _deposit(bed, alice, bob, content)
        await bed.crash()
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        assert await read_content(delivery, bob) == content

    async def test_a_delivery_without_ack_comes_again(self, bed, alice, bob) -> None:
        await _deposit(bed, alice, bob, b"content")
        store = await bed.store_of(bob)
        (delivery,) = await collect_all(store, bob)
        assert await read_content(delivery, bob) == b"content"
        await bed.crash()
        (again,) = await collect_all(await bed.store_of(bob), bob)
        assert await read_content(again, bob) == b"content"

    async def test_an_acked_delivery_never_comes_again(self, bed, alice, bob) -> None:
        manifest = await _deposit(bed, alice, bob, b"content")
        store = await bed.store_of(bob)
        (delivery,) = await collect_all(store, bob)
        await delivery.ack(receipt_for(bob, manifest))
        assert await collect_all(store, bob) == []
        await bed.crash()
        assert await collect_all(await bed.store_of(bob), bob) == []

    async def test_a_second_ack_does_nothing(self, bed, alice, bob) -> None:
        manifest = await _deposit(bed, alice, bob, b"content")
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        await delivery.ack(receipt_for(bob, manifest))
        await delivery.ack(receipt_for(bob, manifest))

    async def test_the_receipt_reaches_the_sender(self, bed, alice, bob) -> None:
        manifest = await _deposit(bed, alice, bob, b"content")
        other = await _deposit(bed, alice, bob, b"other")
        sender_store = await bed.store_of(alice)
        ids = [manifest.delivery_id, other.delivery_id]
        assert await sender_store.receipts(alice.peer_id, ids) == []
        first = (await collect_all(await bed.store_of(bob), bob))[0]
        receipt = receipt_for(bob, manifest)
        await first.ack(receipt)
        assert await _receipts(sender_store, alice, ids) == [receipt]

    async def test_a_rejected_delivery_is_gone_and_the_sender_learns_why(
        self, bed, alice, bob
    ) -> None:
        manifest = await _deposit(bed, alice, bob, b"content")
        store = await bed.store_of(bob)
        (delivery,) = await collect_all(store, bob)
        await delivery.reject("no", receipt_for(bob, manifest, Outcome.REFUSED, "no"))
        assert await collect_all(store, bob) == []
        (data,) = await _receipts(await bed.store_of(alice), alice, [manifest.delivery_id])
        receipt = check_receipt(
            data, NETWORK_ID, delivery_id=manifest.delivery_id, recipient_id=bob.peer_id
        )
        assert (receipt.outcome, receipt.reason) == (Outcome.REFUSED, "no")

    async def test_a_rejection_without_receipt_ends_the_delivery(self, bed, alice, bob) -> None:
        await _deposit(bed, alice, bob, b"content")
        store = await bed.store_of(bob)
        (delivery,) = await collect_all(store, bob)
        await delivery.reject("damaged", None)
        assert await collect_all(store, bob) == []

    async def test_chunks_can_be_read_from_the_middle(self, bed, alice, bob) -> None:
        manifest, source = _seal(bed, alice, bob, content_of(THREE_CHUNKS))
        await (await bed.store_of(alice)).deposit(manifest, source)
        (delivery,) = await collect_all(await bed.store_of(bob), bob)
        tail = [chunk async for chunk in delivery.chunks(start=1)]
        assert tail == list(enumerate(source.chunks))[1:]

    async def test_another_peer_collects_nothing(self, bed, alice, bob) -> None:
        await _deposit(bed, alice, bob, b"content")
        eve = fresh_identity()
        assert await collect_all(await bed.store_of(eve), eve) == []

    async def test_usage_counts_what_is_kept(self, bed, alice, bob) -> None:
        store = await bed.store_of(alice)
        before = await store.usage()
        await _deposit(bed, alice, bob, content_of(CHUNK))
        after = await store.usage()
        assert after.deliveries > before.deliveries
        assert after.bytes >= before.bytes + CHUNK

    async def test_closing_twice_is_harmless(self, bed, alice) -> None:
        store = await bed.store_of(alice)
        await store.close()
        await store.close()


def _seal(bed, alice, bob, content, *, age_ms=0, lifetime_ms=HOUR_MS, **options):
    created_ms = bed.now_ms() - age_ms
    return seal(
        alice, bob, content, created_ms=created_ms, expires_ms=created_ms + lifetime_ms, **options
    )


async def _deposit(bed, alice, bob, content, **options):
    manifest, source = _seal(bed, alice, bob, content, **options)
    await (await bed.store_of(alice)).deposit(manifest, source)
    return manifest


async def _receipts(store, alice, ids, count=1):
    found = []
    for _try in range(50):  # a broker may need a moment to route one
        found += await store.receipts(alice.peer_id, ids)
        if len(set(found)) >= count:
            break
    return list(dict.fromkeys(found))


async def _take_all(store, bob):
    """Take what waits, as one of several collectors: what another took first is passed over."""
    taken = {}
    async for delivery in store.collect(bob.peer_id):
        with contextlib.suppress(QueueError):
            content = await read_content(delivery, bob)
            await delivery.ack(receipt_for(bob, delivery.manifest))
            taken[delivery.manifest.delivery_id] = content
    return taken
