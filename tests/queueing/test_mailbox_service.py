"""The Mailbox service: who may do what, and what a bad caller gets."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from identity.address import Address
from identity.keys import Identity
from identity.tls import make_tls
from protos import mailbox_pb2 as wire
from queueing.audit import NONCE_BYTES, Answer, Challenge, proof_of
from queueing.envelope import OuterManifest
from queueing.errors import (
    BadEnvelope,
    BadReceipt,
    NoMailbox,
    QueueError,
    Refused,
    TooLarge,
    Unavailable,
    UnknownDelivery,
)
from queueing.mailbox_client import Host, MailboxClient
from queueing.mailbox_service import MailboxConfig, MailboxHooks, MailboxService
from queueing.mailbox_wire import CHALLENGES_MAX, ENDED_MAX, IDS_MAX
from queueing.receipt import Outcome, make_promise
from queueing.spool import Spool
from rpc.caller import caller_of
from rpc.channels import ChannelPool
from rpc.listener import RpcListener
from tests.queueing.letters import (
    HOUR_MS,
    NETWORK,
    NETWORK_ID,
    MemorySource,
    content_of,
    identity,
    receipt_for,
    seal,
)

ALICE, BOB, EVE, HOST = (identity(name) for name in ("alice", "bob", "eve", "host"))


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Served:
    """A host in this process, with what its hooks heard, and clients of several peers."""

    host: Host
    spool: Spool
    closing: AsyncExitStack
    refused: set[bytes] = field(default_factory=set)
    held: list[tuple[bytes, int]] = field(default_factory=list)
    nudges: list[bytes] = field(default_factory=list)
    returned: list[bytes] = field(default_factory=list)
    moves: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    taken_over: list[bytes] = field(default_factory=list)

    def client(self, own: Identity) -> MailboxClient:
        return MailboxClient(self.pool(own).connect, NETWORK_ID)

    def pool(self, own: Identity) -> ChannelPool:
        pool = ChannelPool(make_tls(own, NETWORK), NETWORK)
        self.closing.push_async_callback(pool.close)
        return pool

    async def take(self, receipt: bytes) -> bool:
        self.returned.append(receipt)
        return True

    async def hear_move(self, host_id: bytes, delivery_id: bytes, promise: bytes) -> None:
        self.moves.append((host_id, delivery_id, promise))

    async def take_over(self, manifest: OuterManifest) -> None:
        self.taken_over.append(manifest.delivery_id)


async def _serve(folder: Path, closing: AsyncExitStack, config: MailboxConfig) -> Served:
    spool = await Spool.open(folder, NETWORK_ID, wall_ms=wall_ms)
    closing.push_async_callback(spool.close)
    served = Served(Host(HOST.peer_id, ()), spool, closing)
    hooks = MailboxHooks(
        accepts=lambda sender, _recipient: sender not in served.refused,
        on_held=lambda recipient, expires_ms: served.held.append((recipient, expires_ms)),
        on_nudge=served.nudges.append,
        on_receipt=served.take,
        on_moved=served.hear_move,
        on_taken_over=served.take_over,
    )
    service = MailboxService(
        spool, HOST, NETWORK_ID, lambda context: caller_of(context, NETWORK).peer_id, hooks,
        wall_ms=wall_ms, config=config,
    )  # fmt: skip
    listener = RpcListener(make_tls(HOST, NETWORK), NETWORK)
    listener.add(service.handler())
    port = await listener.start("127.0.0.1", 0)
    closing.push_async_callback(listener.stop, 0.1)
    served.host = Host(HOST.peer_id, (Address("127.0.0.1", port),))
    return served


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with AsyncExitStack() as closing:
        yield await _serve(tmp_path / "host", closing, MailboxConfig(caller_streams_max=1))


def _sealed(content: bytes = b"content", sender: Identity = ALICE, lifetime_ms: int = HOUR_MS):
    now_ms = wall_ms()
    return seal(sender, BOB, content, created_ms=now_ms, expires_ms=now_ms + lifetime_ms)


async def _deposit(served: Served):
    manifest, source = _sealed()
    await served.client(ALICE).deposit(served.host, manifest, source)
    return manifest


async def test_a_deposit_is_reported_so_that_a_mail_record_can_be_published(
    served: Served,
) -> None:
    manifest = await _deposit(served)
    assert served.held == [(BOB.peer_id, manifest.expires_ms)]
    assert await served.spool.recipients() == {BOB.peer_id: manifest.expires_ms}


async def test_only_the_sender_deposits(served: Served) -> None:
    manifest, source = _sealed()
    with pytest.raises(Refused):
        await served.client(EVE).deposit(served.host, manifest, source)
    assert (await served.spool.usage()).deliveries == 0


async def test_who_is_not_accepted_is_told_so(served: Served) -> None:
    served.refused.add(ALICE.peer_id)
    with pytest.raises(Refused, match="takes no mail from this sender"):
        await _deposit(served)


async def test_a_deposit_for_too_long_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        config = MailboxConfig(lifetime_max_ms=HOUR_MS // 2)
        served = await _serve(tmp_path / "host", closing, config)
        with pytest.raises(TooLarge):
            await _deposit(served)


async def test_others_neither_see_nor_fetch_nor_settle_it(served: Served) -> None:
    manifest = await _deposit(served)
    for stranger in (EVE, ALICE):
        client = served.client(stranger)
        assert await client.waiting(served.host) == []
        for attempt in (
            client.manifest(served.host, manifest.delivery_id),
            client.settle(served.host, manifest.delivery_id, receipt_for(BOB, manifest)),
            client.settle(served.host, manifest.delivery_id, b""),
        ):
            with pytest.raises(UnknownDelivery):
                await attempt
        with pytest.raises(UnknownDelivery):
            _ = [chunk async for chunk in client.chunks(served.host, manifest, 0)]
    assert len(await served.client(BOB).waiting(served.host)) == 1


async def test_only_the_sender_cancels_and_sees_receipts(served: Served) -> None:
    manifest = await _deposit(served)
    for stranger in (EVE, BOB):
        with pytest.raises(UnknownDelivery):
            await served.client(stranger).cancel(served.host, manifest.delivery_id)
    receipt = receipt_for(BOB, manifest)
    await served.client(BOB).settle(served.host, manifest.delivery_id, receipt)
    assert await served.client(EVE).receipts(served.host, [manifest.delivery_id]) == []
    found = await served.client(ALICE).receipts(served.host, [manifest.delivery_id])
    assert found == [receipt]


async def test_a_receipt_that_does_not_verify_settles_nothing(served: Served) -> None:
    manifest = await _deposit(served)
    good = receipt_for(BOB, manifest, Outcome.DELIVERED)
    with pytest.raises(QueueError):
        await served.client(BOB).settle(
            served.host, manifest.delivery_id, good[:-1] + bytes([good[-1] ^ 1])
        )
    assert len(await served.client(BOB).waiting(served.host)) == 1


async def test_many_deliveries_come_page_by_page(served: Served) -> None:
    client = served.client(ALICE)
    sent = set()
    for _number in range(103):
        manifest, source = _sealed(b"x")
        await served.spool.deposit(manifest, source)
        sent.add(manifest.delivery_id)
    found = await served.client(BOB).waiting(served.host)
    assert [each.delivery_id in sent for each in found] == [True] * 103
    assert (await client.usage(served.host)).deliveries == 103


async def test_a_peer_that_keeps_no_mail_takes_none_and_hands_out_its_own(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as closing:
        served = await _serve(tmp_path / "host", closing, MailboxConfig(keeps_mail=False))
        with pytest.raises(NoMailbox):
            await _deposit(served)
        manifest, source = _sealed(sender=HOST)
        await served.spool.deposit(manifest, source)
        bob = served.client(BOB)
        (listed,) = await bob.waiting(served.host)
        assert listed.delivery_id == manifest.delivery_id
        await bob.settle(served.host, manifest.delivery_id, receipt_for(BOB, manifest))
        assert await bob.waiting(served.host) == []
        await served.client(EVE).nudge(served.host)
        assert await bob.return_receipt(served.host, b"receipt")
        assert (served.nudges, served.returned) == ([EVE.peer_id], [b"receipt"])


async def test_a_caller_has_only_so_many_streams(served: Served) -> None:
    manifest, _source = _sealed(content_of(600_000))
    channel = await served.pool(ALICE).connect(served.host.peer_id, served.host.addresses)
    call = channel.stream_stream(
        "/shoal.v1.Mailbox/Deposit", wire.DepositRequest.SerializeToString
    )()
    await call.write(wire.DepositRequest(manifest=manifest.encoded))
    await call.read()  # the host waits for frames now
    try:
        with pytest.raises(Unavailable, match="busy"):
            await _deposit(served)
        manifest, source = _sealed(sender=EVE)
        await served.client(EVE).deposit(served.host, manifest, source)
    finally:
        call.cancel()


async def test_a_deposit_that_stands_still_is_ended(tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        served = await _serve(tmp_path / "host", closing, MailboxConfig(idle_s=0.1))
        channel = await served.pool(ALICE).connect(served.host.peer_id, served.host.addresses)
        call = channel.stream_stream("/shoal.v1.Mailbox/Deposit")()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\xff\xff\xff",
        wire.DepositRequest().SerializeToString(),
        wire.DepositRequest(manifest=b"no manifest").SerializeToString(),
        wire.DepositRequest(frame=wire.Frame(index=1)).SerializeToString(),
    ],
)
async def test_a_deposit_that_begins_wrongly_is_refused(
    served: Served, request_bytes: bytes
) -> None:
    channel = await served.pool(ALICE).connect(served.host.peer_id, served.host.addresses)
    call = channel.stream_stream("/shoal.v1.Mailbox/Deposit")()
    await call.write(request_bytes)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "method",
    ["List", "Settle", "Receipts", "Cancel", "Collect", "Audit", "Farewell", "Moved"],
)
async def test_bytes_that_are_no_request_are_refused(served: Served, method: str) -> None:
    channel = await served.pool(BOB).connect(served.host.peer_id, served.host.addresses)
    call = channel.unary_unary(f"/shoal.v1.Mailbox/{method}")(b"\xff\xff\xff")
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_damaged_chunk_ends_the_deposit_and_costs_only_itself(served: Served) -> None:
    manifest, source = _sealed(content_of(3 * 512 * 1024))
    damaged = MemorySource([*source.chunks[:2], bytes(len(source.chunks[2])), *source.chunks[3:]])
    client = served.client(ALICE)
    with pytest.raises(BadEnvelope):
        await client.deposit(served.host, manifest, damaged)
    assert await served.client(BOB).waiting(served.host) == []
    rest = MemorySource(source.chunks)
    await client.deposit(served.host, manifest, rest)
    assert rest.reads == manifest.count - 2


async def test_too_many_ids_in_one_call_are_refused(served: Served) -> None:
    with pytest.raises(TooLarge):
        await served.client(ALICE).receipts(served.host, [bytes(32)] * (IDS_MAX + 1))


def _promise_with(monkeypatch: pytest.MonkeyPatch, signer: Identity, less_ms: int) -> None:
    def lie(
        _own: Identity, network_id: bytes, *, delivery_id: bytes, made_ms: int, until_ms: int
    ) -> bytes:
        return make_promise(
            signer, network_id, delivery_id=delivery_id, made_ms=made_ms,
            until_ms=until_ms - less_ms,
        )  # fmt: skip

    monkeypatch.setattr("queueing.mailbox_service.make_promise", lie)


async def test_a_promise_of_another_key_is_no_promise(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    _promise_with(monkeypatch, EVE, less_ms=0)
    with pytest.raises(BadReceipt):
        await _deposit(served)


async def test_a_promise_for_too_short_a_time_is_no_promise(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    _promise_with(monkeypatch, HOST, less_ms=1)
    with pytest.raises(Unavailable, match="too short"):
        await _deposit(served)


async def test_a_deposit_that_ends_early_is_not_held(served: Served) -> None:
    manifest, source = _sealed(content_of(600_000))
    channel = await served.pool(ALICE).connect(served.host.peer_id, served.host.addresses)
    call = channel.stream_stream(
        "/shoal.v1.Mailbox/Deposit", wire.DepositRequest.SerializeToString
    )()
    await call.write(wire.DepositRequest(manifest=manifest.encoded))
    await call.read()
    frame = wire.Frame(index=0, offset=0, data=source.chunks[0])
    await call.write(wire.DepositRequest(frame=frame))
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await served.client(BOB).waiting(served.host) == []


async def test_a_chunk_sent_twice_ends_the_deposit(served: Served) -> None:
    manifest, source = _sealed(content_of(600_000))
    channel = await served.pool(ALICE).connect(served.host.peer_id, served.host.addresses)
    call = channel.stream_stream(
        "/shoal.v1.Mailbox/Deposit", wire.DepositRequest.SerializeToString
    )()
    await call.write(wire.DepositRequest(manifest=manifest.encoded))
    await call.read()
    frame = wire.Frame(index=0, offset=0, data=source.chunks[0])
    await call.write(wire.DepositRequest(frame=frame))
    await call.write(wire.DepositRequest(frame=frame))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


NONCE = b"n" * NONCE_BYTES


async def test_a_host_proves_what_it_keeps_to_the_sender_alone(served: Served) -> None:
    manifest, source = _sealed(content_of(600_000))
    alice = served.client(ALICE)
    await alice.deposit(served.host, manifest, source)
    delivery_id = manifest.delivery_id
    asked = [Challenge(delivery_id, 1), Challenge(delivery_id, 2), Challenge(b"x" * 32, 0)]
    proof = proof_of(NONCE, HOST.peer_id, delivery_id, 1, source.chunks[1])
    answers = await alice.audit(served.host, NONCE, asked)
    assert answers == [Answer(proof=proof), Answer(), Answer()], "two chunks, one delivery"
    for stranger in (EVE, BOB):
        assert await served.client(stranger).audit(served.host, NONCE, asked[:1]) == [Answer()]


async def test_a_host_whose_disk_lost_a_chunk_cannot_prove_it(
    served: Served, tmp_path: Path
) -> None:
    manifest = await _deposit(served)
    stored = tmp_path / "host" / "sealed" / manifest.delivery_id.hex()
    stored.write_bytes(bytes(stored.stat().st_size))
    challenge = Challenge(manifest.delivery_id, 0)
    assert await served.client(ALICE).audit(served.host, NONCE, [challenge]) == [Answer()]


async def test_an_audit_of_what_was_received_brings_the_receipt(served: Served) -> None:
    manifest = await _deposit(served)
    receipt = receipt_for(BOB, manifest)
    await served.client(BOB).settle(served.host, manifest.delivery_id, receipt)
    challenge = Challenge(manifest.delivery_id, 0)
    answers = await served.client(ALICE).audit(served.host, NONCE, [challenge])
    assert answers == [Answer(receipt=receipt)]


async def test_what_the_recipient_fetched_another_way_is_proven_by_its_receipt(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with a broker behind the mailbox: chunks are gone before the receipt is known."""
    manifest = await _deposit(served)
    (tmp_path / "host" / "sealed" / manifest.delivery_id.hex()).unlink()
    receipt = receipt_for(BOB, manifest)

    async def receipts(_sender: bytes, _delivery_ids: object) -> list[bytes]:
        return [receipt]

    monkeypatch.setattr(served.spool, "receipts", receipts)
    challenge = Challenge(manifest.delivery_id, 0)
    answers = await served.client(ALICE).audit(served.host, NONCE, [challenge])
    assert answers == [Answer(receipt=receipt)]


async def test_audits_are_bounded_and_need_a_whole_nonce(served: Served) -> None:
    alice, challenge = served.client(ALICE), Challenge(bytes(32), 0)
    with pytest.raises(TooLarge):
        await alice.audit(served.host, NONCE, [challenge] * (CHALLENGES_MAX + 1))
    with pytest.raises(BadEnvelope):
        await alice.audit(served.host, NONCE[1:], [challenge])


async def test_a_farewell_with_the_receipt_settles_and_one_without_drops(served: Served) -> None:
    alice, bob = served.client(ALICE), served.client(BOB)
    received, cancelled, kept = [await _deposit(served) for _ in range(3)]
    receipt = receipt_for(BOB, received)
    forged = receipt_for(EVE, kept)
    told = [(received.delivery_id, receipt), (cancelled.delivery_id, b"")]
    await served.client(EVE).farewell(served.host, told)
    assert len(await bob.waiting(served.host)) == 3, "a stranger's farewell ends nothing"
    await alice.farewell(served.host, [*told, (kept.delivery_id, forged), (b"x" * 32, b"")])
    (left,) = await bob.waiting(served.host)
    assert left.delivery_id == kept.delivery_id
    assert await alice.receipts(served.host, [received.delivery_id]) == [receipt]
    with pytest.raises(TooLarge):
        await alice.farewell(served.host, [(bytes(32), b"")] * (ENDED_MAX + 1))


async def test_a_host_that_leaves_hands_over_what_the_sender_signed(served: Served) -> None:
    manifest, source = _sealed(content_of(600_000))
    eve = served.client(EVE)
    kept = await eve.deposit(served.host, manifest, source, handed_over=True)
    assert (kept.had_it, kept.promise.keeper_id) == (False, HOST.peer_id)
    assert served.taken_over == [manifest.delivery_id]
    assert (await served.spool.usage(ALICE.peer_id)).deliveries == 1, "the sender's quota fills"
    again = await eve.deposit(served.host, manifest, source, handed_over=True)
    assert again.had_it
    assert served.taken_over == [manifest.delivery_id], "its sender knows of a copy it had"
    served.refused.add(ALICE.peer_id)
    with pytest.raises(Refused):
        await eve.deposit(served.host, *_sealed(), handed_over=True)


async def test_a_move_is_told_with_who_says_it(served: Served) -> None:
    await served.client(EVE).moved(served.host, [(b"d" * 32, b"promise")])
    assert served.moves == [(EVE.peer_id, b"d" * 32, b"promise")]
    with pytest.raises(TooLarge):
        await served.client(EVE).moved(served.host, [(bytes(32), b"")] * (ENDED_MAX + 1))
